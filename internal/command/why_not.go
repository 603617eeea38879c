package command

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/generate"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/swap"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// machine is what status needs of systemd; *systemd.Conn is one.
type machine interface {
	Unit(ctx context.Context, name string) (systemd.Unit, error)
	NextElapse(ctx context.Context, timer string) (time.Time, error)
	Processes(ctx context.Context, unit string) ([]int, error)
	Close()
}

func connect(ctx context.Context) (machine, error) { return systemd.Connect(ctx) }

// see is the running systemd; nil where there is none, or it does not answer. What
// the records tell is shown all the same.
func (a *app) see(ctx context.Context) machine {
	if a.machine == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m, err := a.machine(ctx)
	if err != nil {
		fmt.Fprintf(a.err, "machinemon-update: cannot ask systemd: %s\n", state.Printable(err.Error()))
		return nil
	}
	return m
}

// patience is how long status waits for systemd, which answers at once or, while
// it is being restarted, soon.
const patience = 3 * time.Second

// outlook tells what will happen by itself: when the source is asked next, and
// what keeps what is available from being installed then. m may be nil.
func (a *app) outlook(ctx context.Context, m machine, s *targetStatus, t *target.Target, st *state.Status, history []state.Attempt) error {
	var u systemd.Unit
	if m != nil {
		// Of its own: programs that are slow to tell their version come before.
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		var err error
		if u, err = m.Unit(ctx, t.Unit); err != nil {
			return err
		}
		next, err := m.NextElapse(ctx, timer(t.Name))
		if err != nil {
			return err
		}
		if !next.IsZero() {
			next = next.UTC()
			s.NextCheck = &next
		}
		torn, err := a.torn(ctx, m, t)
		if err != nil {
			return err
		}
		if torn != "" {
			s.Warnings = append(s.Warnings, torn)
		}
		if s.Pending, err = generate.Pending(a.generated, t); err != nil {
			return err
		}
	}
	s.Leaving = a.tree.Leaving() != nil
	if s.Available == "" || s.Trial != "" || s.Installed != "unknown" && manifest.SameVersion(s.Available, s.Installed) {
		return nil
	}
	fs, err := a.tree.Status(state.RoleFetch, t.Name)
	if err != nil || fs.Offer == nil {
		return err
	}
	s.WhyNot = whyNot(t, u, s.Installed, st, fs, history)
	return nil
}

// whyNot is the reason for which a scheduled run would not install what is on
// offer, the operator's own first; "" when there is none. The chain decides
// anew, by the same rules, when it runs.
func whyNot(t *target.Target, u systemd.Unit, installed string, st *state.Status, fs state.Status, history []state.Attempt) string {
	o := fs.Offer
	if st.Held != nil {
		return "it is held since " + st.Held.Since.Local().Format(minutes)
	}
	if r := st.Rejects(o.Fingerprint, o.Archive, o.Sequence); r != nil {
		return r.Refusal(t.Name)
	}
	scheduled := state.Order{Origin: state.OriginSchedule, Installed: installed}
	if d := policy.Install(t, scheduled, st.Installed, policy.Release{Version: o.Version, Sequence: o.Sequence}); d.Refused() {
		return d.String()
	}
	notYet := ""
	if o.NotYet != "" {
		notYet = "available, " + o.NotYet
	}
	if !t.AutoUpdateEnabled {
		only := fmt.Sprintf("scheduled runs only check (hint: machinemon-update apply %s)", t.Name)
		return strings.TrimPrefix(notYet+"; "+only, "; ")
	}
	if notYet != "" {
		return notYet
	}
	if st.Installed != nil && !swap.Unchanged(st.Installed) {
		return fmt.Sprintf("the installed files were changed by hand (hint: machinemon-update apply %s)", t.Name)
	}
	if u.Name != "" {
		if err := swap.Updatable(u, t.Name); err != nil {
			return err.Error()
		}
	}
	if t.Trust.Mode == target.TrustTUF {
		if _, err := t.Pin(); err != nil {
			return err.Error()
		}
		for _, s := range o.Signed {
			if now := time.Now(); now.After(s.Expires) {
				return expiring(o.Signed, now)
			}
		}
	}
	digest := ""
	if n := len(fs.Attempts); n > 0 {
		digest = fs.Attempts[n-1].Manifest
	}
	now := time.Now()
	for _, manifest := range []string{"", digest} {
		if until := state.Backoff(history, manifest, t.CheckEvery, now); now.Before(until) {
			return "it failed before: backing off until " + until.Local().Format(minutes)
		}
	}
	return ""
}

func timer(name string) string { return "machinemon-fetch@" + name + ".timer" }
