package swap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/installed"
	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/units"
)

// lateNetwork is how long after a boot the network may take to come up.
const lateNetwork = 10 * time.Minute

// Begin opens an attempt, before the fetcher runs. It finishes what an earlier attempt
// left open, restarts dead path units, takes the operator's request, and writes the order
// that the fetcher and the swapper obey. An error means that no attempt begins now; if an
// operator asked for the attempt, the error is also recorded.
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
	b := &beginning{Swapper: s, name: name}
	if err := b.takeOrder(); err != nil {
		return err
	}
	s.Log.Attempt = b.order.Attempt
	b.unlocked = func(do func() error) error {
		release()
		err := do()
		again, lockErr := s.Tree.Lock(name)
		if release = again; lockErr != nil {
			release = func() {}
		}
		return errors.Join(err, lockErr)
	}
	if err := b.run(ctx); err != nil {
		s.Log.Event(log.Event(resultOf(err)), "%s: attempt %s does not begin: %v", name, b.order.Attempt, err)
		if !b.asked() {
			return err
		}
		return errors.Join(err, s.recordAttempt(name, state.Attempt{ID: b.order.Attempt, Origin: b.order.Origin,
			From: b.order.Installed, Stage: "begin", Result: resultOf(err), Reason: err.Error()}))
	}
	s.Log.Event(log.EventBegins, "%s: attempt %s begins: %s by %s, installed: %s", name, b.order.Attempt, b.order.Verb, b.order.Origin, cmp.Or(b.order.Installed, state.Unknown))
	return nil
}

// beginning is an attempt whose order is not written yet.
type beginning struct {
	*Swapper
	name   string
	order  state.Order
	target *target.Target
	status state.Status
	// unlocked runs do without the target's lock, and then takes the lock again.
	unlocked func(do func() error) error
}

// asked reports whether the operator asked for the attempt.
func (b *beginning) asked() bool { return b.order.Origin == state.OriginOperator }

// takeOrder reads and removes the operator's request and the directive, and makes the
// order from them.
func (b *beginning) takeOrder() error {
	req, err := b.Tree.TakeRequest(b.name)
	if err != nil {
		return err
	}
	directive, err := b.Tree.TakeDirective(b.name)
	if err != nil {
		return err
	}
	b.order = state.Order{Attempt: state.NewAttempt(), Origin: state.OriginSchedule, Verb: state.VerbCheck}
	if directive {
		b.order.Origin = state.OriginDirective
	}
	// A request for a rollback, drill or probe is not for the fetcher, and its command has
	// ended.
	if req != nil && !req.Verb.FromHere() && req.Verb != state.VerbProbe {
		b.order = state.Order{Attempt: req.Attempt, Origin: state.OriginOperator, Verb: req.Verb,
			Import: req.Import, URL: req.URL, SHA256: req.SHA256, Version: req.Version, DryRun: req.DryRun}
	}
	return nil
}

// run carries out the steps of an attempt until its order is complete.
func (b *beginning) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		b.finishEarlier, b.resetUnits, b.load, b.recognise, b.knowAccount, b.decideVerb, b.findSource, b.prepareInstall, b.askUptime, b.makeRoomForDownload, b.handBrought, b.writeOrder,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return b.foresee(ctx, b.target, &b.status, &b.order)
}

// finishEarlier removes what an earlier attempt or a killed command left behind, and ends
// an open trial.
func (b *beginning) finishEarlier(ctx context.Context) error {
	if err := b.Tree.Tidy(state.RoleSwap, b.name); err != nil {
		return err
	}
	if !b.order.Import {
		if err := b.Tree.DropImport(b.name); err != nil {
			return err
		}
	}
	return b.settle(ctx, b.name, b.unlocked)
}

// resetUnits clears systemd's start limits before an operator's attempt. An operator,
// unlike a timer, may ask for an update every second. The start limit would count these
// attempts and stop the path units.
func (b *beginning) resetUnits(ctx context.Context) error {
	if !b.asked() {
		return nil
	}
	return b.Systemd.ResetFailed(ctx, unitOf("verify", b.name), unitOf("fetch-full", b.name), unitOf("baseline", b.name), unitOf("swap", b.name))
}

// load reads the target file, the status, and what the attempt before has seen of the
// installed files.
func (b *beginning) load(context.Context) (err error) {
	if b.target, err = b.Targets.Load(b.name); err != nil {
		return err
	}
	if b.status, err = b.Tree.Status(state.RoleSwap, b.name); err != nil {
		return err
	}
	b.order.Looked = state.Looked{}
	if r, before := b.status.Installed, b.Tree.Looked(b.name); r != nil {
		for _, f := range r.Files {
			if at, ok := before[f.To]; ok {
				b.order.Looked[f.To] = at
			}
		}
	}
	return nil
}

// decideVerb decides whether an unattended attempt installs or only checks, and refuses
// an operator's attempt that may not install.
func (b *beginning) decideVerb(ctx context.Context) error {
	if !b.asked() {
		b.order.Verb = state.VerbApply
	}
	if b.order.Verb != state.VerbApply {
		return nil
	}
	d, err := b.mayInstall(ctx)
	if err != nil {
		return err
	}
	if b.asked() || d.Result != state.ResultNotAttempted {
		return d.Err()
	}
	b.order.Verb = state.VerbCheck
	if d.Rule != policy.RuleHeld && d.Rule != policy.RuleAutoUpdate && d.Rule != policy.RuleWindow { // the operator has chosen this: no line for each run
		b.logf("%s: only checking: %s", b.name, d)
	}
	return nil
}

