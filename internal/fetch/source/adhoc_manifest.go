package source

import (
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
// is the operator's; else it comes from the file's name, if source.asset says where it is, or
// else from the beginning of the digest, which distinguishes archives well enough. sum is
// "" if not known yet, and version if the operator did not say it.
func bare(t *target.Target, file string, size int64, sum, version string) ([]byte, error) {
	key := manifest.Host()
	if version == "" {
		version = t.Source.VersionIn(file, key)
	}
	switch {
	case manifest.ValidName(version):
	case len(t.Health.VersionCommand) > 0:
		return nil, state.Refused("cannot use %s: its version is not known, but %s must report it "+
			"(hint: add --version and what it reports, or make a manifest with machinemon-release publish)", file, t.Health.VersionCommand[0])
	case sum != "":
		version = digestVersion(sum)
	default:
		version = unknownVersion
	}
	if sum == "" {
		sum = download.UnknownDigest
	}
	m := manifest.Manifest{Schema: manifest.Schema, Product: t.Trust.Product, Version: version,
		Platforms: map[string]manifest.Platform{key: {File: file, SHA256: sum, Size: size}}}
	return m.Marshal()
}

func digestVersion(sum string) string { return "sha256-" + sum[:12] }
