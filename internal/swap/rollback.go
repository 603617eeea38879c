package swap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// Rollback ends the trial with the old release. It needs the journal and the
// gate's report, no configuration and no network. Without a trial, or after the
// verdict commit, it does nothing; it may run any number of times.
//
// The journal is closed only after the old program was seen running, unless it
// did not run before the trial either. Until then every later run tries again.
func (s *Swapper) Rollback(ctx context.Context, name string) error {
	release, err := s.Tree.Lock(name, true)
	if err != nil {
		return err
	}
	defer release()
	j, err := s.journal(name)
	if err != nil || j == nil || j.Verdict == state.Commit {
		return err
	}
	s.about(j)
	s.decideRollback(j)
	// When the deadline started this, the gate may hang. It has no say any more.
	if err := s.Systemd.Stop(ctx, unitOf("health-gate", name)); err != nil {
		s.logf("%s: %v", describe(j), err)
	}
	if j.Hooked { // nothing may write any more what is about to be restored
		err := s.Systemd.Stop(ctx, hookOf(name))
		if err = errors.Join(err, s.Systemd.ResetFailed(ctx, hookOf(name))); err != nil {
			s.logf("%s: %v", describe(j), err)
		}
	}
	log.Status("restoring the old files")
	changed, err := s.restore(j)
	if err != nil {
		return s.failedRollback(j, err)
	}
	if j.Phase == state.Prepared && !changed {
		return s.closeRollback(ctx, j, nil) // the old program never stopped
	}
	unit, err := s.Systemd.Unit(ctx, j.Unit)
	if err == nil {
		err = s.restart(ctx, j, unit.StopLimit+unit.StartLimit)
	}
	if err != nil {
		return s.failedRollback(j, err)
	}
	after, err := s.look(ctx, j)
	if err != nil {
		return s.failedRollback(j, err)
	}
	if j.WasRunning && !after.Standing {
		return s.failedRollback(j, fmt.Errorf("the old files are back, but %s does not run: %s", j.Unit, after.Detail))
	}
	return s.closeRollback(ctx, j, after)
}

// decideRollback makes the verdict durable, with what is known of the reason.
func (s *Swapper) decideRollback(j *state.Journal) {
	if j.Verdict != "" {
		return
	}
	report, err := s.Tree.Report(j.Target, j.Attempt)
	if err != nil {
		s.logf("%s: %v", describe(j), err)
	}
	j.Verdict = state.Rollback
	switch {
	case report != nil && report.Finding != state.Healthy:
		j.Finding, j.Reason = report.Finding, report.Reason
	case j.Failure != "":
		j.Reason = j.Failure
	case j.Phase == state.Prepared:
		j.Reason = "the swap was interrupted"
	default:
		j.Reason = "the trial was interrupted"
	}
	s.logf("%s: verdict: rollback: %s", describe(j), j.Reason)
	if err := s.Tree.SetJournal(j); err != nil {
		// A full disk may be the release's own doing. Going back needs no space,
		// and a trial without a verdict is rolled back anyway.
		s.logf("%s: %v", describe(j), err)
	}
}

// look lets the gate's user see how the old program fares.
func (s *Swapper) look(ctx context.Context, j *state.Journal) (*state.Baseline, error) {
	log.Status("watching whether " + j.Unit + " runs")
	s.identify(j)
	if err := s.Tree.SetJournal(j); err != nil {
		s.logf("%s: %v", describe(j), err) // as in decideRollback
	}
	step := unitOf("baseline", j.Target)
	err := s.Systemd.ResetFailed(ctx, step)
	if err == nil {
		err = s.Systemd.Start(ctx, step)
	}
	if _, ok := errors.AsType[*systemd.JobError](err); err != nil && !ok {
		return nil, err
	}
	after, rerr := s.Tree.Baseline(j.Target, j.Attempt, true)
	if after != nil {
		return after, nil
	}
	// The gate's user could not tell; systemd can, as far as it goes.
	s.logf("%s: no look at the old program: %v", describe(j), errors.Join(err, rerr))
	u, err := s.Systemd.Unit(ctx, j.Unit)
	if err != nil {
		return nil, err
	}
	return &state.Baseline{Attempt: j.Attempt, Standing: u.Running(), Detail: u.String()}, nil
}

// failedRollback says so and keeps the journal and every file. The next run,
// at the latest the one at boot, tries again.
func (s *Swapper) failedRollback(j *state.Journal, err error) error {
	reason := fmt.Sprintf("%s; the rollback failed: %v", j.Reason, err)
	s.Log.Event(log.Event(state.RollbackFailed), "%s: %s", describe(j), reason)
	return errors.Join(state.Fail(state.RollbackFailed, "cannot roll back %s: %w", j.Target, err),
		s.record(j.Target, s.ended(j, "rollback", state.RollbackFailed, reason)))
}

// closeRollback records and closes a trial whose old files are back. after is
// nil when nothing was looked at: the program never stopped, or is yet to start.
func (s *Swapper) closeRollback(ctx context.Context, j *state.Journal, after *state.Baseline) error {
	if err := s.Systemd.Stop(ctx, deadlineOf(j.Target)); err != nil {
		s.logf("%s: %v", describe(j), err) // it will find no trial
	}
	st, err := s.Tree.Status(state.Swap, j.Target)
	if err != nil {
		return err
	}
	if !recorded(&st, j.Attempt) {
		s.judge(j, after, &st)
		if err := s.Tree.SetStatus(state.Swap, j.Target, st); err != nil {
			return err
		}
	}
	if err := s.Tree.CloseJournal(j.Target); err != nil {
		return err
	}
	return sweep(j.Target, dirsOf(j), st.Previous)
}

