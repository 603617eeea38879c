package snapshot

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Remove removes all that is at path, durably: there was nothing when the other files
// were saved. It may be killed and called again. It reports whether anything was there.
func Remove(path string) (changed bool, err error) {
	r := newRestorer()
	p, err := data(path)
	if errors.Is(err, unix.ENOENT) {
		return false, nil // even its directory is gone
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
	if r.sync.whole { // the directory may be written in and not opened
		unix.Sync()
	}
	return nil
}

// remove removes what is at p, a directory with all that is in it.
func (r *restorer) remove(p place) error {
	p.top = false // a mount point is not emptied even if the caller named it
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
	return p.each(d, r.remove)
}

// takeOver opens a directory to work in it, and returns how it was. As root it first
// takes it from its owner, who may be another since the backup was made: from then on
// root alone can exchange what is in it.
func (r *restorer) takeOver(p place) (was look, d *folder, err error) {
	// By a descriptor that needs no permission: a user may have to give it first.
	handle, err := p.open(unix.O_PATH | unix.O_DIRECTORY)
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
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(handle.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return was, nil, err
	}
	d = &folder{File: os.NewFile(uintptr(fd), p.path)}
	if was, err = lookAt(d.File); err == nil {
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

// working is the mode in which a directory is worked on.
func (r *restorer) working(mode uint32) uint32 {
	if r.root {
		return mode &^ 0o022 // its group's bits are an ACL's mask, too
	}
	return mode | 0o700
}
