package swap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

func TestCommit(t *testing.T) {
	r := newRig(t)
	goodTrial(t, r)
	r.want(t, newFiles)
	if !r.sys.order("arm machinemon-deadline@agent.timer", "reload", "reset agent.service", "restart agent.service", "queue needs.service") || r.sys.called("arm machinemon-deadline@agent.timer") != 1 {
		t.Errorf("calls: %q", r.sys.calls)
	}
	if least := 35 * time.Second; r.sys.armed < least {
		t.Errorf("the deadline is after %s, the gate may take %s", r.sys.armed, least)
	}
	if r.sys.called("queue idle.service") != 0 {
		t.Error("a dependent that was not active was started")
	}
	r.step(t, "commit")
	r.ended(t, "a1", state.ResultCommitted)
	r.closed(t)
	st := r.status(t)
	if st.Installed.Version != "v2" || st.Installed.Sequence != 2 || len(st.Installed.Files) != 3 {
		t.Errorf("installed: %+v", st.Installed)
	}
	if p := st.Previous; p == nil || p.Version != "v1" || p.Sequence != 1 || len(p.Files) != 3 {
		t.Fatalf("previous: %+v", p)
	}
	r.step(t, "commit")
	r.step(t, "rollback") // the rollback must not change the verdict
	r.want(t, newFiles)
	if n := r.sys.called("restart agent.service"); n != 1 {
		t.Errorf("restarted %d times", n)
	}
	// Only one previous release is kept.
	r.offer(t, "a2", "v3", 3, release3)
	r.step(t, "swap")
	r.gate(t, "a2", state.FindingHealthy, "")
	r.step(t, "commit")
	r.closed(t)
	if st := r.status(t); st.Previous.Version != "v1" && len(st.Previous.Files) != 2 {
		t.Errorf("previous: %+v", st.Previous)
	}
}

// TestTakenBeforeTrial: what the verifier handed on is gone when the trial begins, so that no
// time of the trial is lost to its removal.
func TestTakenBeforeTrial(t *testing.T) {
	r := newRig(t)
	found := func() (all []string) {
		must(t, filepath.WalkDir(r.at("var/verify"), func(path string, e fs.DirEntry, err error) error {
			if e.Name() == state.ManifestName {
				all = append(all, path)
			}
			return err
		}))
		return all
	}
	r.offer(t, "a1", "v2", 2, release2)
	if len(found()) != 1 {
		t.Fatalf("offered is %q", found())
	}
	r.sys.on["arm machinemon-deadline@agent.timer"] = func() {
		if left := found(); len(left) > 0 {
			t.Errorf("still there: %q", left)
		}
	}
	r.step(t, "swap")
}

func TestUnproven(t *testing.T) {
	r := newRig(t)
	trial(t, r)
	must(t, report(r.tree, state.Report{Attempt: "a1", Finding: state.FindingHealthy, Unproven: true, Reason: "no probe was left", MainPID: r.sys.pid}))
	r.step(t, "commit")
	r.ended(t, "a1", state.ResultUnproven, "no probe was left")
	// The same bytes under another version are still unproven.
	r.offer(t, "a2", "v2.1", 3, release2)
	r.step(t, "swap")
	r.ended(t, "a2", state.ResultAdopted)
	if got := r.status(t).Installed; got.Version != "v2.1" || got.Unproven != "no probe was left" {
		t.Errorf("installed: %+v", got)
	}
}

