package swap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestRolledBack checks which trials reject their release.
func TestRolledBack(t *testing.T) {
	testkit.Slow(t)
	probe := func(passed bool) []state.ProbeResult {
		return []state.ProbeResult{{Probe: "tcp 127.0.0.1:1", Passed: passed, Detail: "refused"}}
	}
	other := func(passed bool) state.ProbeResult {
		return state.ProbeResult{Probe: "tcp 127.0.0.1:2", Passed: passed}
	}
	unknown := []state.ProbeResult{{Probe: "tcp 127.0.0.1:1", Unknown: true, Detail: "rotated away"}}
	for _, c := range []struct {
		name    string
		before  []state.ProbeResult
		finding state.Finding // "": there is no report
		during  []state.ProbeResult
		blamed  string // the only probe that the report blames
		after   state.Baseline
		stopped bool // the unit did not run before the swap
		result  state.Result
		reject  bool
		reason  string
		back    string // "": the old program runs again
		waits   bool   // scheduled runs back off, since nothing is rejected
	}{
		{name: "bad", finding: state.FindingBad, after: state.Baseline{Standing: true}, result: state.ResultRolledBack, reject: true, reason: "judged"},
		{name: "bad, and the old one passes", before: probe(true), finding: state.FindingBad, during: probe(false),
			after: state.Baseline{Standing: true, Probes: probe(true)}, result: state.ResultRolledBack, reject: true},
		{name: "bad, but the old one fails now, too", before: probe(true), finding: state.FindingBad, during: probe(false),
			after: state.Baseline{Standing: true, Probes: probe(false)}, result: state.ResultRolledBack, waits: true,
			reason: "judged; not rejected: the old version is not healthy either", back: "v1 is back, but is not healthy"},
		{name: "bad, and the old one failed before", before: probe(false), finding: state.FindingBad,
			after: state.Baseline{Standing: true, Probes: probe(false)}, result: state.ResultRolledBack, reject: true,
			back: "v1 is back, but is not healthy: tcp 127.0.0.1:1: refused"},
		{name: "ill before, no cure, and ill after", before: probe(false), finding: state.FindingBad, during: probe(false), blamed: "tcp 127.0.0.1:1", waits: true,
			after: state.Baseline{Standing: true, Probes: probe(false)}, result: state.ResultRolledBack, back: "v1 is back, but is not healthy: tcp 127.0.0.1:1: refused",
			reason: "not rejected: tcp 127.0.0.1:1 failed before the update, too, and fails with the old version"},
		{name: "ill before, no cure, and well after", before: probe(false), finding: state.FindingBad, during: probe(false), blamed: "tcp 127.0.0.1:1",
			after: state.Baseline{Standing: true, Probes: probe(true)}, result: state.ResultRolledBack, reject: true},
		{name: "ill before, no cure, and it broke what passes now", before: append(probe(false), other(true)), finding: state.FindingBad,
			during: append(probe(false), other(false)), blamed: "tcp 127.0.0.1:1",
			after: state.Baseline{Standing: true, Probes: append(probe(false), other(true))}, result: state.ResultRolledBack, reject: true,
			back: "v1 is back, but is not healthy: tcp 127.0.0.1:1: refused"},
		{name: "ill before, and it crashed", before: probe(false), finding: state.FindingBad, during: probe(false),
			after: state.Baseline{Standing: true, Probes: probe(false)}, result: state.ResultRolledBack, reject: true,
			back: "v1 is back, but is not healthy: tcp 127.0.0.1:1: refused"},
		{name: "bad, and of the old one there is no answer", before: probe(true), finding: state.FindingBad, during: probe(false),
			after: state.Baseline{Standing: true, Probes: unknown}, result: state.ResultRolledBack, reject: true},
		{name: "bad, and before there was no answer", before: unknown, finding: state.FindingBad, during: probe(false),
			after: state.Baseline{Standing: true, Probes: probe(false)}, result: state.ResultRolledBack, reason: "not healthy either", waits: true,
			back: "v1 is back, but is not healthy"},
		{name: "cannot tell, and before there was no answer", before: unknown, finding: state.FindingUnsure, during: probe(false),
			after: state.Baseline{Standing: true, Probes: probe(true)}, result: state.ResultRolledBack, waits: true},
		{name: "bad by a probe of which the old one has no answer", before: probe(false), finding: state.FindingBad, during: probe(false), blamed: "tcp 127.0.0.1:1",
			after: state.Baseline{Standing: true, Probes: unknown}, result: state.ResultRolledBack, reject: true},
		{name: "cannot tell", finding: state.FindingUnsure, after: state.Baseline{Standing: true}, result: state.ResultRolledBack, waits: true},
		{name: "cannot tell, but the old one is cured", before: probe(false), finding: state.FindingUnsure, during: probe(false),
			after: state.Baseline{Standing: true, Probes: probe(true)}, result: state.ResultRolledBack, reject: true, reason: "the old version passes tcp"},
		{name: "interrupted", after: state.Baseline{Standing: true}, result: state.ResultInterrupted, reason: "the trial was interrupted"},
		{name: "did not run before, nor now", finding: state.FindingBad, after: state.Baseline{Detail: "failed"}, stopped: true,
			result: state.ResultRolledBack, reason: "not healthy either: failed", waits: true, back: "v1 is back, but is not healthy"},
		{name: "interrupted, and the old one is ill", before: probe(true), after: state.Baseline{Standing: true, Probes: probe(false)},
			result: state.ResultInterrupted, reason: "the trial was interrupted; the old version is not healthy either", back: "v1 is back, but is not healthy"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.offer(t, "a1", "v2", 2, release2)
			must(t, look(r.tree, state.Baseline{Attempt: "a1", Standing: !c.stopped, Probes: c.before}))
			if c.stopped {
				r.sys.units["agent.service"] = systemd.Unit{Load: "loaded", Active: "failed"}
			}
			r.sys.after = c.after
			r.step(t, "swap")
			if c.finding != "" {
				must(t, report(r.tree, state.Report{Attempt: "a1", Finding: c.finding, Reason: "judged", Probes: c.during, Blamed: c.blamed}))
			}
			r.step(t, "rollback")
			r.want(t, oldFiles)
			r.closed(t)
			r.ended(t, "a1", c.result, c.reason)
			if got, want := r.last(t).Aftermath(), cmp.Or(c.back, "v1 runs again"); got != want || !strings.HasSuffix(r.log.String(), " ("+want+")\n") {
				t.Errorf("it says %q, want %q; in the log: %s", got, want, r.log)
			}
			if a := r.last(t); a.Failed() != c.waits {
				t.Errorf("it backs off: %v, want %v", a.Failed(), c.waits)
			}
			// The archive is another, but has the same files under another version.
			r.offer(t, "a2", "v2-again", 2, release2)
			if c.reject {
				r.fails(t, "swap", state.ResultNotAttempted, "it was rejected on")
				r.want(t, oldFiles)
				r.ended(t, "a2", state.ResultNotAttempted)
				// A check, which sees only the archive, now knows it, too.
				if st := r.status(t); st.Rejects("", sum("v2-again"), 2) == nil {
					t.Errorf("rejected is %+v", st.Rejected)
				}
				r.offer(t, "a3", "v2", 3, release2)
			}
			r.step(t, "swap") // a trial begins
			r.want(t, newFiles)
		})
	}
}

