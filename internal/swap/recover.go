package swap

import (
	"context"
	"errors"
	"strings"

	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/state"
)

// Recover closes, at boot and before any target starts, the trials that a stop of the
// machine left open: it carries out a verdict commit and undoes every other trial. It
// restarts nothing, since nothing has started. An error in one target's trial does not
// keep the others from recovery.
//
// A trial that began since the boot is left to its own units: starting basic.target by
// hand, or leaving rescue.target, starts recover, too.
func (s *Swapper) Recover(ctx context.Context) error {
	names, err := s.Tree.OpenTrials()
	for _, name := range names {
		err = errors.Join(err, s.recover(ctx, name))
	}
	return err
}

func (s *Swapper) recover(ctx context.Context, name string) error {
	release, err := s.Tree.Lock(name)
	if err != nil {
		return err
	}
	defer release()
	s.Log.Target = name
	defer func() { s.Log.Target, s.Log.Attempt, s.Log.Version = "", "", "" }()
	j, err := s.journal(name)
	if err != nil || j == nil {
		return err
	}
	s.about(j)
	if s.Tree.OrderTaken(name, j.Attempt) {
		s.logf("%s: the trial began since the boot: left alone", describe(j))
		return nil
	}
	if j.Verdict == state.VerdictCommit {
		s.logf("%s: the machine stopped after the verdict: committing", describe(j))
		if len(j.PostCommit) > 0 {
			j.Reason = strings.TrimPrefix(j.Reason+"; the machine stopped before the post_commit hook was done", "; ")
		}
		return s.finishCommit(ctx, j)
	}
	if j.Verdict == "" {
		j.Verdict, j.Reason = state.VerdictRollback, "the machine stopped during the trial"
		s.note(j)
	}
	if j.RollbackFailed != "" {
		st, err := s.Tree.Status(state.RoleSwap, name)
		if err == nil {
			err = policy.Held(name, st).Err()
		}
		if err != nil {
			s.logf("%s: the trial whose rollback failed is left alone: %v", describe(j), err)
			return nil
		}
		if !j.Back && !j.Restored && dataReturns(j) && (j.Again == nil || mayReturn(j) != nil) {
			// The program has run since, and an administrator may have repaired its data.
			s.logf("%s: its data are left alone: %v", describe(j), failedTrial(j))
			return nil
		}
	}
	s.logf("%s: rolling back: %s", describe(j), j.Reason)
	changed, err := s.restore(ctx, j)
	// Data that were restored once were written since by the program that ran.
	if dataReturns(j) && !j.Restored && !errors.Is(err, errTheirs) {
		err = withData(err, s.restoreData(ctx, j))
	}
	if err != nil {
		return s.failedRollback(ctx, j, s.unreturned(j, err))
	}
	if j.Reload {
		if err := s.Systemd.Reload(ctx); err != nil {
			return err
		}
	}
	return s.closeRollback(ctx, j, nil, changed)
}
