package trust

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// Check follows the client's workflow of the specification (5.3 to 5.7) over the
// bundle and returns the release that the repository vouches for, or an [*Error].
//
// The State to store comes back in both cases. It holds what was verified, as far
// as that went: a root that revokes a key counts even if the rest of the bundle is
// refused, and a timestamp, once seen, bars older ones. Nothing that failed a
// check is ever in it.
func (c Client) Check(b Metadata) (*Release, State, error) {
	w, err := c.follow(b)
	if err != nil {
		return nil, w.state, err
	}
	r, err := w.release(b.Manifest)
	return r, w.state, err
}

// Refresh is Check of a repository's metadata alone, whatever it names.
func (c Client) Refresh(b Metadata) (State, error) {
	w, err := c.follow(b)
	return w.state, err
}

// follow goes as far as the metadata leads.
func (c Client) follow(b Metadata) (*walk, error) {
	w, err := c.start()
	if err != nil {
		return &walk{state: c.State}, err
	}
	for _, step := range []func(Metadata) error{w.roots, w.timestamp, w.snapshot, w.targets} {
		if err := step(b); err != nil {
			return w, err
		}
	}
	// All of it was good at a time that is not before the clock: see now.
	if c.Clock.After(w.state.Seen) {
		w.state.Seen = c.Clock.UTC()
	}
	return w, nil
}

// walk is one pass through the workflow.
type walk struct {
	set   *trustedmetadata.TrustedMetadata
	state State
}

// start goes from the pin to the last root that the State knows.
func (c Client) start() (*walk, error) {
	w := &walk{state: c.State}
	d, err := read(RoleRoot, c.Pin)
	if err != nil {
		return nil, err
	}
	if w.set, err = trustedmetadata.New(c.Pin); err != nil {
		return nil, w.explain(d, err)
	}
	w.set.RefTime = c.now()
	digest := manifest.Digest(c.Pin)
	if w.state.Pin != digest {
		w.state = State{Pin: digest}
		w.set.RefTime = Client{Clock: c.Clock, Built: c.Built}.now()
	}
	known := w.state.Roots
	w.state.Roots = nil
	if err := w.roots(Metadata{Roots: known}); err != nil {
		// A State that does not hold is no State.
		return Client{Pin: c.Pin, Clock: c.Clock, Built: c.Built}.start()
	}
	return w, nil
}

func (w *walk) roots(b Metadata) error {
	for _, raw := range b.Roots {
		d, err := read(RoleRoot, raw)
		if err != nil {
			return err
		}
		if d.Version <= w.set.Root.Signed.Version {
			continue
		}
		if len(w.state.Roots) == MaxRotations {
			return d.refuse("more than %d roots follow the pinned one (hint: pin a newer root)", MaxRotations)
		}
		if _, err := w.set.UpdateRoot(raw); err != nil {
			return w.explain(d, err)
		}
		w.state.Roots = append(w.state.Roots, raw) // never the caller's: start made it empty
	}
	return nil
}

func (w *walk) timestamp(b Metadata) error {
	if root := w.set.Root.Signed; root.IsExpired(w.set.RefTime) {
		return w.explain(document{Signed: Signed{RoleRoot, root.Version, root.Expires}}, &metadata.ErrExpiredMetadata{})
	}
	// What was trusted before bars older ones; that it expired or was signed by a
	// key that a root has revoked since is no reason to stop.
	if _, err := read(RoleTimestamp, w.state.Timestamp); err == nil {
		w.set.UpdateTimestamp(w.state.Timestamp)
	}
	d, err := read(RoleTimestamp, b.Timestamp)
	if err != nil {
		return err
	}
	_, err = w.set.UpdateTimestamp(b.Timestamp)
	switch {
	case errors.Is(err, &metadata.ErrEqualVersionNumber{}):
		return nil // the known one counts, whatever this one says
	case err != nil:
		return w.explain(d, err)
	}
	w.state.Timestamp = b.Timestamp
	return nil
}

func (w *walk) snapshot(b Metadata) error {
	if _, err := read(RoleSnapshot, w.state.Snapshot); err == nil {
		if _, err := w.set.UpdateSnapshot(w.state.Snapshot, true); err == nil {
			return nil
		}
	}
	d, err := read(RoleSnapshot, b.Snapshot)
	if err != nil {
		return err
	}
	if _, err := w.set.UpdateSnapshot(b.Snapshot, false); err != nil {
		return w.explain(d, err)
	}
	w.state.Snapshot = b.Snapshot
	return nil
}

func (w *walk) targets(b Metadata) error {
	if _, err := read(RoleTargets, w.state.Targets); err == nil {
		if _, err := w.set.UpdateTargets(w.state.Targets); err == nil {
			return nil
		}
	}
	d, err := read(RoleTargets, b.Targets)
	if err != nil {
		return err
	}
	if _, err := w.set.UpdateTargets(b.Targets); err != nil {
		return w.explain(d, err)
	}
	w.state.Targets = b.Targets
	return nil
}

// release holds the manifest against the targets that name it.
func (w *walk) release(raw []byte) (*Release, error) {
	var (
		root      = w.set.Root.Signed
		timestamp = w.set.Timestamp.Signed
		snapshot  = w.set.Snapshot.Signed
		targets   = w.set.Targets[metadata.TARGETS].Signed
	)
	d := document{Signed: Signed{RoleTargets, targets.Version, targets.Expires}}
	file := targets.Targets[manifest.FileName]
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

// explain makes go-tuf's refusal of d one that a person understands.
func (w *walk) explain(d document, err error) error {
	e := d.refuse("%s", reason(err))
	var unsigned *metadata.ErrUnsignedMetadata
	var other *metadata.ErrRepository
	switch {
	case errors.As(err, &unsigned):
		_, counts, _ := strings.Cut(unsigned.Msg, "not enough signatures, ")
		e.Reason = fmt.Sprintf("too few valid signatures of the keys that a root names for it (%s)", counts)
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
		return w.expired(d)
	case errors.Is(err, &metadata.ErrBadVersionNumber{}):
		e.Reason = w.badVersion(d)
	case errors.Is(err, &metadata.ErrLengthOrHashMismatch{}):
		e.Reason = "its digest or length is not the one that was signed for it"
	case errors.As(err, &other):
		e.Reason = other.Msg
	}
	return e
}

// expired tells of the document, or of the timestamp before it: go-tuf looks at
// that once more when there was no newer one.
func (w *walk) expired(d document) error {
	s := d.Signed
	if t := w.set.Timestamp; d.Role == RoleSnapshot && t != nil && t.Signed.IsExpired(w.set.RefTime) {
		s = Signed{RoleTimestamp, t.Signed.Version, t.Signed.Expires}
	}
	return &Error{Role: s.Role, Version: s.Version, Expired: true,
		Reason: fmt.Sprintf("expired on %s (it is %s here)", s.Expires.UTC().Format(time.RFC3339), w.set.RefTime.Format(time.RFC3339))}
}

// badVersion says which version was expected, and who did.
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
