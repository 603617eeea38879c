package state

import (
	"cmp"
	"strings"
)

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
	case a.From == "":
		return "the files of before are in place"
	}
	return "the files of " + a.From + " are in place"
}
