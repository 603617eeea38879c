package swap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// lateNetwork is how long after a boot the network may take to come.
const lateNetwork = 10 * time.Minute

// Begin opens an attempt, before the fetcher runs. It finishes what an earlier
// attempt left open, heals dead path units, takes the operator's request, and
// writes the order that fetcher and swapper obey. An error means that no
// attempt begins now; where an operator asked, it is recorded too.
func (s *Swapper) Begin(ctx context.Context, name string) error {
	if !target.ValidName(name) {
		return state.Fail(state.ResultMisconfigured, "cannot begin %q: that is no name for a target", name)
	}
	if err := s.Tree.Leaving(); err != nil {
		return err
	}
	if err := s.Tree.MakeSwapDir(name); err != nil {
		return err
	}
	release, err := s.Tree.Lock(name)
	if err != nil {
		return err
	}
	defer func() { release() }()
	if err := s.goingBack(ctx, name); err != nil {
		return err
	}
	req, err := s.Tree.TakeRequest(name)
	if err != nil {
		return err
	}
	if req != nil && (req.Verb == state.VerbRollback || req.Verb == state.VerbProbe) {
		req = nil // not the fetcher's, and its command has ended
	}
	directive, err := s.Tree.TakeDirective(name)
	if err != nil {
		return err
	}
	order := state.Order{Attempt: state.NewAttempt(), Origin: state.OriginSchedule, Verb: state.VerbCheck}
	if directive {
		order.Origin = state.OriginDirective
	}
	if req != nil {
		order.Attempt, order.Origin, order.Verb = req.Attempt, state.OriginOperator, req.Verb
		order.Import, order.URL, order.SHA256 = req.Import, req.URL, req.SHA256
	}
	s.Log.Attempt = order.Attempt
	unlocked := func(do func() error) error {
		release()
		err := do()
		again, lockErr := s.Tree.Lock(name)
		if release = again; lockErr != nil {
			release = func() {}
		}
		return errors.Join(err, lockErr)
	}
	if err := s.begin(ctx, name, &order, unlocked); err != nil {
		s.Log.Event(log.Event(resultOf(err)), "%s: attempt %s does not begin: %v", name, order.Attempt, err)
		if req == nil {
			return err
		}
		return errors.Join(err, s.recordAttempt(name, state.Attempt{ID: order.Attempt, Origin: order.Origin,
			From: order.Installed, Stage: "begin", Result: resultOf(err), Reason: err.Error()}))
	}
	s.Log.Event(log.EventBegins, "%s: attempt %s begins: %s by %s, installed: %s", name, order.Attempt, order.Verb, order.Origin, cmp.Or(order.Installed, state.Unknown))
	return nil
}

func (s *Swapper) begin(ctx context.Context, name string, order *state.Order, unlocked func(do func() error) error) error {
	if err := s.Tree.Tidy(state.RoleSwap, name); err != nil {
		return err
	}
	if !order.Import {
		if err := s.Tree.DropImport(name); err != nil { // a killed command's
			return err
		}
	}
	if err := s.settle(ctx, name, unlocked); err != nil {
		return err
	}
	if order.Origin == state.OriginOperator {
		// People, unlike timers, may ask for an update every second. systemd's start
		// limit counts them all, and would kill the path units.
		if err := s.Systemd.ResetFailed(ctx, unitOf("verify", name), unitOf("fetch-full", name), unitOf("baseline", name), unitOf("swap", name)); err != nil {
			return err
		}
	}
	t, err := s.Targets.Load(name)
	if err != nil {
		return err
	}
	st, err := s.Tree.Status(state.RoleSwap, name)
	if err != nil {
		return err
	}
	held := free(name, &st)
	switch {
	case order.Origin != state.OriginOperator && held == nil && t.AutoUpdateEnabled:
		order.Verb = state.VerbApply
		if st.Installed != nil && !Unchanged(st.Installed) {
			s.logf("%s: not updating what was changed by hand since %s: only checking (hint: machinemon-update apply %s)", name, state.Called(st.Installed.Version), name)
			order.Verb = state.VerbCheck
		} else if err := s.updatable(ctx, t); resultOf(err) == state.ResultNotAttempted {
			s.logf("%s: only checking: %v", name, err)
			order.Verb = state.VerbCheck
		}
	case order.Verb == state.VerbApply && held != nil:
		return held
	}
	if order.Verb == state.VerbApply {
		// Before the source: who has not installed the unit need not configure it.
		if err := s.updatable(ctx, t); err != nil {
			return err
		}
	}
	if t.Source.Type == "" && !order.Brought() {
		return state.Fail(state.ResultMisconfigured, "cannot update %s: no source is configured (hint: set source.url in /etc/machinemon-update/targets.d/%s.toml)", name, name)
	}
	// A person's word is needed for another source; scheduled attempts use what
	// was found then.
	if order.Origin == state.OriginOperator && t.Source.From != nil && !order.Brought() {
		if err := s.resolve(t, &st); err != nil {
			return err
		}
	}
	if t.Source.Type != "" {
		s.listen(ctx, name)
	}
	if order.Verb == state.VerbApply {
		if err := makeListed(t); err != nil {
			return err
		}
		if err := t.CheckDestinations(s.others(name)); err != nil {
			return err
		}
		if err := s.letWrite(ctx, t); err != nil {
			return err
		}
	}
	if order.Origin != state.OriginOperator {
		up, err := s.Systemd.Uptime(ctx)
		if err != nil {
			return err
		}
		order.Booted = up < lateNetwork
		u, err := s.Systemd.Unit(ctx, unitOf("fetch", name))
		if err != nil {
			return err
		}
		if u.NRestarts > 0 && !order.Booted { // and nobody else may ask for more
			return state.Fail(state.ResultNotAttempted, "the ten minutes after the boot are over")
		}
	}
	order.Installed = Installed(ctx, t, st)
	if order.MainID, err = state.MainID(t.Health.Main); err != nil {
		s.logf("%s: %v", name, err) // the gate may find out by itself
	}
	if err := s.Tree.SetOrder(name, *order); err != nil {
		return err
	}
	return s.foresee(ctx, t, &st, order)
}

