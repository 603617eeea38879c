package durable

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Reserve makes an empty file occupy so many bytes of its file system, durably. On a file
// system that cannot allocate without writing, it writes bytes that cannot be compressed.
func Reserve(f *os.File, bytes int64) error {
	err := Retry(func() error { return unix.Fallocate(int(f.Fd()), 0, 0, bytes) })
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

// Faulty reports whether an error comes from a disk, or from means of this machine that are
// used up, so that it says nothing about the content of a file.
func Faulty(err error) bool {
	errno, is := errors.AsType[unix.Errno](err)
	return is && slices.Contains([]unix.Errno{unix.EIO, unix.EROFS, unix.ENOSPC, unix.EDQUOT, unix.ESTALE, unix.EINTR, unix.ENOMEM, unix.EMFILE, unix.ENFILE}, errno)
}

// Retry repeats a call that a signal interrupted, such as one of Go's scheduler. Package os
// does so itself, except in [os.Root.Rename] and [os.Root.Symlink]; the calls of package
// unix do not.
func Retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// RenameIn renames a file below root.
func RenameIn(root *os.Root, from, to string) error {
	return Retry(func() error { return root.Rename(from, to) })
}

// Full reports whether an error means that a disk or a quota is used up.
func Full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
