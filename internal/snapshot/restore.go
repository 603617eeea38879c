package snapshot

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// A restorer makes one tree equal to its backup.
type restorer struct {
	root    bool // see [ownTree]
	changed bool // whether more than times changed
	sync    syncer
	first   error // what could not be restored, while the rest of the tree was
	more    int   // how many other entries could not be restored
}

func newRestorer() *restorer { return &restorer{root: os.Geteuid() == 0} }

// Restore makes the file or directory at path equal to what it was when backup was saved,
// durably. It writes what differs and removes what the backup lacks. Sockets and FIFOs
// remain in directories that remain: a backup does not list them, and a running program
// may use them. A file is replaced by a complete one. Directories are not replaced, since
// the parent of path may not be writable. Restore may be killed at any time and called
// again. It reports whether it changed more than times. It does not change the backup.
// If an entry cannot be restored, Restore goes on with the others. It uses the space that
// Reserve kept.
func Restore(backup, path string) (changed bool, err error) {
	left := Release(backup, path) // an error matters only if the space is missed
	r := newRestorer()
	if err = r.restore(backup, path); durable.Full(err) {
		again := newRestorer() // what was removed and replaced since may have made room
		err = again.restore(backup, path)
		r.changed = r.changed || again.changed
	}
	if err != nil {
		return r.changed, errors.Join(failed("restore", path, err), left)
	}
	return r.changed, nil
}

// keep keeps an error about one entry, so that the others are restored.
func (r *restorer) keep(err error) {
	switch {
	case err == nil:
	case r.first == nil:
		r.first = err
	default:
		r.more++
	}
}

// kept returns the errors that were kept.
func (r *restorer) kept() error {
	if r.more == 0 {
		return r.first
	}
	return fmt.Errorf("%w (and %d more)", r.first, r.more)
}

func (r *restorer) restore(backup, path string) error {
	from, err := top(backup)
	if err != nil {
		return err
	}
	defer from.dir.Close()
	st, err := from.stat()
	if err == nil {
		_, err = from.kept(&st)
	}
	if err != nil {
		return from.wrong(err)
	}
	to, err := data(path)
	if err != nil {
		return err
	}
	defer to.dir.Close()
	if err := r.remove(to.temporary()); err != nil {
		return err
	}
	if err := r.entry(from, to); err != nil {
		return err
	}
	if err := r.sync.durable(to); err != nil {
		return err
	}
	return r.kept()
}

// entry makes one entry equal to that of the backup.
func (r *restorer) entry(from, to place) error {
	st, err := from.stat()
	if err != nil {
		return from.wrong(err)
	}
	if !strings.HasPrefix(from.name, leftover) {
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			return r.directory(from, to)
		case unix.S_IFLNK:
			return r.link(from, to)
		case unix.S_IFREG:
			return r.file(from, to)
		}
	}
	return from.problem("is no part of a backup")
}

func (r *restorer) directory(from, to place) error {
	in, err := from.openFolder()
	if err != nil {
		return from.wrong(err)
	}
	defer in.Close()
	want, err := lookAt(in.File)
	if err == nil && r.root {
		err = ownTree(&want.st)
	}
	if err != nil {
		return from.wrong(err)
	}
	if err := r.make(to); err != nil {
		return to.wrong(err)
	}
	was, out, err := r.takeOver(to)
	if err != nil {
		return to.wrong(err)
	}
	defer out.Close()
	if err := r.fill(from, to, in, out); err != nil {
		return err
	}
	if want.same(was) && want.st.Mtim == was.st.Mtim && !out.touched && r.working(was.st.Mode) == was.st.Mode {
		return nil
	}
	r.changed = r.changed || !want.same(was)
	if err := want.give(out.File, to); err != nil {
		return to.wrong(err)
	}
	return to.wrong(r.sync.wrote(out.File))
}

