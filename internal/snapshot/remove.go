package snapshot

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"
)

// Remove removes path and all below it, durably. It restores the state in which path did
// not exist. It may be killed and called again. It reports whether anything was removed.
func Remove(path string) (changed bool, err error) {
	r := newRestorer()
	p, err := data(path)
	if errors.Is(err, unix.ENOENT) {
		return false, nil // its directory does not exist either
	}
	if err == nil {
		defer p.dir.Close()
		err = r.removeTop(p)
	}
	if err != nil {
		return r.changed, failed("remove", path, err)
	}
	return r.changed, nil
}

func (r *restorer) removeTop(p place) error {
	for _, what := range []place{p.temporary(), p} {
		if err := r.remove(what); err != nil {
			return err
		}
	}
	if err := r.sync.names(p.dir); err != nil {
		return p.wrong(err)
	}
	if r.sync.whole { // the directory may be writable but not readable
		unix.Sync()
	}
	return nil
}

// remove removes the entry at p, and all below it if it is a directory.
func (r *restorer) remove(p place) error {
	p.top = false // a mount point is not emptied, even if the caller named it
	st, err := p.stat()
	if err != nil {
		return p.wrong(gone(err))
	}
	flags := 0
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		flags = unix.AT_REMOVEDIR
		if err := r.empty(p); err != nil {
			return p.wrong(err)
		}
	}
	if err := p.unlink(flags); err != nil {
		return p.wrong(gone(err))
	}
	r.changed = true
	return nil
}

func (r *restorer) empty(p place) error {
	_, d, err := r.takeOver(p)
	if err != nil {
		return err
	}
	defer d.Close()
	var first error // of an entry that stays; the others go all the same
	err = p.each(d, func(below place) error {
		if err := r.remove(below); first == nil {
			first = err
		}
		return nil
	})
	return errors.Join(err, first)
}

// takeOver opens a directory for work in it, and returns its metadata from before. As
// root it first becomes the owner, because a user may own it since the backup was made.
// From then on only root can change its entries.
func (r *restorer) takeOver(p place) (was look, d *folder, err error) {
	// O_PATH needs no permission on the directory: the user may have to add one first.
	handle, err := p.open(unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return was, nil, err
	}
	defer handle.Close()
	st, err := fstat(handle)
	if err != nil {
		return was, nil, err
	}
	if !r.root && st.Mode&0o700 != 0o700 {
		self := "/proc/self/fd/" + strconv.Itoa(int(handle.Fd()))
		if err := retry0(func() error { return unix.Chmod(self, st.Mode&0o7777|0o700) }); err != nil {
			return was, nil, err
		}
	}
	f, err := reopen(handle)
	if err != nil {
		return was, nil, err
	}
	d = &folder{File: f}
	if was, err = lookAt(f); err == nil {
		was.st = st
		err = r.take(d, st)
	}
	if err != nil {
		d.Close()
		return was, nil, err
	}
	return was, d, nil
}

func (r *restorer) take(d *folder, st unix.Stat_t) error {
	if r.root && st.Uid != 0 {
		if err := retry0(func() error { return unix.Fchown(int(d.Fd()), 0, -1) }); err != nil {
			return err
		}
	}
	if mode := r.working(st.Mode); mode != st.Mode {
		return retry0(func() error { return unix.Fchmod(int(d.Fd()), mode&0o7777) })
	}
	return nil
}

// working returns the mode of a directory during the work.
func (r *restorer) working(mode uint32) uint32 {
	if r.root {
		return mode &^ 0o022 // with an ACL the group's bits are its mask
	}
	return mode | 0o700
}
