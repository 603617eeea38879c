package policy

import (
	"fmt"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/version"
)

func disabled(k Known) Decision {
	if !k.offered() || !k.Release.Disabled {
		return Decision{}
	}
	return notAttempted(RuleDisabled, "the publisher has disabled updates", "")
}

func current(k Known) Decision {
	if !k.offered() || k.Release.Staged || k.Order.Installed == "" || !manifest.SameVersion(k.Release.Version, k.Order.Installed) || rebuilt(k) {
		return Decision{}
	}
	return Decision{Rule: RuleCurrent, Result: state.ResultCurrent}
}

// rebuilt reports whether the publisher has put other bytes under the version that
// is installed, which makes the sequence grow. Where it is not known which bytes
// are installed, the version decides alone; but not of an archive that the operator
// names: that one is wanted under any version.
func rebuilt(k Known) bool {
	if k.Order.Brought() && k.Release.Sequence == 0 {
		return true
	}
	r := k.Status.Installed
	return r != nil && manifest.SameVersion(r.Version, k.Release.Version) && k.Release.Sequence > r.Sequence &&
		k.Release.Fingerprint != "" && k.Release.Fingerprint != state.Fingerprint(r.Files)
}

// rejected finds an earlier verdict of this machine.
func rejected(k Known) Decision {
	if !k.offered() {
		return Decision{}
	}
	r := k.Status.Rejects(k.Release.Fingerprint, k.Release.Archive, k.Release.Sequence)
	if r == nil {
		return Decision{}
	}
	d := notAttempted(RuleRejected, r.Refusal(), state.UnskipHint(k.Rules.Target))
	d.Rejection = r
	return d
}

// inRange holds the release against source.versions, which is the operator's own word
// and binds operators, too. An archive that they name in place of the source is bound
// by nothing.
func inRange(k Known) Decision {
	if !k.offered() || k.Order.Brought() || k.Rules.Versions.Has(k.Release.Version) {
		return Decision{}
	}
	reason := fmt.Sprintf("%s is not in source.versions %q", k.Release.Version, k.Rules.Versions)
	if !version.Ordered(k.Release.Version) {
		reason += ": it has no place in the order of versions"
	}
	return notAttempted(RuleVersions, reason, "source.versions of target "+k.Rules.Target+" says which releases are taken")
}

// notDown keeps an unattended attempt from going down: a maintenance release of an old
// line is "latest" for a while, and a newer program's data would be left to an older
// one. Only the publisher, by a higher sequence, withdraws a release; only the
// operator, by source.downgrade, lets the source decide.
func notDown(k Known) Decision {
	if !k.offered() || !k.unattended() || k.Order.Brought() || k.Rules.Downgrade {
		return Decision{}
	}
	down := Descent(k.Release.Version, k.Order.Installed)
	if down == "" || withdraws(k.Order.Installed, k.Status.Installed, k.Release) {
		return Decision{}
	}
	return notAttempted(RuleDowngrade, down+", and no schedule goes down",
		"machinemon-update apply "+k.Rules.Target+" installs it; source.downgrade = true lets schedules do so")
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
func withdraws(installed string, recorded *state.Release, to *Release) bool {
	return recorded != nil && manifest.SameVersion(recorded.Version, installed) &&
		recorded.Sequence > 0 && to.Sequence > recorded.Sequence
}

// NotYet is why a machine at this place, 0 to 99, is not to install a release by
// itself; "" if it may. That spares the publisher a fleet with a bad release and
// protects nobody: a person who can write the manifest can write 100.
func NotYet(r *manifest.Rollout, place int) string {
	if r == nil || place < r.Percent {
		return ""
	}
	return fmt.Sprintf("not yet for this machine (rollout at %d %%)", r.Percent)
}

func rollout(k Known) Decision {
	if !k.offered() || !k.unattended() || k.Release.NotYet == "" {
		return Decision{}
	}
	return Decision{Rule: RuleRollout, Result: state.ResultAvailable, Reason: k.Release.NotYet}
}

func onlyCheck(k Known) Decision {
	if !k.offered() || k.installs() {
		return Decision{}
	}
	return Decision{Rule: RuleOnlyCheck, Result: state.ResultAvailable, Reason: Descent(k.Release.Version, k.Order.Installed)}
}