func TestInterruptedThreeTimes(t *testing.T) {
	r := newRig(t)
	for i := range state.MaxInterruptions {
		r.offer(t, state.AttemptID(fmt.Sprintf("a%d", i)), "v2", 2, release2)
		r.step(t, "swap")
		r.step(t, "rollback")
		r.ended(t, state.AttemptID(fmt.Sprintf("a%d", i)), state.ResultInterrupted)
	}
	r.offer(t, "b1", "v2", 2, release2)
	r.fails(t, "swap", state.ResultNotAttempted, "rejected", "its trial was cut short 3 times; the last time: the trial was interrupted")
	r.offer(t, "b2", "v2", 3, release2)
	r.step(t, "swap")
}

// TestServerDown checks that a probe that fails in the trial and after the rollback, too,
// does not reject the release, however often, and that scheduled runs back off.
func TestServerDown(t *testing.T) {
	r := newRig(t)
	probe := func(passed bool) []state.ProbeResult {
		return []state.ProbeResult{{Probe: `journal "check-in successful"`, Passed: passed}}
	}
	r.sys.after = state.Baseline{Standing: true, Probes: probe(false)}
	for i := range state.MaxInterruptions + 1 {
		attempt := fmt.Sprintf("a%d", i)
		r.offer(t, state.AttemptID(attempt), "v2", 2, release2)
		must(t, look(r.tree, state.Baseline{Attempt: state.AttemptID(attempt), Standing: true, Probes: probe(true)}))
		r.step(t, "swap")
		must(t, report(r.tree, state.Report{Attempt: state.AttemptID(attempt), Finding: state.FindingBad, Reason: "no check-in", Probes: probe(false)}))
		r.step(t, "rollback")
		r.ended(t, state.AttemptID(attempt), state.ResultRolledBack, "no check-in; not rejected: the old version is not healthy either")
		if st := r.status(t); len(st.Rejected) > 0 {
			t.Fatalf("rejected: %+v", st.Rejected)
		}
	}
	st := r.status(t)
	last := r.last(t)
	if until := policy.Backoff(st.Attempts, last.Manifest, time.Hour, last.Time); until.Sub(last.Time) < time.Hour {
		t.Errorf("scheduled runs wait until %s after %s", until, last.Time)
	}
}

