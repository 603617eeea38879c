package command

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/machinemon/machinemon-update/internal/state"
)

// minutes is the layout in which times are shown.
const minutes = "2006-01-02 15:04"

func (a *app) history(args []string) error {
	names, err := a.choose(args)
	if err != nil {
		return err
	}
	// The roles' intact records are shown even if one is damaged.
	attempts, unread := a.tree.History(names[0])
	slices.Reverse(attempts)
	st, err := a.tree.Status(state.RoleSwap, names[0])
	if err != nil {
		st = state.Status{} // History has reported the error
	}
	rejected := rejectedVersions(&st)
	text := fmt.Sprintf("no attempts on %s yet\n", names[0])
	if len(attempts) > 0 {
		rows := []row{{cells: []string{"TIME", "ATTEMPT", "BY", "FROM", "TO", "RESULT"}}}
		for _, at := range attempts {
			from, to := at.Versions()
			r := row{cells: []string{at.Time.Local().Format(minutes), string(at.ID),
				cmp.Or(string(at.Origin), "-"), cmp.Or(from, "-"), cmp.Or(to, "-"), string(at.Result)}}
			r.note(at.Reason + at.Detour())
			r.aftermath(names[0], at, rejected)
			rows = append(rows, r)
		}
		text = table(rows)
	}
	return errors.Join(a.print(map[string]any{"target": names[0], "attempts": attempts}, text), unread)
}
