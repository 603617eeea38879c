package swap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/dirtree"
	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
)

// This file installs a tree as a directory of its own below that of all releases. In the
// place of the change, To, is a link to one of these. The old tree stays where it is, as
// the previous release, so the program that runs from it finds its files. The order of the
// calls of a swap:
//
//  1. write the new tree under Staged, in .machinemon-update among the releases; sync
//  2. write the journal
//  3. renameat2(Staged, Dir, RENAME_NOREPLACE); sync
//  4. symlink(Dir, Link); rename(Link, To); sync
//  5. write the journal; start the unit
//
// A rollback takes 4 with the old directory, or removes the link if there was none. It
// reads from the link what is left to do. A rename is atomic, and the new tree is on the
// disk under its name before the link leads there. So whichever calls a power cut has
// undone, the link leads to a whole tree. At the end of the trial, retire moves the
// directories that are no longer needed to where a sweep removes them.

// lookAtLink notes where the link of a change leads.
func (sw *swapping) lookAtLink(c *state.Change) error {
	refuse := func(format string, args ...any) error {
		return state.Fail(state.ResultMisconfigured, "cannot replace %s: %w", c.To, fmt.Errorf(format, args...))
	}
	side, err := sideDir(c.To)
	if err != nil {
		return fmt.Errorf("cannot stage %s: %w%s", c.To, brief(err), hint(err))
	}
	t := c.Tree
	t.Link = sidePath(side, sw.name, sw.journal.Attempt, len(sw.journal.Changes), "link")
	if was := sw.status.Previous.File(c.To); was != nil && filepath.Dir(was.Backup) == t.Releases {
		t.Older = was.Backup
	}
	left, err := dirtree.Follow(c.To)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return refuse("%w", durable.Cause(err))
	case filepath.Dir(left) != t.Releases:
		return refuse("it leads to %s, which is not directly below %s (hint: move that there, and correct the link)", left, t.Releases)
	}
	t.Left = left
	info, err := os.Lstat(left)
	if err == nil && !info.IsDir() {
		err = unix.ENOTDIR
	}
	if err != nil {
		return refuse("it leads to %s: %w", left, durable.Cause(err))
	}
	return nil
}

// freeName returns the path below dir of this name, or of one like it if that is taken.
func freeName(dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	for n := 2; ; n++ {
		_, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return path, nil
		}
		if err != nil {
			return "", err
		}
		path = filepath.Join(dir, fmt.Sprintf("%s.%d", name, n))
	}
}

// linked finds out to which tree the link of a change leads.
func linked(c state.Change) (stand, error) {
	dir, err := dirtree.Follow(c.To)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return noTree, nil
	case errors.Is(err, unix.EINVAL): // it is no link
		return foreignTree, nil
	case err != nil:
		return "", err
	case dir == c.Tree.Left:
		return oldTree, nil
	case dir == c.Tree.Dir:
		return newTree, nil
	}
	return foreignTree, nil
}

// placeLinked gives the new tree its name, and then makes the link lead to it.
func placeLinked(c state.Change) error {
	at, err := linked(c)
	if err != nil {
		return err
	}
	if at != oldTree && !(at == noTree && c.Old == "") {
		return errors.New("another link was put there meanwhile")
	}
	if c.Staged != c.Tree.Dir { // else the previous release is there
		if err := renameNew(c.Staged, c.Tree.Dir); err != nil {
			return err
		}
		if err := errors.Join(durable.SyncDir(c.Tree.Releases), durable.SyncDir(filepath.Dir(c.Staged))); err != nil {
			return err
		}
	}
	return point(c, c.Tree.Dir)
}

// putLinkBack is putTreeBack for a link.
func putLinkBack(c state.Change, ours []string) (changed bool, err error) {
	at, err := linked(c)
	switch {
	case err != nil:
		return false, err
	case at == oldTree, c.Old == "" && at != newTree:
		return false, nil
	case at == foreignTree, at == newTree && ours != nil && !slices.Contains(ours, c.New):
		return false, errTheirs
	case c.Old == "":
		return true, remove(c.To)
	}
	kept, err := standing(c, c.Tree.Left)
	if err == nil && kept != oldTree {
		err = fmt.Errorf("its backup %s is missing or damaged", c.Tree.Left)
	}
	if err != nil {
		return false, err
	}
	return true, point(c, c.Tree.Left)
}

// point makes the link of a change lead to a directory.
func point(c state.Change, dir string) error {
	text := dir
	// A relative link is right also where the file system is mounted elsewhere.
	if below, ok := strings.CutPrefix(dir, filepath.Dir(c.To)+"/"); ok {
		text = below
	}
	if err := remove(c.Tree.Link); err != nil { // a kill may have left it
		return err
	}
	if err := os.Symlink(text, c.Tree.Link); err != nil {
		return err
	}
	put := os.Rename
	if c.Old == "" {
		put = renameNew
	}
	if err := put(c.Tree.Link, c.To); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(c.To))
}

// retire moves the directories of releases that neither the link nor the previous release
// needs to where a sweep removes them. It may be repeated until the journal is closed.
func retire(j *state.Journal, previous *state.Release) (err error) {
	for n, c := range j.Changes {
		if !c.Linked() {
			continue
		}
		at, ferr := dirtree.Follow(c.To)
		if ferr != nil && !errors.Is(ferr, fs.ErrNotExist) && !errors.Is(ferr, unix.EINVAL) {
			err = errors.Join(err, ferr)
			continue
		}
		needed := []string{"", at}
		if f := previous.File(c.To); f != nil {
			needed = append(needed, f.Backup)
		}
		if is, serr := standing(c, c.Tree.Dir); serr != nil || is != newTree { // somebody else has made it, or it is gone
			needed = append(needed, c.Tree.Dir)
			err = errors.Join(err, serr)
		}
		for _, dir := range []string{c.Tree.Dir, c.Tree.Left, c.Tree.Older} {
			if !slices.Contains(needed, dir) {
				_, merr := moveBeside(dir, j.Target, j.Attempt, n)
				err = errors.Join(err, merr)
			}
		}
	}
	return err
}

// moveBeside moves a release's directory to where a sweep removes it, and returns its new
// path; "" if it is not there.
func moveBeside(dir, target string, attempt state.AttemptID, n int) (gone string, err error) {
	side, err := sideDir(dir)
	if err == nil {
		gone = sidePath(side, target, attempt, n, filepath.Base(dir)+".gone")
		if err = renameNew(dir, gone); errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
	}
	if err == nil { // before the journal, which names the directory, is gone
		err = errors.Join(durable.SyncDir(filepath.Dir(dir)), durable.SyncDir(side))
	}
	if err != nil {
		return "", fmt.Errorf("cannot remove %s: %w", dir, durable.Cause(err))
	}
	return gone, nil
}
