// Package snapshot saves a file or a directory tree and makes it again what it was.
//
// A backup is a plain copy of the data, with modes, owners, times and the extended
// attributes that count (POSIX ACLs, user.*, the SELinux label), so that a person can
// read it and copy from it by hand. Sockets and FIFOs are not data, and are neither
// saved nor removed: a daemon makes them at its start. A name that is a hard link of another is copied by itself.
//
// Two kinds of caller are served, and both in the same way. Root saves trees that
// root alone can write: as root each directory of a tree must belong to root and be
// writable by no other user, since any other owner could lead root to a file of another
// place. Data of another user is saved and restored by a process of that user (see
// [Command]), which can do no more than the user. In both cases each name is looked
// up in an open directory, no symbolic link is followed below the given path, and no
// mount point is crossed. As root the path of the data has no symbolic link in it at
// all; that root alone can write its parents is the caller's to check.
//
// What a killed Save leaves is useless and is for the caller to remove. A killed
// Restore is repeated by the caller: it clears what the killed one left, and goes on
// with what still differs. Because a caller repeats it, single files need not be
// durable before the end.
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
	// MaxEntries bounds the number of files and directories of one tree.
	MaxEntries = 1_000_000
	// maxDepth bounds the nesting of directories, each level of which takes two
	// open files. What a new version nested deeper is removed all the same.
	maxDepth = 200
)

// Summary is what there is of data at one place.
type Summary struct {
	Entries   int64 `json:"entries"`   // files, directories and symbolic links, the place itself among them
	Size      int64 `json:"size"`      // length of all files together
	Allocated int64 `json:"allocated"` // bytes on the disk, which for the same data differ between file systems
}

// String is the part of a summary that a copy has in common with its original:
// Entries and Size.
func (s Summary) String() string {
	return fmt.Sprintf("%d entries, %d bytes", s.Entries, s.Size)
}

// add counts one entry.
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

// Measure counts the file or tree at path and reads no content. Sockets and FIFOs
// do not count; what Save refuses because of its kind, Measure refuses, too. An error
// is fs.ErrNotExist when nothing is there.
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

// deep refuses a directory that is nested too deep.
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

// top is the place of a backup. Symbolic links in its parents are followed.
func top(path string) (place, error) { return topOf(path, 0) }

// data is top for the data. As root no symbolic link is followed in
// the parents either: a new version may have given one of them to its user.
func data(path string) (place, error) {
	if os.Geteuid() == 0 {
		return topOf(path, unix.RESOLVE_NO_SYMLINKS)
	}
	return topOf(path, 0)
}

// ErrLinked says that root would have to follow a symbolic link to the data.
var ErrLinked = errors.New("is reached by a symbolic link, which root does not follow")

func topOf(path string, resolve uint64) (place, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" {
		return place{}, errors.New("it is no absolute path of a file or directory")
	}
	// O_PATH: the parent of a user's data need not be readable by the user.
	parent := filepath.Dir(path)
	fd, err := retry(func() (int, error) {
		return unix.Openat2(unix.AT_FDCWD, parent, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: resolve})
	})
	if errors.Is(err, unix.ELOOP) {
		return place{}, fmt.Errorf("%s %w", shown(parent), ErrLinked)
	}
	if err != nil {
		return place{}, fmt.Errorf("%s: %w", shown(parent), err)
	}
	return place{dir: &folder{File: os.NewFile(uintptr(fd), parent)}, name: filepath.Base(path), path: path, top: true}, nil
}
