package command

import (
	"cmp"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

// below returns the lines that follow an attempt's reason: a warning, the new program's
// last lines, the command that shows more of them, and the hint that undoes a rejection.
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
	if at.Drill && at.TrialFailed() {
		lines = append(lines, "evidence: sudo machinemon-update history "+name+" "+string(at.ID))
	}
	if at.Rejected != "" {
		lines = append(lines, at.Rejected+" is rejected (hint: "+state.UnskipHint(name)+")")
	}
	return lines
}

// more returns the command that shows what the unit, and systemd about it, logged since
// the attempt began.
func more(at state.Attempt) string {
	unit := at.Unit
	if strings.ContainsAny(unit, `\`) {
		unit = "'" + unit + "'"
	}
	return "journalctl -u " + unit + " --since '" + at.Started.Local().Format(time.DateTime) + "'"
}

// told returns the text about an attempt that the server gets. The most important part is
// first, because the server's line is short.
func told(at state.Attempt) string {
	s := at.Reason
	if at.Unhealthy != "" {
		s += "; " + at.Aftermath()
	}
	if n := len(at.Said); n > 0 {
		// The version says which program said it: the reason may end with the old one's
		// words.
		s += "; " + cmp.Or(at.Version, "the new version") + " said: " + at.Said[n-1]
	}
	return strings.TrimPrefix(s, "; ")
}
