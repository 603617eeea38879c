package swap

import (
	"context"
	"errors"
	"fmt"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
)

// planSnapshot adds the data that come back at a rollback.
func (sw *swapping) planSnapshot() error {
	for _, path := range sw.target.Snapshot {
		sw.add(state.Change{Kind: state.Snapshot, To: path, Pending: true})
	}
	return nil
}

// checkData refuses, before anything stops, a snapshot that cannot be taken.
func (sw *swapping) checkData(context.Context) error { return nil }

// saveData takes the snapshot.
func (sw *swapping) saveData(ctx context.Context) error {
	log.Status("saving the data")
	for i := range sw.journal.Changes {
		c := &sw.journal.Changes[i]
		if c.Kind != state.Snapshot {
			continue
		}
		if err := sw.save(c, i); err != nil {
			return fmt.Errorf("cannot take a snapshot of %s: %w%s", c.To, cause(err), hint(err))
		}
	}
	return syncDirs(sw.journal.Changes)
}

func (sw *swapping) save(c *state.Change, index int) error {
	now, err := digest(c.To)
	if err == nil && now != "" {
		var dir string
		if dir, err = sideDir(c.To); err == nil {
			c.Backup = sidePath(dir, sw.name, sw.journal.Attempt, index, "old")
			c.Old, err = copyWhole(c.Backup, c.To)
		}
	}
	c.Pending = err != nil
	return err
}

// dataReturns reports whether a rollback brings data back. While the old program
// still runs, what it wrote since is its own, unless a hook may have written there.
func dataReturns(j *state.Journal) bool {
	if j.Phase != state.Trial && !j.Hooked {
		return false
	}
	for _, c := range j.Changes {
		if c.Kind == state.Snapshot && !c.Pending {
			return true
		}
	}
	return false
}

// restoreData brings the data back. The unit must not run.
func (s *Swapper) restoreData(j *state.Journal) error {
	log.Status("restoring the data")
	var failed error
	for _, c := range j.Changes {
		if c.Kind == state.Snapshot && !c.Pending {
			_, err := putBack(c, nil)
			failed = errors.Join(failed, unrestored(c, err))
		}
	}
	return errors.Join(failed, syncDirs(j.Changes))
}
