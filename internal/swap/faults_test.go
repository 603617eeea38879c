package swap

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestFaults lets each system call of each step fail, with each error that it can return,
// and runs what systemd would start next, without faults. In the end all files are old or
// all new, as the record says, no trial is open, and a further update succeeds.
func TestFaults(t *testing.T) {
	testkit.Slow(t)
	cases := []faulty{
		{name: "swap", prepare: offered, verb: "swap", old: oldFiles, new: newFiles,
			sampled: true, harmful: []string{"EINTR rename agent@a1.1.new", "EIO open receipt.json"}},
		{name: "swap with hooks", prepare: hooked, verb: "swap", old: oldFiles, new: newFiles},
		{name: "swap of going back", prepare: goBack, verb: "swap", attempt: "b1", old: newFiles, new: wentBack,
			sampled: true, harmful: []string{"ENOSPC write agent@b1.0.new"}},
		{name: "swap of fewer files", prepare: dropping, verb: "swap", attempt: "a2", old: newFiles, new: droppedFiles},
		{name: "commit, then the next attempt", prepare: goodTrial, verb: "commit", then: "begin", old: oldFiles, new: newFiles},
		{name: "commit, then the deadline", prepare: goodTrial, verb: "commit", then: "rollback", old: oldFiles, new: newFiles},
		{name: "commit, then a boot", prepare: goodTrial, verb: "commit", then: "recover", old: oldFiles, new: newFiles},
		{name: "commit of fewer files", prepare: droppingWell, verb: "commit", attempt: "a2", then: "begin", old: newFiles, new: droppedFiles},
		{name: "rollback, then the next attempt", prepare: badTrial, verb: "rollback", then: "begin", old: oldFiles, new: newFiles},
		{name: "rollback, then a boot", prepare: badTrial, verb: "rollback", then: "recover", old: oldFiles, new: newFiles},
		{name: "recover, then a boot", prepare: func(t *testing.T, r *rig) { badTrial(t, r); r.reboot(t) },
			verb: "recover", then: "recover", old: oldFiles, new: newFiles, sampled: true, harmful: []string{"EIO open swap"}},
		{name: "recover, then the next attempt", prepare: func(t *testing.T, r *rig) { badTrial(t, r); r.reboot(t) },
			verb: "recover", then: "begin", old: oldFiles, new: newFiles},
		{name: "commit with hooks", prepare: func(t *testing.T, r *rig) {
			hooked(t, r)
			r.step(t, "swap")
			r.gate(t, "a1", state.FindingHealthy, "")
		}, verb: "commit", then: "begin", old: oldFiles, new: newFiles},
		{name: "rollback after hooks", prepare: func(t *testing.T, r *rig) {
			hooked(t, r)
			r.step(t, "swap")
			r.gate(t, "a1", state.FindingBad, "it is bad")
		}, verb: "rollback", then: "begin", old: oldFiles, new: newFiles},
		{name: "commit of going back", prepare: func(t *testing.T, r *rig) {
			goBack(t, r)
			r.step(t, "swap")
			r.gate(t, "b1", state.FindingHealthy, "")
		}, verb: "commit", attempt: "b1", then: "begin", old: newFiles, new: wentBack, sampled: true, harmful: []string{"EIO open private.json", "EROFS unlink extra"}},
		{name: "rollback of going back", prepare: func(t *testing.T, r *rig) {
			goBack(t, r)
			r.step(t, "swap")
			r.gate(t, "b1", state.FindingBad, "it is bad")
		}, verb: "rollback", attempt: "b1", then: "begin", old: newFiles, new: wentBack, sampled: true, harmful: []string{"EIO open private.json", "EIO open report.json"}},
		{name: "begin", prepare: asked, verb: "begin", attempt: "b1", then: "begin", old: oldFiles, new: newFiles},
	}
	for _, l := range layouts {
		offer := func(t *testing.T, r *rig) {
			r.withTree(t, l.line, l.old)
			r.offer(t, "a1", "v2", 2, withPublished(release2, "2", publishedTree))
		}
		cases = append(cases,
			faulty{name: "swap of a tree, " + l.name, prepare: offer, verb: "swap", old: oldFiles, new: newFiles, oldTree: l.old, newTree: l.new},
			faulty{name: "commit of a tree, " + l.name, prepare: func(t *testing.T, r *rig) {
				offer(t, r)
				r.step(t, "swap")
				r.gate(t, "a1", state.FindingHealthy, "")
			}, verb: "commit", then: "begin", old: oldFiles, new: newFiles, oldTree: l.old, newTree: l.new},
			faulty{name: "rollback of a tree, " + l.name, prepare: func(t *testing.T, r *rig) {
				offer(t, r)
				r.step(t, "swap")
				r.gate(t, "a1", state.FindingBad, "it is bad")
			}, verb: "rollback", then: "begin", old: oldFiles, new: newFiles, oldTree: l.old, newTree: l.new})
	}
	for _, c := range cases {
		if c.attempt == "" {
			c.attempt = "a1"
		}
		if !testkit.ManyFaults() && !c.sampled {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			testkit.Faults(t, 3, c.harmful, func(t *testing.T) testkit.Worker {
				r := newRigBelow(t, memory)
				c.prepare(t, r)
				return testkit.Worker{Process: r.process(c.verb), Watch: testkit.WatchAll, Counts: r.mayFail, Check: func(t *testing.T, f testkit.Fault) { c.check(t, r, f) }}
			})
		})
	}
}