// judge decides whether the release is to blame. It is not when the gate could
// not tell, when nobody judged it, or when the old program is no better.
func (s *Swapper) judge(j *state.Journal, after *state.Baseline, st *state.Status) {
	before, err := s.Tree.Baseline(j.Target, j.Attempt, false)
	if err != nil {
		s.logf("%s: %v", describe(j), err)
	}
	result, reason := state.RolledBack, j.Reason
	finding, blameless := j.Finding, false
	if after != nil {
		ill := illness(before, after)
		if ill == "" {
			ill = s.sameFailure(j, after)
		}
		if ill != "" {
			reason += "; "
			if finding != "" {
				finding, reason = state.Unsure, reason+"not rejected: "
			}
			reason += "the old version is not healthy either: " + ill
		} else if p := cured(s, j, before, after); finding == state.Unsure && p != "" {
			reason += "; the old version passes " + p
			finding = state.Bad
		}
	}
	r := state.Rejection{Version: j.Version, Sequence: j.Sequence, Digest: state.Digest(j.NewFiles()),
		Archive: j.Archive, Time: time.Now().UTC(), Reason: reason}
	switch {
	case finding == state.Bad:
		st.Reject(r, false)
	case finding == state.Unsure:
		blameless = true
	case j.Failure != "" && j.Phase == state.Prepared && after == nil:
		result = state.Failed // nothing was changed: the same as a failure before the journal
	default:
		if j.Finding == "" {
			result = state.Interrupted
		}
		st.Reject(r, true) // tried again, but not for ever
	}
	s.Log.Event(log.Event(result), "%s: %s: %s", describe(j), result, reason)
	a := s.ended(j, "rollback", result, reason)
	a.Blameless = blameless
	st.Record(a)
}

// illness says what is wrong with the old program, of what was right before.
func illness(before, after *state.Baseline) string {
	if !after.Standing {
		return after.Detail
	}
	for _, p := range after.Probes {
		if !p.Passed && !p.Unknown && passed(before, p.Probe, true) {
			return p.Probe + ": " + p.Detail
		}
	}
	return ""
}

// sameFailure is the probe that decided against the release, where the old program
// does not pass it either: whatever ails both, a server that is down for example, is
// not the release's doing.
func (s *Swapper) sameFailure(j *state.Journal, after *state.Baseline) string {
	report, err := s.Tree.Report(j.Target, j.Attempt)
	if err != nil || report == nil || report.Failed == "" {
		return ""
	}
	for _, p := range after.Probes {
		if p.Probe == report.Failed && !p.Passed && !p.Unknown {
			return p.Probe + ": " + p.Detail
		}
	}
	return ""
}

// cured finds a probe that failed before the swap and during the trial and
// passes now: the release is to blame for it after all.
func cured(s *Swapper, j *state.Journal, before, after *state.Baseline) string {
	report, err := s.Tree.Report(j.Target, j.Attempt)
	if err != nil || report == nil {
		return ""
	}
	for _, p := range report.Probes {
		if !p.Passed && !passed(before, p.Probe, true) && passed(after, p.Probe, false) {
			return p.Probe
		}
	}
	return ""
}

// passed looks a probe up; unknown stands for what is not known.
func passed(b *state.Baseline, probe string, unknown bool) bool {
	if b != nil {
		for _, p := range b.Probes {
			if p.Probe == probe && !p.Unknown {
				return p.Passed
			}
		}
	}
	return unknown
}

// restore brings the old files back and verifies each, in any state in which
// the trial may have ended. It tells whether it changed anything.
func (s *Swapper) restore(j *state.Journal) (changed bool, err error) {
	var failed error
	for i := len(j.Changes) - 1; i >= 0; i-- {
		if c := j.Changes[i]; c.Kind != state.Snapshot {
			did, err := putBack(c)
			changed = changed || did
			// The others come back all the same: less is broken then.
			failed = errors.Join(failed, unrestored(c, err))
		}
	}
	// While the old program still runs, what it wrote since is its own, unless a
	// hook may have written there, too.
	for _, c := range j.Changes {
		if c.Kind == state.Snapshot && (changed || j.Phase == state.Trial || j.Hooked) {
			_, err := putBack(c)
			failed = errors.Join(failed, unrestored(c, err))
		}
	}
	return changed, errors.Join(failed, syncDirs(j.Changes))
}

func unrestored(c state.Change, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cannot restore %s: %w%s", c.To, cause(err), hint(err))
}

func putBack(c state.Change) (changed bool, err error) {
	now, err := digest(c.To)
	if err != nil {
		return false, err
	}
	if now == c.Old && dressedLike(c.To, c.Backup) {
		return false, nil
	}
	if c.Kind == state.Remove && now != "" {
		return false, nil // no trial touches it, so somebody else did
	}
	if c.Old == "" {
		if _, err := os.Lstat(c.Staged); err == nil {
			return false, nil // the new file never got there: this is somebody else's
		}
		return true, os.Remove(c.To)
	}
	if kept, err := digest(c.Backup); err != nil {
		return false, err
	} else if kept != c.Old {
		return false, fmt.Errorf("its backup %s is missing or damaged", c.Backup)
	}
	// A link is renamed, not the backup itself: until the journal is closed the
	// backup stays where the journal says it is.
	again := filepath.Join(filepath.Dir(c.Backup), strings.TrimSuffix(filepath.Base(c.Backup), ".old")+".back")
	if err := os.Remove(again); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	if c.Kind == state.Snapshot {
		_, err = copyWhole(again, c.Backup)
	} else {
		err = os.Link(c.Backup, again)
	}
	if err != nil {
		return false, err
	}
	return true, os.Rename(again, c.To)
}
