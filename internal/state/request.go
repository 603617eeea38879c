package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// Origin says what asked for an attempt.
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
	Format  int       `json:"format"`
	Attempt AttemptID `json:"attempt"`
	Verb    Verb      `json:"verb"`
	Import  bool      `json:"import,omitempty"` // from [Tree.Import], not from the source
	// URL is of an archive that is taken instead of the source's, and SHA256 what it
	// must have; "" when the operator does not say.
	URL    string `json:"url,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	// MainID is the installed main file: of a rollback the baseline reads no order.
	MainID FileID `json:"main_id,omitzero"`
	// Made is when it was written, since the boot: one that a killed command left
	// behind lapses, also where the clock is set meanwhile.
	Made time.Duration `json:"made"`
}

// lapse is how old a request may be. Its taker starts at once.
const lapse = 5 * time.Minute

// SetRequest leaves a request for the attempt that starts next.
func (t Tree) SetRequest(target string, r Request) error {
	r.Format, r.Made = Format, uptime()
	return writeJSON(t.request(target), r, 0o644)
}

// uptime is how long ago the machine booted. That clock cannot be set, and no file
// in /run is older.
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
