package swap

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/signature"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// Swap takes what the verifier, or the operator's wish to go back, has left for a target,
// and starts its trial. It returns nil also if there was nothing to do. After an error no
// trial is open, or the rollback unit closes it.
func (s *Swapper) Swap(ctx context.Context, name string) error {
	release, err := s.Tree.Lock(name)
	if err != nil {
		return err
	}
	defer release()
	sw := &swapping{Swapper: s, name: name}
	err = sw.run(ctx)
	if sw.attempt.ID == "" {
		return err // there is no attempt to record
	}
	if err != nil {
		sw.attempt.Result, sw.attempt.Reason, sw.attempt.Expired = resultOf(err), err.Error(), trust.Expired(err)
	}
	if j, jerr := s.Tree.Journal(name); jerr != nil || j != nil {
		return errors.Join(err, jerr) // a trial is open: its verdict will be recorded
	}
	s.Log.Ended(sw.attempt)
	return errors.Join(err, s.recordAttempt(name, sw.attempt))
}

// swapping is an attempt until its trial begins.
type swapping struct {
	*Swapper
	name    string
	target  *target.Target
	attempt state.Attempt
	status  state.Status
	known   policy.Known
	journal *state.Journal
	proof   *signature.Archive      // what remains to be checked of the archive; nil for nothing
	program string                  // where root's copy of from_release's program is; "" if the release has none
	looked  map[string]*state.Stamp // the stamps that installed files had when their digests were taken
	copied  map[string]string       // where root's first copies of entries of the verified tree are, by their names there
}

func (sw *swapping) run(ctx context.Context) error {
	if open, err := sw.onTrial(); open || err != nil {
		return err
	}
	attempt, entry, err := sw.claim()
	if err != nil || attempt == "" && entry == nil {
		return err
	}
	consume := func() {}
	if entry != nil {
		consume = sync.OnceFunc(func() { sw.consume(entry) })
	}
	defer consume()
	sw.attempt = state.Attempt{ID: attempt, Stage: string(state.RoleSwap)}
	sw.Log.Attempt = attempt
	if err := sw.Tree.Leaving(); err != nil {
		return err
	}
	if sw.status, err = sw.Tree.Status(state.RoleSwap, sw.name); err != nil {
		return err
	}
	if recorded(&sw.status, attempt) {
		sw.attempt.ID = "" // its record already says how it ended
		return state.Fail(state.ResultRefused, "cannot install what the verifier handed on: attempt %s has ended already", attempt)
	}
	if err := sw.lookBefore(ctx, attempt, entry != nil); err != nil {
		return err
	}
	order, err := sw.Tree.TakeOrder(sw.name)
	if err != nil {
		return err
	}
	if order.Attempt != attempt || order.Verb == state.VerbCheck || order.Verb.FromHere() != (entry == nil) {
		return state.Fail(state.ResultRefused, "cannot install what the verifier handed on: root ordered to %s in attempt %s", order.Verb, order.Attempt)
	}
	sw.attempt.Origin, sw.attempt.From, sw.attempt.Drill = order.Origin, order.Installed, order.Verb == state.VerbDrill
	if sw.target, err = sw.Targets.Load(sw.name); err != nil {
		return err
	}
	if err := sw.alone(); err != nil {
		return err
	}
	// The hold, the target file or the unit may have changed since the attempt began.
	sw.known = policy.Known{Rules: sw.target.Rules(), Order: order, Status: sw.status, Now: time.Now()}
	if d, err := sw.decideWithUnits(ctx, sw.known, sw.target); err != nil || d.Refused() {
		return errors.Join(err, d.Err())
	}
	if err := sw.lockedFor(order); err != nil {
		return err
	}
	dirs := everywhere(sw.target, &sw.status)
	if err := sw.sweep(sw.name, dirs, sw.status.Previous); err != nil {
		return err
	}
	release, err := sw.Tree.KeepBeside()
	if err != nil {
		return err
	}
	defer release()
	sw.journal = &state.Journal{
		Attempt: attempt, Origin: order.Origin, Target: sw.name,
		Main: sw.target.Health.Main, From: order.Installed, Started: time.Now().UTC(),
		Timeout: sw.target.Health.Timeout, Settle: sw.target.Health.Settle, Unsigned: sw.target.Trust.Mode == target.TrustChecksum,
		GoingBack: order.Verb == state.VerbRollback, Drill: order.Verb == state.VerbDrill, PostCommit: sw.target.Hooks.PostCommit,
	}
	if err := sw.setUnits(ctx); err != nil {
		return err
	}
	log.Status("copying the new files")
	try := sw.try
	switch {
	case sw.journal.Drill:
		err, try = sw.planDrill(ctx), sw.tryDrill
	case sw.journal.GoingBack:
		err = sw.planPrevious(ctx)
	default:
		err = sw.planTree(ctx, entry)
	}
	sw.attempt.Version, sw.attempt.Sequence = sw.journal.Version, sw.journal.Sequence
	sw.about(sw.journal)
	if err == nil {
		err = try(ctx, consume)
	}
	if j, jerr := sw.Tree.Journal(sw.name); j == nil && jerr == nil {
		sw.giveUp(ctx)
		release()
		err = errors.Join(err, sw.sweep(sw.name, dirs, sw.status.Previous))
	}
	return err
}

