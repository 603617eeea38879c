package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

// checkUnprivileged is check for users that may not start units: the fetcher reads the
// manifest as that user, and no role records the result.
func (a *app) checkUnprivileged(ctx context.Context, name string) (state.Attempt, error) {
	at := state.Attempt{Origin: state.OriginOperator, Stage: string(state.RoleFetch), Time: time.Now().UTC()}
	t, err := a.targets.Load(name)
	if err != nil {
		at.Result, at.Reason = state.ResultMisconfigured, err.Error()
		return at, nil
	}
	st, err := a.tree.Status(state.RoleSwap, name)
	if err != nil {
		return at, err
	}
	asked, err := a.askFetcher(ctx, "look", name, a.installedVersion(ctx, t, st))
	if ctx.Err() != nil {
		return at, errors.New("interrupted")
	}
	if err != nil {
		return at, err
	}
	at = asked
	if at.Result != state.ResultAvailable || !t.LeavesOut() {
		return at, nil
	}
	unrun, known, err := a.unrun(name, at.Version)
	if err == nil && !known {
		unrun = fmt.Sprintf("whether a script that the target leaves out has changed is not known (hint: sudo machinemon-update check %s)", name)
	}
	at.Warning = strings.Trim(at.Warning+"; "+unrun, "; ")
	return at, err
}

// askFetcher runs the fetcher program, because only that program links the code of
// downloads, and returns its answer.
func (a *app) askFetcher(ctx context.Context, args ...string) (at state.Attempt, err error) {
	cmd := exec.CommandContext(ctx, a.fetcher, args...)
	cmd.Stderr = a.err
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return at, context.Cause(ctx)
	}
	if err == nil {
		err = json.Unmarshal(out, &at)
	}
	if err != nil {
		return at, fmt.Errorf("cannot run %s: %w", a.fetcher, err)
	}
	return at, nil
}
