package swap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// largest bounds a file whose size no manifest tells.
const largest = 4 << 30

// claim takes the verifier's newest tree, or else the operator's request to go
// back. entry is nil for the latter; both are empty when there is neither.
func (sw *swapping) claim() (attempt string, entry *os.Root, consume func() error, err error) {
	none := func() error { return nil }
	// Not only when an attempt is pending: whatever lies there has triggered this.
	spool, err := sw.Tree.OpenSpool(state.Verify, sw.name, false)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", nil, none, err
	}
	if err == nil {
		attempt, entry, err = spool.Claim()
		if entry != nil {
			return attempt, entry, func() error {
				return errors.Join(entry.Close(), spool.Consume(attempt), spool.Close())
			}, nil
		}
		if err := errors.Join(err, spool.Close()); err != nil {
			return attempt, nil, none, err
		}
	}
	req, err := sw.Tree.TakeRequest(sw.name)
	if err != nil || req == nil {
		return "", nil, none, err
	}
	if req.Verb != state.GoBack {
		return "", nil, none, fmt.Errorf("cannot %s %s here: only a rollback needs no bundle", req.Verb, sw.name)
	}
	st, err := sw.Tree.Status(state.Swap, sw.name)
	if err != nil {
		return "", nil, none, err
	}
	from := ""
	if st.Installed != nil {
		from = st.Installed.Version
	}
	return req.Attempt, nil, none, sw.Tree.SetOrder(sw.name, state.Order{Attempt: req.Attempt,
		Origin: state.Operator, Verb: state.GoBack, Installed: from})
}

// planTree stages the files of a verified tree: own copies, hashed while they
// are made, and held against the manifest's contents.
func (sw *swapping) planTree(entry *os.Root) error {
	raw, err := state.ReadEntry(entry, state.ManifestName, manifest.MaxSize)
	if err != nil {
		return err
	}
	m, err := manifest.Parse(raw)
	if err != nil {
		return state.Fail(state.Refused, "cannot use the manifest: %w", err)
	}
	j, t := sw.journal, sw.target
	j.Version, j.Sequence = m.Version, m.Sequence
	if t.Trust.Product != "" && m.Product != t.Trust.Product {
		return state.Fail(state.Refused, "cannot use the manifest: it is of product %q, target %s wants %q", m.Product, t.Name, t.Trust.Product)
	}
	if m.Disabled {
		return state.Fail(state.NotAttempted, "the publisher has disabled updates")
	}
	host := manifest.Host()
	p, err := m.Platform(host)
	if err != nil {
		return state.Fail(state.Refused, "cannot use the manifest: %w", err)
	}
	j.Archive = p.SHA256
	receipt, err := state.ReadReceipt(entry)
	if err != nil {
		return state.Fail(state.Refused, "%w", err)
	}
	where := map[string]string{}
	for _, f := range receipt.Files {
		where[f.Entry] = f.Name
	}
	for _, inst := range t.Install {
		name := inst.Name(host, m.Version)
		from, ok := where[name]
		if !ok && inst.Optional {
			continue
		}
		if !ok {
			return state.Fail(state.Refused, "cannot find %s in the release", name)
		}
		want, listed := p.Contents[name]
		if len(p.Contents) > 0 && !listed {
			return state.Fail(state.Refused, "cannot install %s: the manifest's contents do not list it", name)
		}
		own, err := ownershipOf(inst)
		if err != nil {
			return state.Fail(state.Misconfigured, "cannot install %s: %w", inst.To, err)
		}
		c, err := sw.stage(inst.To, len(j.Changes), own, func(staged string, room int64) (string, error) {
			return stageEntry(entry, from, staged, want, listed, room)
		})
		if err != nil {
			return err
		}
		if listed && c.New != want.SHA256 {
			return state.Fail(state.Refused, "cannot install %s: its sha256 is %s, the manifest says %s", name, c.New, want.SHA256)
		}
		sw.add(c, own)
	}
	return sw.planSnapshot()
}

func stageEntry(entry *os.Root, from, staged string, want manifest.Content, listed bool, room int64) (string, error) {
	f, err := state.OpenEntry(entry, from)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	limit := info.Size() // a file that grows meanwhile could fill the disk
	if listed {
		limit = min(limit, want.Size)
	}
	if need := info.Size(); need > room {
		return "", fmt.Errorf("it needs %d bytes, %d are free", need, room)
	}
	return copyFile(staged, f, limit)
}