func offered(t *testing.T, r *rig) { r.offer(t, "a1", "v2", 2, release2) }

func asked(t *testing.T, r *rig) {
	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "b1", Verb: state.VerbApply}))
}

// faulty is a step in which a system call fails.
type faulty struct {
	name     string
	prepare  func(*testing.T, *rig)
	verb     string
	attempt  state.AttemptID
	then     string            // the step that runs after a failure of this one
	old, new map[string]file   // before the trial, and after a commit
	oldTree  map[string]string // the same, if a directory is installed, too
	newTree  map[string]string
	sampled  bool     // whether a sample is tried each time
	harmful  []string // faults that did harm once
}

// check looks at what a fault has left, and lets the machine go on.
func (c faulty) check(t *testing.T, r *rig, f testkit.Fault) {
	if f.Step.Call != "close" && f.Errno == unix.EINTR && f.Exit != 0 {
		t.Errorf("a call that was interrupted is not repeated: %s", f.Error)
	}
	c.consistent(t, r, "after the fault")
	j, err := r.tree.Journal("agent")
	must(t, err)
	if f.Exit == 0 && j != nil && c.verb != "swap" {
		t.Errorf("it reports success, and the trial is open: %+v", j)
	}
	switch last := r.newest(t, c.attempt); {
	case c.verb == "begin":
	case f.Exit == 0 && strings.Contains(last.Reason, "the judgement is lost: cannot read ") && strings.HasSuffix(last.Reason, f.Errno.Error()):
		if last.Result != state.ResultInterrupted { // nothing proves that the release is bad
			t.Errorf("the attempt ended as %q: %s", last.Result, last.Reason)
		}
	case f.Exit == 0 && c.verb == "commit" && last.Result != state.ResultCommitted,
		f.Exit == 0 && c.verb == "rollback" && last.Result != state.ResultRolledBack,
		f.Exit == 0 && c.verb == "recover" && last.Result != state.ResultInterrupted:
		t.Errorf("it reports success, and the attempt ended as %q: %s", last.Result, last.Reason)
	}
	refused := f.Exit == 6 && f.Errno == unix.EACCES // another role could have done that
	if !refused && !slices.Contains(map[string][]int{"swap": {0, 1, 2}, "commit": {0, 1}, "rollback": {0, 1, 5}, "recover": {0, 1, 5}, "begin": {0, 1, 2}}[c.verb], f.Exit) {
		t.Errorf("its exit status is %d", f.Exit)
	}
	switch then := c.then; {
	case c.verb == "swap" && f.Exit == 0:
		r.gate(t, c.attempt, state.FindingHealthy, "")
		r.step(t, "commit")
		r.ended(t, c.attempt, state.ResultCommitted)
	case c.verb == "swap":
		r.step(t, "rollback")
	case f.Exit != 0:
		if j != nil && j.RollbackFailed != "" && then == "begin" { // the operator's is the next word
			must(t, r.tree.SetRequest("agent", state.Request{Attempt: "s1", Verb: state.VerbSettleBack}))
			then = "rollback"
		}
		if then == "recover" {
			r.reboot(t)
		}
		if then == "begin" {
			r.running(t)
			asked(t, r)
		}
		r.step(t, then)
		if j, err = r.tree.Journal("agent"); err == nil && then == "rollback" && j != nil && j.Verdict == state.VerdictCommit {
			asked(t, r) // the deadline leaves it to the next attempt
			r.step(t, "begin")
		}
		if err == nil && j != nil && j.RollbackFailed != "" {
			// A boot leaves data alone that the program may have written since.
			must(t, r.tree.SetRequest("agent", state.Request{Attempt: "s1", Verb: state.VerbSettleBack}))
			r.step(t, "rollback")
		}
		must(t, err)
	}
	c.consistent(t, r, "at the end")
	if open, err := r.tree.OpenTrials(); err != nil || len(open) > 0 {
		t.Fatalf("a trial is still open: %v, %v", open, err)
	}
	if end := r.newest(t, c.attempt).Result; j != nil && j.Verdict == state.VerdictCommit && end != state.ResultCommitted {
		t.Errorf("the verdict was commit, and the attempt ended as %q", end)
	}
	if c.verb == "swap" && c.attempt == "a1" {
		for _, x := range r.status(t).Rejected {
			if x.Interruptions == 0 {
				t.Errorf("the release is rejected: %+v", x)
			}
		}
	}
	// A further update.
	r.running(t)
	_, err = r.tree.TakeRequest("agent") // as the next attempt does, when it begins
	must(t, err)
	release := release4
	if c.newTree != nil {
		release = withPublished(release4, "4", publishedTree)
	}
	r.offer(t, "z1", "v4", 4, release)
	r.step(t, "swap")
	r.gate(t, "z1", state.FindingHealthy, "")
	r.step(t, "commit")
	r.ended(t, "z1", state.ResultCommitted)
	if !strings.Contains(f.Log, "cannot remove "+r.at("opt/releases")) { // such a directory is left to the operator
		r.closed(t)
	}
}

