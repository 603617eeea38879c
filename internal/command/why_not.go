package command

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/machinemon/machinemon-update/internal/generate"
	"github.com/machinemon/machinemon-update/internal/installed"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/units"
)

// machine is the part of systemd that status uses; *systemd.Conn implements it.
type machine interface {
	units.Reader
	NextElapse(ctx context.Context, timer string) (time.Time, error)
	Processes(ctx context.Context, unit string) ([]int, error)
	Try(ctx context.Context, s systemd.Sandbox) (systemd.SandboxResult, error)
	Stop(ctx context.Context, unit string) error
	Close()
}

func connect(ctx context.Context) (machine, error) { return systemd.Connect(ctx) }

// see connects to systemd. It returns nil if systemd does not run or does not answer: the
// records are shown nevertheless.
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

// patience is how long status waits for systemd, which answers at once, or soon while it
// is restarting.
const patience = 3 * time.Second

// outlook fills in when the source is asked next, and what keeps the available release
// from being installed then. m may be nil.
func (a *app) outlook(ctx context.Context, m machine, s *targetStatus, t *target.Target, st *state.Status, history []state.Attempt) error {
	for _, warning := range []string{t.Exposed(), t.Overlaid(), t.Unnotified} {
		if warning != "" {
			s.Warnings = append(s.Warnings, warning)
		}
	}
	var found []policy.Unit
	ahead := ""
	if m != nil {
		// The timeout is separate: slow programs may have used up an earlier one.
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		var err error
		if found, err = units.States(ctx, m, t); err != nil {
			return err
		}
		known, err := a.targets.Names()
		if err != nil {
			return err
		}
		for _, name := range t.After {
			if !slices.Contains(known, name) {
				s.Warnings = append(s.Warnings, "schedule.after names "+name+", and there is no such target")
			}
		}
		if ahead, err = units.Ahead(ctx, m, a.tree, t); err != nil {
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
	if s.Available == "" || s.Trial != "" {
		return nil
	}
	fs, err := a.tree.Status(state.RoleFetch, t.Name)
	if err != nil || fs.Offer == nil {
		return nil // History has reported the error
	}
	k := policy.Known{Rules: t.Rules(), Status: *st, History: history, Now: time.Now(), Release: offered(fs),
		Order:   state.Order{Origin: state.OriginSchedule, Verb: state.VerbApply, Installed: s.Installed, Missing: installed.Missing(t), Doubt: doubt(t, fs.Offer)},
		Changed: st.Installed != nil && !installed.Unchanged(st.Installed)}
	if s.Installed == state.Unknown {
		k.Order.Installed = ""
	}
	k.Units, k.Ahead, k.Deferred = found, ahead, deferral(t, st, fs)
	s.WhyNot = whyNot(k)
	return nil
}

// whyNot returns why a scheduled run would not install the release on offer, or "". The
// chain decides again when it runs.
func whyNot(k policy.Known) string {
	d := policy.Decide(k)
	if d.Rule != policy.RuleRollout {
		return d.String()
	}
	why := "available, " + d.String()
	k.Release.NotYet = ""
	if d = policy.Decide(k); d.Rule == policy.RuleAutoUpdate { // then waiting is not enough
		why += "; " + d.String()
	}
	return why
}

// deferral returns what the last attempt was told that asked whether it may install, if the
// target still asks; else nil.
func deferral(t *target.Target, st *state.Status, fs state.Status) *state.Deferral {
	if st.Deferred != nil && (len(t.Inhibit) > 0 || t.ShutdownInhibitors) {
		return st.Deferred
	}
	if t.FleetLock.URL != "" {
		return fs.Deferred
	}
	return nil
}

// offered returns the release that the last successful check found.
func offered(fs state.Status) *policy.Release {
	o := fs.Offer
	r := policy.Release{Version: o.Version, Sequence: o.Sequence, NotYet: o.NotYet, Archive: o.Archive, Fingerprint: o.Fingerprint}
	for _, a := range slices.Backward(fs.Attempts) { // a later one may be of an import
		if a.Version == o.Version && a.Manifest != "" {
			r.Manifest = a.Manifest
			break
		}
	}
	return &r
}

// doubt returns why the signatures of the offer would be refused, or "" if no reason is
// known.
func doubt(t *target.Target, o *state.Offer) string {
	if t.Trust.Mode == target.TrustChecksum {
		return ""
	}
	if _, err := pin(t); err != nil {
		return err.Error()
	}
	if t.Trust.Mode == target.TrustSigned {
		return ""
	}
	now := time.Now()
	if slices.ContainsFunc(o.Signed, func(s state.Signed) bool { return now.After(s.Expires) }) {
		return expiring(o.Signed, now)
	}
	return ""
}

func timer(name string) string { return "machinemon-fetch@" + name + ".timer" }
