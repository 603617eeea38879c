package swap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/dirtree"
	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
)

// This file exchanges a directory that is installed as a whole: a tree. It is one change
// of the journal. Its new tree waits beside the destination, under the name Staged. The two
// directories then change places by one call, and Staged is the name of the old tree, the
// previous release. A rollback is the same call again.
//
// What the target file keeps, such as data, is in one of the two trees, never in both: it
// is moved, not copied, and always to the tree that is in place. While it moves, the unit
// is stopped. The order of the calls of a swap:
//
//  1. write the new tree under Staged, without what is kept; sync
//  2. write the journal, with both inode numbers and the names that are kept; stop the unit
//  3. renameat2(Staged, To, RENAME_EXCHANGE); renameat2(RENAME_NOREPLACE) if there is no old tree
//  4. for each kept name: renameat2(Staged/NAME, To/NAME, RENAME_NOREPLACE)
//  5. sync the directories; write the journal; start the unit
//
// A rollback stops the unit and takes 3 and 4. It may begin after any of these calls, in
// this or in another rollback, because it reads from the disk what is left to do: the inode
// number says which tree is in place, and a kept name below Staged has yet to move. Before
// 2, nothing but Staged has changed. Between 2 and 3, the old tree is in place, with all
// that is kept. Between 3 and the end of 4, the journal is open and the unit is stopped,
// and at a boot recover takes these calls before the unit starts. A rename is atomic, so
// each kept name is in exactly one tree, whichever renames a power cut has undone. After
// that, the new tree is in place, with all that is kept.

// A stand says which tree is in the place of a change.
type stand string

const (
	noTree      stand = "none"
	oldTree     stand = "old"
	newTree     stand = "new"
	foreignTree stand = "foreign"
)

// standing finds out which tree is at a path. A file system such as overlayfs may give
// other inode numbers after a boot; then the content decides.
func standing(c state.Change, path string) (stand, error) {
	ino, err := inode(path)
	switch {
	case err != nil:
		return "", err
	case ino == 0:
		return noTree, nil
	case ino == c.Tree.OldIno:
		return oldTree, nil
	case ino == c.Tree.NewIno:
		return newTree, nil
	}
	sum, err := dirtree.Digest(path, c.Tree.Keep)
	switch {
	case err != nil: // it is not even a directory, or has what no tree has
		return foreignTree, nil
	case sum == c.Old:
		return oldTree, nil
	case sum == c.New:
		return newTree, nil
	}
	return foreignTree, nil
}

// whichTree finds out which tree is in the place of a change.
func whichTree(c state.Change) (stand, error) {
	if c.Linked() {
		return linked(c)
	}
	return standing(c, c.To)
}

// oldDir returns the directory of the old tree before the swap; "" if there is none. Of a
// change that is no tree it returns the file.
func oldDir(c state.Change) string {
	if c.Linked() {
		return c.Tree.Left
	}
	return c.To
}

