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

// keep is how many attempts each role remembers, and how many rejections the
// swapper. The manual page tells how much disk that may take.
const keep = 50

// Attempt is one role's record of one attempt.
type Attempt struct {
	ID       AttemptID `json:"id"`
	Time     time.Time `json:"time"`             // when the role finished with it
	Origin   Origin    `json:"origin,omitempty"` // who asked
	From     string    `json:"from,omitempty"`   // the version installed before
	Version  string    `json:"version,omitempty"`
	Sequence int64     `json:"sequence,omitempty"`
	Manifest string    `json:"manifest,omitempty"` // sha256 of the manifest's bytes
	Stage    string    `json:"stage"`              // the role, or "rollback"
	Result   Result    `json:"result"`
	Reason   string    `json:"reason,omitempty"`
	// Healthy says that after the trial was undone what was installed before was
	// seen to run and to pass its probes, and Unhealthy what was seen to be wrong
	// with it. Where neither is there, nobody looked.
	Healthy   bool   `json:"healthy,omitempty"`
	Unhealthy string `json:"unhealthy,omitempty"`
	// Said are the last lines that the new program wrote to systemd's journal before
	// it was rolled back, Unit is whose they are, and Started when the swap began.
	Said    []string  `json:"said,omitempty"`
	Unit    string    `json:"unit,omitempty"`
	Started time.Time `json:"started,omitzero"`
	// Rejected is the version that the end of this attempt rejected.
	Rejected string `json:"rejected,omitempty"`
	// Warning is what the operator should know of it however it ended.
	Warning string `json:"warning,omitempty"`
	// NoDelta is why the archive was downloaded although there were deltas for it.
	NoDelta string `json:"no_delta,omitempty"`
	// RetryAfter is when the source, which took no more requests, said that it
	// would again.
	RetryAfter time.Time `json:"retry_after,omitzero"`
	// Expired says that it failed because signatures had expired, which no release
	// is to blame for and time alone cures: the publisher signs anew.
	Expired bool `json:"expired,omitempty"`
	// Blameless says that it was rolled back and that the release was not rejected
	// for it: without a back-off every scheduled run would restart the unit twice.
	Blameless bool `json:"blameless,omitempty"`
}

// Failed reports whether the attempt ended in a way that backs off: before a trial,
// or in one that was rolled back and nothing was rejected. Expired signatures do not:
// the next scheduled attempt must find the new ones.
func (a Attempt) Failed() bool {
	return a.Result.is(backsOff) && !a.Expired || a.Blameless
}

// Line is what the log says of the end of an attempt.
func (a Attempt) Line(target string) string {
	line := fmt.Sprintf("%s: attempt %s: %s", target, a.ID, a.Result)
	if a.Version != "" {
		line += " " + a.Version
	}
	if a.Reason != "" {
		line += ": " + a.Reason
	}
	return line + a.Detour()
}

// Detour is what is said, at the end of a line, of an archive that was downloaded
// although there were deltas for it.
func (a Attempt) Detour() string {
	if a.NoDelta == "" {
		return ""
	}
	return " (not by delta: " + a.NoDelta + ")"
}

// Offer is the release that the last successful check found at the source.
type Offer struct {
	Version  string    `json:"version"`
	Sequence int64     `json:"sequence,omitempty"`
	Checked  time.Time `json:"checked"`
	Unsigned bool      `json:"unsigned"` // checksum trust: nothing but the transport vouches for it
	// NotYet is why this machine waits for the others to go first.
	NotYet string `json:"not_yet,omitempty"`
	// What a rejection would be remembered by; see [Rejection].
	Fingerprint string `json:"digest,omitempty"`
	Archive     string `json:"archive"`
	// Unit is the unit's own file, if the manifest lists it.
	Unit *File `json:"unit,omitempty"`
	// Signed is the metadata that vouches for it; none under checksum trust.
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
	Backup string `json:"backup,omitempty"` // of a previous release: where its bytes are kept
	// Created says that the file was not there before an update of ours brought it.
	Created bool `json:"created,omitempty"`
}

// Release is what an attempt installed.
type Release struct {
	Version  string    `json:"version"`
	Sequence int64     `json:"sequence,omitempty"`
	Archive  string    `json:"archive,omitempty"` // sha256 of the archive it came in; "" when not known
	Files    []File    `json:"files"`
	Since    time.Time `json:"since"`
	Unsigned bool      `json:"unsigned"`
	// Unproven is why no probe proves that it serves; "" when one does, or there is none.
	Unproven string `json:"unproven,omitempty"`
}

