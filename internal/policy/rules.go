package policy

import (
	"fmt"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/version"
)

// Rule names a rule that keeps an attempt from installing.
type Rule string

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
	RuleWindow     Rule = "window"
	RuleAfter      Rule = "after"
	RuleDeferred   Rule = "deferred"
	RuleChanged    Rule = "changed by hand"
	RuleUnit       Rule = "unit"
	RuleDoubt      Rule = "doubt"
	RuleBackoff    Rule = "backoff"
)

// rules lists the rules in the order in which Decide asks them. A rule that refuses
// returns why; unless it sets a result, the attempt ends as not attempted. One that does not
// refuse makes no text: the gate asks for each client of a page.
var rules = []struct {
	name    Rule
	needs   condition
	refuses func(Known) (Decision, bool)
}{
	{RuleHeld, installing, held},
	{RuleDisabled, offered, disabled},
	{RuleCurrent, offered, current},
	{RuleRejected, offered, rejected},
	{RuleVersions, offered, outOfRange},
	{RuleDowngrade, offered, replayed},
	{RuleDowngrade, offered | unattended, down},
	{RuleRollout, offered | unattended, waits},
	{RuleOnlyCheck, offered, onlyChecks},
	{RuleAutoUpdate, installing | unattended, notEnabled},
	{RuleWindow, installing | unattended, outsideWindow},
	{RuleAfter, installing | unattended, another},
	{RuleChanged, installing | unattended, changed},
	{RuleUnit, installing, notUpdatable},
	{RuleDeferred, installing | unattended, deferred},
	{RuleDoubt, offered, doubtful},
	{RuleBackoff, unattended, backsOff},
}

func held(k Known) (Decision, bool) {
	d := Held(k.Rules.Target, k.Status)
	return d, d.Refused()
}

// HeldSince begins the reason of [Held].
const HeldSince = "it is held since "

// Held refuses to change a target that the operator holds.
func Held(target string, st state.Status) Decision {
	if st.Held == nil {
		return Decision{}
	}
	return Decision{Rule: RuleHeld, Result: state.ResultNotAttempted, Reason: HeldSince + st.Held.Since.Format(time.DateOnly),
		Hint: "sudo machinemon-update unhold " + target}
}

func disabled(k Known) (Decision, bool) {
	return Decision{Reason: "the publisher has disabled updates"}, k.Release.Disabled
}

func current(k Known) (Decision, bool) {
	same := k.Order.Installed != "" && manifest.SameVersion(k.Release.Version, k.Order.Installed)
	return Decision{Result: state.ResultCurrent}, same && k.Order.Missing == "" && !k.Release.Staged && !rebuilt(k)
}

// rebuilt reports whether the publisher has published other bytes, with a higher
// sequence, under the version that is installed. If the installed bytes are not known,
// the version alone decides. An archive that the operator names counts as rebuilt,
// because the operator wants it under any version.
func rebuilt(k Known) bool {
	if k.Order.Brought() && k.Release.Sequence == 0 {
		return true
	}
	r := k.Status.Installed
	return r != nil && manifest.SameVersion(r.Version, k.Release.Version) && k.Release.Sequence > r.Sequence &&
		k.Release.Fingerprint != "" && k.Release.Fingerprint != state.Fingerprint(r.Files)
}

func rejected(k Known) (d Decision, refused bool) {
	if d.Rejection = k.Status.Rejects(k.Release.Fingerprint, k.Release.Archive, k.Release.Sequence); d.Rejection == nil {
		return d, false
	}
	d.Reason, d.Hint = d.Rejection.Refusal(), state.UnskipHint(k.Rules.Target)
	return d, true
}

