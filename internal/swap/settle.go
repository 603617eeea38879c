package swap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/state"
)

// failedTrial returns the error that refuses to touch a trial whose rollback failed.
func failedTrial(j *state.Journal) error {
	return state.Fail(state.ResultRollbackFailed, "the rollback of %s failed, and its trial waits for you: %s (hint: %s)", j.Version, j.Unsettled(), state.SettleHint(j.Target))
}

// settled obeys the operator's word on a trial whose rollback failed, and reports whether
// nothing is left to do. Without a word it leaves the trial alone, unless the rollback is
// to be tried again by itself; after [state.VerbSettleBack] the caller rolls back once
// more, but not a held target.
func (s *Swapper) settled(ctx context.Context, j *state.Journal) (over bool, err error) {
	if !j.Back && (j.Again == nil || !j.Again.Going) {
		if over, err := s.word(ctx, j); err != nil || over {
			return true, err
		}
	}
	if !j.Back { // nothing is moved aside without the operator's word
		return false, nil
	}
	if err := s.setAside(j); err != nil {
		return true, s.failedRollback(ctx, j, err)
	}
	return false, nil
}

// word takes the operator's word, and reports whether nothing is left to do.
func (s *Swapper) word(ctx context.Context, j *state.Journal) (over bool, err error) {
	req, err := s.Tree.Request(j.Target)
	if err != nil {
		return true, err
	}
	if req == nil || req.Verb != state.VerbSettleKeep && req.Verb != state.VerbSettleBack {
		if s.tryAgain(ctx, j) {
			return false, nil
		}
		s.logf("%s: left alone: %v", describe(j), failedTrial(j))
		return true, nil
	}
	if req, err = s.Tree.TakeRequest(j.Target); err != nil || req == nil {
		return true, err // the request has expired
	}
	if req.Verb == state.VerbSettleKeep {
		return true, s.settleKeep(ctx, j)
	}
	st, err := s.Tree.Status(state.RoleSwap, j.Target)
	if err == nil {
		err = policy.Held(j.Target, st).Err()
	}
	if err != nil {
		return true, err
	}
	s.logf("%s: the operator asks for one more rollback", describe(j))
	j.Back, j.Again = true, nil
	s.note(j)
	return false, nil
}

// setAside renames foreign files in the places of the trial's files to
// NAME.aside-ATTEMPT, so that the operator gets the old files there and loses none.
func (s *Swapper) setAside(j *state.Journal) error {
	moved := false
	for _, c := range j.Changes {
		if c.OfUser() {
			continue // root moves nothing there
		}
		now, err := now(c)
		if own := ours(j, c); err != nil || c.Kind != state.KindReplace || own == nil || now == "" || slices.Contains(own, now) {
			continue // an error will occur again when the file is restored
		}
		aside := c.To + ".aside-" + string(j.Attempt)
		err = renameNew(c.To, aside)
		for n := 2; errors.Is(err, fs.ErrExist); n++ { // an earlier settle has used that name
			aside = fmt.Sprintf("%s.aside-%s.%d", c.To, j.Attempt, n)
			err = renameNew(c.To, aside)
		}
		if err != nil {
			return fmt.Errorf("cannot move %s aside: %w%s", c.To, brief(err), hint(err))
		}
		what := fmt.Sprintf("%s, which was not of this update, is now %s", c.To, aside)
		s.logf("%s: %s", describe(j), what)
		j.Warn(what)
		moved = true
	}
	if moved { // what that file made of the data must go, too
		j.Restored = false
		s.note(j)
	}
	return nil
}

// settleKeep ends the trial with the files that are installed now, and keeps the old ones
// as the previous release. If the installed files are neither, it records the new
// release, as if that had been changed by hand since: scheduled runs then leave the files
// alone. A release that failed, and was not kept, is rejected.
func (s *Swapper) settleKeep(ctx context.Context, j *state.Journal) error {
	s.logError(j, s.Systemd.Stop(ctx, deadlineOf(j.Target))) // when it expires, it finds no trial
	st, err := s.Tree.Status(state.RoleSwap, j.Target)
	if err != nil {
		return err
	}
	if err := gatherAll(j); err != nil {
		return err
	}
	old := s.allAre(ctx, j, plain(j.OldFiles()))
	kept := !old && s.allAre(ctx, j, j.NewFiles())
	what := "files of another release, or of several"
	switch {
	case old:
		what = state.Called(j.From)
	case kept:
		what = state.Called(j.Version)
	}
	reason := "the operator keeps what is installed: " + what
	if !old { // else the records of the old release and of the one before it stay
		st.Previous, st.Installed = oldRelease(j, st.Installed), newRelease(j)
	}
	s.warnOfRest(ctx, j)
	// The ID is the trial's, so that this replaces the record of its failed rollback.
	a := s.ended(j, "rollback", state.ResultSettled, reason)
	if !kept && j.Finding != state.FindingUnsure {
		// The old release may be no better, but an operator who keeps other files does
		// not want this release to be installed again by itself.
		r := rejectionOf(j, j.Reason)
		if j.Finding == "" {
			r.Interruptions = 1
		}
		st.Reject(r)
		if st.Rejects(r.Fingerprint, r.Archive, r.Sequence) != nil {
			a.Rejected = state.Called(j.Version)
		}
	}
	st.Record(a)
	if err := s.Tree.SetStatus(state.RoleSwap, j.Target, st); err != nil {
		return err
	}
	s.Log.Event(log.Event(state.ResultSettled), "%s: %s", describe(j), reason)
	return s.closeHandled(ctx, j, st.Previous)
}

// warnOfRest warns the operator if what is kept does not run: the trial ends here, and no
// unit will start it.
func (s *Swapper) warnOfRest(ctx context.Context, j *state.Journal) {
	all, err := s.unitsOf(ctx, j)
	s.logError(j, err)
	for _, u := range all {
		if _, idle := j.Idle[u.Name]; !idle && j.WasRunning && u.Settled() && !u.Running() {
			j.Warn(fmt.Sprintf("%s does not run: it is %s (hint: sudo systemctl start %s)", u.Name, u, u.Name))
		}
	}
}

// allAre reports whether there are files and all are installed with the listed digests.
func (s *Swapper) allAre(ctx context.Context, j *state.Journal, files []state.File) bool {
	return len(files) > 0 && !slices.ContainsFunc(files, func(f state.File) bool {
		look := f.Digest
		if durable.OfUser(f.To) {
			look = func() (string, error) { return s.digestAsUser(ctx, j, f.To) }
		}
		got, err := look()
		return err != nil || got != f.SHA256
	})
}
