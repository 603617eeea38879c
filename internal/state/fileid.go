package state

import (
	"fmt"
	"os"
	"syscall"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// FileID identifies a file independently of its path. A process that may not enter the
// file's directory can still compare it with /proc/PID/exe. It is valid until the file is
// replaced or the machine boots.
type FileID struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

// Known reports whether id identifies a file.
func (id FileID) Known() bool { return id != FileID{} }

// Identify returns the identity of the file at path, and follows symbolic links.
func Identify(path string) (FileID, error) {
	info, err := os.Stat(path)
	if err != nil {
		return FileID{}, err
	}
	st := info.Sys().(*syscall.Stat_t)
	return FileID{Dev: uint64(st.Dev), Ino: st.Ino}, nil
}

// MainID returns the identity of a target's main file, as root sees it. It returns the
// zero FileID if path is "", is in a user's directory, or no such file exists.
func MainID(path string) (FileID, error) {
	if path == "" || durable.OfUser(path) {
		return FileID{}, nil
	}
	id, err := Identify(path)
	if os.IsNotExist(err) {
		return FileID{}, nil
	}
	if err != nil {
		return FileID{}, fmt.Errorf("cannot identify %s: %w", path, durable.Cause(err))
	}
	return id, nil
}