func TestGoingBack(t *testing.T) {
	r := newRig(t)
	goBack(t, r)
	r.step(t, "swap")
	if j, err := r.tree.Journal("agent"); err != nil || j == nil || j.Version != "v1" || j.From != "v2" {
		t.Fatalf("journal: %+v, %v", j, err)
	}
	r.gate(t, "b1", state.FindingHealthy, "")
	r.step(t, "commit")
	r.ended(t, "b1", state.ResultCommitted, "went back from v2")
	r.want(t, wentBack)
	r.closed(t)
	if st := r.status(t); st.Previous != nil || st.Installed.Version != "v1" {
		t.Errorf("status: %+v", st)
	}
	r.offer(t, "c1", "v2", 2, release2)
	r.fails(t, "swap", state.ResultNotAttempted, "it was rejected on", "went back to v1")
	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "c2", Verb: state.VerbRollback}))
	r.fails(t, "swap", state.ResultNotAttempted, "no previous release of agent is kept (hint: sudo machinemon-update import agent FILE installs a release that you have)")
	r.want(t, wentBack)
}

// TestGoingBackWithoutAFile checks going back when a file that the previous release did
// not have was deleted already.
func TestGoingBackWithoutAFile(t *testing.T) {
	r := newRig(t)
	goBack(t, r)
	must(t, os.Remove(r.at("bin/extra")))
	r.step(t, "swap")
	r.gate(t, "b1", state.FindingHealthy, "")
	r.step(t, "commit")
	r.want(t, wentBack)
	r.closed(t)
}

func TestGoingBackToAChangedBackup(t *testing.T) {
	r := newRig(t)
	goBack(t, r)
	must(t, os.WriteFile(r.status(t).Previous.Files[0].Backup, []byte("another"), 0o755))
	r.fails(t, "swap", state.ResultRefused, "was changed")
	r.want(t, newFiles)
}

func TestDependents(t *testing.T) {
	r := newRig(t)
	badTrial(t, r)
	if got := r.sys.get("needs"); got != "" {
		t.Errorf("needs.service is %s during the trial", got)
	}
	r.step(t, "rollback")
	if got := r.sys.get("needs"); got != "" {
		t.Errorf("needs.service is %s after the rollback", got)
	}
	r = newRig(t)
	must(t, r.sys.set("needs", "stopped"))
	badTrial(t, r)
	r.step(t, "rollback")
	if r.sys.called("queue needs.service") != 0 {
		t.Error("a unit that was stopped on purpose was started")
	}
	// If the dependent cannot start, the release is not to blame.
	r = newRig(t)
	r.sys.fails["queue needs.service"] = errors.New("it is ill")
	trial(t, r)
	if !strings.Contains(r.log.String(), "cannot start needs.service again") {
		t.Errorf("log: %s", r.log)
	}
}

// TestRestartFails checks that a failed job is not an error, but a lost systemd is.
func TestRestartFails(t *testing.T) {
	testkit.Slow(t)
	r := newRig(t)
	r.sys.fails["restart agent.service"] = &systemd.JobError{Verb: "restart", Unit: "agent.service", Result: "failed"}
	goodTrial(t, r)
	r.step(t, "commit")
	r.closed(t)

	for _, call := range []string{"restart agent.service", "reset agent.service", "reload", "arm machinemon-deadline@agent.timer"} {
		r = newRig(t)
		r.sys.fails[call] = errors.New("no answer")
		r.offer(t, "a1", "v2", 2, release2)
		r.fails(t, "swap", state.ResultFailed, "no answer")
		if j, err := r.tree.Journal("agent"); err != nil || j == nil {
			t.Fatalf("%s: journal %v, %v", call, j, err)
		}
		if call[:3] == "arm" {
			r.want(t, oldFiles) // without a deadline nothing is renamed
		}
		r.sys.fails = map[string]error{}
		r.step(t, "rollback")
		r.want(t, oldFiles)
		r.closed(t)
		result := state.ResultInterrupted
		if call[:3] == "arm" {
			result = state.ResultFailed // no file was changed
		}
		r.ended(t, "a1", result, "no answer")
		if st := r.status(t); (len(st.Rejected) == 0) != (result == state.ResultFailed) {
			t.Errorf("%s: rejections %+v", call, st.Rejected)
		}
		if call[:3] == "arm" && r.sys.called("restart agent.service") != 0 {
			t.Error("a program was restarted that had never been touched")
		}
	}
}

