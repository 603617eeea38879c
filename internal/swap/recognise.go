package swap

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/installed"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// recognise records a release that was installed without this chain, for example by the
// program's own installer, if its files are those of the release that the last check
// found. Otherwise they would count as changed by hand, and no schedule would update them.
// The fetcher's word suffices: the bytes are there already, and each release that replaces
// them is verified.
func (b *beginning) recognise(context.Context) error {
	r := b.status.Installed
	if r == nil || installed.Unchanged(r) {
		return nil
	}
	found, err := b.Tree.Status(state.RoleFetch, b.name)
	if err != nil || found.Offer == nil || found.Offer.Fingerprint == "" {
		return nil // the fetcher reports its own errors
	}
	files, err := onDisk(b.target)
	if err != nil || state.Fingerprint(files) != found.Offer.Fingerprint {
		return nil // a file that cannot be read is not recognised
	}
	o := found.Offer
	next := &state.Release{Version: o.Version, Sequence: o.Sequence, Archive: o.Archive, Files: files, Since: time.Now().UTC(), Unsigned: true}
	if err := b.Tree.Update(state.RoleSwap, b.name, func(s *state.Status) { s.Installed = next }); err != nil {
		return err
	}
	b.status.Installed = next
	b.logf("%s: %s is installed, though not by an attempt: its files are those of the release that the last check found", b.name, o.Version)
	return nil
}

// onDisk returns the files that the target installs, as they are on the disk.
func onDisk(t *target.Target) (files []state.File, err error) {
	for _, i := range t.Install {
		sum, err := durable.FileSHA256(i.To)
		if errors.Is(err, fs.ErrNotExist) && i.Optional {
			continue
		}
		if err != nil {
			return nil, err
		}
		files = append(files, state.File{To: i.To, SHA256: sum})
	}
	return files, nil
}
