package target

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// snapshot checks the paths of rollback.snapshot as far as that needs no look at the
// machine. checkSnapshots checks the rest.
func (v *validation) snapshot(t *Target) {
	const key = "rollback.snapshot"
	for n, path := range t.Snapshot {
		v.destination(key, path)
		if dir := aroundForbidden(path); dir != "" {
			v.problem(key, "must not contain "+dir, "")
		}
		if slices.Contains(t.Snapshot[:n], path) {
			v.problem(key, "names a file twice", "")
		}
		if slices.ContainsFunc(t.Install, func(i Install) bool { return i.To == path }) {
			v.problem(key, "names an installed file, which a rollback restores anyway", "")
		}
		if problem := overlap(path, path, t, t.Snapshot[:n], func(p string) string { return p }); problem != "" {
			v.problem(key, problem, "")
		}
	}
}

// aroundForbidden returns which of [forbiddenDirs] and [systemOwn] is below path, or "".
func aroundForbidden(path string) string {
	for _, dir := range slices.Concat(forbiddenDirs, systemOwn) {
		if path != dir && within(dir, path) {
			return dir
		}
	}
	return ""
}

// overlap returns as a problem which of t's files, or which of snapshots, is path, is
// below it or contains it; "" if there is none. resolved is path as locate returns it.
func overlap(path, resolved string, t *Target, snapshots []string, locate func(string) string) string {
	for _, i := range t.Install {
		for _, p := range i.spots() {
			if to := locate(p.path); within(to, resolved) || within(resolved, to) {
				return path + " overlaps the installed file " + p.path
			}
		}
	}
	if t.Listing != nil {
		for _, lt := range t.Listing.Types {
			// A file beside those that a release lists is fine.
			if within(locate(filepath.Join(lt.Directory, "file")), resolved) {
				return path + " overlaps " + lt.Directory + ", where a release may install files"
			}
		}
	}
	for _, other := range snapshots {
		if o := locate(other); within(o, resolved) || within(resolved, o) {
			return path + " overlaps " + other
		}
	}
	return ""
}

// checkSnapshots is CheckDestinations for the paths of rollback.snapshot.
func (t *Target) checkSnapshots(all []*Target) error {
	for n, path := range t.Snapshot {
		place, problem, hint := t.check.snapshotPlace(path)
		if problem == "" {
			problem = t.taken(place.Path, false, all)
		}
		if problem == "" {
			problem = overlap(path, place.Path, t, t.Snapshot[:n], t.check.located)
		}
		for _, other := range all {
			if problem != "" || other.Name == t.Name {
				continue
			}
			if problem = overlap(path, place.Path, other, other.Snapshot, t.check.located); problem != "" {
				problem += " of target " + other.Name
			}
		}
		if problem != "" {
			return t.refuse("rollback.snapshot", problem, hint)
		}
	}
	return nil
}

// A SnapshotPlace says how a path of Snapshot is saved and restored.
type SnapshotPlace struct {
	// Path has no symlinks in its parents, except those of others than root.
	Path string
	// Theirs is "" if root saves and restores the path. Otherwise others than root can
	// write there and could redirect root, so the user that owns the data does it. Theirs
	// then says which place others can write.
	Theirs string
}

// SnapshotPlace looks at one path of Snapshot on this machine. The error is a
// *ConfigError and means that the path cannot be saved.
//
// Root saves a file in a directory that only root can write, even if another user owns
// the file: only root can replace it or create it again.
func (t *Target) SnapshotPlace(path string) (SnapshotPlace, error) {
	place, problem, hint := t.check.snapshotPlace(path)
	if problem != "" {
		return SnapshotPlace{}, t.refuse("rollback.snapshot", problem, hint)
	}
	return place, nil
}

func (c checker) snapshotPlace(path string) (place SnapshotPlace, problem, hint string) {
	place.Path = path
	dir, err := c.resolve(filepath.Dir(path))
	switch {
	case c.unseen(err):
		return place, "", ""
	case errors.Is(err, errOtherWriter):
		place.Theirs = err.Error()
	case errors.Is(err, fs.ErrNotExist):
		return place, err.Error(), "create the directory first"
	case err != nil:
		return place, err.Error(), ""
	}
	place.Path = filepath.Join(dir, filepath.Base(path))
	if where := forbidden(place.Path); where != "" {
		return place, path + " is in " + where, ""
	}
	if dir := aroundForbidden(place.Path); dir != "" {
		return place, path + " contains " + dir, ""
	}
	if linked(c.root + filepath.Dir(place.Path)) {
		return place, "", "" // root must not look at the place that the symlink leads to
	}
	info, err := os.Lstat(c.root + place.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist), c.unseen(err):
		return place, "", ""
	case err != nil:
		return place, path + ": " + durable.Cause(err).Error(), ""
	case info.Mode()&fs.ModeSymlink != 0:
		return place, path + " is a symlink", "name what it leads to"
	case info.Mode().IsRegular():
		return place, "", ""
	case !info.IsDir():
		return place, path + " is neither a file nor a directory", ""
	case place.Theirs != "":
		return place, "", ""
	}
	err = c.rootOnly(place.Path)
	if errors.Is(err, errOtherWriter) {
		place.Theirs, err = err.Error(), nil
	}
	if err != nil {
		return place, err.Error(), ""
	}
	return place, "", ""
}

// linked reports whether the path of a directory contains a symlink. Others than root may
// have created the symlink to lead root to a place that they have no access to.
func linked(dir string) bool {
	fd, err := unix.Openat2(unix.AT_FDCWD, dir, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err == nil {
		unix.Close(fd)
	}
	return errors.Is(err, unix.ELOOP)
}

// snapshotDir returns the directory that root must be able to write for a path of
// Snapshot: path if it is a directory, else the parent. It returns "" if the data's user
// does the writing.
func (c checker) snapshotDir(path string) string {
	place, _, _ := c.snapshotPlace(path)
	if place.Theirs != "" {
		return ""
	}
	if info, err := os.Lstat(c.root + place.Path); err == nil && info.IsDir() {
		return path
	}
	return filepath.Dir(path)
}
