package fetch

import (
	"context"
	"strings"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// Repository is a signed repository on a web server that belongs to no target. The client
// for TUF's conformance suite uses it.
type Repository struct{ web *web }

// NewRepository returns the repository at the address of a directory.
func NewRepository(address string) (*Repository, error) {
	w, err := newWeb(&target.Target{
		Name:   "the repository",
		Source: target.Source{URL: strings.TrimSuffix(address, "/") + "/"},
		Trust:  target.Trust{Mode: target.TrustTUF},
	}, "", download.DefaultLimits)
	return &Repository{w}, err
}

// Get returns a function that reads the repository's files. Each file has the time limit
// that the fetcher has for all of them.
func (r *Repository) Get(ctx context.Context) trust.Get {
	return func(file string, most int64) ([]byte, error) {
		ctx, cancel := r.web.Brief(ctx)
		defer cancel()
		return getter(ctx, r.web)(file, most)
	}
}
