package swap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// Rollback ends the trial with the old release. It needs the journal and the gate's
// report, no configuration and no network. Without a trial, or after the verdict commit,
// it does nothing, so it may run any number of times.
//
// It closes the journal only after the old program was seen running, unless that program
// did not run before the trial either. After a failed rollback the operator decides what
// becomes of the trial: see [Swapper.settled].
func (s *Swapper) Rollback(ctx context.Context, name string) error {
	release, err := s.Tree.Lock(name)
	if err != nil {
		return err
	}
	defer release()
	j, err := s.journal(name)
	if err == nil && j == nil {
		s.dropRooms(name) // a swap that was killed before its trial may have left them
	}
	if err != nil || j == nil || j.Verdict == state.VerdictCommit {
		return err
	}
	s.about(j)
	again := j.RollbackFailed != ""
	if again {
		if over, err := s.settled(ctx, j); err != nil || over {
			return err
		}
	}
	heard := s.eavesdrop(ctx, j)
	lastWords := s.lastWords(ctx, j)
	s.decideRollback(j)
	// If the deadline started this, the gate may hang. Its answer no longer counts.
	gate := unitOf("health-gate", name)
	all, err := s.Systemd.Units(ctx, gate, unitOf("swap", name))
	if err != nil || all[0].Active != "failed" || all[0].Job > 0 {
		s.logError(j, s.Systemd.Stop(ctx, gate))
	}
	if err == nil && all[1].Active == "failed" {
		// The gate waited for the swap to end, and is no failed unit.
		s.logError(j, s.Systemd.ResetFailed(ctx, gate))
	}
	// Stop every process that could write what is about to be restored.
	for _, unit := range helpersOf(j) {
		s.logError(j, errors.Join(s.Systemd.Stop(ctx, unit), s.Systemd.ResetFailed(ctx, unit)))
	}
	changed, err := s.bringBack(ctx, j)
	j.Restored = j.Restored || err == nil
	if err == nil && !again && !changed && j.Phase == state.PhasePrepared && !j.Stopped && (!dataReturns(j) || runsOn(j)) {
		return s.closeRollback(ctx, j, nil, changed) // the old program never stopped
	}
	if err != nil {
		err = s.unreturned(j, err)
	} else if dataReturns(j) {
		// Another rollback of this trial, after a power cut or when this process is
		// killed, must not overwrite what the old program writes from now on.
		s.note(j)
	}
	left, werr := s.watchDrill(ctx, j) // a drill by reload has stopped nothing until now
	s.logError(j, werr)
	// Restart even if a file did not come back: the service runs with those that did.
	err = errors.Join(err, s.loosen(ctx, j, func(ctx context.Context, j *state.Journal) error { return s.restart(ctx, j, 0) }))
	if werr == nil {
		j.Left = left()
	}
	heard()
	if err != nil {
		return s.failedRollback(ctx, j, err)
	}
	after, err := s.probeOld(ctx, j)
	if err != nil {
		return s.failedRollback(ctx, j, err)
	}
	if j.WasRunning && !after.Standing {
		return s.failedRollback(ctx, j, fmt.Errorf("the old files are back, but %s does not run: %s%s", named(j), after.Detail, lastWords()))
	}
	return s.closeRollback(ctx, j, after, changed)
}

// helpersOf returns the transient units that a killed swapper may have left running.
func helpersOf(j *state.Journal) (units []string) {
	if j.Hooked {
		units = append(units, hookOf(j.Target))
	}
	if j.Owner != nil {
		units = append(units, dataOf(j.Target))
	}
	return units
}

// bringBack restores the old files, and reports whether it changed any. If data come
// back, too, it stops the program first: one that writes its data when it stops would
// overwrite them, and one that runs would work on data that are no longer there. Data
// that came back once are the old program's from then on, even if that rollback was
// killed, or failed because the program did not run.
func (s *Swapper) bringBack(ctx context.Context, j *state.Journal) (changed bool, err error) {
	if !dataReturns(j) && !keeps(j) || j.Restored {
		return s.restore(ctx, j)
	}
	if runsOn(j) {
		changed, err = s.restore(ctx, j)
		return changed, withData(err, s.restoreData(ctx, j))
	}
	all, halted := s.unitsOf(ctx, j)
	// As in restart: load the settings that spare its children before the unit stops.
	if halted == nil && j.Reload && j.Spares && slices.ContainsFunc(all, func(u systemd.Unit) bool { return !u.SparesChildren() }) {
		changed, err = s.restore(ctx, j)
		s.logError(j, errors.Join(err, s.Systemd.Reload(ctx))) // both are tried again later
	}
	if halted == nil {
		halted = s.loosen(ctx, j, s.halt)
	}
	did, err := s.restore(ctx, j) // also if the data cannot come back
	switch {
	case !dataReturns(j): // what is kept has moved; a program that did not stop goes on with it
		s.logError(j, halted)
	case halted != nil: // the new program may write its data
		err = withData(err, halted)
	case !errors.Is(err, errTheirs): // a foreign file means that another program will run
		err = withData(err, s.restoreData(ctx, j))
	}
	return changed || did, err
}

