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

// steps are the services of the chain, and words for their work. A verifier that failed
// may have started fetch-full, which starts the verifier again. The deadline's service is a
// rollback, too.
var steps = []struct{ unit, word string }{
	{"fetch", "fetching"}, {"fetch-full", "fetching"}, {"verify", "verifying"}, {"baseline", ""}, {"swap", "swapping"},
	{"health-gate", "watching"}, {"commit", "committing"}, {"rollback", "rolling back"}, {"deadline", "rolling back"},
}

// observer is the part of systemd that a follower uses; *systemd.Conn implements it.
type observer interface {
	Unit(ctx context.Context, name string) (systemd.Unit, error)
	Units(ctx context.Context, names ...string) ([]systemd.Unit, error)
	Status(ctx context.Context, name string) (string, error)
	Changes() <-chan struct{}
}

// follower watches one attempt through the chain. The roles' records say what happened;
// the units only say when to read them, and that a worker died.
type follower struct {
	tree     state.Tree
	conn     observer
	name     string
	attempt  state.AttemptID
	first    string    // the unit that starts the attempt
	progress *progress // nil: progress is not shown
	warned   bool      // warn has run for this attempt, or nothing will be restarted
	mark     string    // of the records when all was read
	all      []state.Attempt
}

// unitsOf returns the units of the chain for a target: the services in the order of
// steps, then the units that trigger them.
func unitsOf(name string) []string {
	var names []string
	for _, s := range steps {
		names = append(names, unit(s.unit, name))
	}
	return append(names, path("verify", name), path("swap", name), deadline(name))
}

// follow waits for the end of the attempt and returns it.
func (f *follower) follow(ctx context.Context) (state.Attempt, error) {
	if f.progress != nil {
		defer f.progress.end()
	}
	var units []systemd.Unit
	for idle := 0; ; {
		at, over, unread := f.recorded(idle > 0)
		f.warn(at)
		if over {
			f.rest(ctx)
			return at, nil
		}
		// Units and spools are not read at the same instant. A worker that starts and
		// claims an entry in between appears in neither, so the chain must be idle twice.
		// A worker that ended before the second look has recorded its end.
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
		none, err := f.idle(units)
		if err != nil {
			return at, err
		}
		if none {
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

// warn tells the operator, before a restart, that the attempt goes to a lower version.
func (f *follower) warn(at state.Attempt) {
	if f.progress == nil || f.warned || at.Result != state.ResultHandedOn {
		return
	}
	f.warned = true
	if down := policy.Descent(at.Version, at.From); down != "" {
		f.progress.warn(down)
	}
}

// recorded finds the attempt in the roles' records and reports whether it is over. Most changes
// of units change no record, so it reads them only if their files changed, or if certain. The
// error is about records that could not be read; the others may have the end.
func (f *follower) recorded(certain bool) (_ state.Attempt, over bool, err error) {
	all, mark := f.all, f.tree.HistoryMark(f.name)
	if certain || mark == "" || mark != f.mark {
		if all, err = f.tree.History(f.name); err == nil {
			f.all, f.mark = all, mark
		}
	}
	i := slices.IndexFunc(all, func(a state.Attempt) bool { return a.ID == f.attempt })
	if i < 0 {
		return state.Attempt{ID: f.attempt}, false, err
	}
	return all[i], all[i].Result != state.ResultHandedOn && all[i].Result != state.ResultOnTrial, err
}

// idle reports whether no unit works on the target and nothing that was handed on will
// start one.
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
	// The deadline of an open trial will start the rollback.
	j, err := f.tree.Journal(f.name)
	return j == nil || dead[deadline(f.name)], err
}

// busy reports whether one of the services works or is about to. A fetch that systemd
// will start again has ended: the next start is another attempt.
func busy(units []systemd.Unit) bool {
	return slices.ContainsFunc(units, func(u systemd.Unit) bool {
		again := strings.HasPrefix(u.Name, "machinemon-fetch@") && u.Sub == "auto-restart"
		return strings.HasSuffix(u.Name, ".service") && !u.Settled() && !again
	})
}

// rest waits until the workers of an attempt that is over have ended, and the rollback
// unit that runs after each failed swap. Otherwise a command that follows at once would
// be told that an attempt is under way. Errors do not matter: the end is known.
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

// orphan returns the end of an attempt whose worker died without a record. The cause is
// the first failed unit: the attempt got no further, so later units failed in an earlier
// attempt. A failed baseline does not stop the chain.
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
	// No unit has taken the request, and none may take it later.
	if r, rerr := f.tree.Request(f.name); rerr == nil && r != nil && r.Attempt == f.attempt {
		_, rerr = f.tree.TakeRequest(f.name)
		err = errors.Join(err, rerr)
	}
	return at, err
}

// show shows the step that is furthest in the chain: the one before it may be about to
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
		if s.unit == "health-gate" && units[i-1].Active == "activating" {
			continue // it waits for the end of the swap
		}
		status, err := f.conn.Status(ctx, u.Name)
		if err != nil {
			return // the next look at the units reports the error
		}
		done, total, ok := systemd.ParseProgress(status)
		switch {
		case ok:
			f.progress.download(s.word, done, total)
		case s.word == "fetching": // the fetcher's status text is not trusted
			f.progress.step(s.word, "")
		default:
			f.progress.step(s.word, status)
		}
		return
	}
}
