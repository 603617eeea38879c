package swap

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

// TestMayUnlock: the lock of the fleet is given back only when no attempt needs it.
func TestMayUnlock(t *testing.T) {
	r := newRig(t)
	r.sys.alive = map[string][]string{}
	unlock := func(want string) {
		t.Helper()
		err := r.sw.MayUnlock(t.Context(), "agent")
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	unlock("")
	const underWay = "agent keeps the lock of the fleet: an attempt is under way"
	for _, step := range []string{"fetch", "fetch-full", "verify", "swap"} {
		unit := unitOf(step, "agent")
		r.sys.alive[unit] = []string{unit}
		unlock(underWay)
		delete(r.sys.alive, unit)
	}
	for _, role := range []state.Role{state.RoleFetch, state.RoleVerify} {
		ready := r.tree.Ready(role, "agent")
		must(t, os.MkdirAll(filepath.Join(ready, "a1"), 0o755))
		must(t, os.Symlink("a1", filepath.Join(ready, ".next.link")))
		unlock(underWay)
		must(t, os.RemoveAll(ready))
	}
	unlock("")
	r.sys.fails["list "+unitOf("verify", "agent")] = errors.New("systemd does not answer")
	unlock("systemd does not answer")
	clear(r.sys.fails)
	badTrial(t, r)
	unlock("agent keeps the lock of the fleet: a trial is open")
	r.step(t, "rollback")
	unlock("")
	if err := r.sw.MayUnlock(t.Context(), "../agent"); err == nil {
		t.Error("a name with a path is taken")
	}
}

// TestUnlocked: a scheduled run whose attempt does not hold the lock of the fleet installs
// nothing; a person's does.
func TestUnlocked(t *testing.T) {
	const url, waits = "http://lock", "it waits: it does not hold the lock of http://lock (group web)"
	for _, c := range []struct {
		name   string
		origin state.Origin
		lock   *state.FleetLock
		waits  bool
	}{
		{"its own", state.OriginSchedule, &state.FleetLock{Attempt: "a1", URL: url, Group: "web"}, false},
		{"none", state.OriginDirective, nil, true},
		{"of another attempt", state.OriginSchedule, &state.FleetLock{Attempt: "a0", URL: url, Group: "web"}, true},
		{"of another server", state.OriginSchedule, &state.FleetLock{Attempt: "a1", URL: url + "/2", Group: "web"}, true},
		{"of another group", state.OriginSchedule, &state.FleetLock{Attempt: "a1", URL: url, Group: "db"}, true},
		{"none, for a person", state.OriginOperator, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.override(t, "[schedule]\nfleetlock_url = '"+url+"'\nfleetlock_group = 'web'\n")
			if c.lock != nil {
				must(t, r.tree.SetFleetLock("agent", *c.lock))
			}
			must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a1", Origin: c.origin, Verb: state.VerbApply, Installed: "v1"}))
			must(t, look(r.tree, state.Baseline{Attempt: "a1", Standing: true}))
			r.spool(t, "a1", "v2", 2, release2, nil)
			if c.waits {
				r.fails(t, "swap", state.ResultNotAttempted, waits)
				r.untouched(t)
				return
			}
			r.step(t, "swap")
			r.step(t, "rollback")
		})
	}
}

// TestLeaveUnlocks: a removal of the package gives the lock of the fleet back, and goes on
// if that fails. A begin leaves the record of the lock alone.
func TestLeaveUnlocks(t *testing.T) {
	for _, fails := range []bool{false, true} {
		r := newRig(t)
		must(t, r.tree.SetFleetLock("agent", state.FleetLock{Attempt: "a1", URL: "http://lock", Group: "web", ID: "me", Failed: "it is full"}))
		r.step(t, "begin")
		const unit = "machinemon-unlock@agent.service"
		r.sys.on["start "+unit] = func() {
			if !fails {
				must(t, r.tree.DropFleetLock("agent"))
			}
		}
		must(t, r.sw.Leave(t.Context()))
		if r.sys.called("start "+unit) != 1 {
			t.Errorf("calls: %q", r.sys.calls)
		}
		const says = "agent: it holds the lock of http://lock (group web) as me, and cannot give it back: it is full (hint: give it back on that server)"
		if strings.Contains(r.log.String(), says) != fails {
			t.Errorf("it says\n%s", r.log)
		}
	}
}

// TestQueueUnlock: the end of an attempt gives the lock of the fleet back, unless a timer will.
func TestQueueUnlock(t *testing.T) {
	const unit, timer = "machinemon-unlock@agent.service", "machinemon-unlock@agent.timer"
	r := newRig(t)
	r.sys.alive = map[string][]string{}
	queued := func(want int) {
		t.Helper()
		must(t, r.sw.QueueUnlock(t.Context(), "agent"))
		if n := r.sys.called("queue " + unit); n != want {
			t.Errorf("queued %d times, want %d", n, want)
		}
	}
	queued(0) // it holds none
	must(t, r.tree.SetFleetLock("agent", state.FleetLock{Attempt: "a1", URL: "http://lock", Group: "web"}))
	queued(1)
	r.sys.alive[timer] = []string{timer}
	queued(1)
	r.sys.fails["list "+timer] = errors.New("systemd does not answer")
	if err := r.sw.QueueUnlock(t.Context(), "agent"); err == nil {
		t.Error("it does not say that systemd does not answer")
	}
}

// TestUnlockLater: a lock that cannot be given back is tried again, the later the longer that
// fails.
func TestUnlockLater(t *testing.T) {
	const timer = "machinemon-unlock@agent.timer"
	r := newRig(t)
	must(t, r.sw.UnlockLater(t.Context(), "agent"))
	if r.sys.called("arm "+timer) != 0 {
		t.Error("it is tried again without a lock")
	}
	since := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct{ fails, after time.Duration }{
		{0, time.Minute},
		{5 * time.Minute, 5 * time.Minute},
		{time.Hour, 10 * time.Minute},
	} {
		must(t, r.tree.SetFleetLock("agent", state.FleetLock{Attempt: "a1", URL: "http://lock", Group: "web", Failed: "it is full", Failing: since, Tried: since.Add(c.fails)}))
		must(t, r.sw.UnlockLater(t.Context(), "agent"))
		if r.sys.armed != c.after {
			t.Errorf("after failing for %v it is tried again in %v, want %v", c.fails, r.sys.armed, c.after)
		}
	}
}
