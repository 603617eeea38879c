package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/machinemon/machinemon-update/internal/dirtree"
	"github.com/machinemon/machinemon-update/internal/durable"
)

// keep is how many attempts each role remembers, and how many rejections the swapper
// remembers. The manual page says how much disk space that may take.
const keep = 50

// Offer is the release that the last successful check found at the source.
type Offer struct {
	Version  string    `json:"version"`
	Sequence int64     `json:"sequence,omitempty"`
	Checked  time.Time `json:"checked"`
	Unsigned bool      `json:"unsigned"` // trust mode "checksum": only the transport authenticates it
	// NotYet is why a staged rollout does not include this machine yet.
	NotYet string `json:"not_yet,omitempty"`
	// Fingerprint and Archive are what a [Rejection] of the release would contain.
	Fingerprint string `json:"digest,omitempty"`
	Archive     string `json:"archive"`
	// Earlier has the SHA-256 of files of earlier releases, from which the release has
	// deltas.
	Earlier []string `json:"earlier,omitempty"`
	// Unit is the unit's own file, if the manifest lists it.
	Unit *File `json:"unit,omitempty"`
	// LeftOut is as in [Release], as far as the manifest shows it.
	LeftOut map[string]string `json:"left_out,omitempty"`
	// Inside is the key of the release's [Inside] if only its archive shows what is left
	// out; else "".
	Inside string `json:"inside,omitempty"`
	// Signed is the metadata that signs the release; empty in trust mode "checksum".
	Signed []Signed `json:"signed,omitempty"`
}

// Signed is the metadata of one role of a signed repository.
type Signed struct {
	Role    string    `json:"role"`
	Version int64     `json:"version"`
	Expires time.Time `json:"expires"`
}

// File is an installed file.
type File struct {
	To     string `json:"to"`
	SHA256 string `json:"sha256"`
	Backup string `json:"backup,omitempty"` // of a previous release: the path of its bytes
	// Size is that of Backup in bytes; 0 if it is not known.
	Size int64 `json:"size,omitempty"`
	// Created says that an update created the file.
	Created bool `json:"created,omitempty"`
	// Private says that not all users may read the file, and thus its digest.
	Private bool `json:"private,omitempty"`
	// Tree says that this is a directory, and SHA256 its digest in the terms of package
	// tree; nil for a file.
	Tree *Directory `json:"tree,omitempty"`
}

// Directory is what is recorded of a tree that is installed.
type Directory struct {
	Keep []string `json:"keep,omitempty"` // the names below it that are no part of its digest
	// Mark is that of package dirtree, of the installed directory; "" if it is not known.
	Mark string `json:"mark,omitempty"`
	// Releases is the directory that has each release in a directory of its own. To is a
	// link to one of these then. It is "" if To is the tree itself.
	Releases string `json:"releases,omitempty"`
}

// Hidden reports whether the file's digest is not shown to this user.
func (f File) Hidden() bool { return f.SHA256 == hiddenSum }

// Dir returns the directory in which the bytes of the file are, or those of its releases.
func (f File) Dir() string {
	if f.Tree != nil && f.Tree.Releases != "" {
		return f.Tree.Releases
	}
	return filepath.Dir(f.To)
}

// tree returns the path of a tree. The backup of one is no link.
func (f File) tree() string {
	if f.Tree.Releases != "" {
		if dir, err := dirtree.Follow(f.To); err == nil {
			return dir
		}
	}
	return f.To
}