// outOfRange refuses a release that is not in source.versions, which binds the operator's
// attempts, too, because the operator set it. It does not bind an archive that the
// operator names in place of the source.
func outOfRange(k Known) (Decision, bool) {
	if k.Order.Brought() || k.Rules.Versions.Has(k.Release.Version) {
		return Decision{}, false
	}
	reason := fmt.Sprintf("%s is not in source.versions %q", k.Release.Version, k.Rules.Versions)
	if !version.Ordered(k.Release.Version) {
		reason += ": it has no place in the order of versions"
	}
	return Decision{Reason: reason, Hint: "source.versions of target " + k.Rules.Target + " says which releases are taken"}, true
}

// down keeps an unattended attempt from installing a lower version: a maintenance release
// of an old line is "latest" for a while, and an older program would work on a newer
// one's data. Only the publisher withdraws a release, by a higher sequence; only the
// operator lets the source decide, by source.downgrade.
func down(k Known) (Decision, bool) {
	descent := Descent(k.Release.Version, k.Order.Installed)
	if descent == "" || k.Rules.Downgrade || withdraws(k) {
		return Decision{}, false
	}
	return Decision{Reason: descent + ", and no schedule goes down",
		Hint: "sudo machinemon-update apply " + k.Rules.Target + " installs it; source.downgrade = true lets schedules do so"}, true
}

// replayed keeps also a person's attempt from installing a lower version of a program if
// nothing but the version tells an old release from a new one. Without an order of versions,
// any release might be an old one.
func replayed(k Known) (Decision, bool) {
	if !k.Rules.ByVersion || k.Order.Brought() || k.Rules.Downgrade {
		return Decision{}, false
	}
	to, from := k.Release.Version, k.Order.Installed
	reason := Descent(to, from)
	if from != "" && !manifest.SameVersion(to, from) && !(version.Ordered(to) && version.Ordered(from)) {
		reason = "nothing shows that " + to + " is not older than the installed " + from
	}
	return Decision{Reason: reason + ", and its signature does not forbid to bring back an old release",
		Hint: "source.downgrade = true, or source.tag, allows it"}, reason != ""
}

// Descent returns a sentence for people about an install that goes to a lower version, or
// "" if it does not or the versions have no order.
func Descent(to, installed string) string {
	if !version.Lower(to, installed) {
		return ""
	}
	return to + " is lower than the installed " + installed
}

// withdraws reports whether the publisher has put the release behind the installed one on
// purpose, by a higher sequence. Both sequences must be known.
func withdraws(k Known) bool {
	r := k.Status.Installed
	return r != nil && manifest.SameVersion(r.Version, k.Order.Installed) && r.Sequence > 0 && k.Release.Sequence > r.Sequence
}

// NotYet returns why a machine at this place, 0 to 99, is not to install a release by
// itself, or "" if it may. A rollout spares the publisher a fleet with a bad release. It
// protects nothing: a person who can write the manifest can write 100.
func NotYet(r *manifest.Rollout, place int) string {
	if r == nil || place < r.Percent {
		return ""
	}
	return fmt.Sprintf("not yet for this machine (rollout at %d %%)", r.Percent)
}

func waits(k Known) (Decision, bool) {
	return Decision{Result: state.ResultAvailable, Reason: k.Release.NotYet}, k.Release.NotYet != ""
}

func onlyChecks(k Known) (Decision, bool) {
	if k.Order.Verb != state.VerbCheck {
		return Decision{}, false
	}
	return Decision{Result: state.ResultAvailable, Reason: Descent(k.Release.Version, k.Order.Installed)}, true
}

func notEnabled(k Known) (Decision, bool) {
	if k.Rules.AutoUpdate {
		return Decision{}, false
	}
	return Decision{Reason: "scheduled runs only check", Hint: "sudo machinemon-update apply " + k.Rules.Target}, true
}

// outsideWindow defers what no person asked for to the next window.
func outsideWindow(k Known) (Decision, bool) {
	w := k.Rules.Window
	if k.Now.IsZero() || w.Open(k.Now) {
		return Decision{}, false
	}
	return Decision{Reason: fmt.Sprintf("it waits for its window, %s, which opens next at %s", w, w.Next(k.Now).In(k.Now.Location()).Format("2006-01-02 15:04 MST")),
		Hint: "sudo machinemon-update apply " + k.Rules.Target + " does not wait"}, true
}

