package swap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/machinemon/machinemon-update/internal/dirtree"
	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// stage makes bring write a new file beside its destination, with owner, mode and label.
func (sw *swapping) stage(ctx context.Context, to string, own ownership, bring func(staged string, room int64) (string, error)) (state.Change, error) {
	if durable.OfUser(to) {
		return sw.stageOfUser(ctx, to, bring)
	}
	c := state.Change{Kind: state.KindReplace, To: to}
	failed := func(err error) (state.Change, error) {
		return c, fmt.Errorf("cannot stage %s: %w%s", to, brief(err), hint(err))
	}
	dir, err := sideDir(to)
	if err != nil {
		return failed(err)
	}
	room, err := state.Free(dir)
	if err != nil {
		return failed(err)
	}
	c.Staged = sidePath(dir, sw.name, sw.journal.Attempt, len(sw.journal.Changes), "new")
	if c.New, err = bring(c.Staged, room); err != nil {
		return failed(err)
	}
	if c.Old, err = sw.lookAt(to); err != nil {
		return failed(err)
	}
	if sw.journal.GoingBack {
		return c, nil // a copy of the backup, with its owner and mode
	}
	if err := dress(c.Staged, to, own); err != nil {
		return failed(err)
	}
	if err := durable.SyncFile(c.Staged); err != nil { // owner and mode, too
		return failed(err)
	}
	return c, nil
}

// backUp backs up the old files. It links files that are replaced at once, and copies
// those that stay where they are, which the hook or another program may write in place.
func (sw *swapping) backUp() error {
	for i := range sw.journal.Changes {
		c := &sw.journal.Changes[i]
		if c.Old == "" || c.Kind == state.KindSnapshot || c.OfUser() { // root has a copy of a user's program
			continue
		}
		if c.Tree != nil { // the exchange keeps it
			secret, err := dirtree.Secret(oldDir(*c), c.Tree.Keep)
			if err != nil {
				return fmt.Errorf("cannot look at %s: %w", c.To, brief(err))
			}
			c.Private, c.Backup = c.Private || secret, c.Staged
			if c.Linked() {
				c.Backup = c.Tree.Left
			}
			continue
		}
		dir, err := sideDir(c.To)
		if err == nil && !c.Private {
			c.Private, err = durable.Secret(c.To)
		}
		if err == nil {
			c.Backup = sidePath(dir, sw.name, sw.journal.Attempt, i, "old")
			err = backUp(c, sw.target.Hooks.BeforeSwap() > 0, sw.looked[c.To])
		}
		if err != nil {
			return fmt.Errorf("cannot back up %s: %w%s", c.To, brief(err), hint(err))
		}
	}
	return syncDirs(sw.journal.Changes)
}

// lookAt returns the digest of an installed file, as [digest] does, and remembers the stamp
// that the file had before and after it was read. It does not read a file that has the stamp
// that it had when this attempt began.
func (sw *swapping) lookAt(path string) (sum string, err error) {
	stamp := state.StampOf(path)
	if at, ok := sw.known.Order.Looked[path]; ok && at.Stamp.Still(path) {
		sum = at.SHA256
	} else if sum, err = digest(path); err != nil || !stamp.Still(path) {
		return sum, err
	}
	if sw.looked == nil {
		sw.looked = map[string]*state.Stamp{}
	}
	sw.looked[path] = stamp
	return sum, nil
}

// backUp makes the backup; hooked says that a hook will run before the file is replaced, and
// looked is the stamp that the file had when its digest was taken, or nil. It fails if the file
// was written during the pre-flight: a rollback must find exactly what the journal says.
func backUp(c *state.Change, hooked bool, looked *state.Stamp) (err error) {
	var kept string
	var before *state.Stamp
	still := looked.Still(c.To)
	if hooked || c.Kind == state.KindRemove || c.Old == c.New {
		kept, err = copyWhole(c.Backup, c.To)
	} else if err = os.Link(c.To, c.Backup); err == nil {
		before = state.StampOf(c.Backup) // of what is read now
		if kept = c.Old; !still || !looked.SameContent(before) {
			kept, err = digest(c.Backup)
		}
	}
	if err == nil && kept != c.Old {
		err = errors.New("it was changed meanwhile")
	}
	c.Kept = before
	return err
}

// copyWhole copies content, owner, mode and SELinux label, durably, and returns the
// sha256 of what it copied.
func copyWhole(dst, src string) (sum string, err error) {
	f, err := durable.OpenRegular(src)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if sum, err = copyFile(dst, f, largest, false); err != nil { // it is synced below
		return "", err
	}
	if err := dress(dst, src, ownership{uid: -1, gid: -1}); err != nil {
		return "", err
	}
	return sum, durable.SyncFile(dst)
}

func ownershipOf(i target.Install) (ownership, error) {
	own := ownership{mode: i.Mode, uid: -1, gid: -1}
	if i.Owner != nil {
		u, err := user.Lookup(*i.Owner)
		if err != nil {
			return own, err
		}
		if own.uid, err = strconv.Atoi(u.Uid); err != nil {
			return own, err
		}
	}
	if i.Group != nil {
		g, err := user.LookupGroup(*i.Group)
		if err != nil {
			return own, err
		}
		if own.gid, err = strconv.Atoi(g.Gid); err != nil {
			return own, err
		}
	}
	return own, nil
}

// brief shortens the path of an error to its last element: the messages name the
// destination, and the error may be about a file beside it.
func brief(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", filepath.Base(pe.Path), pe.Err)
	}
	return durable.Cause(err)
}

// hint returns what the operator can do about a common error, or "".
func hint(err error) string {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return ""
	}
	switch errno {
	case syscall.EROFS:
		return " (hint: the file system is mounted read-only; or the target file is newer than systemd's view of it: sudo systemctl daemon-reload)"
	case syscall.EPERM:
		return " (hint: is the file immutable? lsattr shows it, chattr -i removes it)"
	case syscall.ENOSPC, syscall.EDQUOT:
		return " (hint: df shows what is full)"
	}
	return ""
}
