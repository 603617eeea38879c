package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// ErrLocked means that another process holds the lock.
var ErrLocked = errors.New("another process is at work on it")

// Lock takes the lock of a target, which begin, swap, commit, rollback, deadline and
// recover share, and waits until it is free. The lock ends with the process.
func (t Tree) Lock(target string) (release func(), err error) {
	return t.flock(target, unix.LOCK_EX)
}

// LockOperator takes the lock that allows one operator's command per target at a time. It
// returns [ErrLocked] if another command holds it.
func (t Tree) LockOperator(target string) (release func(), err error) {
	return t.flock(target+"@operator", unix.LOCK_EX|unix.LOCK_NB)
}

// beside is the name of the lock of the directories beside installed files. It is no name of
// a target.
const beside = "@beside"

// KeepBeside keeps the directories beside installed files, which targets share, from being
// removed by other targets that find them empty. It waits while one is removed.
func (t Tree) KeepBeside() (release func(), err error) { return t.flock(beside, unix.LOCK_SH) }

// RemoveBeside removes directories beside installed files that are empty, unless a target is
// about to put files into one.
func (t Tree) RemoveBeside(dirs ...string) error {
	release, err := t.flock(beside, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, ErrLocked) {
		return nil
	}
	switch {
	case err == nil:
		defer release()
	case !errors.Is(err, fs.ErrNotExist): // before the first boot with the package, nobody is at work
		return err
	}
	for _, dir := range dirs {
		_ = os.Remove(dir) // it stays if it is not empty, as it holds backups of some target
	}
	return nil
}

func (t Tree) flock(name string, how int) (func(), error) {
	path := filepath.Join(t.Run, "lock", name)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock %s: %w", path, durable.Cause(err))
	}
	err = durable.Retry(func() error { return unix.Flock(int(f.Fd()), how) })
	if err == nil {
		return func() { f.Close() }, nil
	}
	f.Close()
	if err == unix.EWOULDBLOCK {
		return nil, ErrLocked
	}
	return nil, fmt.Errorf("cannot lock %s: %w", path, err)
}
