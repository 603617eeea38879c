package target

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// rootOnlyHint does not propose to give a user's directory to root: that could be a home.
const rootOnlyHint = "it and its parents must be writable by root alone: move it out of a user's directory, or chown root:root and chmod go-w"

// CheckRootOnly returns an error, which names the place, unless only root can write to
// path and to all its parents. Symlinks in path are followed and their targets checked.
// Group staff may write to /usr/local and below, as on Debian. If path does not exist,
// the error is fs.ErrNotExist, and all parents that do exist have passed the check.
func CheckRootOnly(path string) error {
	return checker{}.rootOnly(path)
}

// errOtherWriter matches the errors about paths that others than root can write.
var errOtherWriter = errors.New("not writable by root alone")

type writable string

func (w writable) Error() string        { return string(w) }
func (w writable) Is(target error) bool { return target == errOtherWriter }

func otherWriter(format string, a ...any) error { return writable(fmt.Sprintf(format, a...)) }

// ownedBy is the error about the first file or directory in a path that root does not own.
type ownedBy struct{ error }

func (o ownedBy) Unwrap() error { return o.error }

// ofUser reports whether a file is in a user's directory, as [durable.OfUser] does.
func (c checker) ofUser(path string) bool {
	if durable.InHome(path) || c.elsewhere {
		return durable.InHome(path)
	}
	_, err := c.resolve(filepath.Dir(path))
	_, owned := errors.AsType[ownedBy](err)
	return owned
}

// A checker looks at the file system below root. root "" is the machine's own file
// system, whose files root must own; the files of any other must belong to the owner of
// its root.
type checker struct {
	root string
	// elsewhere says that the target file is for another machine, so that the files of
	// this one prove nothing about it.
	elsewhere bool
	// existing says that what is missing, or hidden from this process, is no problem.
	existing bool
}

// unseen reports whether an error is no problem because only what can be seen is checked.
func (c checker) unseen(err error) bool {
	return c.existing && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission))
}

func (c checker) rootOnly(path string) error {
	if c.elsewhere {
		return nil
	}
	_, err := c.resolve(path)
	return err
}

// maxSymlinks is Linux's limit in one path (MAXSYMLINKS of path_resolution(7)).
const maxSymlinks = 40

// resolve checks each component of an absolute path and returns path without symlinks.
// Only root can change a path that passed. After an error, the components in front of the
// one that failed are resolved, and the rest is not.
func (c checker) resolve(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%q is not an absolute path", path)
	}
	owner, err := c.owner()
	if err != nil {
		return "", err
	}
	if _, err := c.component("/", owner); err != nil {
		return "", err
	}
	at, links := "/", 0
	todo := strings.Split(path, "/")
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		link, err := c.component(next, owner)
		if err != nil {
			return filepath.Join(append([]string{next}, todo...)...), err
		}
		if link == "" {
			at = next
			continue
		}
		if links++; links > maxSymlinks {
			return "", fmt.Errorf("%s: %w", path, unix.ELOOP)
		}
		if filepath.IsAbs(link) {
			at = "/"
		}
		todo = append(strings.Split(link, "/"), todo...)
	}
	return at, nil
}

// component checks one file or directory. If it is a symlink, link is where it leads. A
// symlink has no permissions of its own: those of its directory count.
func (c checker) component(path string, owner uint32) (link string, err error) {
	info, err := os.Lstat(c.root + path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, durable.Cause(err))
	}
	stat := info.Sys().(*syscall.Stat_t)
	if stat.Uid != owner {
		return "", ownedBy{otherWriter("%s is owned by user %d, not by root", path, stat.Uid)}
	}
	mode := info.Mode()
	switch {
	case mode&fs.ModeSymlink != 0:
		link, err := os.Readlink(c.root + path)
		if err != nil {
			return "", fmt.Errorf("%s: %w", path, durable.Cause(err))
		}
		return link, nil
	case mode.Perm()&0o002 != 0:
		return "", otherWriter("%s is writable by everyone", path)
	case mode.Perm()&0o020 != 0:
		// With an ACL these bits are its mask, so they count also for group root.
		if !within(path, "/usr/local") || !isStaff(stat.Gid) {
			return "", otherWriter("%s is writable by its group %d", path, stat.Gid)
		}
		acl, err := hasAttribute(c.root+path, "system.posix_acl_access")
		if err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		if acl {
			return "", otherWriter("%s has an ACL that lets others write", path)
		}
	}
	return "", nil
}

func (c checker) owner() (uint32, error) {
	if c.root == "" {
		return 0, nil
	}
	info, err := os.Stat(c.root)
	if err != nil {
		return 0, err
	}
	return info.Sys().(*syscall.Stat_t).Uid, nil
}

const (
	debianStaff = 50    // static gid of base-passwd
	overflowGID = 65534 // user_namespaces(7) shows it for a gid that is not mapped
)

// isStaff reports whether gid is group staff. In the user namespaces of the fetcher and
// the verifier, staff is not mapped and looks like every other such group. They accept
// it: they neither run nor replace files below /usr/local. The roles that do so run
// outside of such a namespace, and check there.
func isStaff(gid uint32) bool {
	staff := uint32(debianStaff)
	if g, err := user.LookupGroup("staff"); err == nil {
		if n, err := strconv.ParseUint(g.Gid, 10, 32); err == nil {
			staff = uint32(n)
		}
	}
	return gid == staff || gid == overflowGID && !mapped(staff)
}

// mapped reports whether the process's user namespace maps gid. It returns true if the
// map cannot be read.
func mapped(gid uint32) bool {
	data, err := os.ReadFile("/proc/self/gid_map")
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(data)) {
		var inside, outside, count uint64
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err != nil {
			return true
		}
		// gid is an ID of the outer namespace, to which /etc/group belongs.
		if uint64(gid) >= outside && uint64(gid) < outside+count {
			return true
		}
	}
	return false
}

// within reports whether path is dir or below it. Both must be clean.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

func hasAttribute(path, name string) (bool, error) {
	size, err := unix.Lgetxattr(path, name, nil)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return false, nil
	}
	return size > 0, err
}
