package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// follow verifies the metadata of all four roles. Beside an error it returns the walk
// until then, with the State.
func (c Client) follow(from source) (*walk, error) {
	w, err := c.start()
	if err != nil {
		return &walk{state: c.State}, err
	}
	for _, step := range []func(source) error{w.roots, w.timestamp, w.snapshot, w.targets} {
		if err := step(from); err != nil {
			return w, err
		}
	}
	// No metadata had expired at RefTime, which is not before the clock: see [Client.now].
	if c.Clock.After(w.state.Seen) {
		w.state.Seen = c.Clock.UTC()
	}
	return w, nil
}

// walk is one pass through the workflow of the specification.
type walk struct {
	set   *trustedmetadata.TrustedMetadata
	state State
}

// start verifies the pin and the roots of the State.
func (c Client) start() (*walk, error) {
	if digest := manifest.Digest(c.Pin); c.State.Pin != digest {
		c.State = State{Pin: digest}
	}
	w := &walk{state: c.State}
	d, err := read(RoleRoot, c.Pin)
	if err != nil {
		return nil, err
	}
	if w.set, err = trustedmetadata.New(c.Pin); err != nil {
		return nil, w.explain(d, err)
	}
	w.set.RefTime = c.now()
	known := w.state.Roots
	w.state.Roots = nil
	if err := w.roots(Metadata{Roots: known}.source()); err != nil {
		// The stored State is damaged: begin at the pin.
		return Client{Pin: c.Pin, Clock: c.Clock, Built: c.Built}.start()
	}
	return w, nil
}

func (w *walk) roots(from source) error {
	for {
		raw, d, err := from.read(RoleRoot, w.set.Root.Signed.Version+1)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(w.state.Roots) == MaxRotations {
			return d.refuse("more than %d roots follow the pinned one (hint: pin a newer root)", MaxRotations)
		}
		if _, err := w.set.UpdateRoot(raw); err != nil {
			return w.explain(d, err)
		}
		w.state.Roots = append(w.state.Roots, raw) // never the caller's: start made it empty
	}
}

func (w *walk) timestamp(from source) error {
	if root := w.set.Root.Signed; root.IsExpired(w.set.RefTime) {
		return w.expired(Signed{RoleRoot, root.Version, root.Expires})
	}
	// The stored timestamp bars older ones. It is no error if it has expired or if a
	// root has revoked its key since.
	if _, err := read(RoleTimestamp, w.state.Timestamp); err == nil {
		w.set.UpdateTimestamp(w.state.Timestamp)
	}
	raw, d, err := from.read(RoleTimestamp, 0)
	if err != nil {
		return err
	}
	_, err = w.set.UpdateTimestamp(raw)
	if errors.Is(err, &metadata.ErrEqualVersionNumber{}) { // the stored one counts, even if the content differs
		if known := w.set.Timestamp.Signed; known.IsExpired(w.set.RefTime) {
			return w.expired(Signed{RoleTimestamp, known.Version, known.Expires})
		}
		return nil
	}
	if err != nil {
		return w.explain(d, err)
	}
	w.state.Timestamp = raw
	return nil
}

func (w *walk) snapshot(from source) error {
	version := w.set.Timestamp.Signed.Meta["snapshot.json"].Version
	return w.storedOr(from, RoleSnapshot, version, &w.state.Snapshot, func(raw []byte, stored bool) error {
		_, err := w.set.UpdateSnapshot(raw, stored)
		return err
	})
}

func (w *walk) targets(from source) error {
	version := w.set.Snapshot.Signed.Meta["targets.json"].Version
	return w.storedOr(from, RoleTargets, version, &w.state.Targets, func(raw []byte, _ bool) error {
		_, err := w.set.UpdateTargets(raw)
		return err
	})
}

// storedOr accepts the stored document of a role, or else the one that from reads.
func (w *walk) storedOr(from source, r Role, version int64, doc *[]byte, accept func(raw []byte, stored bool) error) error {
	if _, err := read(r, *doc); err == nil && accept(*doc, true) == nil {
		return nil
	}
	raw, d, err := from.read(r, version)
	if err != nil {
		return err
	}
	if err := accept(raw, false); err != nil {
		return w.explain(d, err)
	}
	*doc = raw
	return nil
}

