// Package trust decides which release a machine believes when trust.mode is tuf.
//
// It is The Update Framework's client, https://theupdateframework.github.io/specification/latest/,
// over bytes that somebody else brought: no network, no file, no clock of its own.
// go-tuf's state machine (metadata/trustedmetadata) takes every decision; what is
// added is what a state machine of good documents leaves open: documents that two
// readers could understand differently, or that lack what go-tuf takes for granted,
// are refused before it sees them, and what is wrong is told with role and version.
//
// A repository is a directory of static files, of one product and one channel:
//
//	1.root.json 2.root.json …            each signed by the keys of the one before it, and its own
//	timestamp.json                       names the snapshot; signed every day
//	N.snapshot.json                      names the targets
//	N.targets.json                       names the manifest, and nothing else that is looked at here
//	<sha256>.client-manifest.json        the release; it names archives and deltas by digest
//
// Who does what with it:
//
//   - The fetcher is trusted with nothing. [Next] tells it which file to ask for
//     after the one it has, and how large that may be. It calls [Client.Check] with
//     a [State] of its own, so that a repository that stands still is noticed also
//     where there is nothing to install; that decides nothing for the others.
//   - The verifier calls [Client.Check] over what the fetcher brought, with the
//     swapper's State, which it may only read. That saves the swapper from hopeless
//     work and decides nothing.
//   - The swapper calls [Client.Check] again, over its own copies and with its own
//     State, stores the State that comes back, also beside an error, and only then
//     believes the manifest. [Terms] holds that against the target and the floor.
//
// The pin is the root that the operator vouched for. All trust begins there: a
// State is bound to its pin, and a State that is lost, damaged or of another pin
// costs the protection against older releases, and nothing else.
package trust

import (
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

// What a client takes at most, in bytes.
const (
	MaxRoot      = 512_000
	MaxTimestamp = 16 << 10
	MaxSnapshot  = 2_000_000
	MaxTargets   = 5_000_000
	// MaxRotations is how many roots may follow the pin.
	MaxRotations = 256
	// MaxMetadata is for a bundle as JSON. The largest timestamp, snapshot and targets
	// take 9.4 MB of it, as base64; the rest is enough for MaxRotations roots of the
	// size that they really have, 2 to 19 kB. As many roots of MaxRoot would be 175 MB.
	MaxMetadata = 16 << 20
)

// TimestampFile is where a client begins, after the roots. It is the only file of
// a repository that changes.
const TimestampFile = "timestamp.json"

// Max is the most bytes that metadata of the role may have.
func (r Role) Max() int {
	switch r {
	case RoleRoot:
		return MaxRoot
	case RoleTimestamp:
		return MaxTimestamp
	case RoleSnapshot:
		return MaxSnapshot
	}
	return MaxTargets
}

// Metadata is what was found in a repository.
type Metadata struct {
	Roots     [][]byte `json:"roots"` // in the order of their versions; those up to the last one known are passed over
	Timestamp []byte   `json:"timestamp"`
	Snapshot  []byte   `json:"snapshot"`
	Targets   []byte   `json:"targets"`
	Manifest  []byte   `json:"-"` // is handed on in a file of its own
}

// State is what a client remembers between two checks. The zero State is that of
// a machine which has seen nothing but the pin.
//
// None of it is a secret. Whoever can write it can take back the protection
// against older releases and revoked keys, so each role keeps its own where only
// that role writes.
type State struct {
	Pin       string    `json:"pin"`   // sha256 of the pinned root; the rest is worth nothing under another
	Roots     [][]byte  `json:"roots"` // that followed the pin
	Timestamp []byte    `json:"timestamp"`
	Snapshot  []byte    `json:"snapshot"`
	Targets   []byte    `json:"targets"`
	Seen      time.Time `json:"seen"` // see Client.now
}

// Client is what one check starts from.
type Client struct {
	Pin   []byte // the root that the operator vouched for
	State State
	Clock time.Time // what the machine's clock says
	Built time.Time // of the program; it cannot be earlier than that
}

// Release is a manifest that the repository's keys vouch for.
type Release struct {
	Manifest *manifest.Manifest
	Raw      []byte   // its own bytes
	Signed   []Signed // root, timestamp, snapshot, targets: what vouches for it
}

// Signed is the metadata of one role.
type Signed struct {
	Role    Role
	Version int64
	Expires time.Time
}

func (s Signed) String() string { return fmt.Sprintf("%s v%d", s.Role, s.Version) }

// Error says what was refused, and why: "timestamp v4: expired on …".
type Error struct {
	Role    Role
	Version int64 // 0: not known
	Expired bool  // it was good once: no update until there is a newer one, and nobody attacked anything
	Reason  string
}

func (e *Error) Error() string {
	if e.Version == 0 {
		return string(e.Role) + ": " + e.Reason
	}
	return Signed{Role: e.Role, Version: e.Version}.String() + ": " + e.Reason
}

// now is the time by which metadata expires: the latest of the clock, the last
// time seen and the program's build, so that a clock set back (or one that starts
// at 1970) does not bring an old release back to life.
//
// A clock that is ahead for a while must not end all updates when it is right
// again. So a time counts as seen only if everything that was verified at it had
// not expired at it ([Client.Check]). Seen is therefore never later than the
// earliest expiry of some good set of metadata, and the repository's next
// timestamp, signed with the same lifetime after that one, is still good at it. A
// clock in 2100 finds everything expired, and leaves nothing behind.
func (c Client) now() time.Time {
	now := c.Clock
	for _, t := range []time.Time{c.State.Seen, c.Built} {
		if t.After(now) {
			now = t
		}
	}
	return now.UTC()
}
