package swap

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

const theProbe = "[[health.probe]]\ntcp = \"127.0.0.1:1\"\n"

var theKey = target.Probe{TCP: "127.0.0.1:1"}.Key()

// answers returns what the gate finds when it runs the probe.
func answers(passed bool) state.ProbeResult {
	r := state.ProbeResult{Probe: "tcp 127.0.0.1:1", Key: theKey, Passed: passed}
	if !passed {
		r.Detail = "connection refused"
	}
	return r
}

func stands(results ...state.ProbeResult) *state.Baseline {
	return &state.Baseline{Standing: true, Probes: results}
}

// remember records that the probe has passed here.
func (r *rig) remember(t *testing.T) {
	t.Helper()
	must(t, r.tree.Update(state.RoleSwap, "agent", func(s *state.Status) { s.Probes = map[string]time.Time{theKey: time.Unix(1, 0)} }))
}

const lookNow = "start machinemon-baseline@agent.service"

// TestForesee checks that a scheduled attempt runs probes that never passed here before
// it downloads.
func TestForesee(t *testing.T) {
	testkit.Slow(t)
	unknown, foreign := answers(false), answers(true)
	unknown.Unknown, foreign.Key = true, "another"
	for _, c := range []struct {
		name       string
		remembered bool
		now        *state.Baseline
		looks      int
		doubted    bool
		learned    bool
	}{
		{"remembered", true, nil, 0, false, true},
		{"passes", false, stands(answers(true)), 1, false, true},
		{"fails", false, stands(answers(false)), 1, true, false},
		{"fails, and another's passes", false, stands(answers(false), foreign), 1, true, false},
		{"no answer", false, stands(unknown), 1, false, false},
		{"not told", false, stands(), 1, false, false},
		{"fails, as the unit does", false, &state.Baseline{Detail: "it died", Probes: []state.ProbeResult{answers(false)}}, 1, false, false},
		{"no look", false, nil, 1, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.configure(t, theProbe)
			if c.remembered {
				r.remember(t)
			}
			r.sys.now = c.now
			r.step(t, "begin")
			o := r.order(t)
			if got := r.sys.called(lookNow); got != c.looks {
				t.Errorf("%d looks, want %d: %q", got, c.looks, r.sys.calls)
			}
			if (o.Doubt != "") != c.doubted || o.Verb != state.VerbApply {
				t.Errorf("order %+v", o)
			}
			if c.doubted {
				for _, w := range []string{"tcp 127.0.0.1:1: connection refused", "machinemon-update probe agent", "/etc/machinemon-update/targets.d/agent.toml", "machinemon-update apply agent"} {
					if !strings.Contains(o.Doubt, w) {
						t.Errorf("the doubt lacks %q: %s", w, o.Doubt)
					}
				}
			}
			if _, ok := r.status(t).Probes[theKey]; ok != c.learned {
				t.Errorf("remembered: %v", r.status(t).Probes)
			}
		})
	}
	t.Run("not asked for", func(t *testing.T) {
		r := newRig(t)
		r.step(t, "begin") // no probe is configured
		r.configure(t, theProbe)
		must(t, r.tree.SetRequest("agent", state.Request{Attempt: "op-1", Verb: state.VerbApply}))
		r.step(t, "begin") // an operator's attempt needs no probe
		must(t, os.WriteFile(r.at("admin/agent.toml"), []byte("auto_update_enabled = false\n"), 0o644))
		r.step(t, "begin") // this attempt would not install
		if r.sys.called(lookNow) != 0 {
			t.Errorf("calls: %q", r.sys.calls)
		}
	})
	t.Run("no systemd", func(t *testing.T) {
		r := newRig(t)
		r.configure(t, theProbe)
		r.sys.fails[lookNow] = &systemd.JobError{}
		r.step(t, "begin") // the swap will run the probes itself
		if r.order(t).Doubt != "" || !strings.Contains(r.log.String(), "no look at the probes") {
			t.Errorf("order %+v, log %s", r.order(t), r.log)
		}
	})
}