// findSource makes sure that there is a source. Only an operator's attempt reads the file
// of source.url_from again; an unattended attempt uses the source that the last such one
// found.
func (b *beginning) findSource(ctx context.Context) error {
	t := b.target
	if t.Source.Type == "" && !b.order.Brought() {
		return state.Fail(state.ResultMisconfigured, "cannot update %s: no source is configured (hint: set source.url in /etc/machinemon-update/targets.d/%s.toml)", b.name, b.name)
	}
	if b.asked() && t.Source.From != nil && !b.order.Brought() {
		if err := b.resolve(ctx, t, &b.status); err != nil {
			return err
		}
	}
	if t.Source.Type != "" {
		b.listen(ctx, b.name)
	}
	return nil
}

// prepareInstall makes sure that the files may be installed where the target file says.
func (b *beginning) prepareInstall(ctx context.Context) error {
	if b.order.Verb != state.VerbApply {
		return nil
	}
	if err := makeListed(b.target); err != nil {
		return err
	}
	check := b.target.CheckDestinations
	if !b.asked() && b.recordsAll() {
		check = b.target.CheckPlaces
	}
	if err := check(b.others(b.name)); err != nil {
		return err
	}
	if err := b.knowOwner(ctx); err != nil {
		return err
	}
	if err := b.leaveStranded(); err != nil {
		return err
	}
	return b.letWrite(ctx, b.target)
}

// recordsAll reports whether an update has installed all of the target's files before, but
// optional ones. A package that took one over since has changed it, and such a file stops a
// scheduled attempt. The swap looks for packages again.
func (b *beginning) recordsAll() bool {
	r := b.status.Installed
	return r != nil && !slices.ContainsFunc(b.target.Install, func(i target.Install) bool { return !i.Optional && r.File(i.To) == nil })
}

// askUptime finds out whether the machine booted less than lateNetwork ago. If not, it
// refuses an unattended attempt that systemd restarted because the network was missing.
func (b *beginning) askUptime(ctx context.Context) error {
	if b.asked() {
		return nil
	}
	up, err := b.Systemd.Uptime(ctx)
	if err != nil {
		return err
	}
	b.order.Booted = up < lateNetwork
	u, err := b.Systemd.Unit(ctx, unitOf("fetch", b.name))
	if err != nil {
		return err
	}
	if u.NRestarts > 0 && !b.order.Booted {
		return state.Fail(state.ResultNotAttempted, "the ten minutes after the boot are over")
	}
	return nil
}

// handBrought gives what the operator brought to the fetcher, and to no other user: an
// imported release, or the query of an address.
func (b *beginning) handBrought(ctx context.Context) error {
	if err := b.Tree.DropQuery(b.name); err != nil {
		return err
	}
	if !b.order.Import && !strings.Contains(b.order.URL, "?") {
		return nil
	}
	unit := unitOf("fetch", b.name)
	u, err := b.Systemd.Unit(ctx, unit)
	if err != nil {
		return err
	}
	uid, gid := 0, 0
	if u.User != "" {
		if uid, gid, err = idsOf(u.User); err != nil {
			return fmt.Errorf("cannot find the user of %s: %w", unit, err)
		}
	}
	if b.order.Import {
		return b.Tree.HandImport(b.name, gid)
	}
	return b.Tree.HandQuery(b.name, b.order.URL, uid)
}

// writeOrder finds out what is installed, and writes the order.
func (b *beginning) writeOrder(ctx context.Context) (err error) {
	if r := b.status.Installed; r != nil && r.Version != "" && installed.UnchangedSince(r, b.order.Looked) {
		b.order.Installed = r.Version
	} else {
		b.order.Installed = installed.Version(ctx, b.target, state.Status{})
	}
	b.order.Missing = installed.Missing(b.target)
	if b.order.MainID, err = state.MainID(b.target.Health.Main); err != nil {
		b.logf("%s: %v", b.name, err) // the gate may be able to find out itself
	}
	return b.Tree.SetOrder(b.name, b.order)
}

// goingBack refuses the attempt while an operator's request for a rollback or drill waits
// for its baseline or its swap, because this attempt must not take that request.
func (s *Swapper) goingBack(ctx context.Context, name string) error {
	req, err := s.Tree.Request(name)
	if err != nil || req == nil || !req.Verb.FromHere() {
		return nil // an error is reported when the request is taken
	}
	return s.idle(ctx, name, "baseline", "swap")
}

// resolve records the source that the file of source.url_from names now.
func (s *Swapper) resolve(ctx context.Context, t *target.Target, st *state.Status) error {
	u, err := units.First(ctx, s.Systemd, t)
	if err != nil {
		return err
	}
	if err := t.Resolve(target.Command{Args: u.Command, User: u.User, Dynamic: u.DynamicUser}); err != nil {
		return err
	}
	if st.Uses(t.Source.From.String(), t.Source.URL, t.Source.InsecureSkipTLS) {
		return nil
	}
	s.logf("%s: its source is %s, as %s says", t.Name, t.Source.URL, t.Source.Read)
	return s.Tree.Update(state.RoleSwap, t.Name, func(st *state.Status) { st.Use(t.Source.From.String(), t.Source.URL, t.Source.InsecureSkipTLS) })
}

// describe returns the target, attempt and version of a trial, for log lines.
func describe(j *state.Journal) string {
	return fmt.Sprintf("%s: attempt %s: %s", j.Target, j.Attempt, state.Called(j.Version))
}
