package state

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// Origin says what asked for an attempt.
type Origin string

const (
	OriginOperator Origin = "operator"
	OriginSchedule Origin = "schedule"
	// OriginDirective is the server's hint in a check-in response. It permits no more than
	// the schedule does, only sooner.
	OriginDirective Origin = "directive"
)

func (o Origin) unattended() bool { return o == OriginSchedule || o == OriginDirective }

// Verb is what an attempt is to do.
type Verb string

const (
	VerbApply    Verb = "apply"    // fetch the manifest, and install a new release
	VerbCheck    Verb = "check"    // fetch the manifest and record what is available
	VerbRollback Verb = "rollback" // install the previous release again
	VerbDrill    Verb = "drill"    // try a program that fails on purpose, to see it rolled back
	// VerbSettleKeep and VerbSettleBack end a trial whose rollback failed: they keep the
	// installed files, or roll back once more.
	VerbSettleKeep Verb = "settle keep"
	VerbSettleBack Verb = "settle back"
	VerbProbe      Verb = "probe" // try the probes; only in a request, without an attempt
)

// FromHere reports whether an attempt with this verb needs nothing of a source, so that it
// begins with the swap.
func (v Verb) FromHere() bool { return v == VerbRollback || v == VerbDrill }

// Request is what the operator asked for. The command writes it just before it starts the
// chain, and [Tree.TakeRequest] removes it, so that it starts one attempt only.
type Request struct {
	Format  int       `json:"format"`
	Attempt AttemptID `json:"attempt"`
	Verb    Verb      `json:"verb"`
	Import  bool      `json:"import,omitempty"` // the release is in [Tree.Import], not at the source
	// URL is the address of an archive that replaces the source, SHA256 its required digest,
	// and Version its version; "" if the operator gave none.
	URL     string `json:"url,omitempty"`
	SHA256  string `json:"sha256,omitempty"`
	Version string `json:"version,omitempty"`
	DryRun  bool   `json:"dry_run,omitempty"` // as in [Order]
	// MainID is the installed main file: the baseline of a rollback or drill reads no order.
	MainID FileID `json:"main_id,omitzero"`
	// Made is when the request was written, as time since the boot. A request that a
	// killed command left behind expires by it, even if the clock is set meanwhile.
	Made time.Duration `json:"made"`
}

// lapse is the age at which a request expires. The chain normally takes it at once.
const lapse = 5 * time.Minute

// SetRequest writes a request for the attempt that starts next.
func (t Tree) SetRequest(target string, r Request) error {
	r.Format, r.Made = Format, uptime()
	mode := fs.FileMode(0o644) // a baseline reads the request for a rollback or drill
	if r.URL != "" {
		mode = 0o600 // its query may be a secret
	}
	return writeJSONAs(t.request(target), r, mode)
}

// uptime returns the time since the machine booted. That clock cannot be set, and no file
// in /run is older than the boot.
func uptime() time.Duration {
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) // it fails only for a clock that does not exist
	return time.Duration(now.Nano())
}

func (t Tree) request(target string) string { return filepath.Join(t.Run, "request", target+".json") }

// Request returns the operator's pending request, or nil if there is none.
func (t Tree) Request(target string) (*Request, error) {
	return readIfThere[Request](t.request(target))
}

// TakeRequest reads the operator's request and removes its file, so that it starts one
// attempt only. It returns nil if there is none, or if it has expired.
func (t Tree) TakeRequest(target string) (*Request, error) {
	path := t.request(target)
	r, err := t.Request(target)
	if err == nil && r == nil {
		return nil, nil
	}
	if rm := os.Remove(path); rm != nil && err == nil {
		err = fmt.Errorf("cannot take the request %s: %w", path, durable.Cause(rm))
	}
	if err != nil {
		return nil, err
	}
	if !r.Attempt.Valid() {
		return nil, fmt.Errorf("cannot use the request %s: its attempt is no ID", path)
	}
	if (uptime() - r.Made).Abs() > lapse {
		return nil, nil
	}
	return r, nil
}

