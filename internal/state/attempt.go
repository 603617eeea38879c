package state

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/pattern"
)

// AttemptID names one attempt for one target in log lines and records. It is also the name
// of the attempt's spool entry.
type AttemptID string

var attemptName = pattern.New(`^[0-9a-z-]{1,40}$`)

// Valid reports whether the ID has the form of [NewAttempt], as names of spool entries do.
func (id AttemptID) Valid() bool { return attemptName.MatchString(string(id)) }

// NewAttempt makes an ID from the time and eight random digits. Unless the clock is set
// back, IDs sort in the order in which their attempts began; two attempts of one target
// never begin within the same millisecond.
func NewAttempt() AttemptID {
	var b [4]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the program instead
	now := time.Now().UTC().Format("20060102t150405.000")
	return AttemptID(strings.Replace(now, ".", "", 1) + "-" + hex.EncodeToString(b[:]))
}

// Began returns the time in the ID, and whether there is one.
func (id AttemptID) Began() (time.Time, bool) {
	digits, _, _ := strings.Cut(string(id), "-")
	if len(digits) != len("20060102t150405000") {
		return time.Time{}, false
	}
	at, err := time.Parse("20060102t150405.000", digits[:15]+"."+digits[15:])
	return at, err == nil
}

// Attempt is one role's record of one attempt.
type Attempt struct {
	ID       AttemptID `json:"id"`
	Time     time.Time `json:"time"`             // when the role finished the attempt
	Origin   Origin    `json:"origin,omitempty"` // what asked for it
	From     string    `json:"from,omitempty"`   // the version installed before
	Version  string    `json:"version,omitempty"`
	Sequence int64     `json:"sequence,omitempty"`
	Manifest string    `json:"manifest,omitempty"` // sha256 of the manifest's bytes
	Stage    string    `json:"stage"`              // the role, or "rollback"
	Result   Result    `json:"result"`
	Reason   string    `json:"reason,omitempty"`
	// Healthy says that, after the trial was undone, the version from before was seen to
	// run and to pass its probes. Unhealthy says what was wrong with it. If neither is
	// set, no check was made.
	Healthy   bool   `json:"healthy,omitempty"`
	Unhealthy string `json:"unhealthy,omitempty"`
	// Said are the last lines that the new program logged before it was rolled back, Unit
	// is the unit that logged them, and Started is when the swap began.
	Said    []string  `json:"said,omitempty"`
	Unit    string    `json:"unit,omitempty"`
	Started time.Time `json:"started,omitzero"`
	// Rejected is the version that was rejected when this attempt ended.
	Rejected string `json:"rejected,omitempty"`
	// Warning is what the operator should know in addition to the result.
	Warning string `json:"warning,omitempty"`
	// NoDelta is why the archive was downloaded although it had deltas.
	NoDelta string `json:"no_delta,omitempty"`
	// Cause is more of the reason, for the journal: all users can read the record.
	Cause string `json:"-"`
	// RetryAfter is when a source that refused further requests will accept them again, as
	// the source said.
	RetryAfter time.Time `json:"retry_after,omitzero"`
	// Needs is how many free bytes the fetcher needs on its disk, if too few ended the
	// attempt.
	Needs int64 `json:"needs,omitempty"`
	// Expired says that the attempt failed because signatures had expired. That is no
	// fault of the release; it ends when the publisher signs again.
	Expired bool `json:"expired,omitempty"`
	// Blameless says that the attempt was rolled back without rejecting the release.
	// Without a back-off, every scheduled run would restart the unit twice.
	Blameless bool `json:"blameless,omitempty"`
	// Drill says that the trial was to fail, so that it says nothing about a release.
	Drill bool `json:"drill,omitempty"`
	// AwayMillis is how long the units were not active with the installed program in a drill
	// that passed; 0 if that is not known.
	AwayMillis int64 `json:"away_millis,omitempty"`
}

// Exercise reports whether the attempt is a drill that needs nobody: it counts as no update
// that failed. One whose rollback failed needs a person as after any other trial.
func (a Attempt) Exercise() bool { return a.Drill && a.Result != ResultRollbackFailed }

// Failed reports whether unattended attempts must back off: this one failed before its
// trial, or was rolled back without a rejection. Expired signatures do not count: the next
// scheduled attempt must find the new ones. Neither does a drill.
func (a Attempt) Failed() bool {
	return (a.Result.is(backsOff) && !a.Expired || a.Blameless) && !a.Drill
}

// Line returns the log line for the end of an attempt.
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

// Detour returns a remark for the end of a line if the archive was downloaded although it
// had deltas, or "".
func (a Attempt) Detour() string {
	if a.NoDelta == "" {
		return ""
	}
	return " (not by delta: " + a.NoDelta + ")"
}

// Aftermath says how the version from before is doing after a trial was undone, as far as
// that was observed. It returns "" for an attempt that undid no trial.
func (a Attempt) Aftermath() string {
	if a.Result != ResultRolledBack && a.Result != ResultInterrupted {
		return ""
	}
	before := cmp.Or(a.From, "what ran before")
	switch {
	case a.Unhealthy != "" && strings.Contains(a.Reason, a.Unhealthy):
		return before + " is back, but is not healthy"
	case a.Unhealthy != "":
		return before + " is back, but is not healthy: " + a.Unhealthy
	case a.Healthy:
		return before + " runs again"
	}
	return "the files of " + cmp.Or(a.From, "before") + " are in place"
}

// Unknown is printed in a column or field for a version that is not known.
const Unknown = "unknown"

// Called names a release in a sentence by its version. Without a version, the release is
// the files from before the first update.
func Called(version string) string {
	return cmp.Or(version, "the files of before, version unknown")
}

// Versions returns the versions from and to which the attempt led. One that is not known
// is [Unknown] if the attempt replaced a release, and otherwise "".
func (a Attempt) Versions() (from, to string) {
	if a.Result.is(replaced) {
		return cmp.Or(a.From, Unknown), cmp.Or(a.Version, Unknown)
	}
	return a.From, a.Version
}
