package swap

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// drill asks for a drill of a healthy agent, and starts its trial.
func drill(t *testing.T, r *rig) {
	t.Helper()
	askDrill(t, r, state.Baseline{Standing: true})
	r.sys.left = 10 * time.Second
	r.step(t, "swap")
}

func askDrill(t *testing.T, r *rig, before state.Baseline) {
	t.Helper()
	before.Attempt = "d1"
	must(t, look(r.tree, before))
	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "d1", Verb: state.VerbDrill}))
}

// entered makes the unit say when it became active last.
func entered(r *rig, at time.Duration) {
	r.sys.on["restart agent.service"] = func() {
		r.sys.units["agent.service"] = systemd.Unit{Load: "loaded", Active: "active", Sub: "running", MainPID: 4242, Entered: at}
	}
}

func TestDrill(t *testing.T) {
	testkit.Slow(t)
	for _, more := range []string{"", "[hooks]\npre_swap = ['/bin/migrate']\n", "[[install]]\nfrom = 'web/'\nto = '%s'\noptional = true\n"} {
		r := newRig(t)
		must(t, os.MkdirAll(r.at("opt"), 0o755))
		r.configure(t, strings.Replace(more, "%s", r.at("opt/web"), 1))
		drill(t, r)
		if got := r.installed(t)["bin/agent"]; got.content != drillProgram || got.mode != 0o750 || got.gid != 12 {
			t.Errorf("in the trial, the program is %+v", got)
		}
		if !r.sys.order("arm machinemon-deadline@agent.timer", "watch agent.service", "stop agent.service", "restart agent.service") || r.sys.called("hook migrate") != 0 {
			t.Errorf("calls: %q", r.sys.calls)
		}
		r.sys.left = 11 * time.Second // what counts is when it left at the begin
		entered(r, 12345*time.Millisecond)
		r.gate(t, "d1", state.FindingBad, "it exits at once")
		r.step(t, "rollback")
		r.want(t, oldFiles)
		r.sys.units = map[string]systemd.Unit{}
		r.closed(t)
		r.ended(t, "d1", state.ResultDrilled, "rolled back to v1, the service was away 2.3 s; the failure that was seen: it exits at once")
		st, a := r.status(t), r.last(t)
		if len(st.Rejected) != 0 || st.Installed.Version != "v1" || st.Previous != nil || !a.Drill || a.AwayMillis != 2345 || !a.Healthy || a.Failed() || !a.Exercise() || !a.TrialFailed() {
			t.Errorf("status %+v, attempt %+v", st, a)
		}
		// The next update is as ever.
		r.offer(t, "a2", "v2", 2, release2)
		r.sys.on = map[string]func(){}
		r.step(t, "swap")
	}
}

// TestDrillUnnoticed: what the gate finds healthy is never committed, and the drill has
// failed.
func TestDrillUnnoticed(t *testing.T) {
	for finding, words := range map[state.Finding]string{state.FindingHealthy: unnoticed, state.FindingUnsure: "could not tell that a program fails"} {
		r := newRig(t)
		drill(t, r)
		if b, err := r.tree.Baseline("agent", "d1"); err != nil || b == nil || !b.Standing {
			t.Errorf("the gate learns that before the drill %+v, %v", b, err)
		}
		r.gate(t, "d1", finding, "hm")
		if finding == state.FindingHealthy {
			r.fails(t, "commit", state.ResultFailed, "this is a drill")
			if r.sys.called("queue machinemon-rollback@agent.service") != 1 {
				t.Errorf("calls: %q", r.sys.calls)
			}
		}
		r.step(t, "rollback")
		r.want(t, oldFiles)
		r.closed(t)
		r.ended(t, "d1", state.ResultFailed, words)
		if a := r.last(t); !a.Exercise() || a.Failed() || len(r.status(t).Rejected) > 0 {
			t.Errorf("attempt %+v, rejected %+v", a, r.status(t).Rejected)
		}
	}
}

