package swap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// A kind is how the units of the target are, and what becomes of them.
type kind struct {
	unit    string // the target file's first lines, in place of the unit
	units   map[string]systemd.Unit
	begins  []string // the calls for units that the swap makes, in order
	rolls   []string // those that the rollback makes
	idle    map[string]string
	pids    map[string]uint32
	before  map[string]systemd.Unit // how the units are just before the files are replaced
	judged  map[string]systemd.Unit // how the units are when the trial is judged
	refused string                  // why the commit is refused then; "" if it is not
	alive   []string                // the instances of a template that run
}

// calls returns the calls that start, stop or change units of the target.
func (m *machine) unitCalls() (calls []string) {
	for _, c := range m.calls {
		verb, name, _ := strings.Cut(c, " ")
		if slices.Contains([]string{"restart", "stop", "reload", "start", "kill"}, verb) && !strings.HasPrefix(name, "machinemon-") && name != "needs.service" {
			calls = append(calls, strings.TrimSpace(c))
		}
	}
	m.calls = nil
	return calls
}

// kinds has the kinds of units; the test machine's is one service.
func kinds() map[string]kind {
	at := func(active, sub string, more func(*systemd.Unit)) systemd.Unit {
		u := systemd.Unit{Load: "loaded", Active: active, Sub: sub, Result: "success"}
		if active == "active" {
			u.MainPID = 4242
		}
		if more != nil {
			more(&u)
		}
		return u
	}
	oneshot := func(run string) func(*systemd.Unit) {
		return func(u *systemd.Unit) { u.Type, u.Invocation = "oneshot", run }
	}
	triggered := func(u *systemd.Unit) { u.Invocation, u.Triggers = "1st", []string{"agent.socket"} }
	by := func(trigger string) func(*systemd.Unit) {
		return func(u *systemd.Unit) { u.Invocation, u.Triggers = "1st", []string{trigger} }
	}
	worker := at("active", "running", func(u *systemd.Unit) { u.MainPID, u.Invocation = 4343, "w" })
	other := worker
	other.MainPID, other.Invocation = 4344, "w, started again"
	reloadable := at("active", "running", func(u *systemd.Unit) { u.CanReload, u.Invocation = true, "1st" })
	return map[string]kind{
		"no unit": {unit: "unit = ''", begins: nil, rolls: nil},
		"a oneshot": {unit: "unit = 'agent.service'", units: map[string]systemd.Unit{"agent.service": at("inactive", "dead", oneshot("1st"))},
			idle: map[string]string{"agent.service": "1st"}},
		"a oneshot, and a run of the old program fails": {unit: "unit = 'agent.service'", units: map[string]systemd.Unit{"agent.service": at("inactive", "dead", oneshot("1st"))},
			before: map[string]systemd.Unit{"agent.service": at("failed", "failed", oneshot("2nd"))},
			idle:   map[string]string{"agent.service": "2nd"}},
		"a oneshot, and its run fails": {unit: "unit = 'agent.service'", units: map[string]systemd.Unit{"agent.service": at("inactive", "dead", oneshot("1st"))},
			idle:   map[string]string{"agent.service": "1st"},
			judged: map[string]systemd.Unit{"agent.service": at("failed", "failed", oneshot("2nd"))}, refused: "agent.service is failed"},
		"waits for its socket": {unit: "unit = 'agent.service'", units: map[string]systemd.Unit{"agent.service": at("inactive", "dead", triggered), "agent.socket": at("active", "listening", nil)},
			idle:   map[string]string{"agent.service": "1st"},
			judged: map[string]systemd.Unit{"agent.service": at("active", "running", func(u *systemd.Unit) { triggered(u); u.Invocation = "2nd" }), "agent.socket": at("active", "listening", nil)},
			rolls:  []string{"stop agent.service"}},
		"waits for its socket, and has run": {unit: "unit = 'agent.service'", units: map[string]systemd.Unit{"agent.service": at("inactive", "dead", triggered), "agent.socket": at("active", "listening", nil)},
			idle:   map[string]string{"agent.service": "1st"},
			judged: map[string]systemd.Unit{"agent.service": at("inactive", "dead", func(u *systemd.Unit) { triggered(u); u.Invocation = "2nd" }), "agent.socket": at("active", "listening", nil)}},
		"waits for its timer": {unit: "unit = 'agent.service'", units: map[string]systemd.Unit{"agent.service": at("inactive", "dead", by("agent.timer")), "agent.timer": at("active", "waiting", nil)},
			idle: map[string]string{"agent.service": "1st"}},
		"waits for its timer, and its run fails": {unit: "unit = 'agent.service'", units: map[string]systemd.Unit{"agent.service": at("inactive", "dead", by("agent.timer")), "agent.timer": at("active", "waiting", nil)},
			idle:   map[string]string{"agent.service": "1st"},
			judged: map[string]systemd.Unit{"agent.service": at("failed", "failed", func(u *systemd.Unit) { u.Invocation = "2nd" })}, refused: "agent.service is failed"},
		"waits for its path unit": {unit: "unit = 'agent.service'", units: map[string]systemd.Unit{"agent.service": at("inactive", "dead", by("agent.path")), "agent.path": at("active", "waiting", nil)},
			idle: map[string]string{"agent.service": "1st"}},
		"two instances": {unit: "unit = 'agent@.service'", units: map[string]systemd.Unit{"agent@1.service": at("active", "running", nil), "agent@2.service": worker},
			alive: []string{"agent@2.service", "agent@1.service"}, pids: map[string]uint32{"agent@2.service": 4343},
			begins: []string{"stop agent@2.service", "restart agent@1.service", "restart agent@2.service"},
			rolls:  []string{"stop agent@2.service", "restart agent@1.service", "restart agent@2.service"}},
		"two instances, and one has restarted": {unit: "unit = 'agent@.service'", units: map[string]systemd.Unit{"agent@1.service": at("active", "running", nil), "agent@2.service": worker},
			alive: []string{"agent@2.service", "agent@1.service"}, pids: map[string]uint32{"agent@2.service": 4343},
			judged: map[string]systemd.Unit{"agent@2.service": other}, refused: "agent@2.service is active (running) with main process 4344, the gate saw process 4343",
			begins: []string{"stop agent@2.service", "restart agent@1.service", "restart agent@2.service"},
			rolls:  []string{"stop agent@2.service", "restart agent@1.service", "restart agent@2.service"}},
		"several": {unit: "units = ['agent.service', 'worker.service']", units: map[string]systemd.Unit{"worker.service": worker},
			pids:   map[string]uint32{"worker.service": 4343},
			begins: []string{"stop worker.service", "restart agent.service", "restart worker.service"},
			rolls:  []string{"stop worker.service", "restart agent.service", "restart worker.service"}},
		"several, and one has restarted": {unit: "unit = 'agent.service'\nunits = ['worker.service']", units: map[string]systemd.Unit{"worker.service": worker},
			pids:   map[string]uint32{"worker.service": 4343},
			judged: map[string]systemd.Unit{"worker.service": other}, refused: "worker.service is active (running) with main process 4344, the gate saw process 4343",
			begins: []string{"stop worker.service", "restart agent.service", "restart worker.service"},
			rolls:  []string{"stop worker.service", "restart agent.service", "restart worker.service"}},
		"reload": {unit: "unit = 'agent.service'\nrestart = 'reload'", units: map[string]systemd.Unit{"agent.service": reloadable},
			begins: []string{"reload agent.service"}, rolls: []string{"restart agent.service"}},
	}
}

