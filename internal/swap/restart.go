package swap

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// restart makes the units run the files that are now in place, whether they run or not.
// limit bounds each start, but not the stop of the program before it; zero leaves the
// start to the unit's own TimeoutStartSec=. An [*systemd.OverdueError] says that a
// start was not done by then. restart does not judge the units otherwise: the gate does
// that after a swap, and the baseline after a rollback. A job that fails is not an error,
// since Restart= may bring the unit up a second later. Idle units are not started.
func (s *Swapper) restart(ctx context.Context, j *state.Journal, limit time.Duration) error {
	log.Status(renewal(j))
	all, err := s.unitsOf(ctx, j)
	if err != nil {
		return err
	}
	patience := slack
	for _, u := range all {
		patience += u.StopLimit + cmp.Or(limit, u.StartLimit)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// A unit stops under the settings that systemd has loaded. If these spare the unit's
	// other processes, the new file may not: the stop comes before the reload. If they do
	// not, the new file may: the reload comes first. The stop also prevents a restart
	// that systemd is about to make and would count as one of the program that starts
	// now: a program that keeps dying may look running here, and die before the restart.
	var running []systemd.Unit
	for _, u := range all {
		if _, idle := j.Idle[u.Name]; !idle {
			running = append(running, u)
		} else if err := s.layDown(ctx, j, u); err != nil {
			return err
		}
	}
	for _, u := range slices.Backward(running) {
		unstable := !j.WasRunning && u.Active == "active" || strings.HasPrefix(u.Sub, "auto-restart")
		if j.Reload && u.SparesChildren() || unstable {
			if err := s.Systemd.Stop(ctx, u.Name); err != nil {
				return err
			}
		}
	}
	if j.Reload {
		if err := s.Systemd.Reload(ctx); err != nil {
			return err
		}
	}
	for i, u := range slices.Backward(running) {
		if i > 0 { // the first one stops when it is restarted
			if err := s.Systemd.Stop(ctx, u.Name); err != nil {
				return err
			}
		}
	}
	for _, u := range running {
		if err := s.Systemd.ResetFailed(ctx, u.Name); err != nil {
			return err
		}
	}
	// The units that trigger these were stopped while their data were restored. They
	// start first, because a socket cannot start once its service runs.
	s.startAgain(ctx, j, j.Triggers, s.Systemd.Start)
	for _, u := range running {
		if err := s.Systemd.Restart(ctx, u.Name, limit); err != nil {
			if _, ok := errors.AsType[*systemd.JobError](err); !ok {
				return err
			}
			s.logf("%s: %v", describe(j), err)
		}
	}
	// Requires= stops the dependents with the units, and does not start them again. Nothing here
	// needs them, and their start may take longer than the trial.
	s.startAgain(ctx, j, j.Dependents, s.Systemd.Queue)
	return nil
}

// reload makes the running units execute the new program at a reload, in their order. The
// gate then looks whether they did. A reload that fails, or does not end, is a fault of the
// release, which the old program refuses to become. It is none if somebody else cancels the
// reload, or if systemd does not answer.
func (s *Swapper) reload(ctx context.Context, j *state.Journal) error {
	log.Status(renewal(j))
	ctx, cancel := context.WithTimeout(ctx, j.Timeout*time.Duration(len(j.Units())))
	defer cancel()
	for _, name := range j.Units() {
		// The restarts of the past are no fault of this program.
		if err := s.Systemd.ResetFailed(ctx, name); err != nil {
			return err
		}
		err := s.Systemd.ReloadUnit(ctx, name)
		job, ended := errors.AsType[*systemd.JobError](err)
		if ended && (job.Result == "failed" || job.Result == "timeout") || errors.Is(err, context.DeadlineExceeded) && s.reloads(ctx, name) {
			j.Finding = state.FindingBad
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// reloads reports whether systemd says that the unit is still being reloaded.
func (s *Swapper) reloads(ctx context.Context, name string) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	u, err := s.Systemd.Unit(ctx, name)
	return err == nil && u.Active == "reloading"
}

// startAgain starts the units that were stopped with the trial's unit.
func (s *Swapper) startAgain(ctx context.Context, j *state.Journal, names []string, start func(context.Context, string) error) {
	for _, name := range names {
		u, err := s.Systemd.Unit(ctx, name)
		if err == nil && u.Active != "active" {
			err = start(ctx, name)
		}
		if err != nil {
			s.logf("%s: cannot start %s again, which was stopped with %s: %v", describe(j), name, named(j), err)
		}
	}
}

// halt stops the units, so that nothing writes their data. Before that it stops the units
// that could start them again meanwhile: sockets, timers and path units.
func (s *Swapper) halt(ctx context.Context, j *state.Journal) error {
	log.Status("stopping " + named(j))
	all, err := s.unitsOf(ctx, j)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stopLimit(all)+slack)
	defer cancel()
	own := j.Units()
	slices.Reverse(own)
	for _, name := range append(slices.Clone(j.Triggers), own...) {
		if err := s.Systemd.Stop(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// loosen carries out do, which stops the new program, for a rollback. A program may ask
// systemd for more time to stop, as often as it likes. If the new one has not stopped in
// its time, loosen kills it and carries out do again. The old one may need the time.
func (s *Swapper) loosen(ctx context.Context, j *state.Journal, do func(context.Context, *state.Journal) error) error {
	err := do(ctx, j)
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	all, uerr := s.unitsOf(ctx, j)
	stuck := slices.DeleteFunc(all, func(u systemd.Unit) bool { return u.Active != "deactivating" || slices.Contains(ran(j), u.Invocation) })
	if uerr != nil || len(stuck) == 0 {
		return errors.Join(err, uerr)
	}
	for _, u := range stuck {
		s.logf("%s: %s does not stop: killing its processes", describe(j), u.Name)
		if kerr := s.Systemd.Kill(ctx, u.Name); kerr != nil {
			return errors.Join(err, kerr)
		}
	}
	return do(ctx, j)
}

// running returns the units that are active now.
func (s *Swapper) running(ctx context.Context, names []string) ([]string, error) {
	if len(names) == 0 {
		return nil, nil
	}
	all, err := s.Systemd.Units(ctx, names...)
	var active []string
	for _, u := range all {
		if u.Active == "active" {
			active = append(active, u.Name)
		}
	}
	return active, err
}

var unitDirs = []string{"/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system", "/usr/local/lib/systemd/system"}

// isUnitFile reports whether systemd reads the file, and must reload after a change.
func isUnitFile(path string) bool {
	return slices.ContainsFunc(unitDirs, func(dir string) bool { return strings.HasPrefix(path, dir+"/") })
}