// named returns the targets' description of the manifest, or nil if they name none.
func (w *walk) named() *metadata.TargetFiles {
	return w.set.Targets[metadata.TARGETS].Signed.Targets[manifest.FileName]
}

// release compares the manifest with the targets that name it.
func (w *walk) release(raw []byte) (*Release, error) {
	var (
		root      = w.set.Root.Signed
		timestamp = w.set.Timestamp.Signed
		snapshot  = w.set.Snapshot.Signed
		targets   = w.set.Targets[metadata.TARGETS].Signed
	)
	d := document{Signed: Signed{RoleTargets, targets.Version, targets.Expires}}
	file := w.named()
	switch {
	case file == nil:
		return nil, d.refuse("it names no %s", manifest.FileName)
	case len(raw) > manifest.MaxSize:
		return nil, d.refuse("%s has more than %d bytes", manifest.FileName, manifest.MaxSize)
	case file.VerifyLengthHashes(raw) != nil:
		return nil, d.refuse("%s is not the one that it names", manifest.FileName)
	}
	m, err := manifest.Parse(raw)
	if err != nil {
		return nil, d.refuse("%s: %v", manifest.FileName, err)
	}
	return &Release{Manifest: m, Raw: raw, Signed: []Signed{
		{RoleRoot, root.Version, root.Expires},
		{RoleTimestamp, timestamp.Version, timestamp.Expires},
		{RoleSnapshot, snapshot.Version, snapshot.Expires},
		d.Signed,
	}}, nil
}

// explain returns go-tuf's refusal of d in plain words.
func (w *walk) explain(d document, err error) error {
	e := d.refuse("%s", reason(err))
	var unsigned *metadata.ErrUnsignedMetadata
	var other *metadata.ErrRepository
	switch {
	case errors.As(err, &unsigned):
		_, counts, _ := strings.Cut(unsigned.Msg, "not enough signatures, ")
		e.Reason = fmt.Sprintf("too few valid signatures of the keys that a root names for it (%s)", counts)
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
		return w.expired(d.Signed)
	case errors.Is(err, &metadata.ErrBadVersionNumber{}):
		e.Reason = w.badVersion(d)
	case errors.Is(err, &metadata.ErrLengthOrHashMismatch{}):
		e.Reason = "its digest or length is not the one that was signed for it"
	case errors.As(err, &other):
		e.Reason = other.Msg
	}
	return e
}

func (w *walk) expired(s Signed) error {
	return &Error{Role: s.Role, Version: s.Version, Expired: true,
		Reason: fmt.Sprintf("expired on %s (it is %s here)", s.Expires.UTC().Format(time.RFC3339), w.set.RefTime.Format(time.RFC3339))}
}

// badVersion says which version was expected, and which document names it.
func (w *walk) badVersion(d document) string {
	switch t := w.set.Timestamp; d.Role {
	case RoleRoot:
		return fmt.Sprintf("it does not follow root v%d", w.set.Root.Signed.Version)
	case RoleTimestamp:
		if d.Version < t.Signed.Version {
			return fmt.Sprintf("it is older than timestamp v%d, which was here before", t.Signed.Version)
		}
		return fmt.Sprintf("it names snapshot v%d, older than v%d, which was here before", d.names, t.Signed.Meta["snapshot.json"].Version)
	case RoleSnapshot:
		if wants := t.Signed.Meta["snapshot.json"].Version; d.Version != wants {
			return fmt.Sprintf("the timestamp names snapshot v%d", wants)
		}
		return fmt.Sprintf("it names targets v%d, older than v%d, which was here before", d.names, w.set.Snapshot.Signed.Meta["targets.json"].Version)
	}
	return fmt.Sprintf("the snapshot names targets v%d", w.set.Snapshot.Signed.Meta["targets.json"].Version)
}
