package fetch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// delta is a file that makes an entry of the archive from what is installed.
type delta struct {
	entry string
	file  manifest.Platform // as if it were an archive, of that one file
}

// handOn brings the release to the verifier: by deltas where they are smaller, and
// by the archive where there are none or something is wrong with them. how is what
// there is to say of it.
func (f *fetcher) handOn(ctx context.Context, src source, t *target.Target, r *release) (how, err error) {
	deltas, err := f.deltas(src, t, r)
	if err == nil && deltas != nil {
		err = f.download(ctx, src, r, deltas)
		if err == nil {
			return fmt.Errorf("by delta, %.1f kB instead of %.1f kB", float64(total(deltas))/1e3, float64(r.platform.Size)/1e3), nil
		}
		if _, limited := errors.AsType[*rateLimit](err); limited {
			return nil, err // and would take a larger request no better
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

// deltas chooses those that make the release from the installed files, none of
// them for a file that is the release's already. It returns nil where only the
// archive brings what the target installs, or is no larger.
func (f *fetcher) deltas(src source, t *target.Target, r *release) ([]delta, error) {
	// A list of further files is in the archive alone. On this machine's disk there
	// is nothing to be saved.
	_, local := src.(*disk)
	if local || f.full != nil || f.order.Brought() || t.Listing != nil || len(r.platform.Deltas) == 0 {
		return nil, nil
	}
	chosen, seen := []delta{}, map[string]bool{}
	for _, i := range t.Install {
		entry := i.Name(r.key, r.manifest.Version)
		want, listed := r.platform.Contents[entry]
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
		d, ok := r.platform.Delta(entry, from)
		if !ok {
			return nil, nil
		}
		chosen = append(chosen, delta{entry, manifest.Platform{File: d.File, SHA256: d.SHA256, Size: d.Size, UnpackedSize: want.Size}})
	}
	if total(chosen) >= r.platform.Size {
		return nil, nil
	}
	return chosen, nil
}

// Full carries out the order once more, without deltas, where the verifier asks for
// that. Otherwise it does nothing, and the attempt has no ID: so it does where the
// archive was brought before, and an attempt does not go round in circles.
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
