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

// SetLeaving begins the removal of the package: from now on no attempt begins
// and nothing is swapped. The package's maintainer scripts end it.
func (t Tree) SetLeaving() error {
	return durable.WriteFile(filepath.Join(t.Run, "leaving"), nil, 0o644)
}

// Leaving refuses new work while the package is being removed.
func (t Tree) Leaving() error {
	_, err := os.Lstat(filepath.Join(t.Run, "leaving"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = errors.New("its package is being removed")
	}
	return Fail(ResultNotAttempted, "machinemon-update does not work: %w", durable.Cause(err))
}

// Targets are the names of those that root has something recorded of, whether
// or not a target file still names them.
func (t Tree) Targets() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(t.Var, string(RoleSwap)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot list the targets' records: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// SetBeside records, one a line, the directories beside installed files that a
// purge of the package removes: by then none of our programs is left to tell.
func (t Tree) SetBeside(dirs []string) error {
	var lines strings.Builder
	for _, d := range dirs {
		lines.WriteString(d + "\n")
	}
	return durable.WriteFile(filepath.Join(t.Var, "beside"), []byte(lines.String()), 0o644)
}
