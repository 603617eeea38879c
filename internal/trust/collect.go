package trust

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// Get reads a file of a repository, of at most most bytes. The error is fs.ErrNotExist if
// the repository does not have the file, which is how the roots end.
type Get func(file string, most int64) ([]byte, error)

// Collect follows the client's workflow of the specification (5.3 to 5.7) and returns the
// release that the repository signs. It verifies each document before it requests what
// that names, and does not request what the State has: if the timestamp is the same, it
// requests only that and the next root.
//
// The error is an [*Error], or that of get. Collect returns the State to store beside an
// error, too. It has what was verified until then: a root that revokes a key counts even
// if the timestamp is refused, and a timestamp excludes older ones even if its snapshot is
// missing. It never has data that failed a check.
func (c Client) Collect(get Get) (*Release, State, error) {
	w, err := c.follow(get.source())
	if err != nil {
		return nil, w.state, err
	}
	file, most, err := Next(RoleTargets, w.state.Targets)
	if err != nil {
		return nil, w.state, err
	}
	raw := w.state.Manifest
	if w.named().VerifyLengthHashes(raw) != nil {
		if raw, err = get(file, most); err != nil {
			return nil, w.state, err
		}
	}
	r, err := w.release(raw)
	if err == nil {
		w.state.Manifest = raw
	}
	return r, w.state, err
}

// Check does what [Client.Collect] does with the metadata that another role collected.
func (c Client) Check(b Metadata) (*Release, State, error) {
	w, err := c.follow(b.source())
	if err != nil {
		return nil, w.state, err
	}
	r, err := w.release(b.Manifest)
	return r, w.state, err
}

// Refresh does what [Client.Collect] does, without the manifest.
func (c Client) Refresh(get Get) (State, error) {
	w, err := c.follow(get.source())
	return w.state, err
}

// Roots reads all roots of a repository, from version 1 on, and verifies that each is
// signed by its own keys and by those of the one before it.
func Roots(get Get) ([][]byte, error) {
	first, err := get("1.root.json", MaxRoot)
	if err != nil {
		return nil, err
	}
	w, err := Client{Pin: first}.start()
	if err == nil && w.set.Root.Signed.Version != 1 {
		err = &Error{Role: RoleRoot, Version: w.set.Root.Signed.Version, Reason: "1.root.json must have version 1"}
	}
	if err == nil {
		err = w.roots(get.source())
	}
	if err != nil {
		return nil, err
	}
	return append([][]byte{first}, w.state.Roots...), nil
}

// CheckRoot returns an error for a root that cannot be a pin, because too few of its
// own keys have signed it. An expired root can: newer ones may follow it.
func CheckRoot(b []byte) (Signed, error) {
	w, err := Client{Pin: b}.start()
	if err != nil {
		return Signed{}, err
	}
	root := w.set.Root.Signed
	return Signed{RoleRoot, root.Version, root.Expires}, nil
}

// Unverified reads the files that a repository has after its roots. Beside an error it
// returns what it read before. It checks the form of each file only, so it is for the
// publisher, whose keys sign the next files.
func Unverified(get Get) (b Metadata, err error) {
	at, most := TimestampFile, int64(MaxTimestamp)
	for _, step := range []struct {
		role Role
		raw  *[]byte
	}{{RoleTimestamp, &b.Timestamp}, {RoleSnapshot, &b.Snapshot}, {RoleTargets, &b.Targets}} {
		if *step.raw, err = get(at, most); err != nil {
			return b, err
		}
		if at, most, err = Next(step.role, *step.raw); err != nil {
			return b, err
		}
	}
	b.Manifest, err = get(at, most)
	return b, err
}

// source reads the metadata of a walk. version is the one that the document verified
// before names, or 0 for the timestamp, which no document names.
type source func(r Role, version int64) ([]byte, error)

func (from source) read(r Role, version int64) (raw []byte, d document, err error) {
	if raw, err = from(r, version); err == nil {
		d, err = read(r, raw)
	}
	return raw, d, err
}

// source reads from a repository. It bounds the sum of what one walk collects by
// [MaxMetadata], which is what can be handed on.
func (get Get) source() source {
	size := 0
	return func(r Role, version int64) ([]byte, error) {
		file := TimestampFile
		if r != RoleTimestamp {
			file = fmt.Sprintf("%d.%s.json", version, r)
		}
		raw, err := get(file, int64(r.Max()))
		if size += len(raw); err == nil && size > MaxMetadata {
			err = document{Signed: Signed{Role: r, Version: version}}.refuse("the metadata has more than %d bytes (hint: pin a newer root)", MaxMetadata)
		}
		return raw, err
	}
}

// source reads from collected metadata. It skips roots older than the requested one.
func (b Metadata) source() source {
	roots := b.Roots
	return func(r Role, version int64) ([]byte, error) {
		switch r {
		case RoleTimestamp:
			return b.Timestamp, nil
		case RoleSnapshot:
			return b.Snapshot, nil
		case RoleTargets:
			return b.Targets, nil
		}
		for len(roots) > 0 {
			root := roots[0]
			roots = roots[1:]
			if d, err := read(RoleRoot, root); err != nil || d.Version >= version {
				return root, nil
			}
		}
		return nil, fs.ErrNotExist
	}
}

// addRoots makes the client begin at the last root of another State of the same pin, if
// that has more roots than its own.
func (c *Client) addRoots(of State) {
	if c.State.Pin != manifest.Digest(c.Pin) {
		c.State = State{Pin: manifest.Digest(c.Pin)}
	}
	if c.State.Pin == of.Pin && len(of.Roots) > len(c.State.Roots) {
		c.State.Roots = of.Roots
	}
}

// Expired reports whether the only fault is that signatures have expired.
func Expired(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Expired
}
