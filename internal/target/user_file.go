package target

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// readOfUser is like read for a file that belongs to a user, as in a home directory. Root
// and that one user must be the only ones who can write it and the directories above it.
// Links are followed only where root alone can make them.
func (c checker) readOfUser(file string) ([]byte, *ConfigError) {
	path, err := c.resolve(file)
	if !errors.Is(err, errOtherWriter) {
		return nil, &ConfigError{File: file, Problem: fmt.Sprint(err), Hint: rootOnlyHint}
	}
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(unix.AT_FDCWD, c.root+path, &how)
	if errors.Is(err, unix.ELOOP) {
		return nil, &ConfigError{File: file, Problem: "is reached by a link of a user", Hint: rootOnlyHint}
	} else if err != nil {
		return nil, unopened(file, err, "")
	}
	f := os.NewFile(uintptr(fd), file)
	defer f.Close()
	if err := c.oneUser(path); err != nil {
		return nil, &ConfigError{File: file, Problem: err.Error(), Hint: rootOnlyHint}
	}
	return content(f, file, maxFragment)
}

// oneUser returns an error unless at most one user other than root can write to a path
// without symlinks, and to its parents.
func (c checker) oneUser(path string) error {
	root, err := c.owner()
	if err != nil {
		return err
	}
	user := root
	for ; ; path = filepath.Dir(path) { // from the file up, so that the user is known at once
		info, err := os.Lstat(c.root + path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, durable.Cause(err))
		}
		stat := info.Sys().(*syscall.Stat_t)
		if stat.Uid != root && user == root {
			user = stat.Uid
		}
		switch mode := info.Mode().Perm(); {
		case stat.Uid != root && stat.Uid != user:
			return fmt.Errorf("%s is owned by user %d, and what is in it by user %d", path, stat.Uid, user)
		case mode&0o002 != 0:
			return fmt.Errorf("%s is writable by everyone", path)
		case mode&0o020 != 0:
			return fmt.Errorf("%s is writable by its group %d", path, stat.Gid)
		case path == "/":
			return nil
		}
	}
}
