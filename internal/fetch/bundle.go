package fetch

import (
	"context"
	"fmt"
	"strconv"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/fetch/source"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// download makes the bundle of a release and hands it on. The bundle has these deltas or,
// if deltas is nil, the archive.
func (f *fetcher) download(ctx context.Context, src source.Source, r *source.Release, deltas []delta) error {
	return f.tree.HandOn(state.RoleFetch, f.name, f.order.Attempt, func(b *state.Bundle) error {
		receipt := state.Receipt{Attempt: f.order.Attempt, Platform: r.Key, Deltas: deltas != nil}
		for n, d := range deltas {
			name := strconv.Itoa(n)
			if err := f.add(ctx, src, r, d.file, b, name); err != nil {
				return err
			}
			receipt.Files = append(receipt.Files, state.ReceiptFile{Entry: d.entry, Name: name})
		}
		if deltas == nil {
			if err := f.add(ctx, src, r, r.Platform, b, state.PayloadName); err != nil {
				return err
			}
		}
		return b.Describe(r.Raw, r.Metadata, receipt)
	})
}

// add downloads an archive or a delta into the bundle.
func (f *fetcher) add(ctx context.Context, src source.Source, r *source.Release, p manifest.Platform, b *state.Bundle, name string) (err error) {
	part, err := download.Open(f.tree.Dir(state.RoleFetch, f.name), p)
	if err != nil {
		return err
	}
	defer func() {
		if failed := part.Leave(err); failed != nil {
			err = fmt.Errorf("%w; %w", err, failed)
		}
	}()
	if err := f.room(p, part.Stored()); err != nil {
		return err
	}
	from := download.Transfer{Open: src.Archive, Pause: f.limits.Pause, Report: f.report}
	if l, ok := src.(source.Learner); ok {
		from.Learn = func(sum string) error { return l.Learn(r, sum) }
	}
	if err := from.Download(ctx, part); err != nil {
		return err
	}
	return part.Move(b, name)
}

// needs returns the disk space for a download in bytes: the archive, the verifier's copy
// of it, and what is unpacked from that. The sum cannot overflow: the manifest's sizes are
// at most 1 TiB.
func needs(p manifest.Platform) int64 { return 2*p.Size + p.UnpackedSize }

// room returns an error if the download, with have bytes stored, would fill the disk.
func (f *fetcher) room(p manifest.Platform, have int64) error {
	dir := f.tree.Dir(state.RoleFetch, f.name)
	free, err := state.Free(dir)
	if err != nil {
		return err
	}
	if need := needs(p) - have; need > free {
		return fmt.Errorf("cannot download %s: it needs %.1f MB on the disk of %s, and %.1f MB are free",
			p.File, float64(need)/1e6, dir, float64(free)/1e6)
	}
	return nil
}