// trialOf begins the trial of a release that leaves the unit file alone.
func (k kind) trialOf(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	r.configure(t, "")
	content, err := os.ReadFile(r.at("targets/agent.toml"))
	must(t, err)
	replace := []string{`unit = "agent.service"`, k.unit, "main = ''\n", "version_command = ['/usr/bin/true']\n",
		fmt.Sprintf("[rollback]\nsnapshot = [%q]\n", r.at("etc/config")), ""}
	switch {
	case strings.Contains(k.unit, "reload"):
		replace[3] += "main = '" + r.at("bin/agent") + "'\n"
	case k.unit == "unit = ''":
		replace = append(replace, "settle_seconds = 5\n", "")
	default:
		replace[3] += "main = ''\n"
	}
	must(t, os.WriteFile(r.at("targets/agent.toml"), []byte(strings.NewReplacer(replace...).Replace(string(content))), 0o644))
	for name, u := range k.units {
		r.sys.units[name] = u
	}
	r.sys.on["arm machinemon-deadline@agent.timer"] = func() { maps.Copy(r.sys.units, k.before) }
	if k.alive != nil {
		r.sys.alive = map[string][]string{"agent@*.service": k.alive}
	}
	r.sys.tried = systemd.SandboxResult{Output: "agent v2"}
	r.offer(t, "a1", "v2", 2, map[string]string{"agent": "agent 2", "agent.service": "unit 1"})
	return r
}

func (k kind) judge(t *testing.T, r *rig, f state.Finding) {
	t.Helper()
	for name, u := range k.judged {
		r.sys.units[name] = u
	}
	must(t, report(r.tree, state.Report{Attempt: "a1", Finding: f, Reason: "it is so", MainPID: r.sys.pid, PIDs: k.pids}))
}

