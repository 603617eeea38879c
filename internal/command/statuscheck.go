package command

import (
	"context"
	"fmt"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/cli"
	"github.com/machinemon/machinemon-update/internal/rollout"
	"github.com/machinemon/machinemon-update/internal/state"
)

// statusCheck is `status --check`: it prints the status of one target for a script check
// of MachineMon's agent, which sends it to the server.
func (a *app) statusCheck(args []string) error {
	if len(args) != 1 || a.json {
		return cli.Usagef("status --check needs exactly one target, and has no --json (hint: machinemon-update status lists them)")
	}
	if _, err := a.choose(args); err != nil {
		return err
	}
	s := a.statusOf(context.Background(), nil, args[0])
	said := checkin.Status{Drift: a.drifted(&s), Target: s.Target, Installed: s.Installed, Available: s.Available, Held: s.Held != nil, Lot: rollout.ID(a.machineID)}
	if n := len(s.Rejected); n > 0 {
		said.Rejected = s.Rejected[n-1]
	}
	last := s.Last
	// A release that was rolled back is not attempted again. That later result must not
	// end the alarm about the rollback, and neither must a drill.
	if h, err := a.tree.History(args[0]); err == nil {
		for i := len(h) - 1; i >= 0 && (last == nil || last.Result == state.ResultNotAttempted || last.Exercise()); i-- {
			last = &h[i]
		}
	}
	if last != nil && last.Exercise() {
		last = nil
	}
	last = provenOr(last, &s)
	if last != nil {
		said.Result, said.Version, said.Time, said.Reason = string(last.Result), last.Version, &last.Time, told(*last)
	}
	a.exit = 0
	if s.Error != "" {
		// Regardless of the last attempt, the next one will fail.
		said.Result, said.Reason, a.exit = string(state.ResultMisconfigured), s.Error, 1
	} else if last != nil && last.Result.Alarming() {
		a.exit = 1
	}
	_, err := fmt.Fprintln(a.out, said.Line())
	return err
}

// provenSince is the reason of an unproven attempt whose release was proven later.
const provenSince = "a probe has passed since"

// provenOr returns the end to report: unproven as long as no probe proves the installed
// release, else that of the last attempt. Attempts that find the release current say
// nothing about it.
func provenOr(last *state.Attempt, s *targetStatus) *state.Attempt {
	if last == nil || last.Result.Alarming() && last.Result != state.ResultUnproven {
		return last
	}
	told := *last
	switch {
	case s.Unproven != "":
		told.Result, told.Version, told.Reason = state.ResultUnproven, s.Installed, s.Unproven
	case last.Result == state.ResultUnproven:
		told.Result, told.Reason = state.ResultCommitted, provenSince
	}
	return &told
}

// drifted reports whether files or processes are not as the last update left them. A
// systemd that does not answer is not the target's fault, and is only printed.
func (a *app) drifted(s *targetStatus) bool {
	t, err := a.targets.Load(s.Target)
	if err != nil || s.Trial != "" || len(s.Drift) > 0 { // Error has the error
		return len(s.Drift) > 0
	}
	st, err := a.tree.Status(state.RoleSwap, s.Target)
	m := a.see(context.Background())
	if err != nil || m == nil {
		return false
	}
	defer m.Close()
	stray, err := strayProcesses(context.Background(), m, t, &st)
	if err != nil {
		fmt.Fprintf(a.err, "machinemon-update: %s\n", state.Printable(err.Error()))
	}
	return len(stray) > 0
}