// TestFailureOfEarlierVersion: version 0.1.0 noted only in the status that a rollback failed.
func TestFailureOfEarlierVersion(t *testing.T) {
	r := newRig(t)
	trial(t, r)
	must(t, r.tree.Update(state.RoleSwap, "agent", func(s *state.Status) {
		s.Record(state.Attempt{ID: "a1", Stage: "rollback", Result: state.ResultRollbackFailed, Reason: "the disk is broken", Time: time.Now()})
	}))
	if j, err := r.sw.journal("agent"); err != nil || j == nil || j.RollbackFailed == "" {
		t.Errorf("the journal is %+v, %v", j, err)
	}
}

// TestNoDataBefore: data that only the new program has made are gone after the rollback.
func TestNoDataBefore(t *testing.T) {
	r := newRig(t)
	r.retarget(t, "snapshot = [", fmt.Sprintf("snapshot = [%q, ", r.at("etc/cache")))
	r.offer(t, "a1", "v2", 2, release2)
	r.step(t, "swap")
	r.put(t, "etc/cache", file{"of agent 2", 0o600, 0})
	r.gate(t, "a1", state.FindingBad, "it is bad")
	r.step(t, "rollback")
	r.holds(t, "etc/cache", "")
	r.want(t, oldFiles)
	r.closed(t)
}

// TestRollbackFails checks that the journal stays open and every file is kept until the
// old program runs.
func TestRollbackFails(t *testing.T) {
	testkit.Slow(t)
	for name, c := range map[string]struct {
		breaks func(*testing.T, *rig)
		mends  func(*testing.T, *rig)
		words  []string
	}{
		"the old program does not come up": {
			func(t *testing.T, r *rig) { r.sys.after = state.Baseline{Detail: "failed (dead)"} },
			func(t *testing.T, r *rig) { r.sys.after = state.Baseline{Standing: true} },
			[]string{"the old files are back", "failed (dead)"}},
		"systemd is gone": {
			func(t *testing.T, r *rig) { r.sys.fails["restart agent.service"] = errors.New("no answer") },
			func(t *testing.T, r *rig) { r.sys.fails = map[string]error{} }, []string{"no answer"}},
		"a damaged backup": {
			func(t *testing.T, r *rig) { r.put(t, "bin/.machinemon-update/agent@a1.0.old", file{"rot", 0o755, 0}) },
			func(t *testing.T, r *rig) {
				r.put(t, "bin/.machinemon-update/agent@a1.0.old", file{"agent 1", 0o750, 12})
			},
			[]string{"cannot restore", "bin/agent", "missing or damaged"}},
		"a FIFO in the place": {
			func(t *testing.T, r *rig) {
				must(t, os.Remove(r.at("bin/agent")))
				must(t, fifo(r.at("bin/agent")))
			},
			func(t *testing.T, r *rig) { must(t, os.Remove(r.at("bin/agent"))) },
			[]string{"cannot restore", "bin/agent", "not a regular file"}},
		"a link in the place": {
			func(t *testing.T, r *rig) {
				r.put(t, "bin/real", oldFiles["bin/agent"])
				must(t, os.Remove(r.at("bin/agent")))
				must(t, os.Symlink("real", r.at("bin/agent")))
			},
			func(t *testing.T, r *rig) { must(t, os.Remove(r.at("bin/agent"))) },
			[]string{"cannot restore", "bin/agent", "it is a symbolic link"}},
		"a lost backup": {
			func(t *testing.T, r *rig) { must(t, os.Remove(r.at("bin/.machinemon-update/agent@a1.0.old"))) },
			func(t *testing.T, r *rig) {
				r.put(t, "bin/.machinemon-update/agent@a1.0.old", file{"agent 1", 0o750, 12})
			},
			[]string{"cannot restore", "missing or damaged"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			badTrial(t, r)
			c.breaks(t, r)
			beside := r.beside(t)
			for i := range 2 {
				if i == 0 {
					within(t, func() { r.fails(t, "rollback", state.ResultRollbackFailed, c.words...) })
				} else { // from now on the operator decides
					before := r.picture(t)
					r.step(t, "rollback")
					if after := r.picture(t); !reflect.DeepEqual(after, before) {
						t.Errorf("without the operator's word a rollback changed\n%q to\n%q", before, after)
					}
				}
				r.ended(t, "a1", state.ResultRollbackFailed, append(c.words, "it is bad")...)
				if j, err := r.tree.Journal("agent"); err != nil || j == nil || j.Verdict != state.VerdictRollback {
					t.Fatalf("journal: %+v, %v", j, err)
				}
				for _, b := range beside {
					if !strings.HasSuffix(b, ".new") && !slices.Contains(r.beside(t), b) {
						t.Errorf("%s is gone", b)
					}
				}
				if r.sys.get("deadline") != "" {
					t.Error("the deadline is armed, and the trial is the operator's")
				}
				// Every file that could be restored was restored.
				if got := r.installed(t)["units/agent.service"]; got != oldFiles["units/agent.service"] {
					t.Errorf("the unit file is %+v", got)
				}
				if strings.Contains(r.log.String(), "cannot copy the backup") { // what was not linked to its place
					t.Errorf("the log: %s", r.log)
				}
			}
			if st := r.status(t); len(st.Rejected) > 0 || st.Installed.Version != "v1" {
				t.Errorf("status: %+v", st)
			}
			r.fails(t, "begin", state.ResultRollbackFailed, "settle agent back: ")
			r.offer(t, "a2", "v3", 3, release3)
			r.step(t, "swap") // no error, which would start a rollback
			if pending, err := r.tree.Pending(state.RoleVerify, "agent"); err != nil || pending {
				t.Errorf("the dropped entry is still in sight: %v", err)
			}
			c.mends(t, r)
			r.word(t, state.VerbSettleBack)
			r.step(t, "rollback")
			r.want(t, oldFiles)
			r.closed(t)
			r.ended(t, "a1", state.ResultRolledBack)
		})
	}
}

