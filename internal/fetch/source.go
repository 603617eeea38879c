package fetch

import (
	"context"
	"io"
	"strings"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// source is where a release comes from. The names that its methods return are
// for messages, and hold neither passwords nor queries.
type source interface {
	// manifest reads the document and returns its own bytes.
	manifest(ctx context.Context) (raw []byte, name string, err error)
	// archive opens a file of the manifest that was just read: from its beginning, or
	// what follows the piece of it that is there. Errors of its Read are the
	// source's, not the disk's.
	archive(ctx context.Context, p manifest.Platform, have piece) (*body, error)
}

// source is where the release of this attempt comes from: where the operator says,
// if they do, or else the target's own source.
func (f *fetcher) source(t *target.Target, cache string) (source, error) {
	switch {
	case f.order.Import:
		return &disk{path: f.tree.Import(f.name), rootOnly: f.rootOnly}, nil
	case f.order.URL != "":
		return newDirect(t, f.order.URL, f.order.SHA256, f.limits)
	}
	return newSource(t, cache, f.limits, f.rootOnly)
}

// newSource makes the source of a target. cache is the directory of the cached
// manifest, "" for none.
func newSource(t *target.Target, cache string, l limits, rootOnly func(string) error) (source, error) {
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
	raw      []byte // the manifest's own bytes
	manifest *manifest.Manifest
	key      string // of the platform
	platform manifest.Platform

	// Of a signed repository alone.
	metadata []byte         // for those who check it again
	signed   []state.Signed // what vouches for the manifest
}

// resolveUnsigned is what the target's mode of trust makes of the source.
func (f *fetcher) resolve(ctx context.Context, src source, t *target.Target, keep bool) (*release, error) {
	if t.Trust.Mode == target.TrustTUF {
		return f.signed(ctx, src, t, keep)
	}
	return resolveUnsigned(ctx, src, t.Trust.Product)
}

// resolveUnsigned reads the manifest as it is, and refuses one of another product or without
// this machine's platform.
func resolveUnsigned(ctx context.Context, src source, product string) (*release, error) {
	raw, name, err := src.manifest(ctx)
	if err != nil {
		return nil, err
	}
	return chosen(raw, name, product)
}

// chosen is what the manifest has for this machine.
func chosen(raw []byte, name, product string) (*release, error) {
	m, err := manifest.Parse(raw)
	if err != nil {
		return nil, refused("cannot use %s: %w", name, err)
	}
	if product != "" && m.Product != product {
		return nil, refused("cannot use %s: it is of product %q, this target takes %q", name, m.Product, product)
	}
	key := manifest.Host()
	p, err := m.Platform(key)
	if err != nil {
		return nil, refused("cannot use %s: %w", name, err)
	}
	return &release{raw: raw, manifest: m, key: key, platform: p}, nil
}

// learner is a source that may offer an archive whose digest nobody knows before
// it has come. learn accepts the one that it turns out to have.
type learner interface {
	learn(r *release, sum string) error
}

// unknownDigest stands in the manifest of an archive that nobody vouches for,
// until it has come. No archive has it.
var unknownDigest = strings.Repeat("0", 64)

// complete puts the digest of what came in the place of [unknownDigest].
func (r *release) complete(sum string) (err error) {
	r.platform.SHA256 = sum
	r.manifest.Platforms[r.key] = r.platform
	r.raw, err = r.manifest.Marshal()
	return err
}

// readManifest reads at most what a manifest may have.
func readManifest(r io.Reader) ([]byte, error) { return readSmall(r, manifest.MaxSize) }

// readSmall reads what must not have more than this many bytes.
func readSmall(r io.Reader, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(b)) > most {
		err = state.Fail(state.ResultRefused, "it is larger than %d bytes", most)
	}
	return b, err
}
