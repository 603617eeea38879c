package swap

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// Leave ends whatever is under way, so that the package can be removed: an open
// trial is rolled back, or committed if that is decided, and what waits in the
// spools is dropped. The installed programs run on. An error means that a trial
// is still open; without our programs nobody would close it.
//
// What could begin anew is stopped first, then what has changed nothing yet. A
// swap may be stopped at any moment: its rollback unit takes over. Verdicts
// cannot be stopped, and are waited for.
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
	// What is stopped could be started again by somebody who does not know yet.
	if err := s.Tree.SetLeaving(); err != nil {
		return err
	}
	for _, patterns := range [][]string{
		// A path unit would start again what is stopped before it.
		{"machinemon-update.service", "machinemon-fetch@*.timer", "machinemon-directive@*.path"},
		{"machinemon-directive@*"},
		{"machinemon-fetch@*.service"},
		{"machinemon-verify@*.path", "machinemon-swap@*.path"},
		{"machinemon-verify@*.service"},
		{"machinemon-fetch-full@*.service"}, // which the end of that may have started
		{"machinemon-swap@*.service"},
	} {
		if err := s.stopAll(ctx, patterns...); err != nil {
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
	if err := s.stopAll(ctx, "machinemon-deadline@*.timer", "machinemon-health-gate@*"); err != nil {
		return err
	}
	// What was stopped has started its rollback unit, which finds no trial; but it
	// must find its program.
	if err := s.awaitAll(ctx, "machinemon-rollback@*", "machinemon-deadline@*.service", "machinemon-commit@*"); err != nil {
		return err
	}
	// An attempt that was about to begin may have started the path units again.
	if err := s.stopAll(ctx, "machinemon-baseline@*", "machinemon-preflight@*", "machinemon-hook@*", "machinemon-data@*",
		"machinemon-fetch@*.timer", "machinemon-directive@*", "machinemon-verify@*.path", "machinemon-swap@*.path"); err != nil {
		return err
	}
	return s.Tree.SetBeside(s.beside(names))
}

// everyTarget are the targets that are configured and those that once were.
func (s *Swapper) everyTarget() ([]string, error) {
	configured, err := s.Targets.Names()
	if err != nil {
		s.logf("%v", err) // what is recorded suffices to close trials
	}
	names, err := s.Tree.Targets()
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(append(names, configured...), func(n string) bool { return !target.ValidName(n) })
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (s *Swapper) stopAll(ctx context.Context, patterns ...string) error {
	units, err := s.Systemd.Alive(ctx, patterns...)
	if err != nil {
		return err
	}
	for _, u := range units {
		if err := s.Systemd.Stop(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// awaitAll waits until verdicts are carried out. To start what has begun is to
// wait for it, and to start it again harms nothing.
func (s *Swapper) awaitAll(ctx context.Context, patterns ...string) error {
	units, err := s.Systemd.Alive(ctx, patterns...)
	if err != nil {
		return err
	}
	for _, u := range units {
		err := s.Systemd.Start(ctx, u)
		if _, ok := errors.AsType[*systemd.JobError](err); err != nil && !ok {
			return err
		}
	}
	return nil
}

// leave closes one target's trial and drops what waits for it.
func (s *Swapper) leave(ctx context.Context, name string) error {
	if err := s.finish(ctx, name); err != nil {
		return err
	}
	// The journal may be closed by a unit that is not over yet; it has the lock.
	release, err := s.Tree.Lock(name)
	if err != nil {
		return err
	}
	defer release()
	for _, role := range []state.Role{state.RoleFetch, state.RoleVerify} {
		// A later installation must not begin with what was wanted today. What a
		// worker may have put there is no reason to stay.
		if err := s.clear(role, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.logf("%s: %v", name, err)
		}
	}
	st, err := s.Tree.Status(state.RoleSwap, name)
	if err != nil {
		s.logf("%s: keeping what lies beside its files: %v", name, err)
		return nil
	}
	// A swap that was stopped leaves what it staged.
	if err := errors.Join(sweep(name, s.places(name, &st), st.Previous), s.Tree.DropSnapshots(name)); err != nil {
		s.logf("%s: %v", name, err) // no trial is open, which is what matters
	}
	return nil
}

// places are all directories of a target's files that can be known.
func (s *Swapper) places(name string, st *state.Status) []string {
	t, err := s.Targets.Load(name)
	if err != nil {
		t = nil // the records remain
	}
	return everywhere(t, st)
}

// beside lists the directories beside the targets' files that are there.
func (s *Swapper) beside(names []string) []string {
	var dirs []string
	for _, name := range names {
		st, err := s.Tree.Status(state.RoleSwap, name)
		if err != nil {
			s.logf("%s: %v", name, err) // its target file may still tell
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
