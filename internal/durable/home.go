package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// InHome reports whether a path is below /home.
func InHome(path string) bool { return strings.HasPrefix(path, "/home/") }

// OfUser reports whether a file is in a user's directory: below /home, or below another
// directory that a user owns. Root never opens, follows, reads or renames anything there,
// because that user could redirect it at any moment: only a process of the user does. It
// also reports true if this process may not look at the directory.
//
// The first directory in the path that root does not own decides. Only root can write to
// those above it, so only root can change the answer. A directory of root to which others
// can write is no user's: no file is installed below it.
func OfUser(path string) bool {
	_, _, ok := UserOf(path)
	return ok || InHome(path)
}

// UserOf returns the directory that makes [OfUser] report true, and its owner. The owner is
// -1 if this process may not look at it. Of a path below /home it may find none.
func UserOf(path string) (dir string, uid int, ok bool) {
	if !filepath.IsAbs(path) {
		return "", 0, false
	}
	at, todo := "/", strings.Split(filepath.Dir(path), "/")
	for links := 0; len(todo) > 0; {
		next := filepath.Join(at, todo[0]) // of "..", the parent
		todo = todo[1:]
		info, err := os.Lstat(next)
		if err != nil {
			return next, -1, errors.Is(err, fs.ErrPermission)
		}
		// What belongs to this process's own user, such as a test's, needs no other one.
		if uid := int(info.Sys().(*syscall.Stat_t).Uid); uid != 0 && uid != os.Geteuid() {
			return next, uid, true
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			link, err := os.Readlink(next)
			if links++; err != nil || links > 40 { // MAXSYMLINKS of path_resolution(7)
				return "", 0, false
			}
			if filepath.IsAbs(link) {
				at = "/"
			}
			todo = append(strings.Split(link, "/"), todo...)
			continue
		case info.Mode()&0o022 != 0:
			return "", 0, false
		}
		at = next
	}
	return "", 0, false
}
