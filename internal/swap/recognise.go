package swap

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/machinemon/machinemon-update/internal/installed"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// recognise records a release that was installed without this chain, for example by the
// program's own installer: its files are those of the release that the last check found,
// or that release has deltas from them, so they are an earlier one's. Otherwise they would
// count as changed by hand, and no schedule would update them. The fetcher's word
// suffices: the bytes are there already, and what replaces them is verified.
func (b *beginning) recognise(ctx context.Context) error {
	r := b.status.Installed
	if r == nil || installed.UnchangedSince(r, b.order.Looked) || b.target.Listing != nil { // what a release lists is only in its record
		return nil
	}
	found, err := b.Tree.Status(state.RoleFetch, b.name)
	if err != nil || found.Offer == nil {
		return nil // the fetcher reports its own errors
	}
	files, err := onDisk(b.target)
	if err != nil {
		return nil // a file that cannot be read is not recognised
	}
	for i := range files {
		if old := r.File(files[i].To); old != nil {
			files[i].Created, files[i].Private = old.Created, old.Private
		}
	}
	o := found.Offer
	next := &state.Release{Files: files, Since: time.Now().UTC(), Unsigned: true}
	known := func(f state.File) bool {
		old := r.File(f.To)
		return old != nil && old.SHA256 == f.SHA256 || slices.Contains(o.Earlier, f.SHA256)
	}
	switch {
	case o.Fingerprint != "" && o.Fingerprint == state.Fingerprint(files):
		next.Version, next.Sequence, next.Archive = o.Version, o.Sequence, o.Archive
	case !slices.ContainsFunc(files, func(f state.File) bool { return !known(f) }):
		next.Version = installed.Version(ctx, b.target, state.Status{})
	}
	if next.Version == "" {
		return nil
	}
	if err := b.Tree.Update(state.RoleSwap, b.name, func(s *state.Status) { s.Installed = next }); err != nil {
		return err
	}
	b.status.Installed = next
	b.logf("%s: %s is installed, though not by an attempt: its files are those of a published release", b.name, next.Version)
	return nil
}

// onDisk returns the files that the target installs, as they are on the disk.
func onDisk(t *target.Target) (files []state.File, err error) {
	for _, i := range t.Install {
		f := state.File{To: i.To}
		if i.Tree {
			f.Tree = &state.Directory{Keep: i.Keep, Releases: i.Releases}
			if f.Tree.Mark, err = f.Marked(); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
		if f.SHA256, err = f.Digest(); err == nil && f.SHA256 == "" {
			if i.Optional {
				continue
			}
			err = fs.ErrNotExist
		}
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}
