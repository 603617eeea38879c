package swap

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestUnjudgeable checks that a release that no trial could judge is refused before a
// file is replaced, with a hint, but that files that are installed already are adopted.
func TestUnjudgeable(t *testing.T) {
	const python = "no process of agent.service runs /opt/agent; its main process runs /usr/bin/python3.11"
	for name, c := range map[string]struct {
		main  bool
		words []string
	}{
		"another program runs":    {true, []string{"cannot judge agent: " + python, `(hint: install.to must be what the unit runs; where another program runs it, write main = "" below [health] in /etc/machinemon-update/targets.d/agent.toml)`}},
		"the gate could not look": {false, []string{"cannot judge agent: " + python, "(hint: systemctl status agent.service machinemon-baseline@agent.service)"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			more := ""
			if c.main {
				more = fmt.Sprintf("main = %q\n", r.at("bin/agent"))
			}
			r.configure(t, more+fmt.Sprintf("version_command = [%q, '--version']\n", r.at("bin/agent")))
			unjudgeable := func(attempt state.AttemptID) {
				t.Helper()
				must(t, look(r.tree, state.Baseline{Attempt: attempt, Detail: python, Unjudgeable: python}))
			}
			r.offer(t, "a1", "v2", 2, release2)
			unjudgeable("a1")
			r.fails(t, "swap", state.ResultMisconfigured, c.words...)
			r.ended(t, "a1", state.ResultMisconfigured, c.words...)
			r.untouched(t)
			if r.sys.called("try agent") != 0 {
				t.Error("the pre-flight ran")
			}
			if a := r.last(t); !a.Failed() || a.Manifest == "" {
				t.Errorf("scheduled runs do not back off from %+v", a)
			}
			must(t, os.Chmod(r.at("bin/agent"), 0o755))
			r.sys.tried.Output = "agent v1.0.1"
			r.offer(t, "a2", "v1.0.1", 7, release1)
			unjudgeable("a2")
			r.step(t, "swap")
			r.ended(t, "a2", state.ResultAdopted)
		})
	}
}

// TestMainID checks that root tells the gate which file must run, because the gate may
// not be allowed to find it: in the order, in the trial, and after a rollback.
func TestMainID(t *testing.T) {
	r := newRig(t)
	r.configure(t, fmt.Sprintf("main = %q\n", r.at("bin/agent")))
	id := func() state.FileID {
		t.Helper()
		id, err := state.Identify(r.at("bin/agent"))
		must(t, err)
		return id
	}
	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "a0", Verb: state.VerbApply}))
	r.step(t, "begin")
	if o, err := r.tree.Order("agent"); err != nil || o.MainID != id() {
		t.Errorf("the order says %+v, %v, and installed is %+v", o.MainID, err, id())
	}
	r.offer(t, "a1", "v2", 2, release2)
	r.sys.on["restart agent.service"] = func() {
		if j, err := r.tree.Journal("agent"); err != nil || j.MainID != id() {
			t.Errorf("in the trial: %+v, %v, and installed is %+v", j, err, id())
		}
	}
	r.step(t, "swap")
	r.gate(t, "a1", state.FindingBad, "it is bad")
	delete(r.sys.on, "restart agent.service")
	looked := false
	r.sys.on["start machinemon-baseline@agent.service"] = func() {
		looked = true
		if j, err := r.tree.Journal("agent"); err != nil || j.MainID != id() {
			t.Errorf("after the rollback: %+v, %v, and installed is %+v", j, err, id())
		}
	}
	r.step(t, "rollback")
	if !looked {
		t.Error("no look at the old program")
	}
	r.closed(t)
}

// TestCommitAside checks that the program that the gate saw need not be the main process,
// and that a unit that needs no process is committed without one.
func TestCommitAside(t *testing.T) {
	testkit.Slow(t)
	sleep, err := exec.LookPath("sleep")
	must(t, err)
	program, err := os.ReadFile(sleep)
	must(t, err)
	remains := systemd.Unit{Load: "loaded", Active: "active", Sub: "exited", Type: "oneshot", RemainAfterExit: true}
	for name, c := range map[string]struct {
		unit   func(r *rig) systemd.Unit
		report func(child uint32) uint32
		group  bool // the child is in the unit's group
		main   bool
		want   string // "" means committed
	}{
		"a wrapper's child": {func(r *rig) systemd.Unit {
			return systemd.Unit{Load: "loaded", Active: "active", Sub: "running", MainPID: uint32(os.Getpid())}
		},
			func(child uint32) uint32 { return child }, true, true, ""},
		"no main process": {func(r *rig) systemd.Unit { return systemd.Unit{Load: "loaded", Active: "active", Sub: "running"} },
			func(child uint32) uint32 { return child }, true, true, ""},
		"no main process, and any will do": {func(r *rig) systemd.Unit { return systemd.Unit{Load: "loaded", Active: "active", Sub: "running"} },
			func(uint32) uint32 { return 0 }, false, false, ""},
		"it is the unit's no more": {func(r *rig) systemd.Unit { return systemd.Unit{Load: "loaded", Active: "active", Sub: "running"} },
			func(child uint32) uint32 { return child }, false, true, "the gate saw process"},
		"another of its processes": {func(r *rig) systemd.Unit { return systemd.Unit{Load: "loaded", Active: "active", Sub: "running"} },
			func(uint32) uint32 { return uint32(os.Getpid()) }, true, true, "does not run"},
		"a oneshot that remains": {func(r *rig) systemd.Unit { return remains }, func(uint32) uint32 { return 0 }, false, true, ""},
		"a oneshot that failed": {func(r *rig) systemd.Unit {
			u := remains
			u.Active, u.Sub = "failed", "failed"
			return u
		}, func(uint32) uint32 { return 0 }, false, true, "failed (failed)"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			if c.main {
				r.configure(t, fmt.Sprintf("main = %q\n", r.at("bin/agent")))
			}
			daemon := r.runs(t, program)
			r.sys.units["agent.service"] = c.unit(r)
			if c.group {
				r.sys.group = []int{daemon, os.Getpid()}
			}
			must(t, report(r.tree, state.Report{Attempt: "a1", Finding: state.FindingHealthy, MainPID: c.report(uint32(daemon))}))
			if c.want == "" {
				r.step(t, "commit")
				r.ended(t, "a1", state.ResultCommitted)
				return
			}
			r.fails(t, "commit", state.ResultFailed, c.want)
		})
	}
}