// another defers what no person asked for while another target has an update under way.
func another(k Known) (Decision, bool) {
	if k.Ahead == "" {
		return Decision{}, false
	}
	return Decision{Reason: "it waits for another target: " + k.Ahead, Hint: "sudo machinemon-update apply " + k.Rules.Target + " does not wait"}, true
}

// deferred defers what no person asked for while something on this machine, or a lock of
// the fleet, says "not now".
func deferred(k Known) (Decision, bool) {
	if k.Deferred == nil {
		return Decision{}, false
	}
	asked := ""
	if at := k.Deferred.Asked; !at.IsZero() { // the answer may be an old one
		asked = ", as of " + at.In(k.Now.Location()).Format("2006-01-02 15:04 MST")
	}
	return Decision{Reason: "it waits" + asked + ": " + k.Deferred.Reason, Hint: "sudo machinemon-update apply " + k.Rules.Target + " does not wait"}, true
}

func changed(k Known) (Decision, bool) {
	if !k.Changed {
		return Decision{}, false
	}
	return Decision{Reason: "the installed files were changed by hand", Hint: "sudo machinemon-update apply " + k.Rules.Target}, true
}

// notUpdatable refuses if one of the units refuses.
func notUpdatable(k Known) (Decision, bool) {
	for _, u := range k.Units {
		if d, refused := k.unitRefuses(u); refused {
			return d, true
		}
	}
	return Decision{}, false
}

// unitRefuses refuses a unit that is not there, that a person stopped, or that no trial
// could judge. It does not refuse a failed or crash-looping unit, because the update may be
// the cure.
func (k Known) unitRefuses(u Unit) (Decision, bool) {
	switch {
	case k.Order.Verb == state.VerbDrill && u.Load == "loaded" && u.Active != "active":
		return Decision{Reason: u.Name + " does not run now, and only what runs can be seen to come back", Hint: "sudo systemctl start " + u.Name}, true
	case u.Template:
		return Decision{Reason: "no instance of " + u.Name + " runs", Hint: "sudo systemctl start one of its instances"}, true
	case u.Load == "masked":
		return Decision{Reason: u.Name + " is masked"}, true
	case u.Load == "not-found":
		return Decision{Reason: u.Name + " is not installed", Hint: "systemctl list-units --type=service lists what unit may be"}, true
	case u.Load != "loaded":
		return Decision{Result: state.ResultMisconfigured, Hint: "systemctl status " + u.Name,
			Reason: fmt.Sprintf("cannot update %s: systemd could not load %s (%s)", k.Rules.Target, u.Name, u.Load)}, true
	case u.Unreloadable:
		return Decision{Result: state.ResultMisconfigured, Hint: `remove restart = "reload"`,
			Reason: fmt.Sprintf("cannot update %s: %s cannot be reloaded, for it has no ExecReload=", k.Rules.Target, u.Name)}, true
	case u.Unjudged:
		return Decision{Result: state.ResultMisconfigured, Hint: "set health.version_command",
			Reason: fmt.Sprintf("cannot judge %s: %s is idle, and the target has no command that shows whether a release works", k.Rules.Target, u.Name)}, true
	case u.Working:
		return Decision{Reason: u.Name + " is at work", Hint: "it is updated between its runs; systemctl status " + u.Name}, true
	case u.Active != "inactive" || u.Queued || u.Idle:
		return Decision{}, false
	}
	return Decision{Reason: u.Name + " is stopped", Hint: "sudo systemctl start " + u.Name}, true
}

func doubtful(k Known) (Decision, bool) { return Decision{Reason: k.Order.Doubt}, k.Order.Doubt != "" }
