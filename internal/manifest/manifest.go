// Package manifest reads and writes manifests, the JSON documents that name releases.
//
// A manifest comes from the network and is not trusted: Parse accepts at most MaxSize
// bytes, refuses each document that two JSON readers could understand differently, and
// checks each field. Callers can join names in it to a URL, or look them up in an
// archive, as they are. Other packages decide whether a release may be installed. This
// package accesses no file and no network.
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
	// FileName is the name of the manifest in the directory of a published release.
	FileName = "client-manifest.json"
	// MaxSize is the size in bytes of the largest manifest that Parse accepts.
	MaxSize = 1 << 20
	// Schema is the newest schema that this program understands.
	Schema = 1
)

// Manifest describes one release of one product.
type Manifest struct {
	Schema     int                 `json:"schema"`
	Product    string              `json:"product,omitempty"`
	Version    string              `json:"version"`
	Sequence   int64               `json:"sequence,omitempty"`    // grows with each publication; 0: not given
	ReleasedAt string              `json:"released_at,omitempty"` // RFC 3339
	MinVersion string              `json:"min_version,omitempty"`
	Disabled   bool                `json:"disabled,omitempty"`
	Rollout    *Rollout            `json:"rollout,omitempty"` // nil: all machines
	Platforms  map[string]Platform `json:"platforms"`         // by platform key, e.g. "linux-amd64"
}

// Rollout is the share of machines that a release is for.
type Rollout struct {
	Percent int `json:"percent"` // 0 to 100
}

// Platform is the archive of the release for one platform.
type Platform struct {
	File         string             `json:"file"` // a file name beside the manifest, or an http(s) URL
	SHA256       string             `json:"sha256"`
	SHA512       string             `json:"sha512,omitempty"`        // in addition; "": not given
	Size         int64              `json:"size"`                    // bytes
	UnpackedSize int64              `json:"unpacked_size,omitempty"` // bytes of all its files together; 0: not given
	Contents     map[string]Content `json:"contents,omitempty"`      // by name in the archive
	Deltas       []Delta            `json:"deltas,omitempty"`        // zstd frames, which all clients know
	Patches      []Delta            `json:"patches,omitempty"`       // the same in a smaller format
}

// Content is a regular file in the archive.
type Content struct {
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"` // bytes
}

// Delta makes an entry of the archive from the installed file. SHA256 and Size are those
// of the delta itself.
type Delta struct {
	FromSHA256 string `json:"from_sha256"` // of the installed file
	Entry      string `json:"entry"`       // its name in the archive
	File       string `json:"file"`        // as Platform.File
	SHA256     string `json:"sha256"`
	Size       int64  `json:"size"` // bytes
}

// Platform returns the archive for a platform key such as Host's, or an error with the
// keys that the release has.
func (m *Manifest) Platform(key string) (Platform, error) {
	p, ok := m.Platforms[key]
	if !ok {
		have := slices.Sorted(maps.Keys(m.Platforms))
		return Platform{}, fmt.Errorf("%s has nothing for %s (it has %s)", m.Version, key, strings.Join(have, ", "))
	}
	return p, nil
}

// Delta returns the patch, or else the delta, that makes entry from the installed file with
// digest from.
func (p Platform) Delta(entry, from string) (Delta, bool) {
	for _, deltas := range [][]Delta{p.Patches, p.Deltas} {
		if i := slices.IndexFunc(deltas, func(d Delta) bool { return d.Entry == entry && d.FromSHA256 == from }); i >= 0 {
			return deltas[i], true
		}
	}
	return Delta{}, false
}

// Place returns the place, 0 to 99, of a machine with this ID in the rollout of version: a
// rollout of N percent is for the places below N. It is a hash of both, so that each
// version's rollout begins with other machines.
func Place(id, version string) int {
	var b [128]byte // room for both, so that the gate allocates nothing for each client
	sum := sha256.Sum256(append(append(b[:0], id...), version...))
	return int(binary.BigEndian.Uint64(sum[:8]) % 100)
}

// Marshal returns the published form of m: indented, with sorted map keys and a newline
// at the end. Equal manifests give equal bytes.
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