// TestWeigh checks what the swap decides from its own baseline.
func TestWeigh(t *testing.T) {
	testkit.Slow(t)
	for _, c := range []struct {
		name       string
		origin     state.Origin
		remembered bool
		before     *state.Baseline // nil: there is no baseline
		refused    bool
		learned    bool
	}{
		{"scheduled, fails", state.OriginSchedule, false, stands(answers(false)), true, false},
		{"directive, fails", state.OriginDirective, false, stands(answers(false)), true, false},
		{"a person's, fails", state.OriginOperator, false, stands(answers(false)), false, false},
		{"scheduled, passes", state.OriginSchedule, false, stands(answers(true)), false, true},
		{"scheduled, fails, and passed before", state.OriginSchedule, true, stands(answers(false)), false, true},
		{"scheduled, fails, as the unit does", state.OriginSchedule, false, &state.Baseline{Probes: []state.ProbeResult{answers(false)}}, false, false},
		{"scheduled, no baseline", state.OriginSchedule, false, nil, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.configure(t, theProbe)
			if c.remembered {
				r.remember(t)
			}
			r.offer(t, "a1", "v2", 2, release2)
			must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a1", Origin: c.origin, Verb: state.VerbApply, Installed: "v1"}))
			b := state.Baseline{Attempt: "another"}
			if c.before != nil {
				b = *c.before
				b.Attempt = "a1"
			}
			must(t, look(r.tree, b))
			if c.refused {
				r.fails(t, "swap", state.ResultNotAttempted, "tcp 127.0.0.1:1: connection refused", "machinemon-update probe agent")
				r.ended(t, "a1", state.ResultNotAttempted, "none ever passed here")
				r.want(t, oldFiles)
				r.closed(t)
				return
			}
			r.step(t, "swap")
			j, err := r.tree.Journal("agent")
			must(t, err)
			at, ok := j.Probes[theKey]
			if _, known := r.status(t).Probes[theKey]; !ok || at.IsZero() == c.learned || known != c.learned {
				t.Errorf("journal has %v, status %v", j.Probes, r.status(t).Probes)
			}
		})
	}
}

