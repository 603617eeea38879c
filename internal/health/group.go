package health

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// groupTree returns the directory of the control groups v2. The ID of a group is the
// number of its directory's inode.
func groupTree() (string, error) {
	// The second has the groups of processes where the controllers are still v1.
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var at unix.Statfs_t
		if unix.Statfs(dir, &at) == nil && at.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", errors.New("this machine has no control groups v2")
}

// findGroup returns the directory of the group with this ID, in dir or below it; "" if it
// has no directory there.
func findGroup(dir string, id uint64) (found string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil && d.IsDir() {
			info, err = os.Lstat(path)
		}
		// Groups come and go, and a program may close those that it was given.
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Ino == id {
			found = path
			return fs.SkipAll
		}
		return nil
	})
	return found, err
}

// groupName returns the name of a group for people.
func groupName(tree string, id uint64) string {
	dir, err := findGroup(tree, id)
	if err != nil || dir == "" {
		return "a control group that is gone, or hidden from this machine"
	}
	return "control group /" + strings.TrimPrefix(strings.TrimPrefix(dir, tree), "/")
}
