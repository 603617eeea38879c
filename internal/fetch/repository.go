package fetch

import (
	"context"
	"strings"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/fetch/source"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// Repository is a signed repository on a web server that belongs to no target. The client
// for TUF's conformance suite uses it.
type Repository struct{ of source.Repository }

// NewRepository returns the repository at the address of a directory.
func NewRepository(address string) (*Repository, error) {
	src, err := source.New(&target.Target{
		Name:   "the repository",
		Source: target.Source{Type: target.SourceManifest, URL: strings.TrimSuffix(address, "/") + "/"},
		Trust:  target.Trust{Mode: target.TrustTUF},
	}, "", download.DefaultLimits, nil)
	repo, _ := src.(source.Repository)
	return &Repository{repo}, err
}

// Get returns a function that reads the repository's files. Each file has the time limit
// that the fetcher has for all of them.
func (r *Repository) Get(ctx context.Context) trust.Get {
	return func(file string, most int64) ([]byte, error) {
		ctx, cancel := download.DefaultLimits.Brief(ctx)
		defer cancel()
		return getter(ctx, r.of)(file, most)
	}
}
