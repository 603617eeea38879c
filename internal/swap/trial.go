package swap

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// startGate starts the gate, whose sandbox takes longer to make than most of what remains of the
// swap. The gate begins to judge when this unit has ended, whose OnSuccess= starts it if it does
// not run by then. It gives no verdict if no trial was begun.
func (sw *swapping) startGate(ctx context.Context) error {
	// Earlier failures must not keep the units that end the trial from starting.
	if err := sw.Systemd.ResetFailed(ctx, unitOf("health-gate", sw.name), unitOf("commit", sw.name), unitOf("rollback", sw.name), unitOf("deadline", sw.name)); err != nil {
		return err
	}
	// systemd hands the files of probes to the gate when it starts it, and the new program may
	// write them, such as a certificate that it makes for itself.
	if len(sw.target.ProbeFiles()) == 0 {
		sw.logError(sw.journal, sw.Systemd.Queue(ctx, unitOf("health-gate", sw.name)))
	}
	return nil
}

// begun carries a trial from the open journal to the restart. stop is how long the old
// program may take to stop and its data to be saved.
func (sw *swapping) begun(ctx context.Context, stop time.Duration) error {
	j := sw.journal
	// A shutdown now would be undone at the next boot, like a power cut. It can wait a little.
	delayed, err := sw.Systemd.Delay(ctx, "updating "+j.Target+" to "+state.Called(j.Version))
	sw.logError(j, err)
	defer delayed()
	// A try may begin at the end of the settle time.
	deadline := stop + j.Timeout*time.Duration(max(1, len(j.Units()))) + j.Settle + sw.target.Health.LongestTry() + slack
	deadline += time.Duration(sw.target.Hooks.BeforeSwap()) * hookTime
	if err := sw.Systemd.Arm(ctx, deadlineOf(sw.name), deadline); err != nil {
		return err
	}
	left, err := sw.watchDrill(ctx, j)
	if err != nil {
		return err
	}
	if j.Stopped {
		if err := sw.halt(ctx, j); err != nil {
			return err
		}
		if err := sw.saveData(ctx); err != nil {
			return err
		}
		if err := sw.reserve(ctx); err != nil {
			return err
		}
	}
	if err := sw.beforeSwap(ctx); err != nil {
		return err
	}
	if err := sw.rename(ctx); err != nil {
		return err
	}
	if err := sw.wakeUp(ctx); err != nil {
		return err
	}
	j.Phase, j.Restarted = state.PhaseTrial, sw.now()
	sw.identify(j)
	sw.stamp(j)
	if err := sw.Tree.SetJournal(j); err != nil {
		return err
	}
	sw.Log.Event(log.EventOnTrial, "%s: installed, %s", describe(j), renewal(j))
	if j.ByReload && !j.Reload { // a new unit file needs a restart
		err = sw.reload(ctx, j)
	} else {
		err = sw.restart(ctx, j, j.Timeout)
	}
	if j.Left = left(); j.Left > 0 {
		err = errors.Join(err, sw.Tree.SetJournal(j))
	}
	if _, overdue := errors.AsType[*systemd.OverdueError](err); overdue {
		j.Finding = state.FindingBad
		return fmt.Errorf("not healthy in time: %w (hint: if it needs longer to start, raise health.timeout_seconds)", err)
	}
	if err == nil || !j.Reload {
		return err
	}
	// In that case nothing can start, so there is nothing for the gate to watch.
	now, uerr := sw.unitsOf(ctx, j)
	for _, u := range now {
		if uerr == nil && u.Load != "loaded" {
			j.Finding = state.FindingBad
			return fmt.Errorf("systemd cannot load the new %s (%s): %w", u.Name, u.Load, err)
		}
	}
	return err
}

// renewal says how the units get the new program.
func renewal(j *state.Journal) string {
	switch {
	case len(j.Units()) == len(j.Idle):
		return "nothing is restarted"
	case j.ByReload && !j.Reload:
		return "reloading " + named(j)
	}
	return "restarting " + named(j)
}

// slack is the time that the deadline allows beyond the limits of the restart and the
// gate: the gate waits up to a minute for a lost bus.
const slack = 90 * time.Second
