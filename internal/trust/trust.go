// Package trust decides which release a machine accepts when trust.mode is tuf.
//
// It is a client of The Update Framework,
// https://theupdateframework.github.io/specification/latest/. It downloads nothing:
// its callers read the files. go-tuf's state machine (metadata/trustedmetadata)
// makes every decision. This package checks what go-tuf assumes: it refuses
// documents that two readers could understand differently or that lack a field
// which go-tuf dereferences, and it names role and version in every error.
//
// A repository is a directory of static files, of one product and one channel:
//
//	1.root.json 2.root.json …            each signed by the keys of the one before it, and its own
//	timestamp.json                       names the snapshot; signed every day
//	N.snapshot.json                      names the targets
//	N.targets.json                       names the manifest; other names in it are ignored
//	<sha256>.client-manifest.json        the release; it names archives and deltas by digest
//
// Three roles verify the same release by a [Verifier], and none relies on another:
//
//   - The fetcher downloads with [Verifier.Collect], from a [State] of its own, so it
//     notices an expired or unchanged repository even if there is nothing to install.
//   - The verifier calls [Verifier.Verify] over what the fetcher downloaded, with the
//     swapper's State, which it may only read. That saves the swapper useless work.
//   - The swapper calls [Verifier.Verify] over its own copies, with its own State. It
//     stores the State that comes back, beside an error too, and accepts the manifest
//     only then.
//
// All trust begins at the pin, the root that the operator vouched for. A State belongs
// to its pin. Without a State, or with one that is damaged or of another pin, the machine
// loses only the protection against older releases.
package trust

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// Role is one of TUF's four top-level roles.
type Role string

const (
	RoleRoot      Role = "root"
	RoleTimestamp Role = "timestamp"
	RoleSnapshot  Role = "snapshot"
	RoleTargets   Role = "targets"
)

// The largest metadata that a client accepts, in bytes.
const (
	MaxRoot      = 512_000
	MaxTimestamp = 16 << 10
	MaxSnapshot  = 2_000_000
	MaxTargets   = 5_000_000
	// MaxRotations is how many roots may follow the pinned one.
	MaxRotations = 256
	// MaxMetadata bounds what [Metadata.Encode] makes, and what one walk collects. The
	// largest timestamp, snapshot and targets take 9.4 MB of it, as base64; the rest is
	// enough for MaxRotations roots of 2 to 19 kB, as real ones have. As many roots of
	// MaxRoot would be 175 MB.
	MaxMetadata = 16 << 20
)

// TimestampFile is the first file that a client reads after the roots. It is the
// only file of a repository that changes.
const TimestampFile = "timestamp.json"

// Max returns the largest size of the role's metadata, in bytes.
func (r Role) Max() int {
	return map[Role]int{RoleRoot: MaxRoot, RoleTimestamp: MaxTimestamp, RoleSnapshot: MaxSnapshot, RoleTargets: MaxTargets}[r]
}

// Metadata holds the documents of a repository, as one role hands them on to the next.
type Metadata struct {
	Roots     [][]byte `json:"roots"` // in the order of their versions; a client ignores those that it has
	Timestamp []byte   `json:"timestamp"`
	Snapshot  []byte   `json:"snapshot"`
	Targets   []byte   `json:"targets"`
	Manifest  []byte   `json:"-"` // handed on in a file of its own
}

// Encode returns the metadata as JSON, without the manifest. More than
// [MaxMetadata] bytes are an error.
func (b Metadata) Encode() ([]byte, error) {
	raw, err := json.Marshal(b)
	if err == nil && len(raw) > MaxMetadata {
		err = fmt.Errorf("the metadata takes more than %d bytes (hint: pin a newer root)", MaxMetadata)
	}
	return raw, err
}

// Decode reads what Encode made, and adds the manifest.
func Decode(raw, manifest []byte) (Metadata, error) {
	var b Metadata
	if err := json.Unmarshal(raw, &b); err != nil {
		return b, errors.New("the metadata is damaged")
	}
	b.Manifest = manifest
	return b, nil
}

// State is what a client remembers between two checks. The zero State is that of a machine
// that knows only the pin.
//
// A State is not secret. A process that can write it can remove the protection against
// older releases and revoked keys, so each role stores its own State where only that role
// can write.
type State struct {
	Pin      string    `json:"pin"` // sha256 of the pinned root; the other fields are valid only for that pin
	Metadata           // with all roots that follow the pinned one
	Manifest []byte    `json:"manifest,omitempty"` // the one that the targets name; only [Client.Collect] stores and uses it
	Seen     time.Time `json:"seen"`               // the last time seen; see Client.now
}

// Client is what one check starts from.
type Client struct {
	Pin   []byte // the root that the operator vouched for
	State State
	Clock time.Time // the time by the machine's clock
	Built time.Time // when the program was built; it cannot be earlier than that
}

// Release is a manifest signed with the repository's keys.
type Release struct {
	Manifest *manifest.Manifest
	Raw      []byte   // the manifest's bytes as published
	Signed   []Signed // the root, timestamp, snapshot and targets that sign it
}

// Signed is the version and expiry of one role's metadata.
type Signed struct {
	Role    Role
	Version int64
	Expires time.Time
}

func (s Signed) String() string { return fmt.Sprintf("%s v%d", s.Role, s.Version) }

// Error says which document was refused, and why: "timestamp v4: expired on …".
type Error struct {
	Role    Role
	Version int64 // 0 if unknown
	Expired bool  // its signatures are valid but expired: not an attack, but no update before newer ones
	Reason  string
}

func (e *Error) Error() string {
	if e.Version == 0 {
		return string(e.Role) + ": " + e.Reason
	}
	return Signed{Role: e.Role, Version: e.Version}.String() + ": " + e.Reason
}

// now returns the time by which metadata expires: the latest of the clock, the last
// time seen and the program's build. So a clock that was set back, or starts at 1970,
// does not make expired metadata valid again.
//
// A clock that is ahead for a while, in 2100, must not end all updates once it is right
// again. So a time counts as seen only if no metadata had expired at that time. The
// repository's next timestamp, signed later with the same lifetime, is then valid at that
// time, too.
func (c Client) now() time.Time {
	now := c.Clock
	for _, t := range []time.Time{c.State.Seen, c.Built} {
		if t.After(now) {
			now = t
		}
	}
	return now.UTC()
}