// TestKinds: what a swap, a commit and a rollback do to the units of each kind.
func TestKinds(t *testing.T) {
	testkit.Slow(t)
	var rows []testkit.Row
	for _, name := range slices.Sorted(maps.Keys(kinds())) {
		rows = append(rows, testkit.Row{What: name + ": " + strings.ReplaceAll(kinds()[name].unit, "\n", "; "), Refused: kinds()[name].refused})
	}
	testkit.Accepted(t, "Kinds of units", rows)
	for name, k := range kinds() {
		t.Run(name, func(t *testing.T) {
			r := k.trialOf(t)
			r.step(t, "swap")
			if got := r.sys.unitCalls(); !slices.Equal(got, k.begins) {
				t.Errorf("the swap: %q, want %q", got, k.begins)
			}
			j, err := r.tree.Journal("agent")
			must(t, err)
			if j == nil || len(j.Idle) != len(k.idle) || j.Idle["agent.service"] != k.idle["agent.service"] {
				t.Fatalf("journal: %+v", j)
			}
			if !strings.Contains(k.unit, "reload") { // there the process would have to run the file
				k.judge(t, r, state.FindingHealthy)
				if k.refused == "" {
					r.step(t, "commit")
					r.ended(t, "a1", state.ResultCommitted)
				} else {
					r.fails(t, "commit", state.ResultFailed, k.refused)
				}
			}

			r = k.trialOf(t)
			r.step(t, "swap")
			k.judge(t, r, state.FindingBad)
			r.sys.unitCalls()
			r.step(t, "rollback")
			if got := r.sys.unitCalls(); !slices.Equal(got, k.rolls) {
				t.Errorf("the rollback: %q, want %q", got, k.rolls)
			}
			r.ended(t, "a1", state.ResultRolledBack, "it is so")
			if got, err := os.ReadFile(r.at("bin/agent")); err != nil || string(got) != "agent 1" {
				t.Errorf("installed: %q, %v", got, err)
			}
			if last := r.last(t); last.Healthy != (len(k.rolls) > 0 && k.idle == nil) {
				t.Errorf("recorded: %+v", last)
			}
			if j, err := r.tree.Journal("agent"); j != nil || err != nil {
				t.Errorf("the trial is open: %+v, %v", j, err)
			}
		})
	}
}

// TestReloadFails: a reload that fails, or does not end, is the release's fault, and one that
// somebody cancels, or of which systemd does not tell, is not. A new unit file needs a restart.
func TestReloadFails(t *testing.T) {
	k := kinds()["reload"]
	job := func(result string) error {
		return &systemd.JobError{Verb: "reload", Unit: "agent.service", Result: result}
	}
	late := fmt.Errorf("cannot reload agent.service: %w", context.DeadlineExceeded)
	reloading := &systemd.Unit{Load: "loaded", Active: "reloading", Sub: "reload", MainPID: 7}
	for name, c := range map[string]struct {
		err      error
		is       *systemd.Unit // when the reload has ended
		asked    error         // what systemd answers then
		rejected bool
	}{
		"it fails":                {err: job("failed"), rejected: true},
		"its limit ends it":       {err: job("timeout"), rejected: true},
		"somebody stops the unit": {err: job("canceled")},
		"it does not end":         {err: late, is: reloading, rejected: true},
		"its end is not heard of": {err: late},
		"systemd does not answer": {err: late, asked: errors.New("systemd does not answer")},
	} {
		r := k.trialOf(t)
		r.sys.fails["reload agent.service"] = c.err
		r.sys.on["reload agent.service"] = func() {
			if c.is != nil {
				r.sys.units["agent.service"] = *c.is
			}
			r.sys.fails["unit agent.service"] = c.asked
		}
		r.fails(t, "swap", state.ResultFailed, c.err.Error())
		delete(r.sys.units, "agent.service")
		delete(r.sys.fails, "unit agent.service")
		r.step(t, "rollback")
		if got := len(r.status(t).Rejected) == 1 && r.status(t).Rejected[0].Interruptions == 0; got != c.rejected {
			t.Errorf("%s: rejected: %+v", name, r.status(t).Rejected)
		}
	}

	r := k.trialOf(t)
	r.offer(t, "a2", "v2", 2, release2)
	r.step(t, "swap")
	if got := r.sys.unitCalls(); !slices.Equal(got, []string{"reload", "restart agent.service"}) {
		t.Errorf("with a new unit file: %q", got)
	}
}