// running starts the unit if it does not run, as the boot does.
func (r *rig) running(t *testing.T) {
	t.Helper()
	if r.sys.get("running") == "" {
		must(t, r.sys.Restart(t.Context(), "agent.service", 0))
	}
}

// newest returns the record of an attempt, which is empty if there is none.
func (r *rig) newest(t *testing.T, id state.AttemptID) (a state.Attempt) {
	t.Helper()
	for _, a = range r.status(t).Attempts {
		if a.ID == id {
			return a
		}
	}
	return state.Attempt{}
}

// consistent checks what must hold at any time: each file is wholly old or wholly new; if
// no trial is open all of them are, and the record agrees with them.
func (c faulty) consistent(t *testing.T, r *rig, when string) {
	t.Helper()
	now := r.installed(t)
	programs := []string{"bin/agent", "bin/extra", "units/agent.service"}
	j, err := r.tree.Journal("agent")
	must(t, err)
	st := r.status(t)
	last := r.newest(t, c.attempt)
	are := func(want map[string]file) bool {
		return !slices.ContainsFunc(programs, func(name string) bool {
			_, listed := want[name]
			stays := !listed && strings.Contains(last.Warning, r.at(name)+" stays") // the operator is told
			return now[name] != want[name] && !stays
		})
	}
	for _, name := range programs {
		if now[name] != c.old[name] && now[name] != c.new[name] {
			t.Errorf("%s, %s is %+v", when, name, now[name])
		}
	}
	if j != nil {
		if last.Result == state.ResultRolledBack || last.Result == state.ResultInterrupted {
			if !are(c.old) {
				t.Errorf("%s, the record says %q, and the files are %+v", when, last.Result, now)
			}
		}
		return
	}
	want, tree, which := c.old, c.oldTree, "old"
	if last.Result == state.ResultCommitted {
		want, tree, which = c.new, c.newTree, "new"
	}
	if tree != nil {
		r.wantTree(t, tree)
	}
	if !are(want) {
		t.Errorf("%s, the record says %q, and the files are not the %s ones: %+v", when, last.Result, which, now)
	}
	for _, file := range st.Installed.Files {
		if !file.Same() {
			t.Errorf("%s, %s is not as the status says", when, file.To)
		}
	}
}

// mayFail reports whether a step may fail: those of the fake systemd and of the daemon may
// not.
func (r *rig) mayFail(s testkit.Step) bool {
	daemon := s.Path == r.at("etc/config") && (s.Call == "create" || s.Call == "write" || s.Call == "close") || strings.HasPrefix(s.Path, r.at("opt/app/data"))
	return r.counts(s) && !strings.HasPrefix(s.Path, r.at("machine/")) && !daemon
}
