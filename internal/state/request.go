package state

import (
	"fmt"
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
	// VerbSettleKeep and VerbSettleBack end a trial whose rollback failed: they keep the
	// installed files, or roll back once more.
	VerbSettleKeep Verb = "settle keep"
	VerbSettleBack Verb = "settle back"
	VerbProbe      Verb = "probe" // try the probes; only in a request, without an attempt
)

// Request is what the operator asked for. The command writes it just before it starts the
// chain, and [Tree.TakeRequest] removes it, so that it starts one attempt only.
type Request struct {
	Format  int       `json:"format"`
	Attempt AttemptID `json:"attempt"`
	Verb    Verb      `json:"verb"`
	Import  bool      `json:"import,omitempty"` // the release is in [Tree.Import], not at the source
	// URL is the address of an archive that replaces the source, and SHA256 its required
	// digest; "" if the operator gave none.
	URL    string `json:"url,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	// MainID is the installed main file: the baseline of a rollback reads no order.
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
	return writeJSON(t.request(target), r)
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
