package source

import (
	"io"
	"os"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

const (
	// unknownVersion is the version of an archive of which only the address is known,
	// until it is downloaded.
	unknownVersion = "unknown"
	// bareName replaces the name of an archive whose own name is not valid in a manifest.
	// The content shows the archive's format.
	bareName = "archive"
)

// bare makes the manifest of an archive without one, as the operator named it. The version
// comes from the file's name, if source.asset says where it is, or else from the beginning
// of the digest, which distinguishes archives well enough. sum is "" if not known yet.
func bare(t *target.Target, file string, size int64, sum string) (*manifest.Manifest, error) {
	key := manifest.Host()
	version := t.Source.VersionIn(file, key)
	switch {
	case manifest.ValidName(version):
	case len(t.Health.VersionCommand) > 0:
		return nil, state.Refused("cannot use %s: its version is not known, but %s must report it "+
			"(hint: make a manifest with machinemon-release publish)", file, t.Health.VersionCommand[0])
	case sum != "":
		version = digestVersion(sum)
	default:
		version = unknownVersion
	}
	if sum == "" {
		sum = download.UnknownDigest
	}
	return &manifest.Manifest{Schema: manifest.Schema, Product: t.Trust.Product, Version: version,
		Platforms: map[string]manifest.Platform{key: {File: file, SHA256: sum, Size: size}}}, nil
}

func digestVersion(sum string) string { return "sha256-" + sum[:12] }

// NewNamed returns the release that an operator names by its path, which other users may
// be able to write to. It may be an archive without a manifest. Call Close at the end.
func NewNamed(t *target.Target, n target.Named) *Disk {
	d := &Disk{Path: n.Path, RootOnly: func(string) error { return nil }}
	d.bare = func(file string, f *os.File) ([]byte, error) {
		info, err := f.Stat()
		if err != nil {
			return nil, unreadable(n.Path, err)
		}
		sum := n.SHA256
		if d.Unvouched = sum == ""; d.Unvouched {
			// A file that grows meanwhile is refused when it is copied.
			if sum, _, err = durable.SHA256(io.LimitReader(f, info.Size())); err != nil {
				return nil, unreadable(n.Path, err)
			}
		}
		m, err := bare(t, file, info.Size(), sum)
		if err != nil {
			return nil, err
		}
		return m.Marshal()
	}
	return d
}
