package swap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/policy"
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
	program string // where root's copy of from_release's program is; "" if the release has none
}

func (sw *swapping) run(ctx context.Context) error {
	if open, err := sw.onTrial(); open || err != nil {
		return err
	}
	attempt, entry, err := sw.claim()
	if err != nil || attempt == "" && entry == nil {
		return err
	}
	if entry != nil {
		defer sw.consume(entry)
	}
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
	order, err := sw.Tree.TakeOrder(sw.name)
	if err != nil {
		return err
	}
	if order.Attempt != attempt || order.Verb == state.VerbCheck || (order.Verb == state.VerbRollback) != (entry == nil) {
		return state.Fail(state.ResultRefused, "cannot install what the verifier handed on: root ordered to %s in attempt %s", order.Verb, order.Attempt)
	}
	sw.attempt.Origin, sw.attempt.From = order.Origin, order.Installed
	if sw.target, err = sw.Targets.Load(sw.name); err != nil {
		return err
	}
	if err := sw.alone(); err != nil {
		return err
	}
	// The hold, the target file or the unit may have changed since the attempt began.
	sw.known = policy.Known{Rules: sw.target.Rules(), Order: order, Status: sw.status}
	if d, err := sw.decideWithUnit(ctx, sw.known, sw.target.Unit); err != nil || d.Refused() {
		return errors.Join(err, d.Err())
	}
	dirs := everywhere(sw.target, &sw.status)
	if err := sw.sweep(sw.name, dirs, sw.status.Previous); err != nil {
		return err
	}
	sw.journal = &state.Journal{
		Attempt: attempt, Origin: order.Origin, Target: sw.name, Unit: sw.target.Unit,
		Main: sw.target.Health.Main, From: order.Installed, Started: time.Now().UTC(),
		Timeout: sw.target.Health.Timeout, Settle: sw.target.Health.Settle, Unsigned: sw.target.Trust.Mode != target.TrustTUF,
		GoingBack: order.Verb == state.VerbRollback, PostCommit: sw.target.Hooks.PostCommit,
	}
	log.Status("copying the new files")
	if sw.journal.GoingBack {
		err = sw.planPrevious()
	} else {
		err = sw.planTree(entry)
	}
	sw.attempt.Version, sw.attempt.Sequence = sw.journal.Version, sw.journal.Sequence
	sw.about(sw.journal)
	if err == nil {
		err = sw.try(ctx)
	}
	if j, jerr := sw.Tree.Journal(sw.name); j == nil && jerr == nil {
		sw.giveUp(ctx)
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
		if j, err := sw.Tree.Journal(name); err == nil && j != nil && name != sw.name && j.Unit == sw.target.Unit {
			return state.Fail(state.ResultNotAttempted, "the trial of target %s, whose unit is %s, too, is open", name, j.Unit)
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
				dirs = append(dirs, filepath.Dir(f.To))
			}
		}
	}
	return dirs
}

// try takes the staged files through the checks and starts their trial.
func (sw *swapping) try(ctx context.Context) error {
	j := sw.journal
	digest := state.Fingerprint(j.NewFiles())
	sw.known.Release = &policy.Release{Version: j.Version, Sequence: j.Sequence, Archive: j.Archive, Fingerprint: digest, Staged: true}
	if d := policy.Decide(sw.known); d.Refused() {
		return errors.Join(d.Err(), sw.rememberArchive(d.Rejection))
	}
	if sw.inPlace() {
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
	log.Status("pre-flight")
	if err := sw.preflight(ctx); err != nil {
		return err
	}
	unit, err := sw.Systemd.Unit(ctx, j.Unit)
	if err != nil {
		return err
	}
	// A unit in a crash loop may look running now; the baseline watched it for longer.
	j.Invocation = unit.Invocation
	j.WasRunning = unit.Running() && (before == nil || before.Standing)
	j.Spares = unit.SparesChildren()
	sw.warnOfChildren(unit)
	j.Stopped = sw.target.StopFirst
	if j.Dependents, err = sw.running(ctx, unit.Dependents); err != nil {
		return err
	}
	if j.Triggers, err = sw.running(ctx, unit.Triggers); err != nil {
		return err
	}
	log.Status("backing up the old files")
	if err := sw.backUp(); err != nil {
		return err
	}
	saving, err := sw.checkData(unit)
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
	if err := sw.alone(); err != nil {
		return err // another trial may have begun during the copies
	}
	j.Phase = state.PhasePrepared
	if err := sw.Tree.SetJournal(j); err != nil {
		return err
	}
	// From here on the journal is open: an error starts the rollback unit, which knows
	// only what the journal says.
	if err := sw.begun(ctx, unit.StopLimit+saving); err != nil {
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

// begun carries a trial from the open journal to the restart. stop is how long the old
// program may take to stop and its data to be saved.
func (sw *swapping) begun(ctx context.Context, stop time.Duration) error {
	j := sw.journal
	deadline := stop + j.Timeout + j.Settle + slack
	deadline += time.Duration(sw.target.Hooks.BeforeSwap()) * hookTime
	// Earlier failures must not keep these units from starting now.
	if err := sw.Systemd.ResetFailed(ctx, unitOf("health-gate", sw.name), unitOf("commit", sw.name), unitOf("rollback", sw.name), unitOf("deadline", sw.name)); err != nil {
		return err
	}
	if err := sw.Systemd.Arm(ctx, deadlineOf(sw.name), deadline); err != nil {
		return err
	}
	if j.Stopped {
		if err := sw.halt(ctx, j); err != nil {
			return err
		}
		if err := sw.saveData(ctx); err != nil {
			return err
		}
		if err := sw.reserve(ctx); err != nil {
			return err
		}
	}
	if err := sw.beforeSwap(ctx); err != nil {
		return err
	}
	if err := sw.rename(); err != nil {
		return err
	}
	j.Phase, j.Restarted = state.PhaseTrial, sw.now()
	sw.identify(j)
	if err := sw.Tree.SetJournal(j); err != nil {
		return err
	}
	sw.Log.Event(log.EventOnTrial, "%s: installed, restarting %s", describe(j), j.Unit)
	err := sw.restart(ctx, j, j.Timeout)
	if _, overdue := errors.AsType[*systemd.OverdueError](err); overdue {
		j.Finding = state.FindingBad
		return fmt.Errorf("not healthy in time: %w", err)
	}
	if err == nil || !j.Reload {
		return err
	}
	// In that case nothing can start, so there is nothing for the gate to watch.
	if u, uerr := sw.Systemd.Unit(ctx, j.Unit); uerr == nil && u.Load != "loaded" {
		j.Finding = state.FindingBad
		return fmt.Errorf("systemd cannot load the new %s (%s): %w", j.Unit, u.Load, err)
	}
	return err
}

// slack is the time that the deadline allows beyond the limits of the restart and the
// gate: the gate waits up to a minute for a lost bus.
const slack = 90 * time.Second