// Digest returns the digest of what is at the file's place; "" if there is nothing.
func (f File) Digest() (sum string, err error) {
	if durable.OfUser(f.To) {
		return "", fmt.Errorf("root does not read %s, which is in a user's directory", f.To)
	}
	if f.Tree != nil {
		sum, err = dirtree.Digest(f.tree(), f.Tree.Keep)
	} else {
		sum, err = durable.FileSHA256(f.To)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return sum, err
}

// Marked returns the mark of the tree that is at the file's place now.
func (f File) Marked() (string, error) { return dirtree.Mark(f.tree(), f.Tree.Keep) }

// Same reports whether what is at the file's place is what the release left there. Root
// does not look into a user's directory: there, only the swap notices a change.
func (f File) Same() bool {
	if durable.OfUser(f.To) {
		return true
	}
	if f.Tree != nil && f.Tree.Mark != "" {
		if mark, err := f.Marked(); err == nil && mark == f.Tree.Mark {
			return true
		}
	}
	sum, err := f.Digest()
	return err == nil && sum == f.SHA256
}

// Release is what an attempt installed.
type Release struct {
	Version  string    `json:"version"`
	Sequence int64     `json:"sequence,omitempty"`
	Archive  string    `json:"archive,omitempty"` // sha256 of its archive; "" if unknown
	Files    []File    `json:"files"`
	Since    time.Time `json:"since"`
	Unsigned bool      `json:"unsigned"`
	// Unproven is why no probe proves that the release serves; "" if one does, or if there
	// are no probes.
	Unproven string `json:"unproven,omitempty"`
	Listed
}

// File returns the file installed at a path, or nil if there is none or r is nil.
func (r *Release) File(to string) *File {
	if r != nil {
		if i := slices.IndexFunc(r.Files, func(f File) bool { return f.To == to }); i >= 0 {
			return &r.Files[i]
		}
	}
	return nil
}

// Status is a role's status.json. The fetcher writes Offer; the verifier writes Inside; the
// swapper writes Installed, Previous, Rejected, Held, Source, Probes and Foreign, and both it
// and the fetcher Deferred.
type Status struct {
	Format   int             `json:"format"`
	Attempts newest[Attempt] `json:"attempts,omitempty"` // oldest first
	Offer    *Offer          `json:"offer,omitempty"`
	// Deferred is why unattended attempts did not install when the last one asked.
	Deferred  *Deferral         `json:"deferred,omitempty"`
	Inside    *Inside           `json:"inside,omitempty"`
	Installed *Release          `json:"installed,omitempty"`
	Previous  *Release          `json:"previous,omitempty"`
	Rejected  newest[Rejection] `json:"rejected,omitempty"`
	Held      *Hold             `json:"held,omitempty"`
	Source    *Source           `json:"source,omitempty"`
	// Probes maps the key of each of the target's probes to when it last passed here.
	Probes map[string]time.Time `json:"probes,omitempty"`
	// Foreign is what root last found in the directory of each other role.
	Foreign map[Role]Foreign `json:"foreign,omitempty"`
}

// newest is a list of which only the newest [keep] items are read: a list of millions of
// small items, which a taken-over worker could write, would fill the memory of every reader.
type newest[T any] []T

// UnmarshalJSON implements [json.Unmarshaler].
func (l *newest[T]) UnmarshalJSON(data []byte) error {
	var all []json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	*l = nil
	for _, raw := range all[max(0, len(all)-keep):] {
		var item T
		if err := json.Unmarshal(raw, &item); err != nil {
			return err
		}
		*l = append(*l, item)
	}
	return nil
}

// RollbackFailure returns why the rollback of an attempt failed according to its record,
// or "" if it did not fail.
func (s *Status) RollbackFailure(attempt AttemptID) string {
	for _, a := range s.Attempts {
		if a.ID == attempt && a.Result == ResultRollbackFailed {
			return a.Reason
		}
	}
	return ""
}

// Hold is the operator's decision not to update this target.
type Hold struct {
	Since time.Time `json:"since"`
}

// Deferral is why unattended attempts did not install what is available, of what only an
// attempt can ask.
type Deferral struct {
	Asked  time.Time `json:"asked"`
	Reason string    `json:"reason"`
}

// Source is what root read from the file of the target's source.url_from at the operator's
// last check. The fetcher uses it because it may not read that file.
type Source struct {
	From            string    `json:"from"` // the source.url_from that led here
	URL             string    `json:"url"`
	InsecureSkipTLS bool      `json:"insecure_skip_tls"`
	Since           time.Time `json:"since"`
}

// Uses reports whether this source is the recorded one.
func (s *Status) Uses(from, url string, insecure bool) bool {
	return s.Source != nil && s.Source.From == from && s.Source.URL == url && s.Source.InsecureSkipTLS == insecure
}

// Use records a source. Since changes only if the source was another one.
func (s *Status) Use(from, url string, insecure bool) {
	if !s.Uses(from, url, insecure) {
		s.Source = &Source{From: from, URL: url, InsecureSkipTLS: insecure, Since: time.Now().UTC()}
	}
}

// Status returns a role's status. A status that was never written is empty.
func (t Tree) Status(r Role, target string) (Status, error) {
	var s Status
	err := readJSON(t.status(r, target), &s)
	if errors.Is(err, fs.ErrNotExist) {
		return Status{Format: Format}, nil
	}
	if err == nil && r == RoleSwap {
		var p private
		p, err = t.privates(target)
		s.show(p)
	}
	return s, err
}

// Update changes a role's own status durably. It renames a damaged status file, which
// would otherwise prevent all further records.
func (t Tree) Update(r Role, target string, change func(*Status)) error {
	s, err := t.Status(r, target)
	if errors.Is(err, ErrDamaged) {
		path := t.status(r, target)
		if err := os.Rename(path, path+".damaged"); err != nil {
			return fmt.Errorf("cannot put %s aside: %w", path, durable.Cause(err))
		}
		s, err = Status{}, nil
	}
	if err != nil {
		return err
	}
	change(&s)
	return t.SetStatus(r, target, s)
}

// SetStatus writes a role's status durably. All users may read it, except what private.json
// has of it.
func (t Tree) SetStatus(r Role, target string, s Status) error {
	s.Attempts = s.Attempts[max(0, len(s.Attempts)-keep):]
	s.Rejected = s.Rejected[max(0, len(s.Rejected)-keep):]
	s.Format = Format
	if r != RoleSwap {
		return writeJSON(t.status(r, target), s)
	}
	old, err := t.privates(target)
	if err != nil {
		return err
	}
	p := old.clone()
	public := s.hide(p)
	t.prune(target, p, s)
	if !p.empty() {
		if err := t.store(target, p, old); err != nil {
			return err
		}
	}
	if err := writeJSON(t.status(r, target), public); err != nil {
		return err
	}
	return t.dropPrivate(target, p, old)
}

// Record adds an attempt's record and replaces an earlier one of the same ID. An
// unattended attempt that ended like the unattended one before it takes that one's place:
// a year of "already current", or a month of expired signatures, must not displace other
// records. Other failures stay, because the back-off counts them.
func (s *Status) Record(a Attempt) {
	if a.Time.IsZero() {
		a.Time = time.Now().UTC()
	}
	a.Reason, a.Warning, a.NoDelta, a.Unhealthy = Line(a.Reason), Line(a.Warning), Line(a.NoDelta), Line(a.Unhealthy)
	s.Attempts = slices.DeleteFunc(s.Attempts, func(b Attempt) bool { return a.ID == b.ID })
	if n := len(s.Attempts); n > 0 && !a.Failed() && a.Origin.unattended() && s.Attempts[n-1].Origin.unattended() {
		b := s.Attempts[n-1]
		b.ID, b.Time, b.Origin = a.ID, a.Time, a.Origin
		if a.Expired && b.Expired {
			b.Reason = a.Reason // because the text contains the time
		}
		if reflect.DeepEqual(a, b) {
			s.Attempts = s.Attempts[:n-1]
		}
	}
	s.Attempts = append(s.Attempts, a)
}

// ErrDamaged means that a file does not have the content that this package writes.
var ErrDamaged = errors.New("it is damaged")

// readIfThere reads a file of this package, and returns nil if it does not exist.
func readIfThere[T any](path string) (*T, error) {
	v := new(T)
	err := readJSON(path, v)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

func readJSON(path string, v any) error { return readLarge(path, maxFile, v) }

func readLarge(path string, most int64, v any) error {
	data, err := durable.ReadFile(path, most)
	if errors.Is(err, durable.ErrTooLarge) {
		err = ErrDamaged
	}
	if errors.Is(err, durable.ErrSymlink) || errors.Is(err, durable.ErrNotRegular) {
		err = fmt.Errorf("%w: %w", ErrDamaged, durable.Cause(err))
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", path, durable.Cause(err))
	}
	var head struct{ Format int }
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("cannot read %s: %w", path, ErrDamaged)
	}
	if head.Format > Format {
		return fmt.Errorf("cannot read %s: its format %d is newer than this program's %d "+
			"(hint: install the version of machinemon-update that wrote it, or a newer one)", path, head.Format, Format)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("cannot read %s: %w", path, ErrDamaged)
	}
	return nil
}

// writeJSON writes a file that all users may read.
func writeJSON(path string, v any) error { return writeJSONAs(path, v, 0o644) }

func writeJSONAs(path string, v any, mode fs.FileMode) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return durable.WriteFile(path, append(data, '\n'), mode)
}
