package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// programs is the directory of the new and the old files of programs that are in a
// directory of the unit's user. Only root enters it.
func (t Tree) programs(target string) string {
	return filepath.Join(t.Dir(RoleSwap, target), "programs")
}

// OfProgram reports whether a backup is root's copy of a program in a user's directory.
func (t Tree) OfProgram(target, backup string) bool {
	return strings.HasPrefix(backup, t.programs(target)+"/")
}

// ProgramDir makes the directory of such files of one attempt, unless it is there, and
// returns its path. The user's process sees it as [SnapshotMount], and can write nothing
// there.
func (t Tree) ProgramDir(target string, attempt AttemptID) (string, error) {
	dir := filepath.Join(t.programs(target), string(attempt))
	err := os.Mkdir(t.programs(target), 0o700)
	if err == nil || errors.Is(err, fs.ErrExist) {
		if err = os.Mkdir(dir, 0o755); errors.Is(err, fs.ErrExist) {
			return dir, nil
		}
	}
	if err == nil {
		err = os.Chmod(dir, 0o755) // the umask may have taken bits away
	}
	if err == nil {
		err = durable.SyncDir(t.programs(target))
	}
	if err == nil {
		err = durable.SyncDir(t.Dir(RoleSwap, target))
	}
	if err != nil {
		return "", fmt.Errorf("cannot make %s: %w", dir, durable.Cause(err))
	}
	return dir, nil
}

// DropPrograms removes all such files of a target, except those of a kept release.
func (t Tree) DropPrograms(target string, kept *Release) error {
	keep := map[string]bool{}
	if kept != nil {
		for _, f := range kept.Files {
			keep[f.Backup], keep[filepath.Dir(f.Backup)] = true, true
		}
	}
	if err := dropExcept(t.programs(target), keep); err != nil {
		return fmt.Errorf("cannot clear %s: %w", t.programs(target), durable.Cause(err))
	}
	return nil
}

// dropExcept removes a directory, or all below it but what is kept.
func dropExcept(dir string, keep map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var failed error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case !keep[path]:
			failed = errors.Join(failed, os.RemoveAll(path))
		case e.IsDir():
			failed = errors.Join(failed, dropExcept(path, keep))
		}
	}
	// The directory stays if something is kept in it.
	_ = os.Remove(dir)
	return failed
}
