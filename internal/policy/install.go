// Package policy decides what an attempt may do with a release. It is pure: it
// touches no file and no network, and so the fetcher asks it before it downloads,
// the swapper, who does not believe the fetcher, before it installs, and status
// before either.
package policy

import (
	"fmt"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/version"
)

// Decision is why something is not done. The zero Decision is that it may be.
type Decision struct {
	Reason string // "" when it may be done
	Hint   string // what to do about it
}

// Refused reports whether it is not done.
func (d Decision) Refused() bool { return d.Reason != "" }

// String is the reason, with the hint at its end.
func (d Decision) String() string {
	if d.Hint == "" {
		return d.Reason
	}
	return d.Reason + " (hint: " + d.Hint + ")"
}

// Release names a release: its version and its sequence, 0 where it has none.
type Release struct {
	Version  string
	Sequence int64
}

// Install decides whether an attempt may install a release of the target's source
// in place of the installed one. recorded, which may be nil, is what the last update
// installed.
//
// source.versions is the operator's own word, and binds operators, too. An archive
// that they name in place of the source is bound by nothing.
//
// A run that no person asked for must not go down: a maintenance release of an old line is
// "latest" for a while, and a newer program's data would be left to an older one.
// Only the publisher, by a higher sequence, withdraws a release; only the operator,
// by source.downgrade, lets the source decide.
func Install(t *target.Target, o state.Order, recorded *state.Release, to Release) Decision {
	if o.Brought() {
		return Decision{}
	}
	if r := t.Source.Versions; !r.Has(to.Version) {
		reason := fmt.Sprintf("%s is not in source.versions %q", to.Version, r)
		if !version.Ordered(to.Version) {
			reason += ": it has no place in the order of versions"
		}
		return Decision{reason, "source.versions of target " + t.Name + " says which releases are taken"}
	}
	down := Descent(to.Version, o.Installed)
	if down == "" || o.Origin == state.OriginOperator || t.Source.Downgrade || withdraws(o.Installed, recorded, to) {
		return Decision{}
	}
	return Decision{down + ", and no schedule goes down",
		"machinemon-update apply " + t.Name + " installs it; source.downgrade = true lets schedules do so"}
}

// Descent is a sentence for people about an install that goes to a lower version;
// "" where it does not, or the versions have no order.
func Descent(to, installed string) string {
	if !version.Lower(to, installed) {
		return ""
	}
	return to + " is lower than the installed " + installed
}

// withdraws reports whether the publisher has put the release behind the installed
// one on purpose. Both sequences must be known.
func withdraws(installed string, recorded *state.Release, to Release) bool {
	return recorded != nil && manifest.SameVersion(recorded.Version, installed) &&
		recorded.Sequence > 0 && to.Sequence > recorded.Sequence
}
