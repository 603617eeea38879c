package swap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// workers are the services that handle what the fetcher handed on.
var workers = []string{"verify", "fetch-full", "baseline", "swap", "health-gate", "commit", "rollback"}

// underWay returns the first of these services that is at work, or nil if none is.
func (s *Swapper) underWay(ctx context.Context, name string, steps []string) (*systemd.Unit, error) {
	var names []string
	for _, step := range steps {
		names = append(names, unitOf(step, name))
	}
	all, err := s.Systemd.Units(ctx, names...)
	if i := slices.IndexFunc(all, func(u systemd.Unit) bool { return !u.Settled() }); err == nil && i >= 0 {
		return &all[i], nil
	}
	return nil, err
}

// idle returns an error if one of these services is at work.
func (s *Swapper) idle(ctx context.Context, name string, steps ...string) error {
	u, err := s.underWay(ctx, name, steps)
	if err != nil || u == nil {
		return err
	}
	return state.Fail(state.ResultNotAttempted, "an attempt is under way already (%s is %s)", u.Name, u.Active)
}

// settle makes sure that no earlier attempt is under way. It refuses the new attempt if a
// service is still at work, and finishes what a dead one left: first an open trial, which
// must not wait because of anything that a worker left in its directory.
func (s *Swapper) settle(ctx context.Context, name string, unlocked func(do func() error) error) error {
	if err := s.idle(ctx, name, workers...); err != nil {
		return err
	}
	j, err := s.journal(name)
	if err == nil && j != nil {
		// The commit and rollback units take the same lock.
		err = unlocked(func() error { return s.finish(ctx, name) })
	}
	if err != nil {
		return err
	}
	var paths []string
	for _, p := range handovers {
		paths = append(paths, pathOf(p.step, name))
	}
	all, err := s.Systemd.Units(ctx, paths...)
	if err != nil {
		return err
	}
	for i, p := range handovers {
		if err := s.heal(ctx, name, p.role, p.step, all[i]); err != nil {
			return err
		}
	}
	return nil
}

// handovers are the roles that hand something on, and the steps that it starts.
var handovers = []struct {
	role state.Role
	step string
}{{state.RoleFetch, "verify"}, {state.RoleVerify, "swap"}}

// finish closes the target's open trial, if there is one. It carries out a verdict
// commit, and rolls back every other trial.
func (s *Swapper) finish(ctx context.Context, name string) error {
	var err error
	for step := ""; ; {
		j, jerr := s.journal(name)
		if jerr != nil || j == nil {
			return jerr
		}
		if j.RollbackFailed != "" {
			return failedTrial(j)
		}
		next := unitOf("rollback", name)
		if j.Verdict == state.VerdictCommit {
			next = unitOf("commit", name)
		}
		if next == step {
			return state.Fail(state.ResultRollbackFailed, "cannot finish the open trial of %s: %w", name, errors.Join(err, errors.New("it is still open")))
		}
		step = next
		s.logf("%s: the trial of attempt %s is still open: starting %s", name, j.Attempt, step)
		if err := s.Systemd.ResetFailed(ctx, step); err != nil {
			return err
		}
		// The journal shows whether the unit did its work. A rollback leaves the journal
		// open if a commit was decided a moment before.
		err = s.Systemd.Start(ctx, step)
	}
}

// heal clears the directory of a role whose entries are no longer waited for, and starts a
// dead path unit again, because it would miss the next entry.
func (s *Swapper) heal(ctx context.Context, name string, role state.Role, step string, u systemd.Unit) error {
	if u.Active == "active" {
		pending, err := s.Tree.Pending(role, name)
		if err != nil {
			s.logf("%s: %v", name, err) // what cannot be read is cleared
		}
		if pending {
			return state.Fail(state.ResultNotAttempted, "an attempt is under way already (%s has seen it)", u.Name)
		}
	}
	s.clear(role, name)
	if u.Active == "active" {
		return nil
	}
	return s.revive(ctx, name, step, u)
}

// clear removes from a role's directory what the role would not leave there for the next
// attempt. An error keeps no attempt from beginning: the role itself meets it, if it
// matters.
func (s *Swapper) clear(role state.Role, name string) {
	foreign, err := s.Tree.Clear(role, name)
	s.tell(role, name, foreign, err)
}

// tell reports what was removed from a role's directory although its program does not leave
// that there, and remembers it for the operator.
func (s *Swapper) tell(role state.Role, name string, foreign []string, err error) {
	if len(foreign) > 0 {
		what := fmt.Sprintf("removed from %s what its program does not leave there: %s", s.Tree.Dir(role, name), strings.Join(foreign, ", "))
		s.Log.Event(log.EventForeign, "%s: %s", name, what)
		err = errors.Join(err, s.Tree.Update(state.RoleSwap, name, func(st *state.Status) {
			if st.Foreign == nil {
				st.Foreign = map[state.Role]state.Foreign{}
			}
			st.Foreign[role] = state.Foreign{Time: time.Now().UTC(), What: state.Line(what)}
		}))
	}
	if err != nil {
		s.logf("%s: %v", name, err)
	}
}

func (s *Swapper) revive(ctx context.Context, name, step string, path systemd.Unit) error {
	if err := s.Systemd.ResetFailed(ctx, unitOf(step, name), path.Name); err != nil {
		return err
	}
	s.logf("%s: %s was %s: starting it", name, path.Name, path.Active)
	err := s.Systemd.Start(ctx, path.Name)
	if err == nil {
		return nil
	}
	// systemd says no more than this; its reason is in the journal.
	if u, uerr := s.Systemd.Unit(ctx, path.Name); uerr == nil && u.Result == "resources" {
		err = fmt.Errorf("%w, because a resource is used up (hint: each target takes three inotify instances of root: "+
			"compare fs.inotify.max_user_instances in machinemon-update.units(7))", err)
	}
	return err
}