// TestCrashLoopEnds checks that systemd's own restart is stopped before the swapper's.
func TestCrashLoopEnds(t *testing.T) {
	r := newRig(t)
	r.sys.units["agent.service"] = systemd.Unit{Load: "loaded", Active: "activating", Sub: "auto-restart"}
	trial(t, r)
	want := []string{"stop agent.service", "reload", "reset agent.service", "restart agent.service"}
	at := slices.Index(r.sys.calls, want[0])
	if at < 0 || !slices.Equal(r.sys.calls[at:at+4], want) {
		t.Errorf("calls %q lack %q", r.sys.calls, want)
	}
}

// TestUnitFileIsBad checks that a unit that systemd cannot load counts against the
// release, not as an interruption.
func TestUnitFileIsBad(t *testing.T) {
	r := newRig(t)
	r.sys.fails["restart agent.service"] = errors.New("it has a bad unit file setting")
	r.sys.on["restart agent.service"] = func() { r.sys.units["agent.service"] = systemd.Unit{Load: "bad-setting", Active: "active"} }
	r.offer(t, "a1", "v2", 2, release2)
	r.fails(t, "swap", state.ResultFailed, "systemd cannot load the new agent.service (bad-setting): it has a bad unit file setting")
	r.sys.fails, r.sys.on, r.sys.units = map[string]error{}, map[string]func(){}, map[string]systemd.Unit{}
	r.step(t, "rollback")
	r.want(t, oldFiles)
	r.closed(t)
	r.ended(t, "a1", state.ResultRolledBack, "systemd cannot load the new agent.service")
	if st := r.status(t); len(st.Rejected) != 1 || st.Rejected[0].Interruptions != 0 {
		t.Errorf("rejections %+v", st.Rejected)
	}
}

func TestReloadOnlyForUnitFiles(t *testing.T) {
	r := newRig(t)
	r.offer(t, "a1", "v3", 3, release3)
	r.step(t, "swap")
	if r.sys.called("reload") != 0 {
		t.Error("systemd was reloaded, and no unit file has changed")
	}
	r.step(t, "rollback")
	r.closed(t)
}

func TestAdopt(t *testing.T) {
	r := newRig(t)
	r.offer(t, "a1", "v1-rebuilt", 7, release1)
	r.step(t, "swap")
	r.ended(t, "a1", state.ResultAdopted)
	r.want(t, oldFiles)
	r.closed(t)
	if st := r.status(t); st.Installed.Version != "v1-rebuilt" || st.Installed.Sequence != 7 {
		t.Errorf("installed: %+v", st.Installed)
	}
	for _, c := range r.sys.calls {
		if strings.HasPrefix(c, "restart") || strings.HasPrefix(c, "arm") {
			t.Errorf("call %q", c)
		}
	}
}

// TestAdoptProves checks that files that are installed already are recorded as another
// release only if the program says that it is this one: the release may be tagged wrongly.
func TestAdoptProves(t *testing.T) {
	r := newRig(t)
	r.configure(t, fmt.Sprintf("version_command = [%q, '--version']\n", r.at("bin/agent")))
	must(t, os.Chmod(r.at("bin/agent"), 0o755))
	r.sys.tried.Output = "agent 1.0.0"
	r.offer(t, "a1", "v1.0.1", 7, release1)
	r.fails(t, "swap", state.ResultRefused, "the new program ", "v1.0.1", "1.0.0")
	if st := r.status(t); st.Installed.Version != "v1" {
		t.Errorf("installed: %+v", st.Installed)
	}
	r.sys.tried.Output = "agent 1.0.1"
	r.offer(t, "a2", "v1.0.1", 7, release1)
	r.step(t, "swap")
	r.ended(t, "a2", state.ResultAdopted)
}

