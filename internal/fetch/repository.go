package fetch

import (
	"context"
	"strings"

	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// Repository is a signed repository on a web server, for whom it is no target's:
// the client for TUF's conformance suite.
type Repository struct{ web *web }

// NewRepository takes the address of the directory that the files are in.
func NewRepository(address string) (*Repository, error) {
	w, err := newWeb(&target.Target{
		Name:   "the repository",
		Source: target.Source{URL: strings.TrimSuffix(address, "/") + "/"},
		Trust:  target.Trust{Mode: target.TrustTUF},
	}, "", defaultLimits)
	return &Repository{w}, err
}

// Metadata is what the fetcher would bring for a client that has this pin and this
// state, but for the manifest. Nothing of it is verified; beside an error it is
// what was there.
func (r *Repository) Metadata(ctx context.Context, pin []byte, known trust.State) (trust.Metadata, error) {
	ctx, cancel := r.web.brief(ctx)
	defer cancel()
	return metadata(ctx, r.web, pin, known)
}

// Manifest is the one that the targets name, not verified either.
func (r *Repository) Manifest(ctx context.Context, targets []byte) ([]byte, error) {
	ctx, cancel := r.web.brief(ctx)
	defer cancel()
	return after(ctx, r.web, trust.RoleTargets, targets)
}
