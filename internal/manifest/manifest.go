// Package manifest reads and writes the document that names a release.
//
// A manifest comes from the network and nothing in it is trusted: Parse takes at
// most MaxSize bytes and refuses every document that two JSON readers could
// understand differently. What it returns has been checked field by field, so
// that a name in it can be joined to a URL or looked up in an archive as it is;
// whether the release may be installed is decided elsewhere. The package touches
// no file and no network.
package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

const (
	// FileName is what a manifest is called in the directory it is published in.
	FileName = "client-manifest.json"
	// MaxSize is the largest manifest Parse accepts, in bytes.
	MaxSize = 1 << 20
	// Schema is the newest schema this program understands.
	Schema = 1
)

// Manifest describes one release of one product.
type Manifest struct {
	Schema     int                 `json:"schema"`
	Product    string              `json:"product,omitempty"`
	Version    string              `json:"version"`
	Sequence   int64               `json:"sequence,omitempty"`    // grows with every publication; 0: not given
	ReleasedAt string              `json:"released_at,omitempty"` // RFC 3339
	MinVersion string              `json:"min_version,omitempty"`
	Disabled   bool                `json:"disabled,omitempty"`
	Rollout    *Rollout            `json:"rollout,omitempty"` // nil: every machine
	Platforms  map[string]Platform `json:"platforms"`         // by platform key, e.g. "linux-amd64"
}

// Rollout says which share of the machines a release is meant for.
type Rollout struct {
	Percent int `json:"percent"` // 0 to 100
}

// Platform is one archive of the release.
type Platform struct {
	File         string             `json:"file"` // a plain name beside the manifest, or an http(s) URL
	SHA256       string             `json:"sha256"`
	Size         int64              `json:"size"`                    // bytes
	UnpackedSize int64              `json:"unpacked_size,omitempty"` // bytes of all files in it; 0: not given
	Contents     map[string]Content `json:"contents,omitempty"`      // by name in the archive
	Deltas       []Delta            `json:"deltas,omitempty"`
}

// Content is one regular file in the archive.
type Content struct {
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"` // bytes
}

// Delta turns an installed file into the archive's entry of that name.
type Delta struct {
	FromSHA256 string `json:"from_sha256"` // the installed file
	Entry      string `json:"entry"`
	File       string `json:"file"` // as Platform.File
	SHA256     string `json:"sha256"`
	Size       int64  `json:"size"` // bytes
}

// Platform returns the release for a platform key such as Host's.
func (m *Manifest) Platform(key string) (Platform, error) {
	p, ok := m.Platforms[key]
	if !ok {
		have := slices.Sorted(maps.Keys(m.Platforms))
		return Platform{}, fmt.Errorf("%s has nothing for %s (it has %s)", m.Version, key, strings.Join(have, ", "))
	}
	return p, nil
}

// Delta returns the one that makes an entry of the archive from an installed file.
func (p Platform) Delta(entry, from string) (Delta, bool) {
	i := slices.IndexFunc(p.Deltas, func(d Delta) bool { return d.Entry == entry && d.FromSHA256 == from })
	if i < 0 {
		return Delta{}, false
	}
	return p.Deltas[i], true
}

// Place is where the holder of an ID stands among the others, 0 to 99, when a
// version is rolled out: SHA-256 of ID and version. A rollout of N percent is meant
// for the places below N.
func Place(id, version string) int {
	sum := sha256.Sum256([]byte(id + version))
	return int(binary.BigEndian.Uint64(sum[:8]) % 100)
}

// Marshal returns the document as it is published: indented, map keys sorted,
// one newline at the end. Equal manifests give equal bytes.
func (m *Manifest) Marshal() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(m); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Digest returns the SHA-256 of b as 64 lower-case hex digits.
func Digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
