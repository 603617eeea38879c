package swap

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// Leave ends everything that is under way, so that the package can be removed. It rolls
// an open trial back, or commits it if that is decided, and drops what waits in the
// spools. The installed programs run on. An error means that a trial is still open, which
// no program would close after the removal.
//
// Leave first stops what could begin an attempt, then what has changed nothing yet. A
// swap may be stopped at any moment, because its rollback unit takes over. Verdicts
// cannot be stopped, and Leave waits for them.
func (s *Swapper) Leave(ctx context.Context) error {
	names, err := s.everyTarget()
	if err != nil {
		return err
	}
	if s.Systemd == nil {
		// In a chroot nothing is under way. A crash may have left a trial open.
		if open, err := s.Tree.OpenTrials(); err != nil || len(open) > 0 {
			return errors.Join(err, state.Fail(state.ResultNotAttempted, "cannot close the open trial of %s without systemd (hint: boot this system, which closes it)", strings.Join(open, ", ")))
		}
		return s.Tree.SetBeside(s.beside(names))
	}
	// This keeps other processes from starting again what is stopped below.
	if err := s.Tree.SetLeaving(); err != nil {
		return err
	}
	for _, patterns := range [][]string{
		// A path unit would start again a service that is stopped before it.
		{"machinemon-update.service", "machinemon-fetch@*.timer", "machinemon-directive@*.path"},
		{"machinemon-directive@*"},
		{"machinemon-fetch@*.service"},
		{"machinemon-verify@*.path", "machinemon-swap@*.path"},
		{"machinemon-verify@*.service"},
		{"machinemon-fetch-full@*.service"}, // the end of verify may have started it
		{"machinemon-swap@*.service"},
	} {
		if err := s.each(ctx, s.Systemd.Stop, patterns...); err != nil {
			return err
		}
	}
	var failed error
	for _, name := range names {
		failed = errors.Join(failed, s.leave(ctx, name))
	}
	if failed != nil {
		return failed
	}
	if err := s.each(ctx, s.Systemd.Stop, "machinemon-deadline@*.timer", "machinemon-health-gate@*"); err != nil {
		return err
	}
	// A stopped swap has started its rollback unit, which finds no trial. It needs its
	// program, so wait until it has ended.
	if err := s.each(ctx, s.await, "machinemon-rollback@*", "machinemon-deadline@*.service", "machinemon-commit@*"); err != nil {
		return err
	}
	for _, name := range names {
		s.unlock(ctx, name)
	}
	// An attempt that was about to begin may have started the path units again.
	if err := s.each(ctx, s.Systemd.Stop, "machinemon-baseline@*", "machinemon-preflight@*", "machinemon-inhibit@*", "machinemon-hook@*", "machinemon-data@*", "machinemon-space@*",
		"machinemon-unlock@*", "machinemon-inform@*", "machinemon-notify@*",
		"machinemon-fetch@*.timer", "machinemon-directive@*", "machinemon-verify@*.path", "machinemon-swap@*.path"); err != nil {
		return err
	}
	return s.Tree.SetBeside(s.beside(names))
}

// everyTarget returns the targets that are configured now and those that once were.
func (s *Swapper) everyTarget() ([]string, error) {
	configured, err := s.Targets.Names()
	if err != nil {
		s.logf("%v", err) // the records suffice to close trials
	}
	names, err := s.Tree.Targets()
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(append(names, configured...), func(n string) bool { return !target.ValidName(n) })
	slices.Sort(names)
	return slices.Compact(names), nil
}

// each calls do for each unit that is at work and matches a pattern.
func (s *Swapper) each(ctx context.Context, do func(ctx context.Context, unit string) error, patterns ...string) error {
	units, err := s.Systemd.Alive(ctx, patterns...)
	if err != nil {
		return err
	}
	for _, u := range units {
		if err := do(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// await waits until a verdict is carried out. Starting a unit that is at work waits for
// it, and starting it again does no harm.
func (s *Swapper) await(ctx context.Context, unit string) error {
	err := s.Systemd.Start(ctx, unit)
	if _, failed := errors.AsType[*systemd.JobError](err); failed {
		return nil
	}
	return err
}

// leave closes one target's trial and drops what waits in its spools.
func (s *Swapper) leave(ctx context.Context, name string) error {
	if err := s.finish(ctx, name); err != nil {
		return err
	}
	// A unit that has closed the journal may still run; it holds the lock.
	release, err := s.Tree.Lock(name)
	if err != nil {
		return err
	}
	defer release()
	for _, role := range []state.Role{state.RoleFetch, state.RoleVerify} {
		// A later installation must not begin with today's bundle.
		s.clear(role, name)
	}
	st, err := s.Tree.Status(state.RoleSwap, name)
	if err != nil {
		s.logf("%s: keeping what lies beside its files: %v", name, err)
		return nil
	}
	// A stopped swap leaves the files that it staged, and the space that it kept.
	s.dropRooms(name)
	if err := s.sweep(name, s.places(name, &st), st.Previous); err != nil {
		s.logf("%s: %v", name, err) // no trial is open, which is what matters
	}
	return nil
}

// places returns all known directories of a target's files.
func (s *Swapper) places(name string, st *state.Status) []string {
	t, _ := s.Targets.Load(name) // nil if it is not usable: the records are used alone
	return everywhere(t, st)
}

// beside returns those directories beside the targets' files that exist.
func (s *Swapper) beside(names []string) []string {
	var dirs []string
	for _, name := range names {
		st, err := s.Tree.Status(state.RoleSwap, name)
		if err != nil {
			s.logf("%s: %v", name, err) // its target file may still name directories
		}
		for _, dir := range s.places(name, &st) {
			dir = filepath.Join(dir, sideName)
			if info, err := os.Lstat(dir); err == nil && info.IsDir() {
				dirs = append(dirs, dir)
			}
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}
