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

// SetLeaving marks the package as being removed: from now on no attempt begins and nothing
// is swapped. The package's maintainer scripts remove the mark.
func (t Tree) SetLeaving() error {
	return durable.WriteFile(filepath.Join(t.Run, "leaving"), nil, 0o644)
}

// Leaving returns an error of [ResultNotAttempted] while the package is being removed.
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

// Targets returns the names of the targets of which root has records. Some may have no
// target file any more.
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

// SetBeside records the directories beside installed files, one per line. A purge of the
// package removes them, when no program of the package is left to name them.
func (t Tree) SetBeside(dirs []string) error {
	var lines strings.Builder
	for _, d := range dirs {
		lines.WriteString(d + "\n")
	}
	return durable.WriteFile(filepath.Join(t.Var, "beside"), []byte(lines.String()), 0o644)
}
