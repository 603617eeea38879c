package swap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/dirtree"
	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
)

// Commit ends the trial with the new release if the gate's report on this attempt is
// positive and the program that the gate saw still runs. It makes the verdict durable
// before it does anything else. Without a trial it does nothing, so it may run any number
// of times.
func (s *Swapper) Commit(ctx context.Context, name string) error {
	release, err := s.Tree.Lock(name)
	if err != nil {
		return err
	}
	defer release()
	j, err := s.journal(name)
	if err != nil || j == nil || j.Verdict == state.VerdictRollback {
		return err
	}
	s.about(j)
	log.Status("committing " + state.Called(j.Version))
	if j.Verdict == "" {
		report, err := s.Tree.Report(name, j.Attempt)
		if err == nil && report == nil {
			// A gate that ended before there was a trial may have started this.
			if u, err := s.underWay(ctx, name, []string{"swap", "health-gate"}); err == nil && u != nil {
				s.logf("%s: not judged yet: %s is %s", describe(j), u.Name, u.Active)
				return nil
			}
		}
		switch {
		case err == nil && j.Drill:
			err = fmt.Errorf("cannot commit %s: this is a drill, and %s", name, unnoticed)
		case err == nil:
			err = s.proven(ctx, j, report)
		}
		if err != nil {
			if j.Failure == "" { // or else the swap failed
				j.Failure = state.Line(err.Error())
				s.logError(j, s.Tree.SetJournal(j))
			}
			// systemd undoes nothing if commit fails: the unit's OnFailure= only informs,
			// because a commit that is killed must be retried, not undone.
			return errors.Join(err, s.Systemd.Queue(ctx, unitOf("rollback", name)))
		}
		j.Verdict, j.Finding, j.Unproven, j.Reason = state.VerdictCommit, report.Finding, report.Unproven, report.Reason
		j.Probes.Note(report.Probes)
		if err := s.Tree.SetJournal(j); err != nil {
			return err
		}
		s.logf("%s: verdict: commit", describe(j))
	}
	s.logError(j, s.Systemd.Stop(ctx, deadlineOf(name))) // when it expires, it finds no trial
	if err := s.postCommit(ctx, j); err != nil {
		return err
	}
	return s.finishCommit(ctx, j)
}

// proven returns an error unless the report is positive, about the program that runs now.
func (s *Swapper) proven(ctx context.Context, j *state.Journal, report *state.Report) error {
	if j.Phase != state.PhaseTrial { // the swapper was killed, and a report must be of something else
		return fmt.Errorf("cannot commit %s: not all files of %s are in place", j.Target, state.Called(j.Version))
	}
	if j.Failure != "" {
		return fmt.Errorf("cannot commit %s: the swap failed: %s", j.Target, j.Failure)
	}
	if report == nil || report.Finding != state.FindingHealthy {
		return fmt.Errorf("cannot commit %s: there is no report of a healthy trial of attempt %s", j.Target, j.Attempt)
	}
	pids := map[string]uint32{j.Unit: report.MainPID}
	maps.Copy(pids, report.PIDs)
	for _, unit := range j.Units() {
		if err := s.provenIn(ctx, j, unit, pids[unit]); err != nil {
			return err
		}
	}
	return nil
}

// provenIn is proven for one unit, in which the gate saw the program as process pid.
func (s *Swapper) provenIn(ctx context.Context, j *state.Journal, unit string, pid uint32) error {
	u, err := s.Systemd.Unit(ctx, unit)
	if err != nil {
		return err
	}
	if run, idle := j.Idle[unit]; idle {
		if u.Active == "failed" && u.Invocation != run {
			return fmt.Errorf("cannot commit %s: %s is %s", j.Target, unit, u)
		}
		return nil
	}
	if !u.Running() {
		return fmt.Errorf("cannot commit %s: %s is %s", j.Target, unit, u)
	}
	if u.Invocation != "" && slices.Contains(ran(j), u.Invocation) && !j.ByReload {
		return fmt.Errorf("cannot commit %s: %s has not been restarted", j.Target, unit)
	}
	if u.Frozen { // a trial without probes does not notice that
		return fmt.Errorf("cannot commit %s: somebody has frozen %s", j.Target, unit)
	}
	if u.Remains() {
		return nil // such a unit has no process
	}
	if u.MainPID != pid {
		// The program may be a wrapper's child.
		pids, err := s.Systemd.Processes(ctx, unit)
		if err != nil || j.Main == "" || !slices.Contains(pids, int(pid)) {
			return errors.Join(err, fmt.Errorf("cannot commit %s: %s is %s with main process %d, the gate saw process %d", j.Target, unit, u, u.MainPID, pid))
		}
	}
	if j.Main == "" {
		return nil
	}
	if j.OfUser(j.Main) {
		return provenOfUser(j, pid)
	}
	running, err := state.Identify(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return fmt.Errorf("cannot commit %s: %w", j.Target, err)
	}
	installed, err := state.Identify(j.Main)
	if err != nil || running != installed || j.MainID.Known() && running != j.MainID {
		return errors.Join(err, fmt.Errorf("cannot commit %s: process %d of %s does not run %s", j.Target, pid, unit, j.Main))
	}
	return nil
}

