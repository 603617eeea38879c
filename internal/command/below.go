package command

import (
	"cmp"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

// below is what is said of an attempt on lines of their own, below its reason: what
// the operator should know of it, the new program's own last words, where there are more, and how to undo what the
// attempt has rejected, if that still is.
func below(name string, at state.Attempt) (lines []string) {
	if at.Warning != "" {
		lines = append(lines, "warning: "+at.Warning)
	}
	for _, said := range at.Said {
		lines = append(lines, name+" said: "+said)
	}
	if at.Unit != "" {
		lines = append(lines, "more: "+more(at))
	}
	if at.Rejected != "" {
		lines = append(lines, at.Rejected+" is rejected (hint: "+state.UnskipHint(name)+")")
	}
	return lines
}

// more is the command that shows what the unit, and systemd of it, said since the
// attempt began.
func more(at state.Attempt) string {
	unit := at.Unit
	if strings.ContainsAny(unit, `\`) {
		unit = "'" + unit + "'"
	}
	return "journalctl -u " + unit + " --since '" + at.Started.Local().Format(time.DateTime) + "'"
}

// told is what the server is told of an attempt, the most important first: its line
// is short.
func told(at state.Attempt) string {
	s := at.Reason
	if at.Unhealthy != "" {
		s += "; " + at.Aftermath()
	}
	if n := len(at.Said); n > 0 {
		// By its version: what the reason ends with may be of the old program.
		s += "; " + cmp.Or(at.Version, "the new version") + " said: " + at.Said[n-1]
	}
	return strings.TrimPrefix(s, "; ")
}
