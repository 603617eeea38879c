package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// A room is a file that occupies the space that a Restore will need. It is on the file
// system of the data: beside the backup if that is there, too, and else with the data.
const (
	roomSuffix = ".room"
	roomName   = leftover + "room" // in a directory that is saved
)

// Reserve occupies the space that a Restore of backup to path may need, durably, so that
// nothing else can use it up. Restore and Release free it. The process that restores the
// data should reserve the space: its user's quota counts, and only root can use the
// blocks that a file system keeps for root.
func Reserve(backup, path string) error {
	err := reserve(backup, path)
	if err == nil {
		return nil
	}
	return errors.Join(failed("reserve the space to restore", path, err), Release(backup, path))
}

func reserve(backup, path string) error {
	need, err := Measure(backup)
	if err != nil {
		return err
	}
	to, err := data(path)
	if err != nil {
		return err
	}
	defer to.dir.Close()
	at, err := to.room(backup)
	if err != nil {
		return to.wrong(err)
	}
	defer at.dir.Close()
	if err := gone(at.unlink(0)); err != nil { // a killed Reserve may have left it
		return at.wrong(err)
	}
	f, err := at.create()
	if err != nil {
		return at.wrong(err)
	}
	defer f.Close()
	bytes := need.Allocated
	if shared, err := shares(f, backup); err != nil {
		return at.wrong(err)
	} else if shared {
		bytes = 0
	}
	bytes += need.Entries * EntrySize
	err = durable.Reserve(f, bytes)
	if err != nil && !durable.Full(err) {
		return at.wrong(err)
	}
	if err != nil {
		var st unix.Statfs_t
		if serr := unix.Fstatfs(int(f.Fd()), &st); serr != nil {
			return at.wrong(serr)
		}
		return fmt.Errorf("a rollback needs %d bytes on the file system mounted on %s, and %d are free: %w (hint: df shows what is full)",
			bytes, shown(mountOf(at.dir)), int64(st.Bavail)*st.Bsize, err)
	}
	return at.wrong((&syncer{}).names(at.dir))
}

// EntrySize is what a file, directory or link takes besides its content, in bytes.
const EntrySize = 4096

// room returns the place of the room for the data at p, with a directory of its own.
func (p place) room(backup string) (place, error) {
	var holder unix.Stat_t
	st, err := p.stat()
	if err != nil {
		return place{}, err
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if !isDir { // a new file will be in the parent's file system
		if st, err = fstat(p.dir.File); err != nil {
			return place{}, err
		}
	}
	if err := retry0(func() error { return unix.Stat(filepath.Dir(backup), &holder) }); err != nil {
		return place{}, err
	}
	switch {
	case holder.Dev == st.Dev:
		return top(backup + roomSuffix)
	case isDir:
		d, err := p.openFolder()
		return p.below(d, roomName), err
	}
	at := p.temporary()
	at.name += roomSuffix
	at.path += roomSuffix
	fd, err := retry(func() (int, error) { return unix.FcntlInt(p.dir.Fd(), unix.F_DUPFD_CLOEXEC, 0) })
	at.dir = &folder{File: os.NewFile(uintptr(fd), p.dir.Name())}
	return at, err
}

// shares reports whether f can share the blocks of the backup, so that its restore takes
// no space for content. f remains empty.
func shares(f *os.File, backup string) (bool, error) {
	from, err := firstFile(backup)
	if err != nil || from == nil {
		return false, err
	}
	defer from.Close()
	if retry0(func() error { return unix.IoctlFileClone(int(f.Fd()), int(from.Fd())) }) != nil {
		return false, nil
	}
	return true, f.Truncate(0)
}

var errFound = errors.New("found")

// firstFile opens a file of a backup that is not empty; nil if there is none.
func firstFile(backup string) (found *os.File, err error) {
	err = filepath.WalkDir(backup, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := durable.OpenRegular(path)
		if err != nil {
			return err
		}
		if info, err := f.Stat(); err != nil || info.Size() == 0 {
			return errors.Join(err, f.Close())
		}
		found = f
		return errFound
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return found, err
}

// mountOf returns where the file system of an open directory is mounted, or the directory
// if that cannot be seen.
func mountOf(dir *folder) string {
	path := dir.Name()
	st, err := fstat(dir.File)
	for err == nil && path != "/" {
		var above unix.Stat_t
		if err = unix.Stat(filepath.Dir(path), &above); err == nil && above.Dev != st.Dev {
			break
		}
		path = filepath.Dir(path)
	}
	return path
}

// Release frees the space that Reserve occupied for a backup of path. It does nothing if
// there is none; backup may be "" if it is not known. It may be killed and called again.
func Release(backup, path string) error {
	var err error
	if backup != "" {
		err = drop(top(backup + roomSuffix))
	}
	// As root, [data] refuses links, which a user may have in the path of data that this
	// user saves. A path that is resolved here and has links by then is refused again.
	if dir, lerr := filepath.EvalSymlinks(filepath.Dir(path)); lerr == nil {
		path = filepath.Join(dir, filepath.Base(path))
	}
	p, derr := data(path)
	if derr == nil {
		derr = p.release()
		p.dir.Close()
	}
	if err = errors.Join(err, gone(derr)); err != nil {
		return failed("free the space to restore", path, err)
	}
	return nil
}

func (p place) release() error {
	at := p.temporary()
	at.name += roomSuffix
	at.path += roomSuffix
	err := at.free()
	st, serr := p.stat()
	if serr != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return errors.Join(err, gone(serr))
	}
	d, oerr := p.openFolder()
	if oerr != nil {
		return errors.Join(err, gone(oerr))
	}
	defer d.Close()
	return errors.Join(err, p.below(d, roomName).free())
}

func drop(p place, err error) error {
	if err != nil {
		return gone(err)
	}
	defer p.dir.Close()
	return p.free()
}

// free removes a room. File systems with a journal hand the blocks out again only after
// the sync.
func (p place) free() error {
	if _, err := p.stat(); err != nil { // a directory that is not touched need not be writable
		return p.wrong(gone(err))
	}
	err := gone(p.unlink(0))
	if err == nil {
		err = (&syncer{}).names(p.dir)
	}
	return p.wrong(err)
}

// CompanionOf reports whether path is one of the files that SQLite keeps beside the
// database at db.
func CompanionOf(path, db string) bool {
	suffix, is := strings.CutPrefix(path, db)
	return is && slices.Contains(sqliteSuffixes, suffix)
}
