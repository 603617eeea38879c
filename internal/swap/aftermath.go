package swap

import (
	"cmp"

	"github.com/machinemon/machinemon-update/internal/state"
)

// fares says how the old program was seen to fare after the rollback: healthy only
// where the gate's user saw it stand and no probe fail, also none that failed before
// the swap.
func fares(after *state.Baseline) (healthy bool, unhealthy string) {
	if after == nil {
		return false, "" // nobody looked
	}
	if !after.Standing {
		return false, cmp.Or(after.Detail, "its unit is not as it must be")
	}
	for _, p := range after.Probes {
		if !p.Passed && !p.Unknown {
			return false, p.Probe + ": " + p.Detail
		}
	}
	return !after.Unprobed, ""
}

// inBrackets adds a remark to a line, if there is one.
func inBrackets(remark string) string {
	if remark == "" {
		return ""
	}
	return " (" + remark + ")"
}
