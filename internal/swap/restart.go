package swap

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// restart makes the unit run the files that are now in place. How the unit
// fares is not judged here: the gate does that after a swap, and the baseline
// after a rollback. A job that fails is not the end either, since Restart= may
// bring the unit up a second later.
func (s *Swapper) restart(ctx context.Context, j *state.Journal, limit time.Duration) error {
	log.Status("restarting " + j.Unit)
	ctx, cancel := context.WithTimeout(ctx, limit+slack)
	defer cancel()
	if j.Reload {
		if err := s.Systemd.Reload(ctx); err != nil {
			return err
		}
	}
	// A restart that systemd is about to make by itself would count as one of the
	// program's that starts now.
	u, err := s.Systemd.Unit(ctx, j.Unit)
	if err == nil && strings.HasPrefix(u.Sub, "auto-restart") {
		err = s.Systemd.Stop(ctx, j.Unit)
	}
	if err == nil {
		err = s.Systemd.ResetFailed(ctx, j.Unit)
	}
	if err != nil {
		return err
	}
	if err := s.Systemd.Restart(ctx, j.Unit); err != nil {
		if _, ok := errors.AsType[*systemd.JobError](err); !ok {
			return err
		}
		s.logf("%s: %v", describe(j), err)
	}
	// Requires= stops the dependents with the unit, and nothing starts them again.
	for _, d := range j.Dependents {
		u, err := s.Systemd.Unit(ctx, d)
		if err == nil && u.Active != "active" {
			err = s.Systemd.Start(ctx, d)
		}
		if err != nil {
			s.logf("%s: cannot bring back %s, which needs %s: %v", describe(j), d, j.Unit, err)
		}
	}
	return nil
}

// running filters the units that are active now.
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

// isUnitFile tells whether systemd reads the file, and so needs a daemon-reload.
func isUnitFile(path string) bool {
	for _, d := range unitDirs {
		if strings.HasPrefix(filepath.Clean(path), d+"/") {
			return true
		}
	}
	return false
}
