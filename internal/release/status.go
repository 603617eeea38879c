package release

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// Status describes a signed directory, of which only the roots were verified.
type Status struct {
	Roles    []RoleStatus
	Manifest *manifest.Manifest // nil before the first publication
	Draft    *Draft             // nil: none
}

// Draft is a root that lacks signatures.
type Draft struct {
	File    string
	Changes []string // what it changes in the current root
	Err     error    // why it cannot be signed
}

// RoleStatus is one role's metadata and keys.
type RoleStatus struct {
	trust.Signed // Version 0: not signed yet
	Keys         []string
	Threshold    int
}

// Of returns the threshold in the form "2 of 3".
func (r RoleStatus) Of() string { return fmt.Sprintf("%d of %d", r.Threshold, len(r.Keys)) }

// NextToExpire returns the role that expires first, of those that are signed.
func (s *Status) NextToExpire() RoleStatus {
	signed := slices.DeleteFunc(slices.Clone(s.Roles), func(r RoleStatus) bool { return r.Version == 0 })
	return slices.MinFunc(signed, func(a, b RoleStatus) int { return a.Expires.Compare(b.Expires) })
}

var errNotSigned = errors.New("it is not a signed directory (hint: machinemon-release init)")

// ReadStatus reads the status of a signed directory, and changes nothing in it.
func ReadStatus(path string, now time.Time) (_ *Status, err error) {
	defer named(&err, "read "+path)
	r, err := readSigned(path)
	if err == nil && r == nil {
		err = errNotSigned
	}
	if err != nil {
		return nil, err
	}
	s := r.status()
	if r.now.Manifest != nil {
		if s.Manifest, err = manifest.Parse(r.now.Manifest); err != nil {
			return nil, fmt.Errorf("the manifest: %w", err)
		}
	}
	draft, unusable := readDraft(path, r.root, now)
	if draft != nil || unusable != nil {
		s.Draft = &Draft{File: filepath.Join(path, draftFile), Err: unusable}
	}
	if draft != nil {
		s.Draft.Changes = changes(&r.root.Signed, &draft.Signed)
	}
	return s, nil
}

func (r *signedDir) status() *Status {
	s := &Status{}
	add := func(role trust.Role, version int64, expires time.Time) {
		named := r.root.Signed.Roles[string(role)]
		s.Roles = append(s.Roles, RoleStatus{trust.Signed{Role: role, Version: version, Expires: expires}, named.KeyIDs, named.Threshold})
	}
	add(trust.RoleRoot, r.root.Signed.Version, r.root.Signed.Expires)
	if r.timestamp == nil {
		for _, role := range []trust.Role{trust.RoleTargets, trust.RoleSnapshot, trust.RoleTimestamp} {
			add(role, 0, time.Time{})
		}
		return s
	}
	add(trust.RoleTargets, r.targets.Signed.Version, r.targets.Signed.Expires)
	add(trust.RoleSnapshot, r.snapshot.Signed.Version, r.snapshot.Signed.Expires)
	add(trust.RoleTimestamp, r.timestamp.Signed.Version, r.timestamp.Signed.Expires)
	return s
}