// goingBack refuses while the operator's request to go back waits for its swap,
// which waits for its baseline: it is not this attempt's to take.
func (s *Swapper) goingBack(ctx context.Context, name string) error {
	req, err := s.Tree.Request(name)
	if err != nil || req == nil || req.Verb != state.VerbRollback {
		return nil // what is wrong with it is said when it is taken
	}
	u, err := s.underWay(ctx, name, []string{"baseline", "swap"})
	if err != nil || u == nil {
		return err
	}
	return state.Fail(state.ResultNotAttempted, "an attempt is under way already (%s is %s)", u.Name, u.Active)
}

// resolve keeps what the file of source.url_from says now.
func (s *Swapper) resolve(t *target.Target, st *state.Status) error {
	if err := t.Resolve(); err != nil {
		return err
	}
	if st.Uses(t.Source.From.String(), t.Source.URL, t.Source.InsecureSkipTLS) {
		return nil
	}
	s.logf("%s: its source is %s, as %s says", t.Name, t.Source.URL, t.Source.From.File)
	return s.Tree.Update(state.RoleSwap, t.Name, func(st *state.Status) { st.Use(t.Source.From.String(), t.Source.URL, t.Source.InsecureSkipTLS) })
}

// free refuses a target that the operator holds.
func free(name string, st *state.Status) error {
	if st.Held == nil {
		return nil
	}
	return state.Fail(state.ResultNotAttempted, "it is held since %s (hint: machinemon-update unhold %s)", st.Held.Since.Format(time.DateOnly), name)
}

func (s *Swapper) updatable(ctx context.Context, t *target.Target) error {
	u, err := s.Systemd.Unit(ctx, t.Unit)
	if err != nil {
		return err
	}
	return Updatable(u, t.Name)
}

// Updatable refuses a unit that is not there or that somebody stopped on
// purpose. A failed or crash-looping one is updated: that may be the cure.
func Updatable(u systemd.Unit, name string) error {
	switch {
	case u.Load == "masked":
		return state.Fail(state.ResultNotAttempted, "%s is masked", u.Name)
	case u.Load == "not-found":
		return state.Fail(state.ResultNotAttempted, "%s is not installed", u.Name)
	case u.Load != "loaded":
		return state.Fail(state.ResultMisconfigured, "cannot update %s: systemd could not load %s (%s) (hint: systemctl status %s)", name, u.Name, u.Load, u.Name)
	case u.Active == "inactive" && u.Job == 0 && u.Type == "oneshot" && !u.RemainAfterExit:
		return state.Fail(state.ResultNotAttempted, "%s is not active: of Type=oneshot without RemainAfterExit=yes, it never stays so (hint: only a unit that stays active can be watched)", u.Name)
	case u.Active == "inactive" && u.Job == 0:
		return state.Fail(state.ResultNotAttempted, "%s is stopped (hint: systemctl start %s)", u.Name, u.Name)
	}
	return nil
}

// letWrite reloads systemd when the target file is newer than what the
// generator made of it: the swap unit may write only where it was told.
func (s *Swapper) letWrite(ctx context.Context, t *target.Target) error {
	u, err := s.Systemd.Unit(ctx, unitOf("swap", t.Name))
	if err != nil {
		return err
	}
	for _, dir := range t.Directories() {
		if !slices.ContainsFunc(u.Writable, func(w string) bool {
			return strings.TrimLeft(w, "-+") == dir // a missing directory is no error
		}) {
			s.logf("%s: the target file has changed: reloading systemd", t.Name)
			return s.Systemd.Reload(ctx)
		}
	}
	return nil
}

// others loads the other targets, as far as they are valid: a broken one must
// not keep this one from its update.
func (s *Swapper) others(name string) []*target.Target {
	names, err := s.Targets.Names()
	if err != nil {
		s.logf("%s: %v", name, err)
	}
	var all []*target.Target
	for _, n := range names {
		if n == name {
			continue
		}
		t, err := s.Targets.Load(n)
		if err != nil {
			s.logf("%s: not comparing with target %s: %v", name, n, err)
			continue
		}
		// What its releases have listed is not in its file.
		if st, err := s.Tree.Status(state.RoleSwap, n); err == nil && st.Installed != nil {
			for _, f := range st.Installed.Files {
				t.Install = append(t.Install, target.Install{To: f.To})
			}
		}
		all = append(all, t)
	}
	return all
}

// describe says what an attempt is about, for log lines.
func describe(j *state.Journal) string {
	return fmt.Sprintf("%s: attempt %s: %s", j.Target, j.Attempt, state.Called(j.Version))
}