// TestUnchanged: the release is no worse only if the probe failed before it, too, and fails with
// the old one again.
func TestUnchanged(t *testing.T) {
	const blamed = "tcp 127.0.0.1:1"
	other := state.ProbeResult{Probe: "tcp 127.0.0.1:2", Key: "2"}
	passes := other
	passes.Passed = true
	for _, c := range []struct {
		name          string
		before, after *state.Baseline
		want          string
	}{
		{"fails as before", stands(answers(false)), stands(answers(false)), blamed},
		{"passed before", stands(answers(true)), stands(answers(false)), ""},
		{"passes again", stands(answers(false)), stands(answers(true)), ""},
		{"not examined before", nil, stands(answers(false)), ""},
		{"not examined after", stands(answers(false)), nil, ""},
		{"another passes again", stands(answers(false), other), stands(answers(false), passes), ""},
		{"another fails still", stands(answers(false), other), stands(answers(false), other), blamed},
	} {
		report := state.Report{Blamed: blamed, Probes: []state.ProbeResult{answers(false), other}}
		if got := unchanged(report, c.before, c.after); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestLearnFromTrial checks that a probe that passes in or after a trial is trusted from
// then on, and that a probe that proves nothing leaves the release unproven.
func TestLearnFromTrial(t *testing.T) {
	begun := func(t *testing.T) *rig {
		r := newRig(t)
		r.configure(t, theProbe)
		r.offer(t, "a1", "v2", 2, release2)
		must(t, look(r.tree, state.Baseline{Attempt: "a1", Standing: true, Probes: []state.ProbeResult{answers(false)}}))
		r.step(t, "swap")
		return r
	}
	report := func(t *testing.T, r *rig, passed bool) {
		must(t, report(r.tree, state.Report{Attempt: "a1", Finding: state.FindingHealthy, Unproven: !passed, Reason: map[bool]string{false: "no probe proves it"}[passed],
			MainPID: r.sys.pid, Probes: []state.ProbeResult{answers(passed), {Key: "another", Passed: true}}}))
	}
	t.Run("commit", func(t *testing.T) {
		r := begun(t)
		report(t, r, true)
		r.step(t, "commit")
		r.ended(t, "a1", state.ResultCommitted)
		if st := r.status(t); len(st.Probes) != 1 || st.Probes[theKey].IsZero() || st.Installed.Unproven != "" {
			t.Errorf("status %+v, installed %+v", st.Probes, st.Installed)
		}
	})
	t.Run("unproven", func(t *testing.T) {
		r := begun(t)
		report(t, r, false)
		r.step(t, "commit")
		r.ended(t, "a1", state.ResultUnproven, "no probe proves it")
		if st := r.status(t); len(st.Probes) != 0 || st.Installed.Unproven != "no probe proves it" {
			t.Errorf("status %+v, installed %+v", st.Probes, st.Installed)
		}
		if !strings.Contains(r.log.String(), "committed unproven: no probe proves it") {
			t.Errorf("log: %s", r.log)
		}
	})
	t.Run("rollback", func(t *testing.T) {
		r := begun(t)
		r.gate(t, "a1", state.FindingBad, "it died")
		r.sys.after = *stands(answers(true))
		r.step(t, "rollback")
		if st := r.status(t); st.Probes[theKey].IsZero() {
			t.Errorf("status %+v", st.Probes)
		}
	})
	t.Run("the journal of an earlier version", func(t *testing.T) {
		r := begun(t)
		r.remember(t)
		j, err := r.tree.Journal("agent")
		must(t, err)
		j.Probes = nil
		must(t, r.tree.SetJournal(j))
		report(t, r, true)
		r.step(t, "commit")
		if st := r.status(t); len(st.Probes) != 1 {
			t.Errorf("status %+v", st.Probes)
		}
	})
}

// TestLeftProbeRequest checks that a probe request that a killed command has left starts
// nothing. The command removes its request when it ends.
func TestLeftProbeRequest(t *testing.T) {
	r := newRig(t)
	left := state.Request{Attempt: "probe-1", Verb: state.VerbProbe}
	must(t, r.tree.SetRequest("agent", left))
	r.step(t, "begin")
	if o := r.order(t); o.Attempt == "probe-1" || o.Origin != state.OriginSchedule {
		t.Errorf("order %+v", o)
	}
	must(t, r.tree.SetRequest("agent", left))
	r.step(t, "swap")
	r.want(t, oldFiles)
	if got := r.status(t).Attempts; len(got) != 0 {
		t.Errorf("recorded: %+v", got)
	}
}

// TestLookBeforeSwap: the swapper starts the look before the swap only if the verification
// has not.
func TestLookBeforeSwap(t *testing.T) {
	offered := func(t *testing.T, r *rig) { r.offer(t, "a1", "v2", 2, release2) }
	unseen := func(t *testing.T, r *rig) {
		offered(t, r)
		must(t, os.Remove(filepath.Join(r.tree.Gate("agent"), "baseline.json")))
		r.sys.now = stands()
	}
	for _, c := range []struct {
		name  string
		make  func(t *testing.T, r *rig)
		looks int
	}{
		{"seen", offered, 0},
		{"not seen", unseen, 1},
		{"could not look", func(t *testing.T, r *rig) {
			unseen(t, r)
			r.sys.units[unitOf("baseline", "agent")] = systemd.Unit{Active: "failed"}
		}, 0},
		{"the operator goes back", func(t *testing.T, r *rig) {
			committed(t, r)
			must(t, r.tree.SetRequest("agent", state.Request{Attempt: "b1", Verb: state.VerbRollback}))
			r.sys.now = stands()
		}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			c.make(t, r)
			r.step(t, "swap")
			if got := r.sys.called(lookNow); got != c.looks {
				t.Errorf("looked %d times, want %d", got, c.looks)
			}
			j, err := r.tree.Journal("agent")
			must(t, err)
			before, err := r.tree.Baseline("agent", j.Attempt)
			if must(t, err); (before == nil) != (c.name == "could not look") {
				t.Errorf("the baseline is %+v", before)
			}
		})
	}
}
