package fetch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

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
func (f *fetcher) handOn(ctx context.Context, src source.Source, t *target.Target, r *source.Release) (how, err error) {
	deltas, err := f.deltas(src, t, r)
	if err == nil && deltas != nil {
		err = f.download(ctx, src, r, deltas)
		if err == nil {
			return fmt.Errorf("by delta, %.1f kB instead of %.1f kB", float64(total(deltas))/1e3, float64(r.Platform.Size)/1e3), nil
		}
		if _, limited := errors.AsType[*download.RateLimit](err); limited {
			return nil, err // a larger request would be refused, too
		}
	}
	if err != nil {
		f.noDelta = err.Error()
	}
	return nil, f.download(ctx, src, r, nil)
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
	// Only the archive contains the files that a list adds. A source on this machine's
	// disk saves no download.
	_, local := src.(*source.Disk)
	if local || f.full != nil || f.order.Brought() || t.Listing != nil || len(r.Platform.Deltas) == 0 {
		return nil, nil
	}
	chosen, seen := []delta{}, map[string]bool{}
	for _, i := range t.Install {
		entry := i.Name(r.Key, r.Manifest.Version)
		want, listed := r.Platform.Contents[entry]
		if seen[entry] || !listed && i.Optional {
			continue
		}
		seen[entry] = true
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

// Full carries out the order once more, without deltas, if the verifier asks for that.
// Otherwise it does nothing and returns an attempt without ID. It also does nothing if
// this attempt already downloaded the archive, so an attempt cannot loop.
func Full(ctx context.Context, tree state.Tree, dirs target.Dirs, name string, report func(done, total int64)) (state.Attempt, int, error) {
	asked, err := tree.Fallback(name)
	if err != nil {
		return state.Attempt{}, state.ResultFailed.Exit(), err
	}
	f, err := newFetcher(tree, name, report)
	if err != nil {
		return state.Attempt{}, state.ResultFailed.Exit(), err
	}
	known, err := tree.Status(state.RoleFetch, name)
	if err != nil {
		return state.Attempt{}, state.ResultFailed.Exit(), err
	}
	n := len(known.Attempts)
	if asked == nil || asked.Attempt != f.order.Attempt || n == 0 {
		return state.Attempt{}, 0, nil
	}
	last := known.Attempts[n-1]
	if last.ID != asked.Attempt || last.Result != state.ResultHandedOn || last.NoDelta != "" {
		return state.Attempt{}, 0, nil
	}
	f.full, f.noDelta = asked, asked.Reason
	return f.carryOut(ctx, dirs)
}
