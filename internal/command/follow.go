package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// steps are the chain's services, and what a person calls their work. A verifier
// that has failed may have started fetch-full, which starts it again.
var steps = []struct{ unit, word string }{
	{"fetch", "fetching"}, {"fetch-full", "fetching"}, {"verify", "verifying"}, {"baseline", ""}, {"swap", "swapping"},
	{"health-gate", "watching"}, {"commit", "committing"}, {"rollback", "rolling back"},
}

// observer is what a follower needs of systemd; *systemd.Conn is one.
type observer interface {
	Unit(ctx context.Context, name string) (systemd.Unit, error)
	Units(ctx context.Context, names ...string) ([]systemd.Unit, error)
	Changes() <-chan struct{}
}

// follower watches one attempt through the chain. The roles' records are the
// truth; the units only tell when to read them, and that somebody died.
type follower struct {
	tree     state.Tree
	conn     observer
	name     string
	attempt  state.AttemptID
	first    string    // the unit that the attempt began with
	progress *progress // nil: nobody is told
	warned   bool      // of what there is to be warned of, if anything
}

// unitsOf are the units of the chain for a target, the services in the order of
// steps, then what triggers them.
func unitsOf(name string) []string {
	var names []string
	for _, s := range steps {
		names = append(names, unit(s.unit, name))
	}
	return append(names, path("verify", name), path("swap", name), deadline(name))
}

// follow returns the end of the attempt.
func (f *follower) follow(ctx context.Context) (state.Attempt, error) {
	if f.progress != nil {
		defer f.progress.end()
	}
	var units []systemd.Unit
	for idle := 0; ; {
		at, over, unread := f.recorded()
		f.warn(at)
		if over {
			f.rest(ctx)
			return at, nil
		}
		// Units and spools are not read in one instant: a worker may have started
		// and claimed an entry in between, and would be overlooked but for the
		// second look. Whoever ended before it has recorded that.
		if idle == 2 {
			if unread != nil {
				return at, unread
			}
			return f.orphan(ctx, units)
		}
		var err error
		if units, err = f.conn.Units(ctx, unitsOf(f.name)...); err != nil {
			return at, err
		}
		nobody, err := f.idle(units)
		if err != nil {
			return at, err
		}
		if nobody {
			idle++
			continue
		}
		idle = 0
		f.show(ctx, units)
		select {
		case <-f.conn.Changes():
		case <-ctx.Done():
			return at, context.Cause(ctx)
		}
	}
}

// warn tells a person, before anything restarts, that what they asked for goes down.
func (f *follower) warn(at state.Attempt) {
	if f.progress == nil || f.warned || at.Result != state.ResultHandedOn {
		return
	}
	f.warned = true
	if down := policy.Descent(at.Version, at.From); down != "" {
		f.progress.warn(down)
	}
}

// recorded looks for the end of the attempt in the roles' records. The error is
// of records that could not be read; the end may be in the others.
func (f *follower) recorded() (state.Attempt, bool, error) {
	all, err := f.tree.History(f.name)
	i := slices.IndexFunc(all, func(a state.Attempt) bool { return a.ID == f.attempt })
	if i < 0 {
		return state.Attempt{ID: f.attempt}, false, err
	}
	return all[i], all[i].Result != state.ResultHandedOn && all[i].Result != state.ResultOnTrial, err
}

// idle tells whether nobody works on the target, and nothing that was handed on
// will start anybody.
func (f *follower) idle(units []systemd.Unit) (bool, error) {
	if busy(units) {
		return false, nil
	}
	dead := map[string]bool{}
	for _, u := range units {
		dead[u.Name] = u.Active != "active"
	}
	for role, step := range map[state.Role]string{state.RoleFetch: "verify", state.RoleVerify: "swap"} {
		pending, err := f.tree.Pending(role, f.name)
		if err != nil || pending && !dead[path(step, f.name)] {
			return false, err
		}
	}
	// An open trial that nobody works on has its deadline still.
	j, err := f.tree.Journal(f.name)
	return j == nil || dead[deadline(f.name)], err
}

// busy tells whether one of the services works, or is about to. A fetch that
// systemd will start again has ended: the next one is another attempt.
func busy(units []systemd.Unit) bool {
	return slices.ContainsFunc(units, func(u systemd.Unit) bool {
		again := strings.HasPrefix(u.Name, "machinemon-fetch@") && u.Sub == "auto-restart"
		return strings.HasSuffix(u.Name, ".service") && !u.Settled() && !again
	})
}

// rest waits until the workers of an attempt that is over have ended, and the
// rollback that looks after every failed swap: who asks again at once would be
// told that an attempt is under way. The end is known, whatever comes now.
func (f *follower) rest(ctx context.Context) {
	for {
		units, err := f.conn.Units(ctx, unitsOf(f.name)...)
		if err != nil || !busy(units) {
			return
		}
		select {
		case <-f.conn.Changes():
		case <-ctx.Done():
			return
		}
	}
}

// orphan is the end of an attempt whose worker died without a record. That is
// the first failed one: the attempt came no further, so what failed further on
// failed in an earlier attempt. A failed baseline stops nobody.
func (f *follower) orphan(ctx context.Context, units []systemd.Unit) (state.Attempt, error) {
	at := state.Attempt{ID: f.attempt, Origin: state.OriginOperator, Time: time.Now().UTC(), Result: state.ResultFailed}
	reason := "the chain stopped and none of its units failed"
	begun := false
	for _, u := range units {
		begun = begun || u.Name == f.first
		if begun && u.Active == "failed" && u.Name != unit("baseline", f.name) {
			if whole, err := f.conn.Unit(ctx, u.Name); err == nil {
				u = whole
			}
			reason = fmt.Sprintf("%s failed (%s): %s", u.Name, u.Result, u)
			break
		}
	}
	changed := "nothing was changed"
	j, err := f.tree.Journal(f.name)
	if j != nil {
		at.Result, changed = state.ResultRollbackFailed, "the trial of "+state.Called(j.Version)+" is still open"
	}
	at.Reason = fmt.Sprintf("%s; %s (hint: journalctl -u 'machinemon-*@%s.service')", reason, changed, f.name)
	// Nobody has taken the request, nor shall anybody later.
	if r, rerr := f.tree.Request(f.name); rerr == nil && r != nil && r.Attempt == f.attempt {
		_, rerr = f.tree.TakeRequest(f.name)
		err = errors.Join(err, rerr)
	}
	return at, err
}

// show tells of the step that came furthest: the one before it may be about to
// end.
func (f *follower) show(ctx context.Context, units []systemd.Unit) {
	if f.progress == nil {
		return
	}
	for i, s := range slices.Backward(steps) {
		u := units[i]
		if s.word == "" || u.Active != "activating" {
			continue
		}
		u, err := f.conn.Unit(ctx, u.Name)
		if err != nil {
			return // the next look at the units will say so
		}
		done, total, ok := systemd.ParseProgress(u.Status)
		switch {
		case ok:
			f.progress.download(s.word, done, total)
		case s.word == "fetching": // its user is not believed
			f.progress.step(s.word, "")
		default:
			f.progress.step(s.word, u.Status)
		}
		return
	}
}
