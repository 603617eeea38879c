package fetch

import (
	"context"
	"io"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// source is where a release comes from. The names that its methods return are for
// messages, and contain neither passwords nor queries.
type source interface {
	// manifest reads the manifest and returns its bytes as published.
	manifest(ctx context.Context) (raw []byte, name string, err error)
	// archive opens a file of the manifest that was just read, from its beginning or from
	// the end of the stored piece. Errors of its Read are the source's, not the disk's.
	archive(ctx context.Context, p manifest.Platform, have download.Piece) (*download.Body, error)
}

// source returns where this attempt's release comes from: what the operator named, or else
// the target's source.
func (f *fetcher) source(t *target.Target, cache string) (source, error) {
	switch {
	case f.order.Import:
		return &disk{path: f.tree.Import(f.name), rootOnly: f.rootOnly}, nil
	case f.order.URL != "":
		return newDirect(t, f.order.URL, f.order.SHA256, f.limits)
	}
	return newSource(t, cache, f.limits, f.rootOnly)
}

// newSource returns the source of a target. cache is the directory of the cached manifest,
// or "" for none.
func newSource(t *target.Target, cache string, l download.Limits, rootOnly func(string) error) (source, error) {
	switch t.Source.Type {
	case target.SourceManifest:
		return newWeb(t, cache, l)
	case target.SourceFile:
		return &disk{path: t.Source.Path, rootOnly: rootOnly}, nil
	case target.SourceGitHub:
		return newGitHub(t, cache, l)
	case target.SourceNone:
		return nil, state.Fail(state.ResultMisconfigured,
			"cannot fetch %s: no source is configured (hint: set source.url in /etc/machinemon-update/targets.d/%s.toml)", t.Name, t.Name)
	}
	return nil, state.Fail(state.ResultMisconfigured,
		"cannot fetch %s: a source of type %q is not supported by this version", t.Name, t.Source.Type)
}

// release is what the source offers this machine.
type release struct {
	raw      []byte // the manifest's bytes as published
	manifest *manifest.Manifest
	key      string // of the platform
	platform manifest.Platform

	// These two are set for a signed repository only.
	metadata []byte         // for the roles that verify it again
	signed   []state.Signed // the metadata that signs the manifest
}

// resolve reads the release as the target's trust mode requires.
func (f *fetcher) resolve(ctx context.Context, src source, t *target.Target, keep bool) (*release, error) {
	if t.Trust.Mode == target.TrustTUF {
		return f.signed(ctx, src, t, keep)
	}
	return resolveUnsigned(ctx, src, t.Trust.Product)
}

// resolveUnsigned reads the manifest without signatures. It returns an error if the
// manifest is of another product or has nothing for this machine's platform.
func resolveUnsigned(ctx context.Context, src source, product string) (*release, error) {
	raw, name, err := src.manifest(ctx)
	if err != nil {
		return nil, err
	}
	return chosen(raw, name, product)
}

// chosen returns the manifest's release for this machine.
func chosen(raw []byte, name, product string) (*release, error) {
	m, err := manifest.Parse(raw)
	if err != nil {
		return nil, state.Refused("cannot use %s: %w", name, err)
	}
	if product != "" && m.Product != product {
		return nil, state.Refused("cannot use %s: it is of product %q, this target takes %q", name, m.Product, product)
	}
	key := manifest.Host()
	p, err := m.Platform(key)
	if err != nil {
		return nil, state.Refused("cannot use %s: %w", name, err)
	}
	return &release{raw: raw, manifest: m, key: key, platform: p}, nil
}

// learner is a source whose archive may have an unknown digest until it is downloaded.
// learn accepts the digest that the downloaded archive has.
type learner interface {
	learn(r *release, sum string) error
}

// complete replaces [unknownDigest] by the digest of the downloaded archive.
func (r *release) complete(sum string) (err error) {
	r.platform.SHA256 = sum
	r.manifest.Platforms[r.key] = r.platform
	r.raw, err = r.manifest.Marshal()
	return err
}

// readManifest reads at most manifest.MaxSize bytes.
func readManifest(r io.Reader) ([]byte, error) { return readSmall(r, manifest.MaxSize) }

// readSmall reads r to its end. More than most bytes are an error.
func readSmall(r io.Reader, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(b)) > most {
		err = state.Fail(state.ResultRefused, "it is larger than %d bytes", most)
	}
	return b, err
}