// File finds an installed file; nil where the release, which may be nil, has none
// there.
func (r *Release) File(to string) *File {
	if r != nil {
		if i := slices.IndexFunc(r.Files, func(f File) bool { return f.To == to }); i >= 0 {
			return &r.Files[i]
		}
	}
	return nil
}

// Status is a role's status.json. Offer is the fetcher's; Installed, Previous,
// Rejected, Held, Source and Probes the swapper's.
type Status struct {
	Format    int         `json:"format"`
	Attempts  []Attempt   `json:"attempts,omitempty"` // oldest first
	Offer     *Offer      `json:"offer,omitempty"`
	Installed *Release    `json:"installed,omitempty"`
	Previous  *Release    `json:"previous,omitempty"`
	Rejected  []Rejection `json:"rejected,omitempty"`
	Held      *Hold       `json:"held,omitempty"`
	Source    *Source     `json:"source,omitempty"`
	// Probes is when each of the target's probes last passed here, by its key.
	Probes map[string]time.Time `json:"probes,omitempty"`
}

// RollbackFailure is why the rollback of an attempt failed, as its record says; ""
// where it did not.
func (s *Status) RollbackFailure(attempt AttemptID) string {
	for _, a := range s.Attempts {
		if a.ID == attempt && a.Result == ResultRollbackFailed {
			return a.Reason
		}
	}
	return ""
}

// Hold is the operator's "do not update this target".
type Hold struct {
	Since time.Time `json:"since"`
}

// Source is what root found where the target's source.url_from points, when the
// operator last asked: the fetcher uses it, who may not read that file.
type Source struct {
	From            string    `json:"from"` // the source.url_from that led to it
	URL             string    `json:"url"`
	InsecureSkipTLS bool      `json:"insecure_skip_tls"`
	Since           time.Time `json:"since"`
}

// Uses tells whether the source is known to be this one.
func (s *Status) Uses(from, url string, insecure bool) bool {
	return s.Source != nil && s.Source.From == from && s.Source.URL == url && s.Source.InsecureSkipTLS == insecure
}

// Use keeps a source, from now on if it was another one.
func (s *Status) Use(from, url string, insecure bool) {
	if !s.Uses(from, url, insecure) {
		s.Source = &Source{From: from, URL: url, InsecureSkipTLS: insecure, Since: time.Now().UTC()}
	}
}

// Status reads a role's status; one that was never written is empty.
func (t Tree) Status(r Role, target string) (Status, error) {
	var s Status
	err := t.readJSON(t.status(r, target), &s)
	if errors.Is(err, fs.ErrNotExist) {
		return Status{Format: Format}, nil
	}
	return s, err
}

// Update changes a role's own status durably. A status that is damaged is put
// aside, since nothing could be recorded any more otherwise.
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

// SetStatus writes a role's status durably and readable by everybody.
func (t Tree) SetStatus(r Role, target string, s Status) error {
	if n := len(s.Attempts); n > keep {
		s.Attempts = s.Attempts[n-keep:]
	}
	if n := len(s.Rejected); n > keep {
		s.Rejected = s.Rejected[n-keep:]
	}
	s.Format = Format
	return writeJSON(t.status(r, target), s, 0o644)
}

// Record adds an attempt's record, replacing an earlier one of the same ID. One
// that no operator asked for and that ended just as the one before takes its
// place: a year of "already current", or a month of expired signatures, must not
// push out what happened. Other failures stay, since the back-off counts them.
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
			b.Reason = a.Reason // it tells the time
		}
		if reflect.DeepEqual(a, b) {
			s.Attempts = s.Attempts[:n-1]
		}
	}
	s.Attempts = append(s.Attempts, a)
}

// ErrDamaged says that a file is not what this package wrote.
var ErrDamaged = errors.New("it is damaged")

func (t Tree) readJSON(path string, v any) error { return t.readLarge(path, maxFile, v) }

func (t Tree) readLarge(path string, most int64, v any) error {
	data, err := durable.ReadFile(path, most)
	if errors.Is(err, durable.ErrTooLarge) {
		err = ErrDamaged
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", path, durable.Cause(err))
	}
	var head struct{ Format int }
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("cannot read %s: %w", path, ErrDamaged)
	}
	if head.Format > Format {
		return fmt.Errorf("cannot read %s: its format %d is newer than this program's %d", path, head.Format, Format)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("cannot read %s: %w", path, ErrDamaged)
	}
	return nil
}

func writeJSON(path string, v any, mode fs.FileMode) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return durable.WriteFile(path, append(data, '\n'), mode)
}
