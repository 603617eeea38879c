package swap

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

const queueFetch = "queue machinemon-fetch@agent.service"

func (r *rig) drop(t *testing.T, names ...string) {
	t.Helper()
	dir := r.at("run/directive/agent")
	must(t, os.MkdirAll(dir, 0o755))
	for _, n := range names {
		must(t, os.WriteFile(dir+"/"+n, []byte("apply --force"), 0o644))
	}
}

func (r *rig) dropped(t *testing.T) []string {
	t.Helper()
	return testkit.Names(t, r.at("run/directive/agent"))
}

func TestDirective(t *testing.T) {
	t.Run("a flood is one attempt", func(t *testing.T) {
		r := newRig(t)
		r.drop(t, "a", "b", ".c", "d~")
		r.step(t, "directive")
		if left := r.dropped(t); len(left) > 0 || r.sys.called(queueFetch) != 1 {
			t.Errorf("left %q, calls %q", left, r.sys.calls)
		}
		if !strings.Contains(r.log.String(), "agent: directive (4 entries discarded): asking for an attempt\n") {
			t.Errorf("log: %s", r.log)
		}
		// No directive was dropped meanwhile.
		r.step(t, "directive")
		if r.sys.called(queueFetch) != 1 {
			t.Errorf("calls %q", r.sys.calls)
		}
	})
	t.Run("nothing was ever dropped", func(t *testing.T) {
		r := newRig(t)
		r.step(t, "directive")
		if len(r.sys.calls) > 0 {
			t.Errorf("calls %q", r.sys.calls)
		}
	})
	t.Run("one stays while an attempt is under way", func(t *testing.T) {
		for _, step := range []string{"fetch", "verify", "baseline", "swap", "health-gate", "commit", "rollback"} {
			r := newRig(t)
			r.sys.units[unitOf(step, "agent")] = systemd.Unit{Active: "activating"}
			r.drop(t, "a", "b", "c")
			r.step(t, "directive")
			if left := r.dropped(t); len(left) != 1 || r.sys.called(queueFetch) > 0 {
				t.Errorf("%s: left %q, calls %q", step, left, r.sys.calls)
			}
			delete(r.sys.units, unitOf(step, "agent"))
			r.step(t, "directive")
			if left := r.dropped(t); len(left) > 0 || r.sys.called(queueFetch) != 1 {
				t.Errorf("%s: left %q, calls %q", step, left, r.sys.calls)
			}
		}
	})
	t.Run("systemd refuses", func(t *testing.T) {
		r := newRig(t)
		r.drop(t, "a")
		r.sys.fails[queueFetch] = errors.New("it is masked")
		r.fails(t, "directive", state.ResultFailed, "it is masked")
		r.drop(t, "a")
		r.sys.fails["unit machinemon-fetch@agent.service"] = errors.New("no answer")
		r.fails(t, "directive", state.ResultFailed, "no answer")
	})
	t.Run("a name that is none", func(t *testing.T) {
		r := newRig(t)
		for _, name := range []string{"", "..", "../agent", "Agent"} {
			if err := r.sw.Directive(t.Context(), name); ExitStatus(err) != 2 {
				t.Errorf("%q: %v", name, err)
			}
		}
	})
}

// TestBeginByDirective checks that an attempt that a directive asks for may do no more
// than a scheduled one.
func TestBeginByDirective(t *testing.T) {
	r := newRig(t)
	begin := func(want state.Verb, origin state.Origin) {
		t.Helper()
		r.drop(t, "a")
		r.step(t, "directive")
		r.step(t, "begin")
		if o := r.order(t); o.Verb != want || o.Origin != origin {
			t.Errorf("order %+v, want %s by %s", o, want, origin)
		}
	}
	begin(state.VerbApply, state.OriginDirective)
	// The directive starts one attempt only.
	r.step(t, "begin")
	if o := r.order(t); o.Origin != state.OriginSchedule {
		t.Errorf("order %+v", o)
	}
	must(t, r.tree.Update(state.RoleSwap, "agent", func(s *state.Status) { s.Held = &state.Hold{Since: time.Now()} }))
	begin(state.VerbCheck, state.OriginDirective)
	must(t, r.tree.Update(state.RoleSwap, "agent", func(s *state.Status) { s.Held = nil }))
	must(t, os.WriteFile(r.at("admin/agent.toml"), []byte("auto_update_enabled = false\n"), 0o644))
	begin(state.VerbCheck, state.OriginDirective)
	// The operator's request takes precedence, and uses up the directive.
	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "op-1", Verb: state.VerbApply}))
	begin(state.VerbApply, state.OriginOperator)
	r.step(t, "begin")
	if o := r.order(t); o.Origin != state.OriginSchedule {
		t.Errorf("order %+v", o)
	}
}

// TestSwapByDirective checks that an ordered release is not installed if updates were
// disabled since.
func TestSwapByDirective(t *testing.T) {
	r := newRig(t)
	r.offer(t, "a1", "v2", 2, release2)
	must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a1", Origin: state.OriginDirective, Verb: state.VerbApply, Installed: "v1"}))
	must(t, os.WriteFile(r.at("admin/agent.toml"), []byte("auto_update_enabled = false\n"), 0o644))
	r.fails(t, "swap", state.ResultNotAttempted, "scheduled runs only check")
	r.want(t, oldFiles)
}

// TestListen checks that begin starts a dead path unit, and goes on if that fails.
func TestListen(t *testing.T) {
	const path = "machinemon-directive@agent.path"
	for _, c := range []struct {
		name   string
		unit   systemd.Unit
		starts int
	}{
		{"alive", systemd.Unit{Load: "loaded", Active: "active"}, 0},
		{"stopped", systemd.Unit{Load: "loaded", Active: "inactive"}, 1},
		{"failed", systemd.Unit{Load: "loaded", Active: "failed"}, 1},
		{"masked", systemd.Unit{Load: "masked", Active: "inactive"}, 0},
		{"not there", systemd.Unit{Load: "not-found", Active: "inactive"}, 0},
	} {
		r := newRig(t)
		r.sys.units[path] = c.unit
		r.step(t, "begin")
		if got := r.sys.called("start " + path); got != c.starts {
			t.Errorf("%s: calls %q", c.name, r.sys.calls)
		}
		if c.starts > 0 && !r.sys.order("reset machinemon-directive@agent.service", "reset "+path, "start "+path) {
			t.Errorf("%s: calls %q", c.name, r.sys.calls)
		}
	}
	r := newRig(t)
	r.sys.units[path] = systemd.Unit{Load: "loaded", Active: "failed"}
	r.sys.fails["start "+path] = errors.New("it will not")
	r.step(t, "begin")
	if !strings.Contains(r.log.String(), "agent: nothing watches for directives: it will not\n") {
		t.Errorf("log: %s", r.log)
	}
}
