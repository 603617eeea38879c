package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
)

// A folder is an open directory.
type folder struct {
	*os.File
	touched bool // whether a name in it was created, replaced or removed
}

// A place is a name in an open directory. The entry of that name may change at any time;
// the directory cannot.
type place struct {
	dir  *folder
	name string
	path string // for messages only
	top  bool   // whether the caller named it: it may then be a mount point
}

func (p place) fd() int { return int(p.dir.Fd()) }

// below returns the place of a name in the directory d, which is at p.
func (p place) below(d *folder, name string) place {
	return place{dir: d, name: name, path: filepath.Join(p.path, name)}
}

// leftover is the beginning of the names of incomplete files.
const leftover = ".machinemon-update.restore-"

// temporary returns the place for the new file that will replace the one at p. It depends
// only on p, so that the next run finds what a killed one left, and it differs for each
// file, because another target may be restored in the same directory meanwhile.
func (p place) temporary() place {
	sum := sha256.Sum256([]byte(p.name))
	return p.beside(leftover + hex.EncodeToString(sum[:8]))
}

// beside returns the place of another name in the same directory.
func (p place) beside(name string) place {
	return place{dir: p.dir, name: name, path: filepath.Join(filepath.Dir(p.path), name)}
}

// shown returns a path as a message may print it.
func shown(path string) string { return state.Line(path) }

// An entryError is an error about one place of a tree.
type entryError struct {
	path string
	err  error
}

func (e *entryError) Error() string { return shown(e.path) + ": " + e.err.Error() }
func (e *entryError) Unwrap() error { return e.err }

// failed returns an error that says what cannot be done with the path of the caller.
func failed(what, path string, err error) error {
	if e, ok := err.(*entryError); ok && e.path == path {
		err = e.err // the message names it already
	}
	return fmt.Errorf("cannot %s %s: %w", what, shown(path), err)
}

// wrong adds the place to an error, unless the error names a place below it.
func (p place) wrong(err error) error {
	var named *entryError
	switch {
	case err == nil || errors.As(err, &named):
		return err
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.EBUSY):
		return p.problem("is a mount point (hint: name what is mounted there by itself, or leave it out)")
	case errors.Is(err, unix.EAGAIN):
		return p.problem("a program holds a lease on it (hint: it is in /proc/locks)")
	}
	return &entryError{p.path, err}
}

func (p place) problem(format string, a ...any) error {
	return &entryError{p.path, fmt.Errorf(format, a...)}
}

// vanished is gone, except for the place that the caller named.
func (p place) vanished(err error) error {
	if p.top {
		return err
	}
	return gone(err)
}

// gone returns nil for the error of an entry that a running daemon removed meanwhile.
func gone(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// retry repeats a call that a signal interrupted, such as those of Go's scheduler.
func retry[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if err != unix.EINTR {
			return v, err
		}
	}
}

func retry0(call func() error) error {
	_, err := retry(func() (struct{}, error) { return struct{}{}, call() })
	return err
}

func (p place) stat() (st unix.Stat_t, err error) {
	err = retry0(func() error {
		return unix.Fstatat(p.fd(), p.name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
	})
	return st, err
}

// open opens the entry; mode is that of a new file. It refuses symbolic links and, except for the top, mount points,
// for which the error is EXDEV.
func (p place) open(flags int, mode uint32) (*os.File, error) {
	flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := retry(func() (int, error) {
		if p.top {
			return unix.Openat(p.fd(), p.name, flags, mode)
		}
		return unix.Openat2(p.fd(), p.name, &unix.OpenHow{
			Flags: uint64(flags), Mode: uint64(mode), Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
		})
	})
	if err != nil {
		return nil, err
	}
	if flags&unix.O_NONBLOCK != 0 { // it was for open only: Go would poll files that cannot be polled
		if err := unix.SetNonblock(fd, false); err != nil {
			unix.Close(fd)
			return nil, err
		}
	}
	return os.NewFile(uintptr(fd), p.path), nil
}

// openFile opens for reading. It does not wait for a writer if the entry is a FIFO by
// now.
func (p place) openFile() (*os.File, error) {
	return p.open(unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
}

// openFolder opens the directory of that name.
func (p place) openFolder() (*folder, error) {
	f, err := p.open(unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &folder{File: f}, nil
}

// reopen opens a directory for reading that is open with O_PATH.
func reopen(d *os.File) (*os.File, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(d.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), d.Name()), nil
}

// create creates a file that no other user can open yet.
func (p place) create() (*os.File, error) {
	p.dir.touched = true
	return p.open(unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
}

// regular opens a regular file for reading. If the entry is another kind by now, it
// returns errReplaced; it does not open devices.
func (p place) regular() (*os.File, unix.Stat_t, error) {
	st, err := p.stat()
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errReplaced
	}
	if err != nil {
		return nil, st, p.wrong(err)
	}
	f, err := p.openFile()
	if err != nil {
		return nil, st, p.wrong(err)
	}
	if st, err = fstat(f); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errReplaced
	}
	if err != nil {
		f.Close()
		return nil, st, p.wrong(err)
	}
	return f, st, nil
}

var errReplaced = errors.New("was replaced by something else meanwhile")

func fstat(f *os.File) (st unix.Stat_t, err error) {
	err = retry0(func() error { return unix.Fstat(int(f.Fd()), &st) })
	return st, err
}

func (p place) mkdir() error {
	p.dir.touched = true
	return retry0(func() error { return unix.Mkdirat(p.fd(), p.name, 0o700) })
}

func (p place) symlink(leads string) error {
	p.dir.touched = true
	return retry0(func() error { return unix.Symlinkat(leads, p.fd(), p.name) })
}

func (p place) rename(to place) error {
	to.dir.touched = true
	return retry0(func() error { return unix.Renameat(p.fd(), p.name, to.fd(), to.name) })
}

func (p place) unlink(flags int) error {
	p.dir.touched = true
	return retry0(func() error { return unix.Unlinkat(p.fd(), p.name, flags) })
}

func (p place) readlink() (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := retry(func() (int, error) { return unix.Readlinkat(p.fd(), p.name, buf) })
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// procPath returns a path for calls that take neither a directory nor O_PATH.
func (p place) procPath() string {
	return "/proc/self/fd/" + strconv.Itoa(p.fd()) + "/" + p.name
}

// names returns the sorted names in a directory.
func names(d *folder) ([]string, error) {
	if _, err := d.Seek(0, 0); err != nil {
		return nil, err
	}
	all, err := d.Readdirnames(-1)
	if err != nil {
		return nil, durable.Cause(err)
	}
	slices.Sort(all)
	return all, nil
}

// each calls visit for each entry of the directory d, which is at p.
func (p place) each(d *folder, visit func(place) error) error {
	all, err := names(d)
	if err != nil {
		return p.wrong(err)
	}
	for _, name := range all {
		if err := visit(p.below(d, name)); err != nil {
			return err
		}
	}
	return nil
}