// Order is what root decided about the running attempt. The fetcher and the swapper obey
// it; a directive or a forged spool entry cannot change it.
type Order struct {
	Format  int       `json:"format"`
	Attempt AttemptID `json:"attempt"`
	Origin  Origin    `json:"origin"`
	Verb    Verb      `json:"verb"`
	Import  bool      `json:"import,omitempty"` // this and the next three are as in [Request]
	URL     string    `json:"url,omitempty"`
	SHA256  string    `json:"sha256,omitempty"`
	Version string    `json:"version,omitempty"`
	// DryRun says that the attempt ends before the swap, and leaves nothing behind.
	DryRun bool `json:"dry_run,omitempty"`
	// Query says that the file does not have the query of URL; [Tree.Address] adds it.
	Query     bool   `json:"query,omitempty"`
	Installed string `json:"installed"` // the version found on the machine; "" if unknown
	// Missing is a file of the target that is not there, such as one whose path the target
	// file has changed; "" if all are there. The installed version is then incomplete.
	Missing string `json:"missing,omitempty"`
	// Booted says that the machine has just booted and its network may not be up yet, so a
	// failed download is tried again in a minute.
	Booted bool `json:"booted,omitempty"`
	// Doubt is why a new release would not be installed; "" if no reason is known. It only
	// saves the download: the swapper checks again.
	Doubt string `json:"doubt,omitempty"`
	// MainID is the installed main file, which the gate needs for the baseline.
	MainID FileID `json:"main_id,omitzero"`
	// Looked spares the next attempt reading the installed files again.
	Looked Looked `json:"looked,omitempty"`
}

// Brought reports whether the operator names where the release comes from, so that the
// target's source is not used.
func (o Order) Brought() bool { return o.Import || o.URL != "" }

// SetOrder records what root decided about the attempt that begins, without the query of
// its address: see [Tree.HandQuery].
func (t Tree) SetOrder(target string, o Order) error {
	o.Format = Format
	if address, _, found := strings.Cut(o.URL, "?"); found {
		o.URL, o.Query = address, true
	}
	return writeJSON(t.order(target), o)
}

// TakeOrder reads the order and renames its file, so that it starts one trial only. The
// renamed file is the evidence for [Tree.OrderTaken].
func (t Tree) TakeOrder(target string) (Order, error) {
	o, err := t.Order(target)
	if err != nil {
		return o, err
	}
	if err := os.Rename(t.order(target), t.taken(target)); err != nil {
		return o, fmt.Errorf("cannot take the order %s: %w", t.order(target), durable.Cause(err))
	}
	return o, nil
}

// OrderTaken reports whether the attempt's order was taken since the boot.
func (t Tree) OrderTaken(target string, attempt AttemptID) bool {
	var o Order
	return readJSON(t.taken(target), &o) == nil && o.Attempt == attempt
}

// Looked returns what attempts since the boot remember of the installed files. An order that
// cannot be read remembers none.
func (t Tree) Looked(target string) Looked {
	var o Order
	if readJSON(t.order(target), &o) != nil && readJSON(t.taken(target), &o) != nil {
		return nil
	}
	return o.Looked
}

// Remember replaces what an attempt, whose order was taken, remembers of the installed files.
func (t Tree) Remember(target string, attempt AttemptID, l Looked) error {
	var o Order
	if err := readJSON(t.taken(target), &o); err != nil || o.Attempt != attempt {
		return err
	}
	o.Looked = l
	return writeJSON(t.taken(target), o)
}

func (t Tree) order(target string) string { return filepath.Join(t.Run, "attempt", target+".json") }

func (t Tree) taken(target string) string {
	return filepath.Join(t.Run, "attempt", target+"@taken.json") // no target has an @ in its name
}

// Order returns the order of the running attempt.
func (t Tree) Order(target string) (Order, error) {
	var o Order
	err := readJSON(t.order(target), &o)
	return o, err
}

// Fallback is the verifier's request for the full archive of an attempt, instead of deltas
// that it could not use. The verifier writes it before it applies the deltas and removes
// it afterwards, so the request also stands if applying them got the verifier killed.
// machinemon-fetch-full@T.service carries it out.
type Fallback struct {
	Format  int       `json:"format"`
	Attempt AttemptID `json:"attempt"`
	Reason  string    `json:"reason"`
}

func (t Tree) fallback(target string) string {
	return filepath.Join(t.Dir(RoleVerify, target), "fallback.json")
}

// Fallback returns the verifier's request, which always has a reason; nil if there is
// none.
func (t Tree) Fallback(target string) (*Fallback, error) {
	f, err := readIfThere[Fallback](t.fallback(target))
	if f != nil {
		f.Reason = cmp.Or(f.Reason, "the verifier does not say why")
	}
	return f, err
}

// SetFallback writes the verifier's request.
func (t Tree) SetFallback(target string, f Fallback) error {
	f.Format, f.Reason = Format, Line(f.Reason)
	return writeJSON(t.fallback(target), f)
}

// DropFallback removes the verifier's request. It is not an error if there is none.
func (t Tree) DropFallback(target string) error {
	if err := os.Remove(t.fallback(target)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove %s: %w", t.fallback(target), durable.Cause(err))
	}
	return nil
}
