package swap

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
)

// sideName is the directory beside a destination that holds the files that wait to be
// installed and the backups of those that were installed before.
const sideName = ".machinemon-update"

// sideDir makes the side directory of a destination and returns its path. It refuses an
// existing entry of that name unless that is a private directory of root.
func sideDir(to string) (string, error) {
	dir := filepath.Join(filepath.Dir(to), sideName)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return "", &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Uid != uint32(os.Geteuid()) || st.Mode&0o077 != 0 {
		return "", fmt.Errorf("%s is not a private directory of root", dir)
	}
	return dir, nil
}

// sidePath returns the path of a file in the side directory. A target's name cannot
// contain an @, so the names of two targets never collide.
func sidePath(dir, target string, attempt state.AttemptID, index int, kind string) string {
	return filepath.Join(dir, fmt.Sprintf("%s@%s.%d.%s", target, attempt, index, kind))
}

// sweep removes what attempts of this target left: the snapshots, the copies of programs of
// users and, beside its files in
// dirs, all but the backups of the previous release.
func (s *Swapper) sweep(name string, dirs []string, previous *state.Release) error {
	return errors.Join(s.sweepBeside(name, dirs, previous), s.Tree.DropSnapshots(name), s.Tree.DropPrograms(name, previous))
}

func (s *Swapper) sweepBeside(name string, dirs []string, previous *state.Release) error {
	kept := map[string]bool{}
	if previous != nil {
		for _, f := range previous.Files {
			kept[f.Backup] = true
		}
	}
	var swept []string
	for _, dir := range dirs {
		dir = filepath.Join(dir, sideName)
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot clear %s: %w", dir, err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if strings.HasPrefix(e.Name(), name+"@") && !kept[path] {
				if err := os.RemoveAll(path); err != nil {
					return fmt.Errorf("cannot clear %s: %w", path, err)
				}
			}
		}
		swept = append(swept, dir)
	}
	if len(swept) == 0 {
		return nil
	}
	return s.Tree.RemoveBeside(swept...)
}

// digest returns the sha256 of a regular file, or "" if there is none.
func digest(path string) (string, error) {
	sum, err := durable.FileSHA256(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return sum, err
}

// copyFile copies a source of at most limit bytes into a new file, durably if sync is set,
// and returns its sha256.
func copyFile(dst string, src io.Reader, limit int64, sync bool) (sum string, err error) {
	f, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum, n, err := durable.CopySHA256(f, io.LimitReader(src, limit+1))
	if err != nil {
		return "", err
	}
	if n > limit {
		return "", fmt.Errorf("the file has grown beyond %d bytes", limit)
	}
	if !sync {
		return sum, nil
	}
	return sum, f.Sync()
}

// dress gives a new file the owner, mode and SELinux label of the file that it replaces,
// except where the target file sets them.
func dress(path, like string, want ownership) error {
	mode, uid, gid := fs.FileMode(0o755), 0, 0
	var st unix.Stat_t
	switch err := unix.Lstat(like, &st); {
	case err == nil:
		mode, uid, gid = fs.FileMode(st.Mode&0o777), int(st.Uid), int(st.Gid)
	case err != unix.ENOENT:
		return &fs.PathError{Op: "stat", Path: like, Err: err}
	}
	if want.mode != nil {
		mode = *want.mode
	}
	if want.uid >= 0 {
		uid = want.uid
	}
	if want.gid >= 0 {
		gid = want.gid
	}
	if err := os.Lchown(path, uid, gid); err != nil {
		return err
	}
	if err := os.Chmod(path, mode); err != nil {
		return err
	}
	return relabel(path, like)
}

// dressedLike reports whether two files have the same owner and mode. It returns true
// also if one of them is missing.
func dressedLike(path, like string) bool {
	var a, b unix.Stat_t
	if unix.Lstat(path, &a) != nil || unix.Lstat(like, &b) != nil {
		return true
	}
	return a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid
}

// ownership is what a target file says about an installed file; -1 and nil mean that the
// file keeps what it had.
type ownership struct {
	mode     *fs.FileMode
	uid, gid int
}

const selinux = "security.selinux"

// relabel copies the SELinux label. Without SELinux, files have no label.
func relabel(path, like string) error {
	label := make([]byte, 4096)
	n, err := unix.Lgetxattr(like, selinux, label)
	if err != nil {
		return nil
	}
	if err := unix.Lsetxattr(path, selinux, label[:n], 0); err != nil {
		return fmt.Errorf("cannot label %s: %w", path, err)
	}
	return nil
}

// renameNew renames a file to a name that must not exist yet, and else returns an error.
func renameNew(from, to string) error {
	err := durable.Retry(func() error { return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE) })
	if err == unix.EINVAL { // the file system does not support RENAME_NOREPLACE
		if _, lerr := os.Lstat(to); !errors.Is(lerr, fs.ErrNotExist) {
			return errors.Join(lerr, fs.ErrExist)
		}
		err = os.Rename(from, to)
	}
	return err
}

// syncDirs makes the names in the directories of the changes durable.
func syncDirs(changes []state.Change) error {
	done := map[string]bool{}
	for _, c := range changes {
		if c.Kind == state.KindSnapshot && (c.Theirs || c.Saved != "" || c.Backup == "") {
			continue // package snapshot has synced it, as root or as the owner
		}
		for _, p := range []string{c.To, c.Staged, c.Backup} {
			if d := filepath.Dir(p); p != "" && !done[d] && !durable.OfUser(p) {
				done[d] = true
				if err := durable.SyncDir(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
		}
	}
	return nil
}
