// Package policy decides what an attempt may do, from what is known. It is pure: it
// touches no file, no unit and no network. root asks it before an attempt begins and
// before it installs, the fetcher before it downloads, and status and the check-in gate
// before any of these. So each rule stands in one place, and all callers give the same
// reason.
package policy

import (
	"cmp"
	"time"

	"github.com/machinemon/machinemon-update/internal/calendar"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/version"
)

// Rules are what a target file says about which releases are installed, and when.
type Rules struct {
	Target     string // the target's name
	AutoUpdate bool
	Versions   version.Range
	Downgrade  bool
	// ByVersion says that signatures do not show which release is the newest: an attacker
	// in the source or the fetcher could bring back an old one.
	ByVersion  bool
	CheckEvery time.Duration
	// Window is when unattended attempts may install.
	Window calendar.Window
	// Changed is when a file of the target was changed last; zero: not known.
	Changed time.Time
}

// Unit is the state of one of a target's units in systemd.
type Unit struct {
	Name, Load, Active string
	Queued             bool // a job is about to change the state
	Idle               bool // it waits for what starts it, and is not started by an update
	Working            bool // it is idle otherwise, but does its work now
	Unjudged           bool // it is idle, and nothing could show whether a release works
	Unreloadable       bool // it is to be reloaded, and cannot be
	Template           bool // it is a template of which no instance runs; only Name is set then
}

// Release is a release that may be installed. A field that is not known is zero.
type Release struct {
	Version     string
	Sequence    int64
	Disabled    bool   // the publisher has disabled updates
	NotYet      string // what [NotYet] returned
	Manifest    string // sha256 of the manifest's bytes
	Archive     string // sha256
	Fingerprint string // of the files that it installs
	// Staged says that the release's files are on disk. Then the files, and not the
	// version, decide whether it is installed already.
	Staged bool
}

// Known is what is known of an attempt when a caller asks. A rule refuses nothing because
// of what is not known.
type Known struct {
	Rules   Rules
	Order   state.Order  // of the attempt; its verb is [state.VerbApply] unless it only checks, goes back or drills
	Status  state.Status // the swapper's
	Changed bool         // the installed files are not as the last update left them
	Units   []Unit       // nil: not known, or none
	Ahead   string       // which update this one waits for, as a sentence; "" for none
	// Deferred is what an attempt was told that asked whether it may install now; nil if it
	// may, or if no attempt has asked.
	Deferred *state.Deferral
	Release  *Release // nil: before its manifest was read
	History  []state.Attempt
	Now      time.Time // in the location in which times are printed; zero: not known
}

// Decision says why something is not installed. The zero Decision means that it may be.
type Decision struct {
	Rule   Rule         // "" if it may be installed
	Result state.Result // the result of an attempt that this decision ends
	Reason string       // "" if the result says all
	Hint   string       // what the operator can do about it
	// Rejection is what [RuleRejected] found.
	Rejection *state.Rejection
}

// Refused reports whether the decision is not to install.
func (d Decision) Refused() bool { return d.Rule != "" }

// String returns the reason, with the hint at its end.
func (d Decision) String() string {
	if d.Hint == "" {
		return d.Reason
	}
	return d.Reason + " (hint: " + d.Hint + ")"
}

// Err returns the decision as a [state.Failure], or nil if it has no reason.
func (d Decision) Err() error {
	if d.Reason == "" {
		return nil
	}
	return state.Fail(d.Result, "%s", d)
}

// Decide returns the decision of the first rule that refuses, or the zero Decision.
func Decide(k Known) Decision {
	holds := k.conditions()
	for _, r := range rules {
		if r.needs&^holds != 0 {
			continue
		}
		if d, refused := r.refuses(k); refused {
			d.Rule, d.Result = r.name, cmp.Or(d.Result, state.ResultNotAttempted)
			return d
		}
	}
	return Decision{}
}

// condition is a set of conditions under which a rule is asked.
type condition uint

const (
	unattended condition = 1 << iota // no person asked for the attempt
	installing                       // the attempt is to install, not only to check
	offered                          // a release of the source is known, and the attempt is no rollback or drill
)

func (k Known) conditions() (c condition) {
	if k.Order.Origin != state.OriginOperator {
		c |= unattended
	}
	if k.Order.Verb != state.VerbCheck {
		c |= installing
	}
	if k.Release != nil && !k.Order.Verb.FromHere() {
		c |= offered
	}
	return c
}