// onTrial reports whether a trial is open, or may be. It then drops what the verifier has
// handed on. No entry is an error then, because an error would roll the trial back.
func (sw *swapping) onTrial() (open bool, err error) {
	j, err := sw.Swapper.journal(sw.name)
	if err == nil && j == nil {
		return false, nil
	}
	attempt, entry, failed := sw.take()
	if failed != nil {
		sw.logf("%s: %v", sw.name, failed)
	}
	if entry != nil {
		sw.consume(entry)
	}
	if err != nil {
		sw.attempt = state.Attempt{ID: attempt, Stage: string(state.RoleSwap)}
		return false, err
	}
	sw.logf("%s: attempt %s is dropped: the trial of attempt %s is open", sw.name, cmp.Or(attempt, "without an ID"), j.Attempt)
	return true, nil
}

func (sw *swapping) consume(entry *state.Bundle) {
	if err := entry.Consume(); err != nil {
		sw.logf("%s: %v", sw.name, err)
	}
}

// alone refuses a trial while another target with the same unit has an open one: each
// would blame its own release for the other's restart.
func (sw *swapping) alone() error {
	names, err := sw.Tree.OpenTrials()
	if err != nil {
		return err
	}
	for _, name := range names {
		// A damaged journal is reported when its own target is handled.
		j, err := sw.Tree.Journal(name)
		if err != nil || j == nil || name == sw.name {
			continue
		}
		for _, unit := range j.Units() {
			if slices.ContainsFunc(sw.target.Units(), func(own string) bool { return hasName(unit, own) }) {
				return state.Fail(state.ResultNotAttempted, "the trial of target %s, whose unit is %s, too, is open", name, unit)
			}
		}
	}
	return nil
}

// everywhere returns the directories of the target's files. These include files that only
// the records name, because their backups are there. t is nil if there is no usable
// target file at all.
func everywhere(t *target.Target, st *state.Status) []string {
	var dirs []string
	if t != nil {
		dirs = t.Directories()
	}
	for _, r := range []*state.Release{st.Installed, st.Previous} {
		if r != nil {
			for _, f := range r.Files {
				dirs = append(dirs, rootsOwn(f.To)...)
				if f.Tree != nil {
					dirs = append(dirs, f.Dir())
				}
			}
		}
	}
	return dirs
}

// try takes the staged files through the checks and starts their trial. consume removes
// what was handed over.
func (sw *swapping) try(ctx context.Context, consume func()) error {
	j := sw.journal
	digest := state.Fingerprint(j.NewFiles())
	sw.known.Release = &policy.Release{Version: j.Version, Sequence: j.Sequence, Archive: j.Archive, Fingerprint: digest, Staged: true}
	if d := policy.Decide(sw.known); d.Refused() {
		return errors.Join(d.Err(), sw.rememberArchive(d.Rejection))
	}
	// What is not known to be this version must not be recorded as such.
	inPlace := sw.inPlace()
	if inPlace {
		if old := sw.status.Installed; sw.unnamed() || old == nil || old.Version != j.Version {
			if err := sw.preflight(ctx); err != nil {
				return err
			}
		}
		if sw.known.Order.DryRun {
			sw.endDryRun("its files are installed already, and apply would only record that")
			return nil
		}
		return sw.adopt()
	}
	before, err := sw.Tree.Look(sw.name, j.Attempt)
	if err == nil && before != nil {
		err = sw.Tree.SetBaseline(sw.name, *before)
	}
	sw.logError(j, err)
	if err := sw.judgeable(before); err != nil {
		return err
	}
	if err := sw.weigh(before); err != nil {
		return err
	}
	if !sw.known.Order.DryRun {
		if err := sw.startGate(ctx); err != nil {
			return err
		}
	}
	log.Status("pre-flight")
	if err := sw.preflight(ctx); err != nil {
		return err
	}
	all, err := sw.knowUnits(ctx, before)
	if err != nil {
		return err
	}
	j.Stopped = sw.target.StopFirst || keeps(j)
	if sw.known.Order.DryRun {
		sw.endDryRun("verified, and apply would " + sw.intends())
		return nil
	}
	return sw.replace(ctx, all, consume)
}

// replace backs up what is installed, opens the journal, and starts the trial of what is
// staged. all are the units.
func (sw *swapping) replace(ctx context.Context, all []systemd.Unit, consume func()) error {
	j := sw.journal
	log.Status("backing up the old files")
	if err := sw.backUp(); err != nil {
		return err
	}
	saving, err := sw.checkData(all)
	if err != nil {
		return err
	}
	if !j.Stopped {
		if err := sw.saveData(ctx); err != nil {
			return err
		}
		if err := sw.reserve(ctx); err != nil {
			return err
		}
	}
	// To remove thousands of files takes seconds, in which the gate would not watch the
	// trial.
	consume()
	if err := sw.alone(); err != nil {
		return err // another trial may have begun during the copies
	}
	j.Phase = state.PhasePrepared
	if err := sw.Tree.SetJournal(j); err != nil {
		return err
	}
	// From here on the journal is open: an error starts the rollback unit, which knows
	// only what the journal says.
	if err := sw.begun(ctx, stopLimit(all)+saving); err != nil {
		j.Failure = err.Error()
		return errors.Join(err, sw.Tree.SetJournal(j))
	}
	return nil
}

// rememberArchive adds this attempt's archive to a release that was rejected for its
// files and had come in another archive, so that this one is not downloaded again. r is
// nil if the release is not rejected.
func (sw *swapping) rememberArchive(r *state.Rejection) error {
	if r == nil || r.Archive == sw.journal.Archive {
		return nil
	}
	again := *r
	again.Archive = sw.journal.Archive
	sw.status.Rejected = append(sw.status.Rejected, again)
	return sw.Tree.SetStatus(state.RoleSwap, sw.name, sw.status)
}
