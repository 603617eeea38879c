package durable

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"

	"golang.org/x/sys/unix"
)

// Reserve makes an empty file occupy so many bytes of its file system, durably. On a file
// system that cannot allocate without writing, it writes bytes that cannot be compressed.
func Reserve(f *os.File, bytes int64) error {
	err := error(unix.EINTR)
	for err == unix.EINTR { // such as from a signal of Go's scheduler
		err = unix.Fallocate(int(f.Fd()), 0, 0, bytes)
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		_, err = io.CopyN(f, rand.NewChaCha8([32]byte{}), bytes)
	}
	if err == nil {
		err = f.Sync()
	}
	return Cause(err)
}

// RoomHint returns the hint for an error that the disk or quota of a path is used up, and ""
// for any other error.
func RoomHint(err error, path string) string {
	if !Full(err) {
		return ""
	}
	return " (hint: make room on the disk of " + path + "; df and df -i show what is free)"
}

// Full reports whether an error means that a disk or a quota is used up.
func Full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