// finishCommit carries out a durable verdict. Every step may be repeated.
func (s *Swapper) finishCommit(ctx context.Context, j *state.Journal) error {
	st, err := s.Tree.Status(state.RoleSwap, j.Target)
	if err != nil {
		return err
	}
	stayed := s.removeGone(ctx, j)
	if err := s.raiseFloor(j); err != nil {
		return err
	}
	result := state.ResultCommitted
	if j.Unproven {
		result = state.ResultUnproven
	}
	if st.Installed == nil || !recorded(&st, j.Attempt) {
		next, left := newRelease(j), oldRelease(j, st.Installed)
		a := s.ended(j, string(state.RoleSwap), result, j.Reason)
		if j.GoingBack {
			a.Reason = strings.TrimSuffix("the operator went back from "+state.Called(j.From)+" to "+state.Called(j.Version)+"; "+j.Reason, "; ")
			a.Rejected = j.From
			// This is the fingerprint of the files as installed, before any change by
			// hand.
			digest := state.Fingerprint(plain(left.Files))
			if st.Installed != nil && st.Installed.Version == j.From {
				digest = state.Fingerprint(st.Installed.Files)
			}
			st.Reject(state.Rejection{Version: j.From, Sequence: left.Sequence, Time: time.Now().UTC(),
				Fingerprint: digest, Archive: left.Archive, Reason: "the operator went back to " + state.Called(j.Version)})
			left = nil // a release that the operator left is not kept
		} else {
			left.Files = slices.DeleteFunc(left.Files, func(f state.File) bool { return stayed[f.To] })
		}
		if j.Unproven {
			next.Unproven = state.Line(j.Reason)
		}
		if left != nil {
			for i := range left.Files {
				left.Files[i].Size = dirtree.Size(left.Files[i].Backup)
			}
		}
		st.Installed, st.Previous = next, left
		st.Learn(j.Probes, nil)
		st.Record(a)
		if err := s.setStatus(j, st); err != nil {
			return err
		}
	}
	// If the swapper is killed here, the event is written twice rather than never.
	s.Log.Event(log.Event(result), "%s", strings.TrimSuffix(fmt.Sprintf("%s: %s: %s", describe(j), result, j.Reason), ": "))
	if j.Boot == s.Boot { // else there is no order any more
		s.logError(j, s.Tree.Remember(j.Target, j.Attempt, j.Looked()))
	}
	return s.closeTrial(j, st.Previous)
}

// newRelease returns the record of the release that the trial installs.
func newRelease(j *state.Journal) *state.Release {
	return &state.Release{Version: j.Version, Sequence: j.Sequence, Archive: j.Archive,
		Files: j.NewFiles(), Since: time.Now().UTC(), Unsigned: j.Unsigned, Listed: j.Listed}
}

// oldRelease returns the record of the release that the trial replaces. Its origin is
// known only if it is the installed one.
func oldRelease(j *state.Journal, installed *state.Release) *state.Release {
	r := &state.Release{Version: j.From, Files: j.OldFiles(), Since: time.Now().UTC(), Unsigned: true}
	if installed != nil && installed.Version == j.From {
		r.Sequence, r.Archive, r.Unsigned, r.Listed = installed.Sequence, installed.Archive, installed.Unsigned, installed.Listed
	}
	return r
}

// plain returns the files without their backup paths, which are not part of a release.
func plain(files []state.File) []state.File {
	var out []state.File
	for _, f := range files {
		if f.SHA256 != "" {
			out = append(out, state.File{To: f.To, SHA256: f.SHA256, Tree: f.Tree})
		}
	}
	return out
}

func (s *Swapper) ended(j *state.Journal, stage string, r state.Result, reason string) state.Attempt {
	a := state.Attempt{ID: j.Attempt, Origin: j.Origin, From: j.From, Version: j.Version,
		Sequence: j.Sequence, Manifest: j.Manifest, Stage: stage, Result: r, Reason: reason, Warning: j.Warning, Drill: j.Drill}
	if stage == "rollback" && j.Phase == state.PhaseTrial {
		a.Said, a.Unit, a.Started = j.Said, j.Unit, j.Started
	}
	return a
}

// recorded reports whether the status already contains the end of this attempt. It does
// if the swapper was killed between writing the record and closing the journal.
func recorded(st *state.Status, attempt state.AttemptID) bool {
	return slices.ContainsFunc(st.Attempts, func(a state.Attempt) bool {
		return a.ID == attempt && a.Result != state.ResultRollbackFailed
	})
}

// closeTrial closes a recorded trial and removes what it has left, except the backups of
// the previous release.
func (s *Swapper) closeTrial(j *state.Journal, previous *state.Release) error {
	s.release(j)
	s.logError(j, retire(j, previous))
	if err := s.Tree.CloseJournal(j.Target); err != nil {
		return err
	}
	if err := s.spare(j); err != nil {
		return err
	}
	var dirs []string
	for _, c := range j.Changes {
		dirs = append(dirs, rootsOwn(c.To)...)
		if c.Linked() {
			dirs = append(dirs, c.Tree.Releases)
		}
	}
	return s.sweep(j.Target, dirs, previous)
}
