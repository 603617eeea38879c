package fetch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/fetch/source"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// delta is a file that makes an entry of the archive from an installed file.
type delta struct {
	entry string
	file  manifest.Platform // described like an archive with that one file
}

// handOn downloads the release for the verifier: by deltas if they are smaller, or else,
// or if the deltas fail, by the archive. how describes the download by deltas.
func (f *fetcher) handOn(ctx context.Context, src source.Source, t *target.Target, r *source.Release) (how string, err error) {
	if err := f.roomForFiles(t, r); err != nil {
		return "", err
	}
	deltas, err := f.deltas(src, t, r)
	if err == nil && deltas != nil {
		err = f.download(ctx, src, r, deltas)
		if err == nil {
			return fmt.Sprintf("by delta, %.1f kB instead of %.1f kB", float64(total(deltas))/1e3, float64(r.Platform.Size)/1e3), nil
		}
		if _, limited := errors.AsType[*download.RateLimit](err); limited {
			return "", err // a larger request would be refused, too
		}
		if _, deferred := errors.AsType[*deferredError](err); deferred {
			return "", err
		}
	}
	if err != nil {
		f.noDelta = err.Error()
	}
	return "", f.download(ctx, src, r, nil)
}

func total(deltas []delta) (size int64) {
	for _, d := range deltas {
		size += d.file.Size
	}
	return size
}

// deltas returns the deltas that make the release from the installed files, without those
// of files that are already the release's. It returns nil if only the archive contains all
// that the target installs, or if the deltas are not smaller.
func (f *fetcher) deltas(src source.Source, t *target.Target, r *source.Release) ([]delta, error) {
	// A source on this machine's disk saves no download.
	_, local := src.(*source.Disk)
	if local || f.full != nil || f.order.Brought() || len(r.Platform.Deltas)+len(r.Platform.Patches) == 0 {
		return nil, nil
	}
	// Only the archive contains a list that is not the installed release's, and a program
	// that is not installed.
	if _, needed := r.Platform.Contents[t.Hooks.Program(r.Key, r.Manifest.Version)]; needed {
		return nil, nil
	}
	own := *t
	t = &own
	if ok, err := t.AddRecorded(f.list, r.Platform.Contents, r.Key, r.Manifest.Version); !ok {
		return nil, err
	}
	chosen, seen := []delta{}, map[string]bool{}
	for _, i := range t.Install {
		if i.Tree {
			return nil, nil // a release has thousands of files in it: deltas of single ones save little
		}
		entry := entry(i, r)
		want, listed := r.Platform.Contents[entry]
		if seen[entry] || !listed && i.Optional {
			continue
		}
		seen[entry] = true
		if durable.OfUser(i.To) {
			return nil, nil // the fetcher's sandbox hides it
		}
		from, err := durable.FileSHA256(i.To)
		if !listed || errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", i.To, durable.Cause(err))
		}
		if from == want.SHA256 {
			continue
		}
		d, ok := r.Platform.Delta(entry, from)
		if !ok {
			return nil, nil
		}
		chosen = append(chosen, delta{entry, manifest.Platform{File: d.File, SHA256: d.SHA256, Size: d.Size, UnpackedSize: want.Size}})
	}
	if total(chosen) >= r.Platform.Size {
		return nil, nil
	}
	return chosen, nil
}

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
		// Now all is here, so that the lock is held for the trial and not for a download.
		if f.needsLock() {
			if err := f.lockFleet(ctx); err != nil {
				return err
			}
		}
		if err := f.tree.SetHandover(f.name, state.Handover{Attempt: f.order.Attempt, Manifest: manifest.Digest(r.Raw)}); err != nil {
			return err
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
	if err := f.roomForDownload(p, part.Stored()); err != nil {
		return err
	}
	from := download.Transfer{Open: src.Archive, Pause: f.limits.Pause, Report: f.report}
	if l, ok := src.(source.Learner); ok {
		from.Learn = func(sum string) error { return l.Learn(r, sum) }
	}
	if err := from.Download(ctx, part); err != nil {
		if name == state.PayloadName { // an archive stands in for a delta
			err = f.ifDiffers(src, err)
		}
		return err
	}
	return part.Move(b, name, name == state.PayloadName && f.returns())
}

// ifDiffers adds to the error of an archive that differs from what the operator, a manifest on
// this machine's disk, or the publisher states what the operator can do about it.
func (f *fetcher) ifDiffers(src source.Source, err error) error {
	_, local := src.(*source.Disk)
	switch {
	case f.order.SHA256 != "":
		return differs(err, typedDigest)
	case local:
		return differs(err, copiedDigest)
	}
	return differs(err, "archive and digest must be of one release: its publisher must publish both again, unless a proxy on the way answers instead")
}

const (
	typedDigest  = "is that the digest that its publisher states, in another place than the archive?"
	copiedDigest = "copy the archive and its manifest again, both of one release"
)

// differs adds a hint to a [download.Differs], and to no other error.
func differs(err error, hint string) error {
	if _, is := errors.AsType[download.Differs](err); is {
		err = fmt.Errorf("%w (hint: %s)", err, hint)
	}
	return err
}

// returns reports whether the archive will be wanted once more: this attempt only looks at
// it, or may have to wait for the fleet.
func (f *fetcher) returns() bool {
	return !f.order.Import && (f.order.Verb == state.VerbCheck || f.order.DryRun || f.needsLock())
}

// needs returns the disk space for a download in bytes: the archive and the verifier's copy
// of it or, when the verifier has removed the first, one archive and what is unpacked. The
// sum cannot overflow: the manifest's sizes are at most 1 TiB.
func needs(p manifest.Platform) int64 { return p.Size + max(p.Size, p.UnpackedSize) }
