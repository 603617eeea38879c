// Package snapshot saves a file or a directory tree, and restores it later.
//
// A backup is a plain copy of the data, with modes, owners, times and the extended
// attributes that count (POSIX ACLs, user.*, the SELinux label), so that people can read
// it and copy from it by hand. Sockets and FIFOs are not data: a daemon makes them at its
// start, so they are neither saved nor removed. Each hard link is copied as a separate
// file.
//
// There are two kinds of callers, with the same code. Root saves trees that only root can
// write: each directory of them must belong to root and be writable by no other user,
// since another user could redirect root to a file elsewhere. A process of the user saves
// and restores data of another user (see [Verbs]), and can do no more than that user. In
// both cases each name is looked up in an open directory, symbolic links below the given
// path are not followed, and mount points are not crossed. As root, the path of the data
// must have no symbolic link at all; the caller checks that only root can write its
// parents.
//
// After a killed Save, the caller removes the useless rest. After a killed Restore, the
// caller repeats it: it removes what the killed one left, and continues with what still
// differs. Because of this, single files need not be durable before the end.
package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// MaxEntries is the largest number of files and directories of one tree.
	MaxEntries = 1_000_000
	// maxDepth is the largest depth of directories to save; each level takes two open
	// files. Remove has no such limit, for what a new version has made.
	maxDepth = 200
)

// Summary describes the amount of data at one path.
type Summary struct {
	Entries   int64 `json:"entries"`   // files, directories and symbolic links, including the path itself
	Size      int64 `json:"size"`      // sum of the lengths of all files, in bytes
	Allocated int64 `json:"allocated"` // bytes on the disk, which differ between file systems for the same data
}

// String returns the part of a summary that is equal for a copy and its original: Entries
// and Size.
func (s Summary) String() string {
	return fmt.Sprintf("%d entries, %d bytes", s.Entries, s.Size)
}

// add adds one entry.
func (s *Summary) add(st *unix.Stat_t) error {
	if s.Entries++; s.Entries > MaxEntries {
		return fmt.Errorf("there are more than %d files and directories", MaxEntries)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		s.Size += st.Size
		s.Allocated += st.Blocks * 512 // the unit of st_blocks, see stat(2)
	}
	return nil
}

// Measure counts the file or tree at path without reading contents. It ignores sockets
// and FIFOs, and refuses the kinds of files that Save refuses. The error is
// fs.ErrNotExist if path does not exist.
func Measure(path string) (sum Summary, err error) {
	p, err := data(path)
	if err == nil {
		defer p.dir.Close()
		err = sum.measure(p, 0)
	}
	if err != nil {
		return Summary{}, failed("measure", path, err)
	}
	return sum, nil
}

func (s *Summary) measure(p place, depth int) error {
	st, err := p.stat()
	if err != nil {
		return p.wrong(err)
	}
	kept, err := p.kept(&st)
	if err != nil || !kept {
		return err
	}
	if err := s.add(&st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	if err := p.deep(depth); err != nil {
		return err
	}
	d, err := p.openFolder()
	if err != nil {
		return p.wrong(err)
	}
	defer d.Close()
	return p.each(d, func(below place) error {
		return gone(s.measure(below, depth+1))
	})
}

// deep returns an error for a directory that is nested too deep.
func (p place) deep(depth int) error {
	if depth > maxDepth {
		return p.problem("is nested more than %d directories deep", maxDepth)
	}
	return nil
}

// kept reports whether an entry belongs in a backup.
func (p place) kept(st *unix.Stat_t) (bool, error) {
	if strings.HasPrefix(p.name, leftover) {
		return false, nil
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR:
		return true, nil
	case unix.S_IFLNK:
		if p.top {
			return false, p.problem("is a symbolic link (hint: name what it leads to)")
		}
		return true, nil
	case unix.S_IFSOCK, unix.S_IFIFO:
		if p.top {
			return false, p.problem("is a socket or FIFO, which a daemon makes itself")
		}
		return false, nil
	}
	return false, p.problem("is a device")
}

// isEndpoint reports whether an entry is a socket or a FIFO, by which programs talk.
func isEndpoint(st *unix.Stat_t) bool {
	kind := st.Mode & unix.S_IFMT
	return kind == unix.S_IFSOCK || kind == unix.S_IFIFO
}

// top returns the place of a backup. Symbolic links in its parents are followed.
func top(path string) (place, error) { return topOf(path, openParent) }

// data returns the place of the data. As root it follows no symbolic links in the
// parents: a new version may have given one of these to its user.
func data(path string) (place, error) {
	if os.Geteuid() == 0 {
		return topOf(path, openParentUnlinked)
	}
	return topOf(path, openParent)
}

// ErrLinked says that root would have to follow a symbolic link to the data.
var ErrLinked = errors.New("is reached by a symbolic link, which root does not follow")

func topOf(path string, open func(parent string) (int, error)) (place, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" {
		return place{}, errors.New("it is no absolute path of a file or directory")
	}
	parent := filepath.Dir(path)
	fd, err := open(parent)
	if errors.Is(err, ErrLinked) {
		return place{}, fmt.Errorf("%s %w", shown(parent), err)
	}
	if err != nil {
		return place{}, fmt.Errorf("%s: %w", shown(parent), err)
	}
	return place{dir: &folder{File: os.NewFile(uintptr(fd), parent)}, name: filepath.Base(path), path: path, top: true}, nil
}

// onPath opens a directory that is only the start of further calls: its user may have no
// permission to read it.
const onPath = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC

func openParent(parent string) (int, error) {
	return retry(func() (int, error) { return unix.Openat(unix.AT_FDCWD, parent, onPath, 0) })
}

// openParentUnlinked opens one directory after the other, because the commit's sandbox has
// no openat2, which RestrictSUIDSGID= blocks.
func openParentUnlinked(parent string) (int, error) {
	fd, err := openParent("/")
	for name := range strings.FieldsFuncSeq(parent, func(r rune) bool { return r == '/' }) {
		if err != nil {
			return -1, err
		}
		p := place{dir: &folder{File: os.NewFile(uintptr(fd), "/")}, name: name}
		fd, err = retry(func() (int, error) { return unix.Openat(p.fd(), name, onPath|unix.O_NOFOLLOW, 0) })
		if err != nil {
			if st, serr := p.stat(); serr == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
				err = ErrLinked
			}
		}
		p.dir.Close()
	}
	return fd, err
}