// decideRollback makes the verdict durable, with the reason as far as it is known.
func (s *Swapper) decideRollback(j *state.Journal) {
	if j.Verdict != "" {
		return
	}
	report, err := s.Tree.Report(j.Target, j.Attempt)
	s.logError(j, err)
	j.Verdict = state.VerdictRollback
	switch {
	case report != nil && report.Finding != state.FindingHealthy:
		j.Finding, j.Reason = report.Finding, report.Reason
	case j.Failure != "":
		j.Reason = j.Failure
	case j.Phase == state.PhasePrepared:
		j.Reason = "the swap was interrupted"
	case err != nil:
		j.Reason = state.Line("the judgement is lost: " + err.Error())
	default:
		j.Reason = "the trial was interrupted"
	}
	s.logf("%s: verdict: rollback: %s", describe(j), j.Reason)
	// The new program still runs and may fill the disk, so the space that is kept for the
	// records stays. A trial without a verdict is rolled back anyway.
	s.logError(j, s.Tree.SetJournal(j))
}

// note writes the journal, and logs an error.
func (s *Swapper) note(j *state.Journal) { s.logError(j, s.setJournal(j)) }

// setJournal writes the journal in the space that is kept for it, if the disk is full.
func (s *Swapper) setJournal(j *state.Journal) error {
	return s.Tree.Recording(j.Target, j.Attempt, func() error { return s.Tree.SetJournal(j) })
}

// setStatus is setJournal for the status.
func (s *Swapper) setStatus(j *state.Journal, st state.Status) error {
	return s.Tree.Recording(j.Target, j.Attempt, func() error { return s.Tree.SetStatus(state.RoleSwap, j.Target, st) })
}

// probeOld makes the gate's user examine how the old program fares.
func (s *Swapper) probeOld(ctx context.Context, j *state.Journal) (*state.Baseline, error) {
	log.Status("watching whether " + cmp.Or(named(j), j.Target) + " runs")
	s.identify(j)
	s.note(j)
	after, err := s.look(ctx, j.Target, j.Attempt, describe(j)+": no look at the old program")
	if after != nil || err != nil {
		return after, err
	}
	// The gate's user could not tell; systemd knows whether the units run.
	all, err := s.unitsOf(ctx, j)
	if err != nil {
		return nil, err
	}
	after = &state.Baseline{Attempt: j.Attempt, Standing: true, Unprobed: true}
	for _, u := range all {
		run, idle := j.Idle[u.Name]
		if runs := u.Running() || idle && (u.Active != "failed" || u.Invocation == run); after.Standing || !runs {
			after.Standing, after.Detail = runs, u.String()
		}
	}
	return after, nil
}

// failedRollback records the failure, and keeps the journal and every file. From then on
// only the boot, before anything runs, and the operator's request can change the trial.
func (s *Swapper) failedRollback(ctx context.Context, j *state.Journal, err error) error {
	j.RollbackFailed, j.Back = state.Line(err.Error()), false
	if j.Restored {
		j.Again = nil // it is not the space that is missing
	}
	reason := fmt.Sprintf("%s; the rollback failed: %v", j.Reason, err)
	if j.Again != nil {
		j.Again.Going = false
		reason += "; " + j.Again.String()
	}
	s.Log.Event(log.Event(state.ResultRollbackFailed), "%s: %s", describe(j), reason)
	s.logError(j, s.Systemd.Stop(ctx, deadlineOf(j.Target))) // when it expires, it leaves the trial alone
	s.unshare(j)
	if j.Again != nil && j.Again.Over == "" {
		s.wake(ctx, j)
	}
	return errors.Join(state.Fail(state.ResultRollbackFailed, "cannot roll back %s: %w", j.Target, err), s.setJournal(j),
		s.Tree.Recording(j.Target, j.Attempt, func() error {
			return s.recordAttempt(j.Target, s.ended(j, "rollback", state.ResultRollbackFailed, reason))
		}))
}

// closeRollback records and closes a trial whose old files are back. after is nil if the
// old program was not watched, because it never stopped or has yet to start. changed says
// that a file of the release was in its place.
func (s *Swapper) closeRollback(ctx context.Context, j *state.Journal, after *state.Baseline, changed bool) error {
	s.logError(j, s.Systemd.Stop(ctx, deadlineOf(j.Target))) // when it expires, it finds no trial
	st, err := s.Tree.Status(state.RoleSwap, j.Target)
	if err != nil {
		return err
	}
	if !recorded(&st, j.Attempt) {
		if j.Drill {
			s.judgeDrill(ctx, j, after, changed, &st)
		} else {
			s.judge(j, after, changed, &st)
		}
		if after != nil {
			st.Learn(j.Probes, after.Probes)
		}
		if err := s.setStatus(j, st); err != nil {
			return err
		}
	}
	return s.closeHandled(ctx, j, st.Previous)
}

// closeHandled closes a recorded trial that failed. What failed in it is dealt with, so systemd
// is not to call the system degraded because of it.
func (s *Swapper) closeHandled(ctx context.Context, j *state.Journal, previous *state.Release) error {
	if err := s.closeTrial(j, previous); err != nil {
		return err
	}
	s.logError(j, s.Systemd.ResetFailed(ctx, unitOf("swap", j.Target), unitOf("health-gate", j.Target)))
	return nil
}