// TestAdoptRuns: a pre-flight is made before files that are installed already are recorded, if
// no record says which release they are.
func TestAdoptRuns(t *testing.T) {
	for _, recorded := range []bool{false, true} {
		r := newRig(t)
		r.configure(t, fmt.Sprintf("version_command = [%q, '--version']\n", r.at("bin/agent")))
		must(t, os.Chmod(r.at("bin/agent"), 0o755))
		r.sys.tried.Output = "agent 0.9"
		if !recorded {
			must(t, r.tree.SetStatus(state.RoleSwap, "agent", state.Status{}))
		}
		r.offer(t, "a1", "v1", 1, release1)
		if recorded {
			r.step(t, "swap")
			r.ended(t, "a1", state.ResultAdopted)
		} else {
			r.fails(t, "swap", state.ResultRefused, "the new program ", "v1", "0.9")
		}
		if ran := r.sys.called("try agent") > 0; ran == recorded {
			t.Errorf("recorded: %v; the program ran: %v", recorded, ran)
		}
	}
}

// TestCommitTooSoon: a commit that a gate without a trial has started leaves alone the trial
// that has begun meanwhile, and is not judged yet.
func TestCommitTooSoon(t *testing.T) {
	for _, step := range []string{"swap", "health-gate"} {
		r := newRig(t)
		trial(t, r)
		r.sys.units[unitOf(step, "agent")] = systemd.Unit{Load: "loaded", Active: "activating"}
		r.step(t, "commit")
		if j, err := r.tree.Journal("agent"); err != nil || j == nil || j.Failure != "" || r.sys.called("queue machinemon-rollback@agent.service") > 0 {
			t.Errorf("%s: %+v, %v, %q", step, j, err, r.sys.calls)
		}
		delete(r.sys.units, unitOf(step, "agent"))
		r.gate(t, "a1", state.FindingHealthy, "")
		r.step(t, "commit")
		r.ended(t, "a1", state.ResultCommitted)
	}
}

// TestCommitRefused checks that only the program that the gate saw is committed.
func TestCommitRefused(t *testing.T) {
	testkit.Slow(t)
	sleep, err := exec.LookPath("sleep")
	must(t, err)
	program, err := os.ReadFile(sleep)
	must(t, err)
	for name, c := range map[string]struct {
		breaks func(*testing.T, *rig)
		want   string // "" means committed
	}{
		"nothing": {func(*testing.T, *rig) {}, ""},
		"no report": {func(t *testing.T, r *rig) { must(t, os.Remove(r.tree.Gate("agent")+"/report.json")) },
			"no report of a healthy trial of attempt a1"},
		"another attempt's": {func(t *testing.T, r *rig) { r.gate(t, "a0", state.FindingHealthy, "") }, "no report of a healthy trial"},
		"cannot tell":       {func(t *testing.T, r *rig) { r.gate(t, "a1", state.FindingUnsure, "") }, "no report of a healthy trial"},
		"a damaged report": {func(t *testing.T, r *rig) {
			must(t, os.WriteFile(r.tree.Gate("agent")+"/report.json", []byte("{"), 0o644))
		}, "it is damaged"},
		"another process": {func(t *testing.T, r *rig) {
			must(t, report(r.tree, state.Report{Attempt: "a1", Finding: state.FindingHealthy, MainPID: r.sys.pid + 1}))
		}, "the gate saw"},
		"it does not run": {func(t *testing.T, r *rig) {
			r.sys.units["agent.service"] = systemd.Unit{Load: "loaded", Active: "activating", Sub: "auto-restart", MainPID: r.sys.pid}
		}, "activating (auto-restart)"},
		"another file": {func(t *testing.T, r *rig) {
			r.sys.pid = uint32(os.Getpid())
			r.gate(t, "a1", state.FindingHealthy, "")
		}, "does not run"},
		"the file was replaced": {func(t *testing.T, r *rig) {
			must(t, os.Remove(r.at("bin/agent")))
			must(t, os.WriteFile(r.at("bin/agent"), program, 0o755))
		}, "does not run"},
		"no such process": {func(t *testing.T, r *rig) {
			r.sys.pid = 1 << 30
			r.gate(t, "a1", state.FindingHealthy, "")
		}, "no such file"},
		"systemd is gone": {func(t *testing.T, r *rig) { r.sys.fails["unit agent.service"] = errors.New("no answer") }, "no answer"},
		"it is frozen": {func(t *testing.T, r *rig) {
			r.sys.units["agent.service"] = systemd.Unit{Load: "loaded", Active: "active", Sub: "running", MainPID: r.sys.pid, Frozen: true}
		}, "somebody has frozen agent.service"},
		"the swapper was killed": {func(t *testing.T, r *rig) {
			r.journal(t, func(j *state.Journal) { j.Phase = state.PhasePrepared })
		}, "not all files of v2 are in place"},
		"the swap failed": {func(t *testing.T, r *rig) {
			r.journal(t, func(j *state.Journal) { j.Failure = "no answer" })
		}, "the swap failed: no answer"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.configure(t, fmt.Sprintf("main = %q\n", r.at("bin/agent")))
			r.sys.pid = uint32(r.runs(t, program))
			r.gate(t, "a1", state.FindingHealthy, "")
			c.breaks(t, r)
			if c.want == "" {
				r.step(t, "commit")
				r.ended(t, "a1", state.ResultCommitted)
				r.closed(t)
				return
			}
			r.fails(t, "commit", state.ResultFailed, c.want)
			j, err := r.tree.Journal("agent")
			if err != nil || j == nil || j.Verdict != "" || !strings.Contains(j.Failure, strings.TrimPrefix(c.want, "the swap failed: ")) {
				t.Errorf("journal: %+v, %v", j, err) // the rollback records why
			}
			if r.sys.called("queue machinemon-rollback@agent.service") != 1 {
				t.Errorf("the rollback was not started: %q", r.sys.calls)
			}
		})
	}
}

