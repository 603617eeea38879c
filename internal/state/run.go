package state

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Origin is who wanted an attempt.
type Origin string

const (
	OriginOperator Origin = "operator"
	OriginSchedule Origin = "schedule"
	// OriginDirective is the server's hint in a check-in response. It may do no more
	// than the schedule, only sooner.
	OriginDirective Origin = "directive"
)

func (o Origin) unattended() bool { return o == OriginSchedule || o == OriginDirective }

// Verb is what an attempt is to do.
type Verb string

const (
	VerbApply    Verb = "apply"    // fetch, and install what is new
	VerbCheck    Verb = "check"    // fetch the manifest and record what is available
	VerbRollback Verb = "rollback" // install the previous release again
	// VerbSettleKeep and VerbSettleBack end a trial whose rollback failed: with the files that are
	// installed now, or with one more rollback.
	VerbSettleKeep Verb = "settle keep"
	VerbSettleBack Verb = "settle back"
	VerbProbe      Verb = "probe" // try the probes; only a request, of no attempt
)

// Request is what the operator asked for. The command writes it just before it
// starts the chain; [Tree.TakeRequest] lets it count once.
type Request struct {
	Format  int    `json:"format"`
	Attempt string `json:"attempt"`
	Verb    Verb   `json:"verb"`
	Import  bool   `json:"import,omitempty"` // from [Tree.Import], not from the source
	// URL is of an archive that is taken instead of the source's, and SHA256 what it
	// must have; "" when the operator does not say.
	URL    string `json:"url,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	// MainID is the installed main file: of a rollback the baseline reads no order.
	MainID FileID `json:"main_id,omitzero"`
	// Made is when, since the boot: one that a killed command left behind lapses,
	// whatever is done to the clock meanwhile.
	Made time.Duration `json:"made"`
}

// lapse is how old a request may be. Its taker starts at once.
const lapse = 5 * time.Minute

// Order is what root decided about the attempt that now runs: the fetcher and
// the swapper obey it, and a directive or a forged spool entry cannot change it.
type Order struct {
	Format    int    `json:"format"`
	Attempt   string `json:"attempt"`
	Origin    Origin `json:"origin"`
	Verb      Verb   `json:"verb"`
	Import    bool   `json:"import,omitempty"` // this and the next two as in [Request]
	URL       string `json:"url,omitempty"`
	SHA256    string `json:"sha256,omitempty"`
	Installed string `json:"installed"` // the version found on the machine; "" when unknown
	// Booted says that the machine has just booted, and its network may come
	// late: what cannot be downloaded is tried again in a minute.
	Booted bool `json:"booted,omitempty"`
	// Doubt is why a new release would not be installed; "" when nothing is known
	// against it. It saves the download: the swapper finds out for itself.
	Doubt string `json:"doubt,omitempty"`
	// MainID is the installed main file, which the baseline looks for.
	MainID FileID `json:"main_id,omitzero"`
}

// Brought tells whether the release comes from where the operator says, and not
// from the target's source.
func (o Order) Brought() bool { return o.Import || o.URL != "" }

// NewAttempt makes an ID: the time and eight random digits. While nobody sets the
// clock back IDs sort as their attempts began; two of one target are never within
// a millisecond.
func NewAttempt() string {
	var b [4]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the program instead
	now := time.Now().UTC().Format("20060102t150405.000")
	return strings.Replace(now, ".", "", 1) + "-" + hex.EncodeToString(b[:])
}

// SetRequest leaves a request for the attempt that starts next.
func (t Tree) SetRequest(target string, r Request) error {
	r.Format, r.Made = Format, uptime()
	return writeJSON(t.request(target), r, 0o644)
}

// uptime is how long ago the machine booted. Nobody sets that clock, and what is
// in /run is never older.
func uptime() time.Duration {
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) // fails for a clock that there is not
	return time.Duration(now.Nano())
}

func (t Tree) request(target string) string { return filepath.Join(t.Run, "request", target+".json") }

// Request is the operator's waiting request; nil when there is none.
func (t Tree) Request(target string) (*Request, error) {
	var r Request
	err := t.readJSON(t.request(target), &r)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return &r, err
}

// TakeRequest takes the operator's request away, so that it counts once; nil
// when there is none, or one that has lapsed.
func (t Tree) TakeRequest(target string) (*Request, error) {
	path := t.request(target)
	r, err := t.Request(target)
	if err == nil && r == nil {
		return nil, nil
	}
	if rm := os.Remove(path); rm != nil && err == nil {
		err = fmt.Errorf("cannot take the request %s: %w", path, cause(rm))
	}
	if err != nil {
		return nil, err
	}
	if !ValidAttempt(r.Attempt) {
		return nil, fmt.Errorf("cannot use the request %s: its attempt is no ID", path)
	}
	if (uptime() - r.Made).Abs() > lapse {
		return nil, nil
	}
	return r, nil
}

// SetOrder records what root decided about the attempt that begins.
func (t Tree) SetOrder(target string, o Order) error {
	o.Format = Format
	return writeJSON(filepath.Join(t.Run, "attempt", target+".json"), o, 0o644)
}

// TakeOrder takes the order away, so that it counts once, and keeps it as the
// sign that the attempt's trial began since the boot.
func (t Tree) TakeOrder(target string) (Order, error) {
	o, err := t.Order(target)
	if err != nil {
		return o, err
	}
	path := filepath.Join(t.Run, "attempt", target+".json")
	if err := os.Rename(path, t.taken(target)); err != nil {
		return o, fmt.Errorf("cannot take the order %s: %w", path, cause(err))
	}
	return o, nil
}

// OrderTaken tells whether the attempt's order was taken since the boot.
func (t Tree) OrderTaken(target, attempt string) bool {
	var o Order
	return t.readJSON(t.taken(target), &o) == nil && o.Attempt == attempt
}

func (t Tree) taken(target string) string {
	return filepath.Join(t.Run, "attempt", target+"@taken.json") // no target has an @ in its name
}

// Order reads the order of the running attempt.
func (t Tree) Order(target string) (Order, error) {
	var o Order
	err := t.readJSON(filepath.Join(t.Run, "attempt", target+".json"), &o)
	return o, err
}

// ErrLocked says that another process holds the lock.
var ErrLocked = errors.New("another process is at work on it")

// Lock takes the lock of a target, which begin, swap, commit, rollback, deadline
// and recover share. It waits for the holder. The lock ends with the process,
// however that ends.
func (t Tree) Lock(target string) (release func(), err error) {
	return t.flock(target, unix.LOCK_EX)
}

// LockOperator takes the lock that makes a second operator's command on the
// same target give way with [ErrLocked].
func (t Tree) LockOperator(target string) (release func(), err error) {
	return t.flock(target+"@operator", unix.LOCK_EX|unix.LOCK_NB)
}

func (t Tree) flock(name string, how int) (func(), error) {
	path := filepath.Join(t.Run, "lock", name)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock %s: %w", path, cause(err))
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			break
		}
	}
	if err == nil {
		return func() { f.Close() }, nil
	}
	f.Close()
	if err == unix.EWOULDBLOCK {
		return nil, ErrLocked
	}
	return nil, fmt.Errorf("cannot lock %s: %w", path, err)
}
