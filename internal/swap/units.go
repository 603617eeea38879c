package swap

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/units"
)

// This file has what concerns all units of a trial together. They are stopped in the
// reverse of their order, and started in it: each start is awaited before the next.

// named returns the names of a trial's units in one text.
func named(j *state.Journal) string { return strings.Join(j.Units(), ", ") }

// unitsOf reads the units of a trial, in their order.
func (s *Swapper) unitsOf(ctx context.Context, j *state.Journal) (all []systemd.Unit, err error) {
	for _, name := range j.Units() {
		u, err := s.Systemd.Unit(ctx, name)
		if err != nil {
			return nil, err
		}
		all = append(all, u)
	}
	return all, nil
}

// stopLimit returns how long the units may take to stop.
func stopLimit(all []systemd.Unit) (sum time.Duration) {
	for _, u := range all {
		sum += u.StopLimit
	}
	return sum
}

// ran returns the starts of the units that the restart ends.
func ran(j *state.Journal) []string { return append([]string{j.Invocation}, j.AlsoRan...) }

// setUnits writes into the journal which units run the program.
func (sw *swapping) setUnits(ctx context.Context) error {
	names, err := units.Names(ctx, sw.Systemd, sw.target)
	if err != nil || len(names) == 0 {
		return err
	}
	sw.journal.Unit, sw.journal.Also = names[0], names[1:]
	return nil
}

// knowUnits writes into the journal how the units are before the swap.
func (sw *swapping) knowUnits(ctx context.Context, before *state.Baseline) ([]systemd.Unit, error) {
	j := sw.journal
	all, err := sw.unitsOf(ctx, j)
	if err != nil {
		return nil, err
	}
	// A unit in a crash loop may look running now; the baseline watched it for longer.
	j.WasRunning = before == nil || before.Standing
	j.ByReload = sw.target.Reload
	for i, u := range all {
		idle, err := units.Idle(ctx, sw.Systemd, u)
		if err != nil {
			return nil, err
		}
		if idle {
			if j.Idle == nil {
				j.Idle = map[string]string{}
			}
			j.Idle[u.Name] = u.Invocation
		}
		if i == 0 {
			j.Invocation = u.Invocation
		} else {
			j.AlsoRan = append(j.AlsoRan, u.Invocation)
		}
		if u.MainPID != 0 {
			j.MainPIDs = append(j.MainPIDs, u.MainPID)
		}
		j.WasRunning = j.WasRunning && (idle || u.Running())
		j.Spares = j.Spares || u.SparesChildren()
		// Only a unit that runs can be reloaded.
		j.ByReload = j.ByReload && u.Active == "active"
		sw.warnOfChildren(u)
	}
	return all, sw.knowNeighbours(ctx, all)
}

// knowNeighbours writes into the journal which other units are stopped with these, or may
// start them.
func (sw *swapping) knowNeighbours(ctx context.Context, all []systemd.Unit) (err error) {
	j := sw.journal
	var dependents, triggers []string
	for _, u := range all {
		dependents, triggers = append(dependents, u.Dependents...), append(triggers, u.Triggers...)
	}
	own := func(name string) bool { return slices.Contains(j.Units(), name) }
	if j.Dependents, err = sw.running(ctx, slices.DeleteFunc(dependents, own)); err != nil {
		return err
	}
	j.Triggers, err = sw.running(ctx, slices.DeleteFunc(triggers, own))
	return err
}

// wakeUp takes those units out of the idle ones that were started before the new files were
// in their places: they run the old program, and are restarted. A unit that never stays
// active keeps its run, whose program is not replaced.
func (sw *swapping) wakeUp(ctx context.Context) error {
	for name := range sw.journal.Idle {
		u, err := sw.Systemd.Unit(ctx, name)
		if err != nil {
			return err
		}
		if u.Active != "inactive" && !u.Passes() {
			delete(sw.journal.Idle, name)
			continue
		}
		sw.journal.Idle[name] = u.Invocation
	}
	return nil
}

// layDown makes an idle unit idle again if it was started since the trial began.
func (s *Swapper) layDown(ctx context.Context, j *state.Journal, u systemd.Unit) error {
	switch {
	case u.Invocation == j.Idle[u.Name]:
		return nil
	case u.Active == "failed":
		return s.Systemd.ResetFailed(ctx, u.Name)
	case u.Active == "inactive" || u.Passes() && !strings.HasPrefix(u.Sub, "auto-restart"):
		return nil
	}
	return errors.Join(s.Systemd.Stop(ctx, u.Name), s.Systemd.ResetFailed(ctx, u.Name))
}
