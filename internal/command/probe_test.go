package command

import (
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// TestProbed: of the gate's report only the target's own probes count, and a terminal
// gets no control characters from it.
func TestProbed(t *testing.T) {
	one, two := target.Probe{TCP: "127.0.0.1:1"}, target.Probe{Command: []string{"/x", "secret"}}
	tgt := &target.Target{Name: "agent", Unit: "agent.service", Health: target.Health{Main: "/x", Probes: []target.Probe{one, two}}}
	passes := func(p target.Probe, passed bool, detail string) state.ProbeResult {
		return state.ProbeResult{Probe: "forged", Key: p.Key(), Passed: passed, Detail: detail, Millis: 7}
	}
	long := state.Passed{one.Key(): time.Unix(1, 0), two.Key(): time.Unix(1, 0)}
	for _, c := range []struct {
		name  string
		now   state.Baseline
		known state.Passed
		exit  int
		says  []string
	}{
		{"all well", state.Baseline{Standing: true, Probes: []state.ProbeResult{passes(one, true, "a connection is accepted"), passes(two, true, "exited with status 0")}}, long, 0,
			[]string{"agent: agent.service stands\n", "tcp 127.0.0.1:1  passes  7 ms\n", "command /x       passes  7 ms\n  exited with status 0\n"}},
		{"the unit does not stand", state.Baseline{Detail: "it died", Probes: []state.ProbeResult{passes(one, true, ""), passes(two, true, "")}}, long, 1,
			[]string{"agent: agent.service is not as it must be: it died\n"}},
		{"none is tried", state.Baseline{Detail: "it is inactive", Probes: []state.ProbeResult{{Key: one.Key(), Detail: state.NotTried}, {Key: two.Key(), Detail: state.NotTried}}}, state.Passed{one.Key(): time.Unix(1, 0)}, 1,
			[]string{"agent: agent.service is not as it must be: it is inactive\nPROBE            RESULT     TIME\ntcp 127.0.0.1:1  not tried  0 ms\n  it last passed here at " + time.Unix(1, 0).Format(minutes) + "\ncommand /x       not tried  0 ms\n"}},
		{"another program runs", state.Baseline{Detail: "it runs perl", Unjudgeable: "it runs perl"}, long, 1,
			[]string{`it runs perl (hint: install.to must be what the unit runs; where another program runs it, write main = "" below [health] in /etc/machinemon-update/targets.d/agent.toml)` + "\n"}},
		{"one fails", state.Baseline{Standing: true, Probes: []state.ProbeResult{passes(one, true, ""), passes(two, false, "exited with status 1: \x1b[31m")}}, long, 1,
			[]string{"command /x       fails   7 ms\n  exited with status 1:  [31m\n  it last passed here at 1970-01-01"}},
		{"one never passed", state.Baseline{Standing: true, Probes: []state.ProbeResult{passes(one, true, ""), passes(two, false, "exited with status 1")}}, state.Passed{one.Key(): time.Unix(1, 0), two.Key(): {}}, 1,
			[]string{"it never passed here, and is not believed (hint: mend it in /etc/machinemon-update/targets.d/agent.toml)"}},
		{"another's passes", state.Baseline{Standing: true, Probes: []state.ProbeResult{passes(one, true, ""), {Probe: "command /x", Key: "another", Passed: true}}}, long, 1,
			[]string{"command /x       fails   0 ms"}},
		{"no answer", state.Baseline{Standing: true, Probes: []state.ProbeResult{passes(one, true, ""), {Key: two.Key(), Unknown: true}}}, long, 1,
			[]string{"command /x       no answer  0 ms"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := probedOf(tgt, &c.now, c.known)
			text := p.text("/etc/machinemon-update/targets.d")
			if p.Exit != c.exit {
				t.Errorf("exit %d, want %d", p.Exit, c.exit)
			}
			for _, s := range c.says {
				if !strings.Contains(text, s) {
					t.Errorf("does not say %q:\n%s", s, text)
				}
			}
			if strings.Contains(text, "secret") || strings.Contains(text, "forged") || strings.Contains(text, "\x1b") {
				t.Errorf("says what it must not:\n%s", text)
			}
		})
	}
	tgt.Health.Probes = nil
	if p := probedOf(tgt, &state.Baseline{Standing: true}, state.Passed{}); p.Exit != 0 || !strings.Contains(p.text(""), "there are no probes") {
		t.Errorf("%+v: %s", p, p.text(""))
	}
}

// TestOpenTrial: a trial whose rollback failed is not shown as on trial, and the operator
// gets a hint.
func TestOpenTrial(t *testing.T) {
	for want, j := range map[string]state.Journal{
		"1.1.0 is on trial":              {Target: "agent", Version: "1.1.0"},
		"an unknown version is on trial": {Target: "agent"},
		"the rollback of 1.1.0 failed, and its trial waits for you (hint: sudo machinemon-update settle agent back: roll back once more; or settle agent keep: keep what is installed now)": {
			Target: "agent", Version: "1.1.0", RollbackFailed: "it does not run"},
	} {
		if got := openTrial(&j); got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
}
