package swap

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// restart makes the unit run the files that are now in place, whether it runs or not.
// limit bounds the start, but not the stop of the program before it; zero leaves the
// start to the unit's own TimeoutStartSec=. An [*systemd.OverdueError] says that the
// start was not done by then. restart does not judge the unit otherwise: the gate does
// that after a swap, and the baseline after a rollback. A job that fails is not an error,
// since Restart= may bring the unit up a second later.
func (s *Swapper) restart(ctx context.Context, j *state.Journal, limit time.Duration) error {
	log.Status("restarting " + j.Unit)
	u, err := s.Systemd.Unit(ctx, j.Unit)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, u.StopLimit+cmp.Or(limit, u.StartLimit)+slack)
	defer cancel()
	// A unit stops under the settings that systemd has loaded. If these spare the unit's
	// other processes, the new file may not: the stop comes before the reload. If they do
	// not, the new file may: the reload comes first. The stop also prevents a restart
	// that systemd was about to make and would count as one of the program that starts
	// now.
	if j.Reload && u.SparesChildren() || strings.HasPrefix(u.Sub, "auto-restart") {
		if err := s.Systemd.Stop(ctx, j.Unit); err != nil {
			return err
		}
	}
	if j.Reload {
		if err := s.Systemd.Reload(ctx); err != nil {
			return err
		}
	}
	if err := s.Systemd.ResetFailed(ctx, j.Unit); err != nil {
		return err
	}
	// The units that trigger this one were stopped while its data were restored. They
	// start first, because a socket cannot start once its service runs.
	s.startAgain(ctx, j, j.Triggers)
	if err = s.Systemd.Restart(ctx, j.Unit, limit); err != nil {
		if _, ok := errors.AsType[*systemd.JobError](err); !ok {
			return err
		}
		s.logf("%s: %v", describe(j), err)
	}
	// Requires= stops the dependents with the unit, and does not start them again.
	s.startAgain(ctx, j, j.Dependents)
	return nil
}

// startAgain starts the units that were stopped with the trial's unit.
func (s *Swapper) startAgain(ctx context.Context, j *state.Journal, names []string) {
	for _, name := range names {
		u, err := s.Systemd.Unit(ctx, name)
		if err == nil && u.Active != "active" {
			err = s.Systemd.Start(ctx, name)
		}
		if err != nil {
			s.logf("%s: cannot start %s again, which was stopped with %s: %v", describe(j), name, j.Unit, err)
		}
	}
}

// halt stops the unit, so that nothing writes its data. Before that it stops the units
// that could start it again meanwhile: sockets, timers and path units.
func (s *Swapper) halt(ctx context.Context, j *state.Journal) error {
	log.Status("stopping " + j.Unit)
	u, err := s.Systemd.Unit(ctx, j.Unit)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, u.StopLimit+slack)
	defer cancel()
	for _, name := range append(slices.Clone(j.Triggers), j.Unit) {
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
	u, uerr := s.Systemd.Unit(ctx, j.Unit)
	if uerr != nil || u.Active != "deactivating" || u.Invocation == j.Invocation {
		return errors.Join(err, uerr)
	}
	s.logf("%s: %s does not stop: killing its processes", describe(j), j.Unit)
	if kerr := s.Systemd.Kill(ctx, j.Unit); kerr != nil {
		return errors.Join(err, kerr)
	}
	return do(ctx, j)
}

// running returns the units that are active now.
func (s *Swapper) running(ctx context.Context, names []string) ([]string, error) {
	var active []string
	for _, n := range names {
		u, err := s.Systemd.Unit(ctx, n)
		if err != nil {
			return nil, err
		}
		if u.Active == "active" {
			active = append(active, n)
		}
	}
	return active, nil
}

var unitDirs = []string{"/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system", "/usr/local/lib/systemd/system"}

// isUnitFile reports whether systemd reads the file, and must reload after a change.
func isUnitFile(path string) bool {
	path = filepath.Clean(path)
	return slices.ContainsFunc(unitDirs, func(dir string) bool { return strings.HasPrefix(path, dir+"/") })
}