// planPrevious stages the release that was kept, which was verified and proven
// here before. Its backups are linked, not moved: they must survive this trial.
func (sw *swapping) planPrevious() error {
	prev := sw.status.Previous
	if prev == nil {
		return state.Fail(state.NotAttempted, "cannot go back: no previous release of %s is kept", sw.name)
	}
	sw.journal.Version, sw.journal.Sequence, sw.journal.Unsigned = prev.Version, prev.Sequence, prev.Unsigned
	for _, f := range prev.Files {
		own := ownership{uid: -1, gid: -1}
		if f.SHA256 == "" {
			old, err := digest(f.To)
			if err != nil {
				return err
			}
			sw.add(state.Change{Kind: state.Remove, To: f.To, Old: old}, own)
			continue
		}
		c, err := sw.stage(f.To, len(sw.journal.Changes), own, func(staged string, _ int64) (string, error) {
			if err := os.Link(f.Backup, staged); err != nil {
				return "", err
			}
			return digest(staged)
		})
		if err != nil {
			return err
		}
		if c.New != f.SHA256 {
			return state.Fail(state.Refused, "cannot go back: the backup %s was changed", f.Backup)
		}
		sw.add(c, own)
	}
	return sw.planSnapshot()
}

// planSnapshot adds the files that come back at a rollback.
func (sw *swapping) planSnapshot() error {
	for _, path := range sw.target.Snapshot {
		old, err := digest(path)
		if err != nil {
			return fmt.Errorf("cannot take a snapshot of %s: %w", path, cause(err))
		}
		sw.add(state.Change{Kind: state.Snapshot, To: path, Old: old}, ownership{uid: -1, gid: -1})
	}
	return nil
}

func (sw *swapping) add(c state.Change, own ownership) {
	sw.journal.Changes = append(sw.journal.Changes, c)
	sw.own = append(sw.own, own)
	if c.Kind != state.Snapshot && isUnitFile(c.To) && c.Old != c.New {
		sw.journal.Reload = true
	}
}

// stage brings a new file beside its destination and dresses it.
func (sw *swapping) stage(to string, index int, own ownership, bring func(staged string, room int64) (string, error)) (state.Change, error) {
	c := state.Change{Kind: state.Replace, To: to}
	failed := func(err error) (state.Change, error) {
		return c, fmt.Errorf("cannot stage %s: %w%s", to, cause(err), hint(err))
	}
	dir, err := sideDir(to)
	if err != nil {
		return failed(err)
	}
	room, err := state.Free(dir)
	if err != nil {
		return failed(err)
	}
	c.Staged = sidePath(dir, sw.name, sw.journal.Attempt, index, "new")
	if c.New, err = bring(c.Staged, room); err != nil {
		return failed(err)
	}
	if c.Old, err = digest(to); err != nil {
		return failed(err)
	}
	if sw.journal.GoingBack {
		return c, nil // a link to the backup, which kept owner and mode
	}
	if err := dress(c.Staged, to, own); err != nil {
		return failed(err)
	}
	f, err := os.Open(c.Staged)
	if err != nil {
		return failed(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil { // owner and mode, too
		return failed(err)
	}
	return c, nil
}

// backUp keeps the old files: links where the destination gets a new file, and
// copies of snapshots, which programs may write in place.
func (sw *swapping) backUp() error {
	for i := range sw.journal.Changes {
		c := &sw.journal.Changes[i]
		if c.Old == "" {
			continue
		}
		dir, err := sideDir(c.To)
		if err == nil {
			c.Backup = sidePath(dir, sw.name, sw.journal.Attempt, i, "old")
			err = keep(c)
		}
		if err != nil {
			return fmt.Errorf("cannot back up %s: %w%s", c.To, cause(err), hint(err))
		}
	}
	return syncDirs(sw.journal.Changes)
}

// keep makes the backup. The pre-flight took its time, in which the file may
// have been written: a rollback must find exactly what the journal says.
func keep(c *state.Change) (err error) {
	if c.Kind == state.Snapshot {
		c.Old, err = copyWhole(c.Backup, c.To)
		return err
	}
	if err := os.Link(c.To, c.Backup); err != nil {
		return err
	}
	kept, err := digest(c.Backup)
	if err == nil && kept != c.Old {
		err = errors.New("it was changed meanwhile")
	}
	return err
}

// copyWhole copies content, owner, mode and label, durably, and returns the
// digest of what it copied.
func copyWhole(dst, src string) (sum string, err error) {
	f, err := os.OpenFile(src, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if sum, err = copyFile(dst, f, largest); err != nil {
		return "", err
	}
	if err := dress(dst, src, ownership{uid: -1, gid: -1}); err != nil {
		return "", err
	}
	return sum, syncFile(dst)
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
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

// cause strips paths that our own messages name already.
func cause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", filepath.Base(pe.Path), pe.Err)
	}
	if le, ok := errors.AsType[*os.LinkError](err); ok {
		return le.Err
	}
	return err
}

// hint says what can be done about the usual obstacles.
func hint(err error) string {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return ""
	}
	switch errno {
	case syscall.EROFS:
		return " (hint: the file system is mounted read-only; or the target file is newer than systemd's view of it: systemctl daemon-reload)"
	case syscall.EPERM:
		return " (hint: is the file immutable? lsattr tells, chattr -i changes it)"
	case syscall.ENOSPC, syscall.EDQUOT:
		return " (hint: df tells what is full)"
	}
	return ""
}
