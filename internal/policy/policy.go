// Package policy decides what an attempt may do, from what is known. It is pure: it
// touches no file, no unit and no network. root asks it before an attempt begins and
// before it installs, the fetcher before it downloads, status and the check-in gate
// before any of them. So one rule has one place, and all give the same reason.
package policy

import (
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

// Rule names a rule that keeps an attempt from installing.
type Rule string

// The rules, in the order in which they are asked.
const (
	RuleHeld       Rule = "held"
	RuleDisabled   Rule = "disabled"
	RuleCurrent    Rule = "current"
	RuleRejected   Rule = "rejected"
	RuleVersions   Rule = "versions"
	RuleDowngrade  Rule = "downgrade"
	RuleRollout    Rule = "rollout"
	RuleOnlyCheck  Rule = "only check" // the order is to check, and no rule about the release forbids it
	RuleAutoUpdate Rule = "auto update"
	RuleChanged    Rule = "changed by hand"
	RuleUnit       Rule = "unit"
	RuleDoubt      Rule = "doubt"
	RuleBackoff    Rule = "backoff"
)

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
	for _, rule := range []func(Known) Decision{
		held, disabled, current, rejected, inRange, notDown, rollout, onlyCheck, autoUpdate, changed, unit, doubt, backoff,
	} {
		if d := rule(k); d.Refused() {
			return d
		}
	}
	return Decision{}
}

// unattended reports whether no person asked for the attempt.
func (k Known) unattended() bool { return k.Order.Origin != state.OriginOperator }

// installs reports whether the attempt is to install.
func (k Known) installs() bool { return k.Order.Verb != state.VerbCheck }

// offered reports whether a release is known that did not run here before.
func (k Known) offered() bool { return k.Release != nil && k.Order.Verb != state.VerbRollback }

func notAttempted(r Rule, reason, hint string) Decision {
	return Decision{Rule: r, Result: state.ResultNotAttempted, Reason: reason, Hint: hint}
}
