package command

import (
	"context"
	"fmt"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/cli"
	"github.com/machinemon/machinemon-update/internal/state"
)

// statusCheck is `status --check`: the status of one target for a script check of
// MachineMon's agent, which takes it to the server.
func (a *app) statusCheck(args []string) error {
	if len(args) != 1 || a.json {
		return cli.Usagef("status --check needs exactly one target, and has no --json (hint: machinemon-update status lists them)")
	}
	if _, err := a.choose(args); err != nil {
		return err
	}
	s := a.statusOf(context.Background(), nil, args[0])
	said := checkin.Status{Target: s.Target, Installed: s.Installed, Available: s.Available, Held: s.Held != nil}
	if n := len(s.Rejected); n > 0 {
		said.Rejected = s.Rejected[n-1]
	}
	last := s.Last
	// A release that was rolled back is not attempted again, which must not end the
	// alarm about it.
	if h, err := a.tree.History(args[0]); err == nil {
		for i := len(h) - 1; i >= 0 && (last == nil || last.Result == state.ResultNotAttempted); i-- {
			last = &h[i]
		}
	}
	last = provenOr(last, &s)
	if last != nil {
		said.Result, said.Version, said.Time, said.Reason = string(last.Result), last.Version, &last.Time, state.Printable(told(*last))
	}
	a.exit = 0
	if s.Error != "" {
		// However well the last attempt went, the next one will not.
		said.Result, said.Reason, a.exit = string(state.ResultMisconfigured), state.Printable(s.Error), 1
	} else if last != nil && last.Result.Alarming() {
		a.exit = 1
	}
	_, err := fmt.Fprintln(a.out, said.Line())
	return err
}

// provenSince is said of an attempt that ended unproven once its release is proven.
const provenSince = "a probe has passed since"

// provenOr is the end that is told: that of the last attempt, but where no probe
// proves what is installed this, as long as it is so. Attempts that find it current
// say nothing about it.
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
