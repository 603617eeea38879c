// Package durable reads and writes files in a way that survives a power cut at any time,
// and does not follow what other users put in a file's place.
//
// Its errors are those of package os, with the path. [Cause] removes the path for a
// message that names the file itself.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"golang.org/x/sys/unix"
)

// Cause returns the cause of an error of package os without operation and paths, for
// messages that name the file themselves. It returns any other error unchanged.
func Cause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	if le, ok := errors.AsType[*os.LinkError](err); ok {
		return le.Err
	}
	return err
}

// WriteFile replaces the content of a file durably: after it returns nil, a power cut
// cannot restore the old content, and the file is never half-written. The umask does not
// change the mode.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	if err := replace(path, dir, data, mode); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, Cause(err))
	}
	// renameio does not sync the directory, without which a power cut may undo the rename.
	return SyncDir(dir)
}

// replace does what renameio.WriteFile does, but does not keep the mode of the old file.
func replace(path, dir string, data []byte, mode fs.FileMode) error {
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(dir), renameio.WithStaticPermissions(mode))
	if err != nil {
		return err
	}
	defer f.Cleanup() // it does nothing after success
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	if err := SyncFile(dir); err != nil {
		return fmt.Errorf("cannot sync %s: %w", dir, Cause(err))
	}
	return nil
}

// SyncAll makes all of a file system durable, of which f is a file or directory. For
// thousands of files that is far faster than a sync of each.
func SyncAll(f *os.File) error {
	if err := Retry(func() error { return unix.Syncfs(int(f.Fd())) }); err != nil {
		return &os.PathError{Op: "sync", Path: f.Name(), Err: err}
	}
	return nil
}

// SyncFile makes content, owner and mode of a file durable.
func SyncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
