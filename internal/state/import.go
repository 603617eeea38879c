package state

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// Import returns the directory for a release that the operator imports.
func (t Tree) Import(target string) string { return filepath.Join(t.Dir(RoleSwap, target), "import") }

// HandImport lets the group of the fetcher read the imported release. It still belongs to
// root, and other users cannot read it: perhaps they could not read the original.
func (t Tree) HandImport(target string, gid int) error {
	err := filepath.WalkDir(t.Import(target), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o640)
		if e.IsDir() {
			mode = 0o750
		}
		if err := os.Lchown(path, -1, gid); err != nil {
			return err
		}
		return os.Chmod(path, mode)
	})
	if err != nil {
		return fmt.Errorf("cannot give %s to group %d: %w", t.Import(target), gid, durable.Cause(err))
	}
	return nil
}

// DropImport removes the imported release.
func (t Tree) DropImport(target string) error {
	if err := os.RemoveAll(t.Import(target)); err != nil {
		return fmt.Errorf("cannot remove %s: %w", t.Import(target), durable.Cause(err))
	}
	return nil
}
