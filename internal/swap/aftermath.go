package swap

import (
	"cmp"

	"github.com/machinemon/machinemon-update/internal/state"
)

// fares returns how the old program is after the rollback. healthy is true only if the
// gate's user saw the unit stand and no probe fail, not even one that failed before the
// swap. unhealthy says what is wrong, where that is known.
func fares(after *state.Baseline) (healthy bool, unhealthy string) {
	if after == nil {
		return false, "" // the old program was not watched
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

// inBrackets returns a remark in brackets, to follow a line, or "" if it is empty.
func inBrackets(remark string) string {
	if remark == "" {
		return ""
	}
	return " (" + remark + ")"
}
