package swap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
)

// restore brings the old files back and verifies each, in any state in which the trial
// may have ended. It reports whether it changed anything.
func (s *Swapper) restore(ctx context.Context, j *state.Journal) (changed bool, err error) {
	log.Status("restoring the old files")
	changed, err = s.restoreFiles(ctx, j)
	if durable.Full(err) {
		s.freeBeside(j)
		did, again := s.restoreFiles(ctx, j)
		return changed || did, again
	}
	return changed, err
}

func (s *Swapper) restoreFiles(ctx context.Context, j *state.Journal) (changed bool, err error) {
	var failed error
	for i := len(j.Changes) - 1; i >= 0; i-- {
		if c := j.Changes[i]; c.Kind != state.KindSnapshot {
			if s.Boot == "" || j.Boot != s.Boot {
				c.Placed, c.Kept = nil, nil
			}
			restore := func() (bool, error) { return putBack(c, ours(j, c)) }
			if c.OfUser() {
				restore = func() (bool, error) { return s.putBackAsUser(ctx, j, c) }
			}
			did, err := restore()
			changed = changed || did
			// Restore the others even after an error, so that less is broken.
			failed = errors.Join(failed, unrestored(c, err))
		}
	}
	return changed, errors.Join(failed, syncDirs(j.Changes))
}

func unrestored(c state.Change, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cannot restore %s: %w%s", c.To, brief(err), hint(err))
}

// ours returns the digests of the files that a rollback may replace in the place of a
// change; nil means any. A rollback replaces what a program made of its data, and what
// the hook made of a file that was not replaced yet. Any other file there that is neither
// the release's nor the old one is foreign, and stays. Once a rollback has brought the
// old file back, a file of the release is foreign, too.
func ours(j *state.Journal, c state.Change) []string {
	switch {
	case c.Kind == state.KindSnapshot, j.Hooked && j.Phase == state.PhasePrepared:
		return nil
	case j.Restored:
		return []string{c.Old}
	}
	return []string{c.Old, c.New}
}

// errTheirs says that a foreign file, which the update did not install, was left alone.
var errTheirs = errors.New("another file was put there since, and stays")

// stamp notes which files the trial begins with, so that a rollback need not read them
// while the program does not run. A backup that was written since its digest was taken gets
// no stamp.
func (s *Swapper) stamp(j *state.Journal) {
	j.Boot = s.Boot
	for i := range j.Changes {
		c := &j.Changes[i]
		if c.Kind != state.KindReplace || c.Tree != nil || c.OfUser() {
			continue
		}
		c.Placed = state.StampOf(c.To)
		kept := state.StampOf(c.Backup)
		if !kept.SameContent(c.Kept) {
			kept = nil
		}
		c.Kept = kept
	}
}

// digestOf returns the digest of the file at path: sum, if its stamp is still this one.
func digestOf(path string, stamp *state.Stamp, sum string) (string, error) {
	if stamp.Still(path) {
		return sum, nil
	}
	return digest(path)
}

// putBack restores one file if the digest of what is in its place is in ours; nil allows
// any digest.
func putBack(c state.Change, ours []string) (changed bool, err error) {
	if c.Tree != nil {
		return putTreeBack(c, ours)
	}
	now, err := digestOf(c.To, c.Placed, c.New)
	if err != nil {
		return false, err
	}
	if now == c.Old && dressedLike(c.To, c.Backup) {
		return false, nil
	}
	if c.Kind == state.KindRemove && now != "" {
		return false, nil // the trial did not touch it, so it is foreign
	}
	if c.Old == "" {
		if _, err := os.Lstat(c.Staged); err == nil {
			return false, nil // the new file was not installed, so this one is foreign
		}
	}
	if ours != nil && now != "" && !slices.Contains(ours, now) {
		return false, errTheirs
	}
	if c.Old == "" {
		return true, os.Remove(c.To)
	}
	if kept, err := digestOf(c.Backup, c.Kept, c.Old); err != nil {
		return false, err
	} else if kept != c.Old {
		return false, fmt.Errorf("its backup %s is missing or damaged", c.Backup)
	}
	// Rename a link and not the backup itself: until the journal is closed, the backup
	// stays where the journal says it is.
	again := backAgain(c)
	if err := remove(again); err != nil {
		return false, err
	}
	if c.Kind == state.KindSnapshot {
		_, err = copyWhole(again, c.Backup)
	} else {
		err = os.Link(c.Backup, again)
	}
	if err != nil {
		return false, err
	}
	return true, os.Rename(again, c.To)
}

// backAgain returns the name that a backup's link or copy has before its rename.
func backAgain(c state.Change) string {
	return filepath.Join(filepath.Dir(c.Backup), strings.TrimSuffix(filepath.Base(c.Backup), ".old")+".back")
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// unshare replaces each backup that a restore has linked to its place by a copy: until
// the operator decides, a program may write the installed file in place. The restore
// makes links first, because they take neither time nor space while the service is down.
// A backup that cannot be copied stays shared.
func (s *Swapper) unshare(j *state.Journal) {
	for _, c := range j.Changes {
		if c.Backup == "" || c.Kind == state.KindSnapshot || c.Tree != nil || c.OfUser() {
			continue
		}
		installed, err := os.Lstat(c.To)
		kept, kerr := os.Lstat(c.Backup)
		if err != nil || kerr != nil || !os.SameFile(installed, kept) {
			continue
		}
		again := backAgain(c)
		if err = remove(again); err == nil {
			_, err = copyWhole(again, c.Backup)
		}
		if err == nil {
			err = os.Rename(again, c.Backup)
		}
		if err != nil {
			s.logf("%s: cannot copy the backup of %s: %v%s", describe(j), c.To, brief(err), hint(err))
		}
	}
	s.logError(j, syncDirs(j.Changes))
}
