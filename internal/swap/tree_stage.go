package swap

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/dirtree"
	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// planDirectory stages a tree of the release. files has the entries by their paths below
// the destination, and where the names of these entries in the verified tree.
func (sw *swapping) planDirectory(entry *state.Bundle, inst target.Install, files, where map[string]string, p manifest.Platform) error {
	own, err := ownershipOf(inst)
	if err != nil {
		return state.Fail(state.ResultMisconfigured, "cannot install %s: %w", inst.To, err)
	}
	failed := func(err error) error { return fmt.Errorf("cannot stage %s: %w%s", inst.To, brief(err), hint(err)) }
	dir, err := sideDir(filepath.Join(inst.Dir(), "tree"))
	if err != nil {
		return failed(err)
	}
	c := state.Change{Kind: state.KindReplace, To: inst.To, Tree: &state.TreeChange{Keep: inst.Keep, Releases: inst.Releases},
		Staged: sidePath(dir, sw.name, sw.journal.Attempt, len(sw.journal.Changes), "tree")}
	if c.Linked() {
		if c.Tree.Dir, err = freeName(inst.Releases, sw.journal.Version); err != nil {
			return failed(err)
		}
	}
	if err := sw.lookAtTree(&c); err != nil {
		return err
	}
	if err := os.Mkdir(c.Staged, 0o700); err != nil {
		return failed(err)
	}
	if err := dress(c.Staged, oldDir(c), own); err != nil {
		return failed(err)
	}
	room, err := state.Free(dir)
	if err != nil {
		return failed(err)
	}
	sums, gid := map[string]string{}, own.gid
	if gid < 0 {
		gid = groupOf(c.Staged)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if dirtree.Keeps(c.Tree.Kept, name) {
			continue
		}
		to, entryName := filepath.Join(c.Staged, name), files[name]
		want, inContents := p.Contents[entryName]
		from, ok := where[entryName]
		switch {
		case !fs.ValidPath(name):
			return state.Fail(state.ResultRefused, "cannot install %.80q: that is no plain path", entryName)
		case !ok:
			return state.Fail(state.ResultRefused, "cannot find %s in the release", entryName)
		case len(p.Contents) > 0 && !inContents:
			return state.Fail(state.ResultRefused, "cannot install %s: the manifest's contents do not list it", entryName)
		}
		if err := makeParents(c.Staged, name, gid); err != nil {
			return failed(err)
		}
		sum, err := sw.stageEntry(entry, from, to, want, inContents, room, false)
		if err != nil {
			return failed(err)
		}
		if inContents && sum != want.SHA256 {
			return state.Fail(state.ResultRefused, "cannot install %s: its sha256 is %s, the manifest says %s", entryName, sum, want.SHA256)
		}
		if err := dressEntry(to, gid); err != nil {
			return failed(err)
		}
		sums[name] = sum
		if room, err = state.Free(dir); err != nil {
			return failed(err)
		}
	}
	for _, name := range c.Tree.Kept {
		if err := makeParents(c.Staged, name, gid); err != nil {
			return failed(err)
		}
	}
	c.New = dirtree.Sum(sums, c.Tree.Keep)
	if err := relabelTree(c.Staged, oldDir(c)); err != nil {
		return failed(err)
	}
	was := sw.status.Installed.File(c.To)
	c.Created = c.Old == "" || was != nil && was.Created
	if err := finishTree(&c); err != nil {
		return failed(err)
	}
	sw.add(c)
	return nil
}

// planPreviousTree puts the kept tree itself on trial, and no copy of it: if the trial
// fails, the exchange brings it back to where it is now. Neither takes time or space.
func (sw *swapping) planPreviousTree(f state.File) error {
	sum, err := (state.File{To: f.Backup, Tree: f.Tree}).Digest()
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", f.Backup, brief(err))
	}
	if sum != f.SHA256 {
		return state.Fail(state.ResultRefused, "cannot go back: the backup %s was changed", f.Backup)
	}
	// What is kept now counts, and what was kept when this release was replaced.
	keep := slices.Clone(f.Tree.Keep)
	for _, i := range sw.target.Install {
		if i.To == f.To {
			for _, name := range i.Keep {
				if !dirtree.Keeps(keep, name) {
					keep = append(slices.DeleteFunc(keep, func(k string) bool { return dirtree.Keeps([]string{name}, k) }), name)
				}
			}
		}
	}
	c := state.Change{Kind: state.KindReplace, To: f.To, Staged: f.Backup, Tree: &state.TreeChange{Keep: keep, Releases: f.Tree.Releases}, Created: f.Created, Private: f.Private}
	if c.Linked() {
		c.Tree.Dir = f.Backup
	}
	if err := sw.lookAtTree(&c); err != nil {
		return err
	}
	for _, name := range c.Tree.Kept {
		there, err := inode(filepath.Join(c.Staged, name))
		if err == nil && there != 0 {
			return state.Fail(state.ResultRefused, "cannot go back: %s has %s, too, because keep has named it only since (hint: move that away)", c.Staged, name)
		}
		if err == nil {
			err = makeParents(c.Staged, name, groupOf(c.Staged))
		}
		if err != nil {
			return fmt.Errorf("cannot go back: %w%s", brief(err), hint(err))
		}
	}
	if c.New, err = dirtree.Digest(c.Staged, keep); err == nil {
		err = finishTree(&c)
	}
	if err != nil {
		return fmt.Errorf("cannot go back: %w%s", brief(err), hint(err))
	}
	sw.add(c)
	return nil
}