// TestDrillEnds: the other ends of a drill reject nothing, either.
func TestDrillEnds(t *testing.T) {
	for want, after := range map[state.Result]func(r *rig) string{
		state.ResultInterrupted: func(r *rig) string { return "rollback" }, // without a report
		state.ResultRolledBack: func(r *rig) string {
			r.gate(t, "d1", state.FindingBad, "it exits at once")
			r.sys.after.Probes = []state.ProbeResult{{Probe: "tcp", Detail: "refused"}}
			return "rollback"
		},
		state.ResultRollbackFailed: func(r *rig) string {
			r.gate(t, "d1", state.FindingBad, "it exits at once")
			r.sys.after.Standing = false
			return "rollback"
		},
	} {
		r := newRig(t)
		drill(t, r)
		err := r.do(after(r))
		if a := r.last(t); (err != nil) != (want == state.ResultRollbackFailed) || a.Result != want || !a.Drill || a.Exercise() == (err != nil) || len(r.status(t).Rejected) > 0 {
			t.Errorf("%s: %v, %+v", want, err, a)
		}
		r.want(t, oldFiles)
	}
	r := newRig(t)
	drill(t, r)
	r.reboot(t)
	r.step(t, "recover")
	r.want(t, oldFiles)
	if a := r.last(t); a.Result != state.ResultInterrupted || !a.Drill || len(r.status(t).Rejected) > 0 {
		t.Errorf("after a boot: %+v", a)
	}
}

func TestDrillRefused(t *testing.T) {
	ok := state.Baseline{Standing: true}
	for name, c := range map[string]struct {
		change func(r *rig)
		before state.Baseline
		words  string
	}{
		"held": {func(r *rig) {
			must(t, r.tree.Update(state.RoleSwap, "agent", func(s *state.Status) { s.Held = &state.Hold{} }))
		}, ok, "it is held since"},
		"stopped":     {func(r *rig) { must(t, r.sys.set("running", "")) }, ok, "agent.service does not run now"},
		"failed unit": {func(r *rig) { r.sys.units["agent.service"] = systemd.Unit{Load: "loaded", Active: "failed"} }, ok, "agent.service does not run now"},
		"ill":         {func(*rig) {}, state.Baseline{Standing: true, Probes: []state.ProbeResult{{Probe: "tcp", Detail: "refused"}}}, "it is not healthy now: tcp: refused"},
		"no file":     {func(r *rig) { must(t, os.Remove(r.at("bin/agent"))) }, ok, "is not there"},
		"a tree": {func(r *rig) {
			r.configure(t, "main = '"+r.at("opt/app/bin/agent")+"'\n[[install]]\nfrom = 'app/'\nto = '"+r.at("opt/app")+"'\n")
		}, ok, "which is installed as a whole"},
		"a user's directory": {func(r *rig) {
			must(t, os.Mkdir(r.at("opt"), 0o755))
			must(t, os.Chown(r.at("opt"), alice, alice))
			r.put(t, "opt/agent", file{"agent 1", 0o755, 0})
			r.retarget(t, r.at("bin/agent"), r.at("opt/agent"))
		}, ok, "opt/agent is in a user's directory, and a drill replaces only what root installs"},
	} {
		r := newRig(t)
		c.change(r)
		askDrill(t, r, c.before)
		if err := r.do("swap"); err == nil || !strings.Contains(err.Error(), c.words) || resultOf(err) != state.ResultNotAttempted {
			t.Errorf("%s: %v", name, err)
		}
		if a := r.last(t); a.Result != state.ResultNotAttempted || !a.Drill || r.sys.called("restart agent.service") > 0 || len(r.beside(t)) > 0 {
			t.Errorf("%s: %+v, calls %q, beside %q", name, a, r.sys.calls, r.beside(t))
		}
	}
}

// TestDrillOfKinds: a unit that is reloaded leaves the active state at the rollback only, and
// several units are away from the first that stops to the last that starts.
func TestDrillOfKinds(t *testing.T) {
	for name, begins := range map[string][]string{
		"reload":  {"reload agent.service"},
		"several": {"stop worker.service", "restart agent.service", "restart worker.service"},
	} {
		r := kinds()[name].trialOf(t)
		askDrill(t, r, state.Baseline{Standing: true})
		r.step(t, "swap")
		if got := r.sys.unitCalls(); !slices.Equal(got, begins) {
			t.Errorf("%s: calls %q, want %q", name, got, begins)
		}
		r.sys.left = 10 * time.Second
		for unit, u := range kinds()[name].units {
			u.Entered = 12 * time.Second
			r.sys.units[unit] = u
		}
		r.gate(t, "d1", state.FindingBad, "it exits at once")
		r.step(t, "rollback")
		r.ended(t, "d1", state.ResultDrilled, "the service was away 2.0 s")
	}
}
