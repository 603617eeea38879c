package fetch

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/fetch/source"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// getter reads the files of a repository for [trust.Client.Collect].
func getter(ctx context.Context, repo source.Repository) trust.Get {
	return func(file string, most int64) ([]byte, error) {
		b, err := repo.Beside(ctx, file, most)
		_, veiled := errors.AsType[*download.Veiled](err)
		if file == trust.TimestampFile && errors.Is(err, fs.ErrNotExist) && !veiled {
			err = state.Refused("cannot trust %s: there is no %s beside it, so its releases are not signed", repo.Name(), file)
		}
		return b, err
	}
}

// resolve reads what the source offers this machine, as the target's trust mode requires.
// In the mode "tuf" it starts from this role's own State, with the roots that the swapper
// knows, and stores the new State if keep is set.
func (f *fetcher) resolve(ctx context.Context, src source.Source, t *target.Target, keep bool) (*source.Release, error) {
	switch t.Trust.Mode {
	case target.TrustChecksum:
		return source.Resolve(ctx, src, t.Trust.Product)
	case target.TrustSigned:
		r, _, err := resolveSigned(ctx, f.tree, src, t, f.order.Installed)
		return r, err
	}
	repo, ok := src.(source.Repository)
	if !ok {
		return nil, state.Refused("cannot use this source of %s: only signed metadata authenticates its releases (trust.mode = %q), "+
			"and neither GitHub, Forgejo, GitLab nor an archive's address has any (hint: a source of type \"manifest\" or \"file\" that machinemon-release signs)", t.Name, t.Trust.Mode)
	}
	ctx, cancel := f.limits.Brief(ctx)
	defer cancel()
	good, metadata, err := trust.Verifier{Tree: f.tree, Target: f.name, Pin: t.Pin, Role: state.RoleFetch, ReadOnly: !keep,
		Terms: trust.Terms{Product: t.Trust.Product, Platform: manifest.Host(), Installed: f.order.Installed},
		From:  repo.Name()}.Collect(getter(ctx, repo))
	if err != nil {
		return nil, err
	}
	r, err := source.Choose(good.Raw, repo.Name(), t.Trust.Product)
	if err != nil {
		return nil, err
	}
	r.Metadata = metadata
	for _, s := range good.Signed {
		r.Signed = append(r.Signed, state.Signed{Role: string(s.Role), Version: s.Version, Expires: s.Expires.UTC()})
	}
	return r, nil
}

// FilesAt returns a function that reads the files of the signed repository at the address
// of a directory, which belongs to no target. Each file has the time limit that the fetcher
// has for all of them. The client for TUF's conformance suite uses it.
func FilesAt(ctx context.Context, address string) (trust.Get, error) {
	src, err := source.New(&target.Target{
		Name:   "the repository",
		Source: target.Source{Type: target.SourceManifest, URL: strings.TrimSuffix(address, "/") + "/"},
		Trust:  target.Trust{Mode: target.TrustTUF},
	}, "", download.DefaultLimits, nil)
	repo, _ := src.(source.Repository)
	return func(file string, most int64) ([]byte, error) {
		ctx, cancel := download.DefaultLimits.Brief(ctx)
		defer cancel()
		return getter(ctx, repo)(file, most)
	}, err
}