// inode returns the inode number of a file, 0 if there is none.
func inode(path string) (uint64, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if err == unix.ENOENT {
		return 0, nil
	}
	if err != nil {
		return 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}

// now returns the digest of what is in the place of a change; "" if there is nothing. That
// of a tree is what the journal says of it, even if files below it were changed since: only
// a directory that is neither of the trial's two trees has another one.
func now(c state.Change) (string, error) {
	if c.Tree == nil {
		return digest(c.To)
	}
	at, err := whichTree(c)
	switch at {
	case oldTree:
		return c.Old, err
	case newTree:
		return c.New, err
	}
	return map[stand]string{foreignTree: "foreign"}[at], err
}

// placeTree puts the new tree in its place, with what is kept.
func placeTree(c state.Change) error {
	if c.Linked() {
		return placeLinked(c)
	}
	at, err := standing(c, c.To)
	if err != nil {
		return err
	}
	if at != oldTree && !(at == noTree && c.Old == "") {
		return errors.New("another directory was put there meanwhile")
	}
	for _, name := range c.Tree.Keep {
		there, err := inode(filepath.Join(c.To, name))
		if err == nil && (there != 0) != slices.Contains(c.Tree.Kept, name) {
			err = fmt.Errorf("%s, which is kept, was made or removed meanwhile", name)
		}
		if err != nil {
			return err
		}
	}
	if c.Old == "" {
		return renameNew(c.Staged, c.To)
	}
	if err := exchange(c.Staged, c.To); err != nil {
		return err
	}
	_, err = gather(c)
	return err
}

// putTreeBack brings the old tree back, with what is kept, if what is in its place is in
// ours; nil allows both of the trial's trees.
func putTreeBack(c state.Change, ours []string) (changed bool, err error) {
	if c.Linked() {
		return putLinkBack(c, ours)
	}
	at, err := standing(c, c.To)
	if err != nil {
		return false, err
	}
	switch {
	case at == oldTree:
		return gather(c)
	case c.Old == "" && at != newTree:
		return false, nil // the new tree was not installed, so this one is foreign
	case at == foreignTree, at == newTree && ours != nil && !slices.Contains(ours, c.New):
		return false, errTheirs
	case c.Old == "":
		return true, renameNew(c.To, c.Staged)
	}
	kept, err := standing(c, c.Staged)
	if err == nil && kept != oldTree {
		err = fmt.Errorf("its backup %s is missing or damaged", c.Staged)
	}
	if err != nil {
		return false, err
	}
	if at == noTree {
		err = renameNew(c.Staged, c.To)
	} else {
		err = exchange(c.Staged, c.To)
	}
	if err != nil {
		return false, err
	}
	_, err = gather(c)
	return true, err
}

// gather moves what is kept from the other tree to the one that is in place.
func gather(c state.Change) (changed bool, err error) {
	for _, name := range c.Tree.Kept {
		from, to := filepath.Join(c.Staged, name), filepath.Join(c.To, name)
		there, err := inode(from)
		if err == nil && there == 0 {
			continue
		}
		if err == nil { // the release may have removed it since
			err = os.MkdirAll(filepath.Dir(to), 0o755)
		}
		if err == nil {
			err = renameNew(from, to)
		}
		if err == nil {
			changed = true
			err = errors.Join(durable.SyncDir(filepath.Dir(to)), durable.SyncDir(filepath.Dir(from)))
		}
		if err != nil {
			return changed, fmt.Errorf("cannot move %s, which is kept, from %s: %w", name, c.Staged, durable.Cause(err))
		}
	}
	return changed, nil
}

// gatherAll is gather for all trees of a trial that ends with what is in place.
func gatherAll(j *state.Journal) error {
	for _, c := range j.Changes {
		if c.Tree == nil || c.Linked() {
			continue
		}
		at, err := standing(c, c.To)
		if err == nil && (at == oldTree || at == newTree) {
			_, err = gather(c)
		}
		if err != nil {
			return fmt.Errorf("cannot keep what is below %s: %w%s", c.To, err, hint(err))
		}
	}
	return nil
}

// spare renames a tree beside its place that still has something that is kept to
// NAME.aside-ATTEMPT, before everything there is removed. That happens only if somebody
// replaced the tree that was in place.
func (s *Swapper) spare(j *state.Journal) error {
	for _, c := range j.Changes {
		if c.Tree == nil {
			continue
		}
		for _, name := range c.Tree.Kept {
			there, err := inode(filepath.Join(c.Staged, name))
			if err == nil && there != 0 {
				aside := c.To + ".aside-" + string(j.Attempt)
				if err = renameNew(c.Staged, aside); err == nil {
					s.logf("%s: %s has %s, which is kept, and is now %s", describe(j), c.Staged, name, aside)
					break
				}
			}
			if err != nil {
				return fmt.Errorf("cannot move %s aside, which has %s: %w", c.Staged, name, brief(err))
			}
		}
	}
	return nil
}

// keeps reports whether something moves from one tree to the other, which needs the unit
// stopped.
func keeps(j *state.Journal) bool {
	return slices.ContainsFunc(j.Changes, func(c state.Change) bool { return c.Tree != nil && len(c.Tree.Kept) > 0 })
}

// exchange makes two directories change places.
func exchange(a, b string) error {
	err := durable.Retry(func() error { return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE) })
	if err != nil {
		return &os.LinkError{Op: "exchange", Old: a, New: b, Err: err}
	}
	return nil
}