func TestPreflight(t *testing.T) {
	testkit.Slow(t)
	for name, c := range map[string]struct {
		result systemd.SandboxResult
		fails  error
		want   state.Result // "" means that the trial begins
		words  string
	}{
		"the version":       {result: systemd.SandboxResult{Output: "agent version 2.0.0 (linux)"}},
		"with exit 1":       {result: systemd.SandboxResult{Output: "v2.0.0", Detail: "exit status 1"}},
		"another version":   {result: systemd.SandboxResult{Output: "agent 2.0.01"}, want: state.ResultRefused, words: "the new program says 2.0.01 instead of v2.0.0 (hint: if that is not its version, health.version_pattern selects another part of the output); it said: agent 2.0.01"},
		"no version":        {want: state.ResultMisconfigured, words: "cannot tell the version of the new program: it prints no version, and must print v2.0.0 (hint: "},
		"with exit 2":       {result: systemd.SandboxResult{Detail: "exit status 2"}, want: state.ResultMisconfigured, words: "it (exit status 2) prints no version"},
		"a log":             {result: systemd.SandboxResult{Late: true, Output: "\n\x1b[31m2024-05-09T18:45:40.230Z starting\x1b[0m\nmore", Detail: "it did not end within 20s"}, want: state.ResultMisconfigured, words: "cannot tell the version of the new program: it did not end within 20s (hint: health.version_command must print the version and end); it said: 2024-05-09T18:45:40.230Z starting"},
		"cannot be run":     {result: systemd.SandboxResult{Exec: true, Detail: "wrong"}, want: state.ResultRefused, words: "cannot be executed: wrong"},
		"dies":              {result: systemd.SandboxResult{Signal: true, Output: "v2.0.0", Detail: "SIGILL"}, want: state.ResultRefused, words: "SIGILL"},
		"cannot be started": {fails: errors.New("no answer"), want: state.ResultFailed, words: "no answer"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.configure(t, fmt.Sprintf("version_command = [%q, '--version']\n", r.at("bin/agent")))
			must(t, os.Chmod(r.at("bin/agent"), 0o755))
			r.sys.tried, r.sys.fails["try agent"] = c.result, c.fails
			r.offer(t, "a1", "v2.0.0", 2, release2)
			if c.want == "" {
				r.step(t, "swap")
				if over := r.sys.trial.Over; len(over) != 2 || over[0].To != r.at("bin/agent") || !strings.HasSuffix(over[0].From, "agent@a1.0.new") {
					t.Errorf("put over: %v", over)
				}
				// The gate's sandbox is made meanwhile.
				if gate := slices.Index(r.sys.calls, "queue machinemon-health-gate@agent.service"); gate < 0 || gate > slices.Index(r.sys.calls, "try agent") {
					t.Errorf("the gate did not start before the pre-flight: %q", r.sys.calls)
				}
				return
			}
			r.fails(t, "swap", c.want, c.words)
			must(t, os.Chmod(r.at("bin/agent"), 0o750))
			r.untouched(t)
			if st := r.status(t); len(st.Rejected) > 0 {
				t.Errorf("rejected without a trial: %+v", st.Rejected)
			}
		})
	}
}

