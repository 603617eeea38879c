// Package source knows where releases come from: a web server, GitHub, Forgejo or
// GitLab, a directory of this machine, or an archive's address. It reads the manifest, or makes one, and asks package
// download for the bytes of the archive.
package source

import (
	"context"
	"io"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// Source is where a release comes from. The names that its methods return are for
// messages, and contain neither passwords nor queries.
type Source interface {
	// Manifest reads the manifest and returns its bytes as published.
	Manifest(ctx context.Context) (raw []byte, name string, err error)
	// Archive opens a file of the manifest that was just read, from its beginning or from
	// the end of the stored piece. Errors of its Read are the source's, not the disk's.
	Archive(ctx context.Context, p manifest.Platform, have download.Piece) (*download.Body, error)
}

// Repository is a source whose releases may be signed.
type Repository interface {
	Source
	// Name returns the source's name for messages.
	Name() string
	// Beside reads a file beside the manifest, of at most most bytes. The error is
	// fs.ErrNotExist if the source says that the file does not exist.
	Beside(ctx context.Context, file string, most int64) ([]byte, error)
}

// New returns the source of a target. cache is the directory of the cached manifest, or ""
// for none. rootOnly returns an error if another user than root can write to a path. The
// error has the result Misconfigured.
func New(t *target.Target, cache string, l download.Limits, rootOnly func(string) error) (Source, error) {
	switch t.Source.Type {
	case target.SourceManifest:
		return newWeb(t, cache, l)
	case target.SourceFile:
		return &Disk{Path: t.Source.Path, RootOnly: rootOnly}, nil
	case target.SourceGitHub:
		return newGitHub(t, cache, l)
	case target.SourceForgejo, target.SourceGitLab:
		return newForge(t, cache, l)
	case target.SourceNone:
		return nil, state.Fail(state.ResultMisconfigured,
			"cannot fetch %s: no source is configured (hint: set source.url in /etc/machinemon-update/targets.d/%s.toml)", t.Name, t.Name)
	}
	return nil, state.Fail(state.ResultMisconfigured,
		"cannot fetch %s: a source of type %q is not supported by this version", t.Name, t.Source.Type)
}

// Release is what the source offers this machine.
type Release struct {
	Raw      []byte // the manifest's bytes as published
	Manifest *manifest.Manifest
	Key      string // of the platform
	Platform manifest.Platform

	Metadata []byte         // of a signed release, for the roles that verify it again
	Signed   []state.Signed // the metadata that signs the manifest of a signed repository
}

// Resolve reads the manifest without signatures, and returns its release as [Choose] does.
func Resolve(ctx context.Context, src Source, product string) (*Release, error) {
	raw, name, err := src.Manifest(ctx)
	if err != nil {
		return nil, err
	}
	return Choose(raw, name, product)
}

// Choose returns the manifest's release for this machine. The result is Refused if the
// manifest is of another product than this one ("" for any), or has nothing for this
// machine's platform. name is the manifest's for messages.
func Choose(raw []byte, name, product string) (*Release, error) {
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
	return &Release{Raw: raw, Manifest: m, Key: key, Platform: p}, nil
}

// Learner is a source whose archive may have an unknown digest until it is downloaded.
// Learn accepts the digest that the downloaded archive has.
type Learner interface {
	Learn(r *Release, sum string) error
}

// Warner is a source that may have a warning for the operator after Manifest; "" is none.
type Warner interface{ Warning() string }

// complete replaces [download.UnknownDigest] by the digest of the downloaded archive.
func (r *Release) complete(sum string) (err error) {
	r.Platform.SHA256 = sum
	r.Manifest.Platforms[r.Key] = r.Platform
	r.Raw, err = r.Manifest.Marshal()
	return err
}

// readSmall reads r to its end. More than most bytes are an error.
func readSmall(r io.Reader, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(b)) > most {
		err = state.Refused("it is larger than %d bytes", most)
	}
	return b, err
}
