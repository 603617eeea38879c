package command

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/machinemon/machinemon-update/internal/cli"
	"github.com/machinemon/machinemon-update/internal/state"
)

// minutes is the layout in which times are shown.
const minutes = "2006-01-02 15:04"

// history shows the attempts on a target or, without an argument, on all of them, the
// newest first. With an attempt it shows that one only, with what was kept of its trial.
func (a *app) history(args []string) error {
	if len(args) == 2 {
		return a.oneAttempt(args[0], state.AttemptID(args[1]))
	}
	names, err := a.choose(args)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return a.historyOfAll(names)
	}
	attempts, rejected, unread := a.attemptsOn(names[0])
	text := fmt.Sprintf("no attempts on %s yet\n", names[0])
	if len(attempts) > 0 {
		rows := []row{{cells: historyColumns}}
		for _, at := range attempts {
			rows = append(rows, historyRow(names[0], at, rejected))
		}
		text = table(rows)
	}
	return errors.Join(a.print(map[string]any{"target": names[0], "attempts": attempts}, text), unread)
}

var historyColumns = []string{"TIME", "ATTEMPT", "BY", "FROM", "TO", "RESULT"}

func historyRow(name string, at state.Attempt, rejected []string) row {
	from, to := at.Versions()
	r := row{cells: []string{at.Time.Local().Format(minutes), string(at.ID),
		cmp.Or(string(at.Origin), "-"), cmp.Or(from, "-"), cmp.Or(to, "-"), string(at.Result)}}
	r.note(at.Reason + at.Detour())
	r.aftermath(name, at, rejected)
	return r
}

// attemptsOn returns the attempts on a target, the newest first, and the versions that are
// rejected. The roles' intact records are returned even if one is damaged.
func (a *app) attemptsOn(name string) (attempts []state.Attempt, rejected []string, err error) {
	attempts, err = a.tree.History(name)
	slices.Reverse(attempts)
	st, serr := a.tree.Status(state.RoleSwap, name)
	if serr != nil {
		st = state.Status{} // History has reported the error
	}
	return attempts, rejectedVersions(&st), err
}

// historyOfAll shows the attempts on all targets in one list.
func (a *app) historyOfAll(names []string) error {
	type attemptOn struct {
		Target string `json:"target"`
		state.Attempt
		rejected []string
	}
	all := []attemptOn{}
	var unread error
	for _, name := range names {
		attempts, rejected, err := a.attemptsOn(name)
		unread = errors.Join(unread, err)
		for _, at := range attempts {
			all = append(all, attemptOn{name, at, rejected})
		}
	}
	slices.SortStableFunc(all, func(a, b attemptOn) int { return b.Time.Compare(a.Time) })
	text := "no attempts yet\n"
	if len(all) > 0 {
		rows := []row{{cells: append([]string{"TARGET"}, historyColumns...)}}
		for _, at := range all {
			r := historyRow(at.Target, at.Attempt, at.rejected)
			r.cells = append([]string{at.Target}, r.cells...)
			rows = append(rows, r)
		}
		text = table(rows)
	}
	return errors.Join(a.print(map[string]any{"attempts": all}, text), unread)
}

// upToAttempt is at most a target and one of its attempts.
var upToAttempt = cli.Args("at most a target and an attempt", listsThem, func(args []string) bool { return len(args) <= 2 })
