package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// The reasons why a file is not opened or read.
var (
	ErrSymlink    = errors.New("it is a symbolic link")
	ErrNotRegular = errors.New("it is not a regular file")
	ErrTooLarge   = errors.New("it is larger")
)

const readOnly = os.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK

// OpenRegular opens a regular file for reading. It does not follow a symbolic link, and
// does not block on a FIFO or device.
func OpenRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, readOnly, 0)
	return regular(f, path, err)
}

// OpenRegularIn is like [OpenRegular] for a file below root. It follows a symbolic link to
// a file below root, as [os.Root] does; any other link is an error.
func OpenRegularIn(root *os.Root, name string) (*os.File, error) {
	f, err := root.OpenFile(name, readOnly, 0)
	return regular(f, name, err)
}

// OpenDrainIn is like [OpenRegularIn] for a file that a [Drain] frees. The file must belong
// to the owner of root: what a link brought there is another user's, perhaps.
func OpenDrainIn(root *os.Root, name string) (*Drain, *os.File, error) {
	f, err := root.OpenFile(name, readOnly|unix.O_RDWR, 0)
	if f, err = regular(f, name, err); err != nil {
		return nil, nil, err
	}
	own, err := root.Stat(".")
	if err == nil {
		var info fs.FileInfo
		if info, err = f.Stat(); err == nil && ownerOf(info) != ownerOf(own) {
			err = errors.New("it has another owner than its directory")
		}
	}
	d, ok := NewDrain(f)
	if err == nil && !ok {
		err = errors.ErrUnsupported
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return d, f, nil
}

func ownerOf(i fs.FileInfo) uint32 { return i.Sys().(*syscall.Stat_t).Uid }

func regular(f *os.File, path string, err error) (*os.File, error) {
	if errors.Is(err, unix.ELOOP) {
		return nil, &fs.PathError{Op: "open", Path: path, Err: ErrSymlink}
	}
	if err != nil {
		return nil, err
	}
	if _, err := sizeOf(f); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "open", Path: path, Err: Cause(err)}
	}
	return f, nil
}

func sizeOf(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, ErrNotRegular
	}
	return info.Size(), nil
}

// OpenDirIn opens a directory that another user may have replaced. It returns an error for
// anything but a directory, where [os.Root.OpenRoot] would block on a FIFO. It follows
// links as [OpenRegularIn] does.
func OpenDirIn(root *os.Root, name string) (*os.Root, error) {
	d, err := root.OpenFile(name, readOnly|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return os.OpenRoot("/proc/self/fd/" + strconv.Itoa(int(d.Fd())))
}

// ReadFile reads a file of at most limit bytes, opened by [OpenRegular].
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := OpenRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadAll(f, limit)
}

// ReadAll reads an open regular file of at most limit bytes. The error for a larger one is
// [ErrTooLarge]. It allocates the whole size at once, because a growing buffer would take
// twice the memory.
func ReadAll(f *os.File, limit int64) ([]byte, error) {
	size, err := sizeOf(f)
	if err != nil {
		return nil, err
	}
	var data bytes.Buffer
	if size <= limit {
		data.Grow(int(size) + bytes.MinRead) // room to find the end of the file
		_, err = data.ReadFrom(io.LimitReader(f, limit+1))
	}
	if size > limit || int64(data.Len()) > limit { // it may grow while it is read
		err = fmt.Errorf("%w than %d bytes", ErrTooLarge, limit)
	}
	if err != nil {
		return nil, err
	}
	return data.Bytes(), nil
}

// FileSHA256 returns the digest, in hex, of a file opened by [OpenRegular].
func FileSHA256(path string) (string, error) {
	f, err := OpenRegular(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum, _, err := SHA256(f)
	return sum, err
}

// SHA256 reads r to its end and returns the digest, in hex, and the number of bytes.
func SHA256(r io.Reader) (sum string, size int64, err error) { return CopySHA256(io.Discard, r) }

// Secret reports whether not all users may read a file, by its mode and those of the
// directories above it.
func Secret(path string) (bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	secret := info.Mode().Perm()&0o004 == 0
	for dir := filepath.Dir(path); dir != "/" && !secret; dir = filepath.Dir(dir) {
		if info, err = os.Stat(dir); err != nil {
			return false, err
		}
		secret = info.Mode().Perm()&0o001 == 0
	}
	return secret, nil
}
