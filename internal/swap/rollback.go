package swap

import (
	"context"
	"errors"
	"fmt"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
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
	s.logError(j, s.Systemd.Stop(ctx, unitOf("health-gate", name)))
	// Stop every process that could write what is about to be restored.
	for _, unit := range helpersOf(j) {
		s.logError(j, errors.Join(s.Systemd.Stop(ctx, unit), s.Systemd.ResetFailed(ctx, unit)))
	}
	changed, err := s.bringBack(ctx, j)
	j.Restored = j.Restored || err == nil
	if err == nil && !again && !changed && j.Phase == state.PhasePrepared && !j.Stopped && (!dataReturns(j) || runsOn(j)) {
		return s.closeRollback(ctx, j, nil, changed) // the old program never stopped
	}
	if j.Restored && dataReturns(j) {
		// Another rollback of this trial, after a power cut or when this process is
		// killed, must not overwrite what the old program writes from now on.
		s.note(j)
	}
	// Restart even if a file did not come back: the service runs with those that did.
	err = errors.Join(err, s.restart(ctx, j, 0))
	heard()
	if err != nil {
		return s.failedRollback(ctx, j, err)
	}
	after, err := s.probeOld(ctx, j)
	if err != nil {
		return s.failedRollback(ctx, j, err)
	}
	if j.WasRunning && !after.Standing {
		return s.failedRollback(ctx, j, fmt.Errorf("the old files are back, but %s does not run: %s%s", j.Unit, after.Detail, lastWords()))
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
	if !dataReturns(j) || j.Restored {
		return s.restore(j)
	}
	if runsOn(j) {
		changed, err = s.restore(j)
		return changed, errors.Join(err, s.restoreData(ctx, j))
	}
	u, err := s.Systemd.Unit(ctx, j.Unit)
	if err != nil {
		return false, err
	}
	// As in restart: load the settings that spare its children before the unit stops.
	if j.Reload && j.Spares && !u.SparesChildren() {
		changed, err = s.restore(j)
		s.logError(j, errors.Join(err, s.Systemd.Reload(ctx))) // both are tried again later
	}
	if err := s.halt(ctx, j); err != nil {
		return changed, err
	}
	did, err := s.restore(j)
	if !errors.Is(err, errTheirs) { // a foreign file means that another program will run
		err = errors.Join(err, s.restoreData(ctx, j))
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
	default:
		j.Reason = "the trial was interrupted"
	}
	s.logf("%s: verdict: rollback: %s", describe(j), j.Reason)
	s.note(j)
}

// note writes the journal. It only logs an error: the release itself may have filled the
// disk, going back needs no space, and a trial without a verdict is rolled back anyway.
func (s *Swapper) note(j *state.Journal) { s.logError(j, s.Tree.SetJournal(j)) }

// probeOld makes the gate's user examine how the old program fares.
func (s *Swapper) probeOld(ctx context.Context, j *state.Journal) (*state.Baseline, error) {
	log.Status("watching whether " + j.Unit + " runs")
	s.identify(j)
	s.note(j)
	after, err := s.look(ctx, j.Target, j.Attempt, describe(j)+": no look at the old program")
	if after != nil || err != nil {
		return after, err
	}
	// The gate's user could not tell; systemd knows whether the unit runs.
	u, err := s.Systemd.Unit(ctx, j.Unit)
	if err != nil {
		return nil, err
	}
	return &state.Baseline{Attempt: j.Attempt, Standing: u.Running(), Detail: u.String(), Unprobed: true}, nil
}

// failedRollback records the failure, and keeps the journal and every file. From then on
// only the boot, before anything runs, and the operator's request can change the trial.
func (s *Swapper) failedRollback(ctx context.Context, j *state.Journal, err error) error {
	reason := fmt.Sprintf("%s; the rollback failed: %v", j.Reason, err)
	s.Log.Event(log.Event(state.ResultRollbackFailed), "%s: %s", describe(j), reason)
	j.RollbackFailed, j.Back = state.Line(err.Error()), false
	s.logError(j, s.Systemd.Stop(ctx, deadlineOf(j.Target))) // when it expires, it leaves the trial alone
	s.unshare(j)
	return errors.Join(state.Fail(state.ResultRollbackFailed, "cannot roll back %s: %w", j.Target, err),
		s.Tree.SetJournal(j), s.recordAttempt(j.Target, s.ended(j, "rollback", state.ResultRollbackFailed, reason)))
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
		s.judge(j, after, changed, &st)
		if after != nil {
			st.Learn(j.Probes, after.Probes)
		}
		if err := s.Tree.SetStatus(state.RoleSwap, j.Target, st); err != nil {
			return err
		}
	}
	return s.closeTrial(j, st.Previous)
}
