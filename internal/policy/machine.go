package policy

import (
	"fmt"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

func held(k Known) Decision {
	if !k.installs() {
		return Decision{}
	}
	return Held(k.Rules.Target, k.Status)
}

// Held refuses to change a target that the operator holds.
func Held(target string, st state.Status) Decision {
	if st.Held == nil {
		return Decision{}
	}
	return notAttempted(RuleHeld, "it is held since "+st.Held.Since.Format(time.DateOnly), "machinemon-update unhold "+target)
}

func autoUpdate(k Known) Decision {
	if !k.installs() || !k.unattended() || k.Rules.AutoUpdate {
		return Decision{}
	}
	return notAttempted(RuleAutoUpdate, "scheduled runs only check", "machinemon-update apply "+k.Rules.Target)
}

func changed(k Known) Decision {
	if !k.installs() || !k.unattended() || !k.Changed {
		return Decision{}
	}
	return notAttempted(RuleChanged, "the installed files were changed by hand", "machinemon-update apply "+k.Rules.Target)
}

// unit refuses a unit that is not there or that a person stopped. A failed or
// crash-looping one is updated: that may be the cure.
func unit(k Known) Decision {
	u := k.Unit
	if !k.installs() || u == nil {
		return Decision{}
	}
	switch {
	case u.Load == "masked":
		return notAttempted(RuleUnit, u.Name+" is masked", "")
	case u.Load == "not-found":
		return notAttempted(RuleUnit, u.Name+" is not installed", "")
	case u.Load != "loaded":
		return Decision{Rule: RuleUnit, Result: state.ResultMisconfigured, Hint: "systemctl status " + u.Name,
			Reason: fmt.Sprintf("cannot update %s: systemd could not load %s (%s)", k.Rules.Target, u.Name, u.Load)}
	case u.Active == "inactive" && !u.Queued:
		return notAttempted(RuleUnit, u.Name+" is stopped", "systemctl start "+u.Name)
	}
	return Decision{}
}

// doubt ends the attempt before a download that would not be installed.
func doubt(k Known) Decision {
	if k.Release == nil || k.Order.Doubt == "" {
		return Decision{}
	}
	return notAttempted(RuleDoubt, k.Order.Doubt, "")
}