// lookAtTree notes what is in the place of a tree, and makes sure that it can be replaced
// and that what is kept can move.
func (sw *swapping) lookAtTree(c *state.Change) (err error) {
	if c.Linked() {
		if err := sw.lookAtLink(c); err != nil {
			return err
		}
	}
	dir := oldDir(*c)
	if c.Tree.OldIno, err = inode(dir); err != nil || c.Tree.OldIno == 0 {
		return err
	}
	if c.Old, err = dirtree.Digest(dir, c.Tree.Keep); err != nil {
		return state.Fail(state.ResultMisconfigured, "cannot replace %s: %w (hint: what is not of a release belongs elsewhere, or into keep)", c.To, err)
	}
	for _, name := range c.Tree.Keep {
		there, err := keepable(c.To, name)
		if err != nil {
			return state.Fail(state.ResultMisconfigured, "cannot keep %s of %s: %w", name, c.To, err)
		}
		if there {
			c.Tree.Kept = append(c.Tree.Kept, name)
		}
	}
	if c.Linked() {
		return nil
	}
	return canExchange(c)
}

// keepable reports whether a tree has something to keep under a name. Nobody but root may
// be able to put anything else on the way to it.
func keepable(dir, name string) (there bool, err error) {
	var top, st unix.Stat_t
	if err := unix.Lstat(dir, &top); err != nil {
		return false, err
	}
	at := dir
	for {
		first, rest, below := strings.Cut(name, "/")
		at = filepath.Join(at, first)
		err := unix.Lstat(at, &st)
		switch {
		case err == unix.ENOENT:
			return false, nil
		case err != nil:
			return false, &fs.PathError{Op: "stat", Path: at, Err: err}
		case st.Dev != top.Dev:
			return false, fmt.Errorf("%s is a mount point (hint: mount it elsewhere, and leave a link to it there)", at)
		case !below:
			return true, nil
		case st.Mode&unix.S_IFMT != unix.S_IFDIR:
			return false, fmt.Errorf("%s is not a directory", at)
		case st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0:
			return false, fmt.Errorf("not only root can write to %s (hint: keep that directory as a whole)", at)
		}
		name = rest
	}
}

// canExchange returns an error, before anything stops, if the file system cannot exchange
// two directories. Without it there would be a moment without any tree, and the exchange
// could not be undone after each power cut.
func canExchange(c *state.Change) error {
	side, err := sideDir(c.To)
	if err != nil {
		return err
	}
	base := filepath.Join(side, filepath.Base(c.Staged))
	a, b := base+".a", base+".b"
	err = errors.Join(os.Mkdir(a, 0o700), os.Mkdir(b, 0o700))
	if err == nil {
		err = exchange(a, b)
	}
	err = errors.Join(err, remove(a), remove(b))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP) {
		return state.Fail(state.ResultMisconfigured, "cannot install %s: its file system cannot exchange two directories "+
			"(hint: ext4, XFS, Btrfs and tmpfs can; renameat2(2), RENAME_EXCHANGE)", c.To)
	}
	return err
}

// finishTree makes a staged tree durable and notes how it is recognised.
func finishTree(c *state.Change) (err error) {
	if c.Tree.NewIno, err = inode(c.Staged); err != nil {
		return err
	}
	installed := c.Staged
	if c.Old == c.New && !c.Linked() {
		installed = c.To // it stays
	}
	if c.Tree.Mark, err = dirtree.Mark(installed, c.Tree.Keep); err != nil {
		return err
	}
	d, err := os.Open(c.Staged)
	if err != nil {
		return err
	}
	defer d.Close()
	return durable.SyncAll(d)
}

// makeParents makes the directories above a name below a tree.
func makeParents(dir, name string, gid int) error {
	parent := path.Dir(name)
	if parent == "." {
		return nil
	}
	at := filepath.Join(dir, parent)
	info, err := os.Lstat(at)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: at, Err: unix.ENOTDIR}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := makeParents(dir, parent, gid); err != nil {
		return err
	}
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	return errors.Join(os.Chmod(at, 0o755), os.Lchown(at, 0, gid)) // regardless of the umask
}

// dressEntry gives a file of a tree its owner and mode. The archive's mode is not signed,
// so the content decides whether it is a program: ELF or a script.
func dressEntry(path string, gid int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 4)
	n, _ := f.ReadAt(head, 0) // a shorter file is judged by what it has
	mode := fs.FileMode(0o644)
	if head = head[:n]; bytes.HasPrefix(head, []byte("\x7fELF")) || bytes.HasPrefix(head, []byte("#!")) {
		mode = 0o755
	}
	if err := os.Lchown(path, 0, gid); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// groupOf returns the group of a file that this process has made.
func groupOf(path string) int {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0
	}
	return int(st.Gid)
}

// relabelTree gives each file the SELinux label of the one in its place, or else that of
// the tree. Without SELinux there is none.
func relabelTree(dir, like string) error {
	if _, err := unix.Lgetxattr(like, selinux, nil); err != nil {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		was := filepath.Join(like, path[len(dir):])
		if _, err := os.Lstat(was); err != nil {
			was = like
		}
		return relabel(path, was)
	})
}