// TestClinging checks that a rollback kills the new program if that does not stop in its
// time, and leaves an old one alone, which may have data to write.
func TestClinging(t *testing.T) {
	late := fmt.Errorf("cannot stop it: %w", context.DeadlineExceeded)
	for _, call := range []string{"stop agent.service", "restart agent.service"} {
		t.Run(call, func(t *testing.T) {
			r := newRig(t)
			badTrial(t, r)
			r.sys.units["agent.service"] = systemd.Unit{Active: "deactivating", Invocation: "2nd"}
			r.sys.fails[call] = late
			r.step(t, "rollback")
			r.want(t, oldFiles)
			r.closed(t)
			r.ended(t, "a1", state.ResultRolledBack)
			if n := r.sys.called("kill agent.service"); n != 1 {
				t.Errorf("it was killed %d times", n)
			}
		})
	}
	t.Run("the old program", func(t *testing.T) {
		r := newRig(t)
		badTrial(t, r)
		r.sys.units["agent.service"] = systemd.Unit{Active: "deactivating", Invocation: "1st"}
		r.sys.fails["restart agent.service"] = late
		r.fails(t, "rollback", state.ResultRollbackFailed, "cannot stop it")
		if r.sys.called("kill agent.service") > 0 {
			t.Error("it was killed")
		}
	})
}

// TestNoLook checks that systemd's view decides if the baseline fails.
func TestNoLook(t *testing.T) {
	for _, active := range []string{"active", "failed"} {
		r := newRig(t)
		badTrial(t, r)
		r.sys.fails["start machinemon-baseline@agent.service"] = &systemd.JobError{Verb: "start", Result: "failed"}
		if active == "active" {
			r.step(t, "rollback")
			r.closed(t)
			if got := r.last(t).Aftermath(); got != "the files of v1 are in place" { // its probes did not run
				t.Errorf("it says %q", got)
			}
			continue
		}
		r.sys.units["agent.service"] = systemd.Unit{Load: "loaded", Active: active, Sub: "dead"}
		r.fails(t, "rollback", state.ResultRollbackFailed, "failed (dead)")
	}
}

// TestFailedBefore: a unit that had failed before the trial need not run after the rollback, even
// without a baseline.
func TestFailedBefore(t *testing.T) {
	r := newRig(t)
	r.sys.units["agent.service"] = systemd.Unit{Load: "loaded", Active: "failed", Sub: "failed"}
	r.offer(t, "a1", "v2", 2, release2)
	must(t, look(r.tree, state.Baseline{Attempt: "another"}))
	r.step(t, "swap")
	r.gate(t, "a1", state.FindingBad, "it is bad")
	r.sys.after = state.Baseline{Detail: "failed"}
	r.step(t, "rollback")
	r.ended(t, "a1", state.ResultRolledBack)
}

// word leaves the operator's word on a trial whose rollback failed.
func (r *rig) word(t *testing.T, v state.Verb) {
	t.Helper()
	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "w1", Verb: v}))
}
