package snapshot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A saver copies one tree.
type saver struct {
	root  bool  // see [ownTree]
	limit int64 // in bytes on the disk
	sum   Summary
	sync  syncer
}

// Save copies the file or directory src to dst, durably. dst is a new path in a directory
// that only the caller can write, or for a directory also an empty directory. Of a file
// that grows meanwhile, the length at the beginning of its copy is saved; a file that is
// removed meanwhile is left out. More than limit bytes on the disk are an error. After an
// error nothing is left in dst.
func Save(src, dst string, limit int64) (sum Summary, err error) {
	s := &saver{root: os.Geteuid() == 0, limit: limit}
	if err := s.save(src, dst); err != nil {
		return Summary{}, failed("save", src, err)
	}
	return s.sum, nil
}

func (s *saver) save(src, dst string) (err error) {
	from, err := data(src)
	if err != nil {
		return err
	}
	defer from.dir.Close()
	st, err := from.stat()
	if err != nil {
		return from.wrong(err)
	}
	if _, err := from.kept(&st); err != nil {
		return err
	}
	to, err := top(dst)
	if err != nil {
		return err
	}
	defer to.dir.Close()
	made := true
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if made, err = to.empty(); err == nil {
			err = s.directory(from, to, 0)
		}
	} else {
		err = s.file(from, to)
	}
	if err == nil {
		err = s.sync.durable(to)
	}
	if err == nil || errors.Is(err, errOccupied) {
		return err
	}
	if left := to.discard(made); left != nil {
		return fmt.Errorf("%w; and cannot remove what was saved: %w", err, left)
	}
	return err
}

// errOccupied says that dst has content that Save did not make and must not remove.
var errOccupied = errors.New("the place of the backup is occupied")

// empty makes a directory, or accepts an empty one.
func (p place) empty() (made bool, err error) {
	err = p.mkdir()
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, unix.EEXIST) {
		return false, p.wrong(err)
	}
	var all []string
	d, err := p.openFolder()
	if err == nil {
		defer d.Close()
		all, err = names(d)
	}
	switch {
	case err != nil:
		return false, fmt.Errorf("%w: %w", errOccupied, p.wrong(err))
	case len(all) > 0:
		return false, fmt.Errorf("%w: %s is not empty", errOccupied, shown(p.path))
	}
	return false, nil
}

// discard removes what a failed Save made: the directory too if made is true.
func (p place) discard(made bool) error {
	r := newRestorer()
	if made {
		return r.remove(p)
	}
	return r.empty(p)
}

// entry copies one entry of a directory, unless it was removed meanwhile.
func (s *saver) entry(from, to place, depth int) error {
	st, err := from.stat()
	if err != nil {
		return gone(from.wrong(err))
	}
	kept, err := from.kept(&st)
	if err != nil || !kept {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return s.directory(from, to, depth)
	case unix.S_IFLNK:
		return s.link(from, to)
	}
	return s.file(from, to)
}

func (s *saver) directory(from, to place, depth int) error {
	in, err := from.openFolder()
	if err != nil {
		return from.vanished(from.wrong(err))
	}
	defer in.Close()
	l, err := lookAt(in.File)
	if err == nil && s.root {
		err = ownTree(&l.st)
	}
	if err == nil {
		err = s.count(&l)
	}
	if err == nil {
		err = from.deep(depth)
	}
	if err != nil {
		return from.wrong(err)
	}
	if !to.top {
		if err := to.mkdir(); err != nil {
			return to.wrong(err)
		}
	}
	out, err := to.openFolder()
	if err != nil {
		return to.wrong(err)
	}
	defer out.Close()
	err = from.each(in, func(below place) error {
		return s.entry(below, to.below(out, below.name), depth+1)
	})
	if err != nil {
		return err
	}
	if err := l.give(out.File, to); err != nil {
		return from.wrong(err)
	}
	return to.wrong(s.sync.wrote(out.File))
}

// ownTree returns why root must not work in a directory: others could replace its
// entries.
func ownTree(st *unix.Stat_t) error {
	const hint = "(hint: chown root and chmod go-w, or give all of it to the unit's user)"
	if st.Uid != 0 {
		return fmt.Errorf("is owned by user %d in a tree that root saves %s", st.Uid, hint)
	}
	if st.Mode&0o022 != 0 { // also right for an ACL, whose mask is the group's bits
		return fmt.Errorf("is writable by others than root, in a tree that root saves %s", hint)
	}
	return nil
}

// count adds an entry to the sum, or returns why it cannot be saved.
func (s *saver) count(l *look) error {
	if !s.root && int(l.st.Uid) != os.Geteuid() {
		return fmt.Errorf("is owned by user %d, and user %d cannot give it back to that user", l.st.Uid, os.Geteuid())
	}
	if _, has := l.attrs[capability]; has {
		return errors.New("has file capabilities, which no backup keeps (hint: give the unit what it needs by AmbientCapabilities= instead)")
	}
	if err := s.sum.add(&l.st); err != nil {
		return err
	}
	if s.sum.Allocated > s.limit {
		return fmt.Errorf("with it there are more than %d bytes to save (hint: raise rollback.snapshot_max_bytes, or name less)", s.limit)
	}
	return nil
}

func (s *saver) file(from, to place) error {
	in, st, err := from.regular()
	if err != nil {
		return from.vanished(err)
	}
	defer in.Close()
	l, err := lookAt(in)
	if err == nil {
		err = s.count(&l)
	}
	if err != nil {
		return from.wrong(err)
	}
	out, err := to.create()
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%w: %s is there", errOccupied, shown(to.path))
	}
	if err != nil {
		return to.wrong(err)
	}
	defer out.Close()
	if err := copyContent(out, in, st.Size); err != nil {
		return from.wrong(err)
	}
	if err := l.give(out, to); err != nil {
		return from.wrong(err)
	}
	return to.wrong(s.sync.wrote(out))
}

func (s *saver) link(from, to place) error {
	l, err := from.lookAtLink()
	if err != nil {
		return from.vanished(from.wrong(err))
	}
	if err := s.count(&l); err != nil {
		return from.wrong(err)
	}
	if err := to.symlink(l.leads); err != nil {
		return to.wrong(err)
	}
	return from.wrong(l.giveLink(to))
}
