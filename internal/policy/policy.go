// Package policy decides what an attempt may do, from what is known. It is pure: it
// touches no file, no unit and no network. root asks it before an attempt begins and
// before it installs, the fetcher before it downloads, status and the check-in gate
// before any of them. So one rule has one place, and all give the same reason.
package policy

import (
	"cmp"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/version"
)

// Rules are what a target file says about which releases are installed, and when.
type Rules struct {
	Target     string // its name
	AutoUpdate bool
	Versions   version.Range
	Downgrade  bool
	CheckEvery time.Duration
}

// Unit is how systemd sees a target's unit.
type Unit struct {
	Name, Load, Active string
	Queued             bool // a job is about to change that
	Passing            bool // it never stays active: Type=oneshot without RemainAfterExit=yes
}

// Release is a release that may be installed. Fields that are not known are zero.
type Release struct {
	Version     string
	Sequence    int64
	Disabled    bool   // by its publisher
	NotYet      string // as of [NotYet]
	Manifest    string // sha256 of the manifest's bytes
	Archive     string // sha256
	Fingerprint string // of the files that it installs
	// Staged says that its files are at hand: they decide whether it is installed
	// already, and not its version.
	Staged bool
}

// Known is what is known of an attempt when a caller asks. A rule refuses nothing
// for what is not known.
type Known struct {
	Rules   Rules
	Order   state.Order  // of the attempt; its verb is [state.VerbApply] unless it only checks or goes back
	Status  state.Status // the swapper's
	Changed bool         // the installed files are not as the last update left them
	Unit    *Unit        // nil: not known
	Release *Release     // nil: before its manifest was read
	History []state.Attempt
	Now     time.Time // in the location in which times are printed
}

// Decision is why something is not installed. The zero Decision is that it may be.
type Decision struct {
	Rule   Rule         // "" when it may be installed
	Result state.Result // of an attempt that ends for it
	Reason string       // "" when the result says all
	Hint   string       // what to do about it
	// Rejection is what [RuleRejected] found.
	Rejection *state.Rejection
}

// Refused reports whether it is not installed.
func (d Decision) Refused() bool { return d.Rule != "" }

// String is the reason, with the hint at its end.
func (d Decision) String() string {
	if d.Hint == "" {
		return d.Reason
	}
	return d.Reason + " (hint: " + d.Hint + ")"
}

// Err is the decision as a [state.Failure]; nil when there is no reason to give.
func (d Decision) Err() error {
	if d.Reason == "" {
		return nil
	}
	return state.Fail(d.Result, "%s", d)
}

// Decide returns the first rule that keeps the attempt from installing.
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

// condition is a set of what must hold for a rule to be asked.
type condition uint

const (
	unattended condition = 1 << iota // no person asked for the attempt
	installing                       // it is to install, not only to check
	offered                          // a release is known, and it is not the one to go back to
)

func (k Known) conditions() (c condition) {
	if k.Order.Origin != state.OriginOperator {
		c |= unattended
	}
	if k.Order.Verb != state.VerbCheck {
		c |= installing
	}
	if k.Release != nil && k.Order.Verb != state.VerbRollback {
		c |= offered
	}
	return c
}
