// Package dirtree describes a directory with all that is below it, which an update installs
// as a whole.
//
// The digest of a tree is one over the names and contents of its regular files and the
// targets of its links. It does not depend on owners, modes, times and empty directories,
// so that a manifest's contents suffice to compute it. What is kept at an update, such as
// data below the tree, is no part of it.
package dirtree

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// Sum returns the digest of a tree whose files have these digests, by their names below
// the tree. Names that are kept do not count.
func Sum(files map[string]string, keep []string) string {
	all := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !Keeps(keep, name) {
			fmt.Fprintf(all, "%q %s\n", name, files[name])
		}
	}
	return hex.EncodeToString(all.Sum(nil))
}

// Keeps reports whether a name below a tree is one of keep, or below one of them.
func Keeps(keep []string, name string) bool {
	return slices.ContainsFunc(keep, func(k string) bool { return name == k || strings.HasPrefix(name, k+"/") })
}

// Digest returns the digest of the tree in dir. An entry that is neither a file nor a
// directory nor a link is an error.
func Digest(dir string, keep []string) (string, error) {
	files := map[string]string{}
	err := walk(dir, keep, func(name, path string, info fs.FileInfo) (err error) {
		switch info.Mode().Type() {
		case 0:
			files[name], err = durable.FileSHA256(path)
		case fs.ModeSymlink:
			var to string
			to, err = os.Readlink(path)
			files[name] = "-> " + fmt.Sprintf("%q", to)
		case fs.ModeDir:
		default:
			err = &fs.PathError{Op: "read", Path: path, Err: errors.New("it is neither a file nor a directory nor a link")}
		}
		return err
	})
	return Sum(files, nil), err
}

// Follow returns the path to which a link leads, without following any other link. Its
// error is [fs.ErrNotExist] if there is nothing, and EINVAL if there is no link.
func Follow(link string) (string, error) {
	to, err := os.Readlink(link)
	if err == nil && !filepath.IsAbs(to) {
		to = filepath.Join(filepath.Dir(link), to)
	}
	return filepath.Clean(to), err
}

// Mark returns a digest of the metadata of the files and links in dir. While it is the
// same, so is what [Digest] returns, at a fraction of the cost: any write to a file changes
// its ctime, which no program can set. A copy of a tree has another mark.
func Mark(dir string, keep []string) (string, error) {
	all := sha256.New()
	err := walk(dir, keep, func(name, _ string, info fs.FileInfo) error {
		if !info.IsDir() {
			st := info.Sys().(*syscall.Stat_t)
			fmt.Fprintf(all, "%q %o %d %d %d %d.%d\n", name, st.Mode, st.Ino, st.Nlink, st.Size, st.Ctim.Sec, st.Ctim.Nsec)
		}
		return nil
	})
	return hex.EncodeToString(all.Sum(nil)), err
}

// Secret reports whether not all users may read all of a tree.
func Secret(dir string, keep []string) (bool, error) {
	secret, err := durable.Secret(dir)
	if err != nil || secret {
		return secret, err
	}
	err = walk(dir, keep, func(_, _ string, info fs.FileInfo) error {
		need := fs.FileMode(0o004)
		if info.IsDir() {
			need = 0o005
		}
		secret = secret || info.Mode()&fs.ModeSymlink == 0 && info.Mode()&need != need
		return nil
	})
	return secret, err
}

// walk calls visit for what is below dir, in the order of names, except for what is kept.
func walk(dir string, keep []string, visit func(name, path string, info fs.FileInfo) error) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == dir {
			if !d.IsDir() {
				return &fs.PathError{Op: "read", Path: dir, Err: unix.ENOTDIR}
			}
			return nil
		}
		name := path[len(dir)+1:]
		if Keeps(keep, name) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return visit(name, path, info)
	})
}

// Size returns the size in bytes of a file, or of all files of a tree, without what cannot
// be seen.
func Size(path string) (size int64) {
	_ = filepath.WalkDir(path, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := e.Info(); err == nil && !e.IsDir() {
			size += info.Size()
		}
		return nil
	})
	return size
}
