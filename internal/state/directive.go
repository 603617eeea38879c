package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// dropName is the one name that DropDirective uses, so that many directives from the same
// program are a single file.
const dropName = "update"

// DropDirective creates an empty file in the directory that the target's path unit
// watches. It returns false if the file exists already.
func (t Tree) DropDirective(target string) (bool, error) {
	dir := filepath.Join(t.Run, "directive", target)
	// The path unit makes the directory, but may not have been started yet.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, fmt.Errorf("cannot make %s: %w", dir, durable.Cause(err))
	}
	path := filepath.Join(dir, dropName)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return false, fmt.Errorf("cannot drop %s: %w", path, durable.Cause(err))
	}
	return true, nil
}

// ConsumeDirectives removes all entries of a target's directive directory without reading
// them, and returns how many it removed. The error names the first entry that could not be
// removed; all others are gone.
func (t Tree) ConsumeDirectives(target string) (n int, failed error) {
	parent, err := os.OpenRoot(filepath.Join(t.Run, "directive"))
	var dir *os.Root
	if err == nil {
		defer parent.Close()
		dir, err = durable.OpenDirIn(parent, target)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	var list *os.File
	if err == nil {
		defer dir.Close()
		list, err = dir.Open(".")
	}
	if err != nil {
		return 0, fmt.Errorf("cannot consume the directives to %s: %w", target, durable.Cause(err))
	}
	defer list.Close()
	for {
		names, err := list.Readdirnames(1000) // in batches, so that a flood of entries cannot fill the memory
		for _, name := range names {
			if err := dir.RemoveAll(name); err == nil {
				n++
			} else if failed == nil {
				failed = fmt.Errorf("cannot consume the directive %+q to %s: %w", name, target, durable.Cause(err))
			}
		}
		if err == io.EOF {
			return n, failed
		}
		if err != nil {
			return n, errors.Join(failed, fmt.Errorf("cannot list the directives to %s: %w", target, durable.Cause(err)))
		}
	}
}

// AskByDirective records that a directive asked for the attempt that begins next.
func (t Tree) AskByDirective(target string) error {
	return durable.WriteFile(t.asked(target), nil, 0o644)
}

func (t Tree) asked(target string) string {
	return filepath.Join(t.Run, "request", target+".directive")
}

// TakeDirective reports whether AskByDirective made a record, and removes the record.
func (t Tree) TakeDirective(target string) (bool, error) {
	err := os.Remove(t.asked(target))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot take %s: %w", t.asked(target), durable.Cause(err))
	}
	return true, nil
}
