package health

import (
	"context"
	"slices"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/units"
)

// plan holds the parameters of a judgement.
type plan struct {
	target          *target.Target
	units           []subject
	timeout, settle time.Duration
	probes          []prober
	peers           peers // that may answer the probes
	// before says why the unit was not up before the swap; "" if it was.
	before string
	// strict marks the trial of a new release: restarts before it began count, too, and
	// an excused probe has the whole timeout to pass.
	strict bool
	// fresh says that the swap that began at since, or its rollback, has just started the
	// program.
	fresh bool
	since time.Time
	// unitFile says that the release changes a unit file.
	unitFile bool
	began    time.Duration // when the units were reloaded, by CLOCK_MONOTONIC
	// runs, if not nil, is called once if all units run. The unit of the commands is not
	// started beside the rollback of a program that has ended already.
	runs func(context.Context)
}

// excuse marks what failed before the swap. A probe that failed then and has never
// passed on this machine may itself be wrong, so it is excused. One that has passed
// before shows that the program was ill, so it must pass after the update. Without a
// baseline nothing is excused.
func (p *plan) excuse(before *state.Baseline, passed state.Passed) {
	if before == nil {
		return
	}
	if !before.Standing {
		p.before = before.Detail
	}
	for i, r := range before.Probes {
		if i < len(p.probes) && p.probes[i].name == r.Probe {
			p.probes[i].excused = !r.Passed && !r.Unknown && passed[p.probes[i].key].IsZero()
		}
	}
}

// prepare completes the plan by what systemd says of the units now, and returns when the
// last of those that were started began to start, by CLOCK_MONOTONIC.
func (p *plan) prepare(ctx context.Context, m manager) (began time.Duration, err error) {
	resting, runs := true, true // all units
	for i := range p.units {
		w := &p.units[i]
		u, err := m.Unit(ctx, w.unit)
		if err != nil {
			return 0, err
		}
		if !p.fresh {
			if w.idle, err = units.Idle(ctx, m, u); err != nil {
				return 0, err
			}
			w.run = u.Invocation
		}
		if w.idle && p.fresh { // before the swap, no probe starts the old program
			if w.woken, err = units.Woken(ctx, m, p.target, u); err != nil {
				return 0, err
			}
		}
		resting = resting && w.idle && !w.woken
		runs = runs && (w.idle || u.Running())
		switch {
		case w.idle:
		case w.reloaded:
			began = max(began, p.began)
		default:
			began = max(began, u.Began)
		}
	}
	if runs && p.runs != nil {
		p.runs(ctx)
	}
	if resting {
		p.settle = 0 // there is nothing to watch
		p.probes = slices.Clone(p.probes)
		for i := range p.probes {
			p.probes[i].resting = p.probes[i].running
		}
	}
	return began, nil
}

// once returns how long a try of each probe may take, all at a time, within the timeout.
func (p *plan) once() (longest time.Duration) {
	for _, one := range p.probes {
		longest = max(longest, one.limit)
	}
	return min(longest, p.timeout)
}

// subjects returns the units that a judgement watches.
func subjects(names []string, main program, idle map[string]string) (all []subject) {
	for _, name := range names {
		run, is := idle[name]
		all = append(all, subject{unit: name, main: main, idle: is, run: run})
	}
	return all
}
