package notify

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// subject says in a line what happened.
func subject(n state.Notice) string {
	on := n.Target + " on " + cmp.Or(n.Host, "this machine")
	version := cmp.Or(n.Version, "an update")
	switch n.Event {
	case target.EventFailed:
		return on + ": the update failed (" + string(n.Result) + "), nothing was changed"
	case target.EventRolledBack:
		return on + ": " + version + " was rolled back"
	case target.EventRollbackFailed:
		return on + ": the rollback of " + version + " FAILED"
	case target.EventRecovered:
		return on + ": updates work again (" + strings.TrimSpace(string(n.Result)+" "+n.Version) + ")"
	case target.EventExpiring:
		return on + ": signatures expire"
	case EventTest:
		return on + ": a test of machinemon-update"
	}
	return on + ": " + n.Event
}

// body says the rest, in lines.
func body(n state.Notice) string {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-9s %s\n", name+":", value)
		}
	}
	line("Reason", n.Reason)
	line("Now", n.After)
	line("Release", n.Version)
	line("Before", n.From)
	line("Attempt", string(n.Attempt))
	line("Time", n.Time.UTC().Format(time.RFC3339))
	if len(n.Said) > 0 {
		fmt.Fprintf(&b, "\nThe program's last lines before it was rolled back:\n")
		for _, said := range n.Said {
			b.WriteString("  " + said + "\n")
		}
	}
	if hint := hint(n); hint != "" {
		b.WriteString("\n" + hint + "\n")
	}
	return b.String()
}

// hint says what to do.
func hint(n state.Notice) string {
	switch n.Event {
	case target.EventRollbackFailed:
		return "Decide: " + state.SettleHint(n.Target)
	case target.EventFailed, target.EventRolledBack:
		return "More: machinemon-update history " + n.Target
	}
	return ""
}

// urgency is how much a person is needed, from 0 to 3.
func urgency(n state.Notice) int {
	switch n.Event {
	case target.EventRollbackFailed:
		return 3
	case target.EventRolledBack, target.EventFailed:
		return 2
	case target.EventExpiring:
		return 1
	}
	return 0
}