// fill makes the content of the directory out equal to that of the backup's directory in.
func (r *restorer) fill(from, to place, in, out *folder) error {
	wanted, err := names(in)
	if err != nil {
		return from.wrong(err)
	}
	// Removing comes first, because it makes room on the disk.
	err = to.each(out, func(now place) error {
		if _, kept := slices.BinarySearch(wanted, now.name); kept {
			return nil
		}
		if st, err := now.stat(); err == nil && isEndpoint(&st) {
			return nil
		}
		r.keep(r.remove(now))
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range wanted {
		r.keep(r.entry(from.below(in, name), to.below(out, name)))
	}
	return nil
}

// make makes a directory unless one exists.
func (r *restorer) make(p place) error {
	st, err := p.stat()
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	if err == nil {
		err = r.remove(p)
	}
	if err := gone(err); err != nil {
		return err
	}
	r.changed = true
	return p.mkdir()
}

func (r *restorer) file(from, to place) error {
	in, _, err := from.regular()
	if err != nil {
		return err
	}
	defer in.Close()
	want, err := lookAt(in)
	if err != nil {
		return from.wrong(err)
	}
	was, same, err := sameFile(want, in, to)
	if err != nil {
		return to.wrong(err)
	}
	if same {
		return to.wrong(want.sameTime(was, to))
	}
	return r.replace(to, func(temp place) error {
		out, err := temp.create()
		if err != nil {
			return err
		}
		defer out.Close()
		if err := copyContent(out, in, want.st.Size); err != nil {
			return err
		}
		if err := want.give(out, temp); err != nil {
			return err
		}
		return r.sync.wrote(out)
	})
}

// sameFile reports whether the file at p equals the backup in; false if it cannot be
// read.
func sameFile(want look, in *os.File, p place) (was look, same bool, err error) {
	st, err := p.stat()
	if err != nil || st.Mode != want.st.Mode || st.Size != want.st.Size {
		return was, false, gone(err)
	}
	now, err := p.openFile()
	// EAGAIN: a process holds a lease on the file. The new file has none.
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAGAIN) {
		return was, false, nil
	}
	if err != nil {
		return was, false, err
	}
	defer now.Close()
	if was, err = lookAt(now); err != nil || !want.same(was) || was.st.Size != want.st.Size {
		return was, false, err
	}
	same, err = sameContent(in, now, want.st.Size)
	return was, same, err
}

func (r *restorer) link(from, to place) error {
	want, err := from.lookAtLink()
	if err != nil {
		return from.wrong(err)
	}
	st, err := to.stat()
	if err == nil && st.Mode == want.st.Mode {
		was, err := to.lookAtLink()
		if err != nil {
			return to.wrong(err)
		}
		if want.same(was) {
			return to.wrong(want.sameTime(was, to))
		}
	} else if gone(err) != nil {
		return to.wrong(err)
	}
	return r.replace(to, func(temp place) error {
		if err := temp.symlink(want.leads); err != nil {
			return err
		}
		return want.giveLink(temp)
	})
}

// sameTime sets the time of an entry that otherwise equals its backup.
func (l look) sameTime(was look, p place) error {
	if was.st.Mtim == l.st.Mtim {
		return nil
	}
	return l.giveTime(p)
}

// replace replaces the entry at p by the one that write makes at a temporary place.
func (r *restorer) replace(p place, write func(temp place) error) error {
	temp := p.temporary()
	r.changed = true
	err := write(temp)
	if err == nil {
		err = r.vacate(p)
	}
	if err == nil {
		err = temp.rename(p)
	}
	if err != nil {
		if left := gone(temp.unlink(0)); left != nil {
			err = fmt.Errorf("%w; and cannot remove %s: %w", err, shown(temp.path), left)
		}
		return p.wrong(err)
	}
	return nil
}

// vacate removes a directory at p, because a rename cannot replace one by a file.
func (r *restorer) vacate(p place) error {
	st, err := p.stat()
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return gone(err)
	}
	return r.remove(p)
}