// TestPreflightInPlace: what a rollback would restore, and the release does not bring, runs
// where it is.
func TestPreflightInPlace(t *testing.T) {
	r := newRig(t)
	r.configure(t, fmt.Sprintf("version_command = [%q, '--version']\n", r.at("etc/config")))
	r.sys.tried = systemd.SandboxResult{Output: "v2"}
	r.offer(t, "a1", "v2", 2, release2)
	r.step(t, "swap")
	if got := r.sys.trial.Argv; !slices.Equal(got, []string{r.at("etc/config"), "--version"}) {
		t.Errorf("the pre-flight ran %q", got)
	}
}

// TestPreflightOfDropping: a file that the release does not have any more is put over nothing.
func TestPreflightOfDropping(t *testing.T) {
	r := newRig(t)
	r.configure(t, fmt.Sprintf("version_command = [%q, '--version']\n[install_manifest]\nfile = 'LIST'\noptional = true\n[[install_manifest.type]]\nname = 'bin'\ndirectory = %q\nallow = ['extra']\n", r.at("bin/agent"), r.at("bin")))
	must(t, os.Chmod(r.at("bin/agent"), 0o755))
	r.sys.tried = systemd.SandboxResult{Output: "v2"}
	r.installs(t, "a1", "v2", 2, release2)
	r.sys.tried = systemd.SandboxResult{Output: "v3"}
	r.offer(t, "a2", "v3", 3, release3)
	r.step(t, "swap")
	for _, over := range r.sys.trial.Over {
		if over.From == "" || over.To == r.at("bin/extra") {
			t.Errorf("put over: %v", over)
		}
	}
	r.gate(t, "a2", state.FindingHealthy, "")
	r.step(t, "commit")
	r.holds(t, "bin/extra", "")
}

// TestPreflightAsNobody checks that the user of the pre-flight must be able to run it.
func TestPreflightAsNobody(t *testing.T) {
	r := newRig(t)
	r.configure(t, fmt.Sprintf("version_command = [%q, '--version']\n", r.at("bin/agent")))
	r.offer(t, "a1", "v2", 2, release2)
	r.fails(t, "swap", state.ResultMisconfigured, "not everybody may execute", "chmod o+x")
	r.untouched(t)
}

