package fetch

import (
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/target"
)

const (
	// unknownVersion is that of an archive of which nothing is known but where it
	// is, until it has come.
	unknownVersion = "unknown"
	// bareName is what such an archive is called whose own name a manifest would not
	// take. The format is told by the content.
	bareName = "archive"
)

// bare makes the manifest of an archive that has none, by the word of the operator
// who named it. Its version is in its name, if source.asset says where, or else it
// is the digest's beginning: good enough to tell one archive from another. sum is
// "" while nobody knows it.
func bare(t *target.Target, file string, size int64, sum string) (*manifest.Manifest, error) {
	key := manifest.Host()
	version := t.Source.VersionIn(file, key)
	switch {
	case manifest.ValidName(version):
	case len(t.Health.VersionCommand) > 0:
		return nil, refused("cannot use %s: nothing tells its version, which %s is asked for "+
			"(hint: make a manifest with machinemon-release publish)", file, t.Health.VersionCommand[0])
	case sum != "":
		version = digestVersion(sum)
	default:
		version = unknownVersion
	}
	if sum == "" {
		sum = unknownDigest
	}
	return &manifest.Manifest{Schema: manifest.Schema, Product: t.Trust.Product, Version: version,
		Platforms: map[string]manifest.Platform{key: {File: file, SHA256: sum, Size: size}}}, nil
}

func digestVersion(sum string) string { return "sha256-" + sum[:12] }
