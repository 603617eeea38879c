package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"time"

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