func TestRecover(t *testing.T) {
	t.Run("of a trial that began since the boot", func(t *testing.T) {
		r := newRig(t)
		trial(t, r)
		r.step(t, "recover")
		r.want(t, newFiles)
		if open, err := r.tree.OpenTrials(); err != nil || len(open) != 1 {
			t.Errorf("open trials: %v, %v", open, err)
		}
	})
	t.Run("nothing is restarted", func(t *testing.T) {
		r := newRig(t)
		trial(t, r)
		r.reboot(t)
		r.sys.calls = nil
		r.step(t, "recover")
		r.want(t, oldFiles)
		if r.sys.called("restart agent.service") != 0 || r.sys.called("reload") != 1 {
			t.Errorf("calls: %q", r.sys.calls)
		}
		r.ended(t, "a1", state.ResultInterrupted, "the machine stopped during the trial")
		if got := r.last(t).Aftermath(); got != "the files of v1 are in place" { // no program has started
			t.Errorf("it says %q", got)
		}
	})
	t.Run("one target's trouble", func(t *testing.T) {
		r := newRig(t)
		trial(t, r)
		for _, name := range []string{"aaa", "zzz"} {
			must(t, os.Mkdir(r.tree.Dir(state.RoleSwap, name), 0o755))
			must(t, os.WriteFile(r.tree.Dir(state.RoleSwap, name)+"/journal.json", []byte("rot"), 0o644))
		}
		r.reboot(t)
		r.fails(t, "recover", state.ResultRollbackFailed, "open trial of aaa", "open trial of zzz", "damaged")
		r.want(t, oldFiles)
		for _, name := range []string{"aaa", "zzz"} {
			if aside, err := os.ReadFile(r.tree.Dir(state.RoleSwap, name) + "/journal.json.damaged"); err != nil || string(aside) != "rot" {
				t.Errorf("the damaged journal is not put aside: %q, %v", aside, err)
			}
		}
		r.step(t, "recover")
	})
}

// TestModeOfEqualBytes checks that a rollback restores owner and mode, too, of files
// whose bytes are the same.
func TestModeOfEqualBytes(t *testing.T) {
	r := newRig(t)
	r.offer(t, "a1", "v2", 2, map[string]string{"agent": "agent 2", "agent.service": "unit 1"})
	r.configure(t, "") // the unit file's mode is given below
	content, err := os.ReadFile(r.at("targets/agent.toml"))
	must(t, err)
	must(t, os.WriteFile(r.at("targets/agent.toml"), []byte(strings.Replace(string(content), "\n[rollback]", "\nmode = '0600'\n[rollback]", 1)), 0o644))
	r.step(t, "swap")
	if got := r.installed(t)["units/agent.service"].mode; got != 0o600 {
		t.Fatalf("mode %v", got)
	}
	must(t, os.WriteFile(r.at("etc/config"), []byte(oldFiles["etc/config"].content), 0))
	must(t, os.Chmod(r.at("etc/config"), 0o666)) // as the new program might
	r.step(t, "rollback")
	r.want(t, oldFiles)
	r.closed(t)
}

// untouched checks what every failure before the trial must leave.
func (r *rig) untouched(t *testing.T) {
	t.Helper()
	r.want(t, oldFiles)
	r.closed(t)
	if pending, err := r.tree.Pending(state.RoleVerify, "agent"); err != nil || pending {
		t.Errorf("an entry is still in sight: %v, %v", pending, err)
	}
	for _, c := range r.sys.calls {
		if strings.HasPrefix(c, "restart") {
			t.Errorf("call %q", c)
		}
	}
}

// TestGateStartsBefore: the gate's unit starts before the program, unless systemd hands it
// files, which the new program may write.
func TestGateStartsBefore(t *testing.T) {
	for name, c := range map[string]struct {
		probe string
		want  int
	}{
		"no file":    {"http = 'http://127.0.0.1/'\n", 1},
		"an own CA":  {"http = 'https://127.0.0.1/'\nca_file = '/etc/agent.pem'\n", 0},
		"a password": {"http = 'http://127.0.0.1/'\nheaders_file = '/etc/agent.headers'\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.configure(t, "[[health.probe]]\n"+c.probe)
			trial(t, r)
			if n := r.sys.called("queue machinemon-health-gate@agent.service"); n != c.want {
				t.Errorf("the gate was started %d times, want %d: %q", n, c.want, r.sys.calls)
			}
		})
	}
}
