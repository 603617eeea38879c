package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// SnapshotMount is where the unit that saves or restores a user's data sees the directory
// of the backups. That user cannot enter the directory under its own path.
const SnapshotMount = "/run/machinemon-update/snapshot"

func (t Tree) snapshots(target string) string {
	return filepath.Join(t.Dir(RoleSwap, target), "snapshot")
}

// MakeSnapshotDir makes an empty directory for the backups of an attempt's data.
func (t Tree) MakeSnapshotDir(target, name string) (string, error) {
	dir := filepath.Join(t.snapshots(target), name)
	err := os.Mkdir(t.snapshots(target), 0o700)
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = os.Mkdir(dir, 0o700)
	}
	if err == nil {
		err = durable.SyncDir(t.snapshots(target))
	}
	if err == nil {
		err = durable.SyncDir(t.Dir(RoleSwap, target))
	}
	if err != nil {
		return "", fmt.Errorf("cannot make %s: %w", dir, durable.Cause(err))
	}
	return dir, nil
}

// DropSnapshots removes all backups of a target's data.
func (t Tree) DropSnapshots(target string) error {
	if err := os.RemoveAll(t.snapshots(target)); err != nil {
		return fmt.Errorf("cannot remove the snapshots of %s: %w", target, err)
	}
	return nil
}
