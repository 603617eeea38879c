// Package durable reads and writes files where a power cut may come at any time and
// where other users may have put something else in a file's place.
//
// Its errors are those of package os: they carry the path. [Cause] strips it where a
// message names the file itself.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Cause returns the cause of an error of package os without operation and paths,
// for messages that name the file themselves. Any other error is returned as it is.
func Cause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	if le, ok := errors.AsType[*os.LinkError](err); ok {
		return le.Err
	}
	return err
}

// WriteFile replaces the content of a file durably: after it returns nil a power
// cut cannot bring the old content back, and at no moment is there a half-written
// file. The umask does not change the mode.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	if err := replace(path, dir, data, mode); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, Cause(err))
	}
	// renameio leaves out the directory, without which the rename may be lost.
	return SyncDir(dir)
}

// replace does what renameio.WriteFile does, except that it does not keep the mode
// of the file that was there.
func replace(path, dir string, data []byte, mode fs.FileMode) error {
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(dir), renameio.WithStaticPermissions(mode))
	if err != nil {
		return err
	}
	defer f.Cleanup() // after success it does nothing
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

// SyncFile makes content, owner and mode of a file durable.
func SyncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
