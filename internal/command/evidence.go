package command

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/cli"
	"github.com/machinemon/machinemon-update/internal/state"
)

// oneAttempt shows one attempt, and what root kept of its trial as a time line.
func (a *app) oneAttempt(name string, id state.AttemptID) error {
	if _, err := a.choose([]string{name}); err != nil {
		return err
	}
	attempts, rejected, unread := a.attemptsOn(name)
	n := slices.IndexFunc(attempts, func(at state.Attempt) bool { return at.ID == id })
	evidence, err := a.tree.Evidence(name, id)
	if errors.Is(err, fs.ErrPermission) {
		fmt.Fprintf(a.err, "machinemon-update: only root may see what was kept of a trial (hint: sudo machinemon-update history %s %s)\n", name, id)
		err = nil
	}
	unread = errors.Join(unread, err)
	var at state.Attempt
	switch {
	case n >= 0:
		at = attempts[n]
	case evidence != nil: // its record has made room for later ones
		at = evidence.Attempt
	default:
		return errors.Join(unread, cli.Usagef("cannot show attempt %q of %s: there is no record of it (hint: machinemon-update history %s)", id, name, name))
	}
	text := table([]row{{cells: historyColumns}, historyRow(name, at, rejected)})
	if evidence != nil {
		text += timeLine(*evidence)
	}
	return errors.Join(a.print(map[string]any{"target": name, "attempt": at, "evidence": evidence}, text), unread)
}

// clock is the layout of the times in a time line.
const clock = "15:04:05.000"

// timeLine returns the evidence in the order of events.
func timeLine(e state.Evidence) string {
	var b strings.Builder
	probes := func(title, detail string, all []state.ProbeResult) {
		fmt.Fprintf(&b, "\n%s\n", strings.TrimSuffix(title+": "+detail, ": "))
		for _, p := range all {
			passed := map[bool]string{true: "passed", false: "failed"}[p.Passed]
			if p.Unknown {
				passed = "unknown"
			}
			fmt.Fprintf(&b, "  %-7s %6d ms  %s\n", passed, p.Millis, strings.TrimSuffix(p.Probe+": "+p.Detail, ": "))
		}
	}
	if e.Before != nil {
		probes("Before the swap", e.Before.Detail, e.Before.Probes)
	}
	if e.Trial != nil {
		probes("In the trial: "+string(e.Trial.Finding), e.Trial.Reason, e.Trial.Probes)
	}
	if e.After != nil {
		probes("After the rollback", e.After.Detail, e.After.Probes)
	}
	for _, u := range e.Units {
		fmt.Fprintf(&b, "\n%s since:\n", u.Unit)
		for _, v := range u.Values {
			b.WriteString("  " + v + "\n")
		}
	}
	if len(e.Digests) > 0 {
		b.WriteString("\nInstalled since:\n")
	}
	for _, d := range e.Digests {
		fmt.Fprintf(&b, "  %s  %s\n", d.SHA256, d.File)
	}
	if len(e.Log) > 0 {
		b.WriteString("\nTime line:\n")
	}
	day := ""
	for _, l := range e.Log {
		if at := l.Time.Local().Format("2006-01-02"); at != day {
			day = at
			b.WriteString("  " + day + "\n")
		}
		fmt.Fprintf(&b, "  %s %s: %s\n", l.Time.Local().Format(clock), l.Unit, l.Text)
	}
	for _, m := range e.Missing {
		b.WriteString("\nmissing: " + m + "\n")
	}
	var lines []string
	for line := range strings.SplitSeq(strings.TrimSuffix(b.String(), "\n"), "\n") {
		lines = append(lines, state.Printable(line))
	}
	return strings.Join(lines, "\n") + "\n"
}
