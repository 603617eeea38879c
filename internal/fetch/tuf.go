package fetch

import (
	"context"
	"errors"
	"io/fs"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// repository is a source whose releases may be signed.
type repository interface {
	source
	// name returns the source's name for messages.
	name() string
	// beside reads a file beside the manifest, of at most most bytes. The error is
	// fs.ErrNotExist if the source says that the file does not exist.
	beside(ctx context.Context, file string, most int64) ([]byte, error)
}

// getter reads the files of a repository for [trust.Client.Collect].
func getter(ctx context.Context, repo repository) trust.Get {
	return func(file string, most int64) ([]byte, error) {
		b, err := repo.beside(ctx, file, most)
		if file == trust.TimestampFile && errors.Is(err, fs.ErrNotExist) {
			err = state.Refused("cannot trust %s: there is no %s beside it, so its releases are not signed", repo.name(), file)
		}
		return b, err
	}
}

// signed reads what a signed repository offers this machine. It starts from this role's
// own State, with the roots that the swapper knows, and stores the new State if keep is
// set.
func (f *fetcher) signed(ctx context.Context, src source, t *target.Target, keep bool) (*release, error) {
	repo, ok := src.(repository)
	if !ok {
		return nil, state.Refused("cannot use this source of %s: only signed metadata authenticates its releases (trust.mode = %q), "+
			"and neither GitHub nor an archive's address has any (hint: a source of type \"manifest\" or \"file\" that machinemon-release signs)", t.Name, t.Trust.Mode)
	}
	ctx, cancel := f.limits.Brief(ctx)
	defer cancel()
	good, metadata, err := trust.Verifier{Tree: f.tree, Target: f.name, Pin: t.Pin, Role: state.RoleFetch, ReadOnly: !keep,
		Terms: trust.Terms{Product: t.Trust.Product, Platform: manifest.Host(), Installed: f.order.Installed},
		From:  repo.name()}.Collect(getter(ctx, repo))
	if err != nil {
		return nil, err
	}
	r, err := chosen(good.Raw, repo.name(), t.Trust.Product)
	if err != nil {
		return nil, err
	}
	r.metadata = metadata
	for _, s := range good.Signed {
		r.signed = append(r.signed, state.Signed{Role: string(s.Role), Version: s.Version, Expires: s.Expires.UTC()})
	}
	return r, nil
}
