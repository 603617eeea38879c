package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// settle ends a trial whose rollback failed, as the operator decides: keep what is
// installed now, or try the rollback again. The rollback unit does the work.
func (a *app) settle(args []string) error {
	verb := state.VerbSettleKeep
	if args[1] == "back" {
		verb = state.VerbSettleBack
	}
	return a.each(args[:1], func(ctx context.Context, name string) (state.Attempt, error) { return a.settleOne(ctx, name, verb) })
}

func (a *app) settleOne(ctx context.Context, name string, verb state.Verb) (state.Attempt, error) {
	at := state.Attempt{Origin: state.OriginOperator, Time: time.Now().UTC(), Result: state.ResultNotAttempted}
	unlock, err := a.operate(name)
	if err != nil {
		return at, err
	}
	defer unlock()
	j, err := a.tree.Journal(name)
	if err != nil {
		return at, err
	}
	if j == nil || j.RollbackFailed == "" {
		return at, state.Fail(state.ResultNotAttempted, "no rollback has failed, so there is nothing to settle")
	}
	st, err := a.tree.Status(state.RoleSwap, name)
	if err != nil {
		return at, err
	}
	if d := policy.Held(name, st); d.Refused() && verb == state.VerbSettleBack {
		return at, state.Fail(d.Result, "%s", d)
	}
	conn, err := systemd.ConnectPrivate(ctx)
	if err != nil {
		return at, err
	}
	defer conn.Close()
	if err := notUnderWay(ctx, conn, name); err != nil {
		return at, err
	}
	if err := a.tree.SetRequest(name, state.Request{Attempt: j.Attempt, Verb: verb}); err != nil {
		return at, err
	}
	step := unit("rollback", name)
	if err := conn.ResetFailed(ctx, step); err != nil {
		return at, err
	}
	// The records say how it went, unless the unit died before it wrote one.
	err = conn.Start(ctx, step)
	_, failed := errors.AsType[*systemd.JobError](err)
	if err != nil && !failed {
		return at, err
	}
	if _, err := a.tree.TakeRequest(name); err != nil { // the unit may have died before it took the request
		return at, err
	}
	all, err := a.tree.History(name)
	if i := slices.IndexFunc(all, func(a state.Attempt) bool { return a.ID == j.Attempt }); i >= 0 && !(failed && all[i].Time.Before(at.Time)) {
		at = all[i]
	} else if failed {
		at.Version, at.Result = j.Version, state.ResultRollbackFailed
		at.Reason = fmt.Sprintf("%s failed, and the trial is still open (hint: journalctl -u %s)", step, step)
	}
	if now, jerr := a.tree.Journal(name); jerr == nil && now == nil && (at.Result == state.ResultRolledBack || at.Result == state.ResultInterrupted) {
		at.Reason = fmt.Sprintf("rolled back (%s): %s", at.Aftermath(), at.Reason)
		at.Result = state.ResultSettled // the operator wanted this, so it is no failure
	}
	return at, err
}
