package swap

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/installed"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestRollbackOrder checks that the program stops before its data come back, and that the
// units that could start it stop before that. Otherwise a daemon that writes its
// configuration when it stops would overwrite what was restored.
func TestRollbackOrder(t *testing.T) {
	r := newRig(t)
	r.sys.units["agent.socket"] = systemd.Unit{Load: "loaded", Active: "active", Sub: "listening"}
	badTrial(t, r)
	r.sys.calls = nil
	r.sys.on["stop agent.service"] = func() {
		if got := r.installed(t)["etc/config"].content; got != "config of agent 2" {
			t.Errorf("at the stop the configuration is %q", got)
		}
	}
	// From here on a second rollback, after a kill or a boot, leaves the data alone.
	r.sys.on["restart agent.service"] = func() {
		if j, err := r.tree.Journal("agent"); err != nil || !j.Restored {
			t.Errorf("at the restart the journal says %+v, %v", j, err)
		}
	}
	r.sys.units["agent.socket"] = systemd.Unit{Load: "loaded", Active: "inactive"} // its state after the stop below
	r.step(t, "rollback")
	if !r.sys.order("stop agent.socket", "stop agent.service", "reload", "reset agent.service", "start agent.socket", "restart agent.service") {
		t.Errorf("calls: %q", r.sys.calls)
	}
	r.want(t, oldFiles)
	r.closed(t)
}

// TestRollbackWithoutData checks that a rollback of programs alone keeps the quick
// restart.
func TestRollbackWithoutData(t *testing.T) {
	r := newRig(t)
	r.configure(t, "[[health.probe]]\ntcp = '127.0.0.1:1'\n")
	r.edit(t, "snapshot = [", "# snapshot = [")
	badTrial(t, r)
	r.sys.calls = nil
	r.step(t, "rollback")
	if r.sys.called("stop agent.service") != 0 || r.sys.called("restart agent.service") != 1 {
		t.Errorf("calls: %q", r.sys.calls)
	}
	r.ended(t, "a1", state.ResultRolledBack)
}

// TestUnstableStops checks that a program that keeps dying is stopped before the restart,
// even if it looks running: systemd might restart it just before, and the new program
// would answer for that.
func TestUnstableStops(t *testing.T) {
	for _, standing := range []bool{true, false} {
		r := newRig(t)
		r.offer(t, "a1", "v2", 2, release2)
		must(t, look(r.tree, state.Baseline{Attempt: "a1", Standing: standing}))
		r.step(t, "swap")
		if stops := r.sys.called("stop agent.service") == 1; stops == standing || r.sys.called("restart agent.service") != 1 ||
			stops && !r.sys.order("stop agent.service", "reset agent.service", "restart agent.service") {
			t.Errorf("it stood: %v; calls: %q", standing, r.sys.calls)
		}
	}
}

// edit replaces old by new in the target file.
func (r *rig) edit(t *testing.T, old, new string) {
	t.Helper()
	content, err := os.ReadFile(r.at("targets/agent.toml"))
	must(t, err)
	if !strings.Contains(string(content), old) {
		t.Fatalf("the target file lacks %q", old)
	}
	must(t, os.WriteFile(r.at("targets/agent.toml"), []byte(strings.Replace(string(content), old, new, 1)), 0o644))
}

// TestStopFirst checks that with rollback.stop the snapshot is made after the program has
// ended, and that each way out of the trial starts a program again.
func TestStopFirst(t *testing.T) {
	stopFirst := func(t *testing.T, more string) *rig {
		r := newRig(t)
		r.configure(t, more)
		r.edit(t, "[rollback]", "[rollback]\nstop = true")
		r.put(t, "etc/config", file{"config of agent 0", 0o640, 12}) // agent 1 writes its configuration when it stops
		return r
	}
	t.Run("order", func(t *testing.T) {
		r := stopFirst(t, "")
		r.sys.on["restart agent.service"] = func() {
			if got, err := os.ReadFile(r.at("var/swap/agent/snapshot/a1/3")); err != nil || string(got) != "config of agent 1" {
				t.Errorf("the snapshot is %q, %v", got, err)
			}
		}
		goodTrial(t, r)
		if !r.sys.order("arm machinemon-deadline@agent.timer", "stop agent.service", "restart agent.service") {
			t.Errorf("calls: %q", r.sys.calls)
		}
		r.step(t, "commit")
		r.closed(t)
	})
	t.Run("the stop fails", func(t *testing.T) {
		r := stopFirst(t, "")
		r.sys.fails["stop agent.service"] = &systemd.JobError{Verb: "stop", Unit: "agent.service", Result: "timeout"}
		r.offer(t, "a1", "v2", 2, release2)
		r.fails(t, "swap", state.ResultFailed, "cannot stop agent.service")
		delete(r.sys.fails, "stop agent.service")
		r.step(t, "rollback")
		if r.sys.called("restart agent.service") != 1 {
			t.Errorf("the unit was stopped, and not started again: %q", r.sys.calls)
		}
		r.want(t, oldFiles)
		r.closed(t)
	})
	t.Run("the hook fails", func(t *testing.T) {
		r := stopFirst(t, "[hooks]\npre_swap = ['/usr/bin/migrate']\n")
		r.sys.fails["hook migrate"] = os.ErrInvalid
		r.offer(t, "a1", "v2", 2, release2)
		r.fails(t, "swap", state.ResultFailed, "the pre_swap hook failed")
		r.step(t, "rollback")
		r.want(t, oldFiles)
		r.closed(t)
		if got := r.sys.get("running"); got != "agent 1" {
			t.Errorf("the unit runs %q", got)
		}
	})
}

// TestDirectoryStops: a rollback stops a program that still runs before it restores a directory,
// whose files the program may have open, but not for a file that a hook has changed.
func TestDirectoryStops(t *testing.T) {
	for _, dir := range []bool{false, true} {
		r := newRig(t)
		r.configure(t, "[hooks]\npre_swap = ['/usr/bin/migrate']\n")
		must(t, os.Mkdir(r.at("opt"), 0o755))
		r.put(t, "opt/list", file{"old", 0o600, 0})
		if dir {
			r.retarget(t, "snapshot = [", fmt.Sprintf("snapshot = [%q, ", r.at("opt")))
		}
		r.sys.on["hook migrate"] = func() { r.put(t, "opt/list", file{"migrated", 0o600, 0}) }
		r.sys.fails["hook migrate"] = os.ErrInvalid
		r.offer(t, "a1", "v2", 2, release2)
		r.fails(t, "swap", state.ResultFailed, "the pre_swap hook failed")
		r.step(t, "rollback")
		r.want(t, oldFiles)
		r.holds(t, "opt/list", map[bool]string{false: "migrated", true: "old"}[dir])
		if stopped := r.sys.called("stop agent.service") > 0; stopped != dir {
			t.Errorf("with a directory: %v; calls: %q", dir, r.sys.calls)
		}
	}
}

// TestSnapshotTooLarge: data that are larger than the target file allows are refused before
// anything stops.
func TestSnapshotTooLarge(t *testing.T) {
	r := newRig(t)
	r.edit(t, "[rollback]", "[rollback]\nsnapshot_max_bytes = 4095")
	r.offer(t, "a1", "v2", 2, release2)
	r.fails(t, "swap", state.ResultMisconfigured, "cannot take a snapshot: the data have ", " bytes, more than 4095 (hint: rollback.snapshot_max_bytes, ")
	r.untouched(t)
}

// TestChildrenSurvive checks that the unit stops under the one of the two unit files that
// spares its children, in an update, a rollback and the operator's rollback.
func TestChildrenSurvive(t *testing.T) {
	testkit.Slow(t)
	const spares = "unit 1 KillMode=process"
	for _, c := range []struct {
		name      string
		old, new  string
		survivors bool
	}{
		{"both spare", spares, "unit 2 KillMode=process", true},
		{"the old one spares", spares, "unit 2", true},
		{"the new one spares", "unit 1", "unit 2 KillMode=process", true},
		{"neither spares", "unit 1", "unit 2", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, end := range []string{"commit", "rollback", "rollback without data"} {
				r := newRig(t)
				if end == "rollback without data" {
					r.edit(t, "snapshot = [", "# snapshot = [")
				}
				r.put(t, "units/agent.service", file{c.old, 0o644, 0})
				must(t, r.sys.Reload(t.Context()))
				r.offer(t, "a1", "v2", 2, map[string]string{"agent": "agent 2", "agent.service": c.new})
				r.step(t, "swap")
				if got := r.sys.get("loaded"); got != c.new {
					t.Errorf("%s: systemd has loaded %q", end, got)
				}
				r.gate(t, "a1", state.FindingBad, "it is bad")
				if end == "commit" {
					r.gate(t, "a1", state.FindingHealthy, "")
				}
				r.step(t, strings.Fields(end)[0])
				if end == "commit" {
					must(t, r.tree.SetRequest("agent", state.Request{Attempt: "b1", Verb: state.VerbRollback}))
					r.step(t, "swap")
				}
				if got := r.sys.get("children") != "killed"; got != c.survivors {
					t.Errorf("%s: children survive: %v; calls %q", end, got, r.sys.calls)
				}
				if got := r.sys.get("loaded"); got != c.old {
					t.Errorf("%s: systemd has loaded %q at the end", end, got)
				}
			}
		})
	}
}

// TestPatience: a restart may take as long as the unit may take to stop and to start.
func TestPatience(t *testing.T) {
	r := newRig(t)
	r.sys.units["agent.service"] = systemd.Unit{Load: "loaded", Active: "active", Sub: "running", MainPID: 4242, StopLimit: 10 * time.Minute, StartLimit: 20 * time.Minute}
	trial(t, r)
	if got, least := r.sys.patience, 10*time.Minute+r.sys.limit; got < least-time.Minute {
		t.Errorf("the trial's restart may take %s, want %s", got, least)
	}
	r.gate(t, "a1", state.FindingBad, "it is bad")
	r.step(t, "rollback")
	if got := r.sys.patience; got < 29*time.Minute {
		t.Errorf("the rollback's restart may take %s", got)
	}
}

// TestOverdue checks that a start that exceeds the limit counts against the release.
func TestOverdue(t *testing.T) {
	r := newRig(t)
	r.sys.fails["restart agent.service"] = &systemd.OverdueError{Within: 30 * time.Second,
		Unit: systemd.Unit{Name: "agent.service", Active: "activating", Sub: "start-pre"}}
	r.offer(t, "a1", "v2", 2, release2)
	r.fails(t, "swap", state.ResultFailed, "agent.service is still activating (start-pre) 30s after its start began (hint: if it needs longer to start, raise health.timeout_seconds)")
	if r.sys.limit != 30*time.Second {
		t.Errorf("the restart's limit was %s", r.sys.limit)
	}
	if most := 35*time.Second + time.Second + slack; r.sys.armed > most {
		t.Errorf("the deadline is after %s, more than %s", r.sys.armed, most)
	}
	r.sys.fails = map[string]error{}
	r.step(t, "rollback")
	if r.sys.limit != 0 {
		t.Errorf("the old program's start was limited to %s", r.sys.limit)
	}
	r.want(t, oldFiles)
	r.closed(t)
	r.ended(t, "a1", state.ResultRolledBack, "not healthy in time", "start-pre")
	if st := r.status(t); len(st.Rejected) != 1 || st.Rejected[0].Interruptions != 0 {
		t.Errorf("rejections %+v", st.Rejected)
	}
}

// TestBackupsOfTheirOwn checks that no backup shares its bytes with an installed file
// that a program may write in place, as cp does.
func TestBackupsOfTheirOwn(t *testing.T) {
	r := newRig(t)
	badTrial(t, r)
	r.sys.after = state.Baseline{Detail: "failed (dead)"}
	r.fails(t, "rollback", state.ResultRollbackFailed, "failed (dead)")
	must(t, os.WriteFile(r.at("bin/agent"), []byte("agent by hand"), 0)) // in place
	r.sys.after = state.Baseline{Standing: true}
	r.word(t, state.VerbSettleBack)
	r.step(t, "rollback")
	r.want(t, oldFiles)
	r.closed(t)

	r = newRig(t)
	goBack(t, r)
	r.step(t, "swap")
	must(t, os.WriteFile(r.at("bin/agent"), []byte("agent by hand"), 0))
	if got, err := digest(r.status(t).Previous.Files[0].Backup); err != nil || got != sum("agent 1") {
		t.Errorf("the previous release's backup was changed: %v", err)
	}
}

// TestSettle checks that after a failed rollback the operator decides, and that the files
// that the operator puts in place are never overwritten.
func TestSettle(t *testing.T) {
	testkit.Slow(t)
	failed := func(t *testing.T) *rig {
		r := newRig(t)
		badTrial(t, r)
		r.sys.after = state.Baseline{Detail: "failed (dead)"}
		r.fails(t, "rollback", state.ResultRollbackFailed, "failed (dead)")
		r.sys.after = state.Baseline{Standing: true}
		r.sys.calls = nil
		return r
	}
	byHand := func(t *testing.T, r *rig, content string) {
		t.Helper()
		must(t, os.Remove(r.at("bin/agent")))
		r.put(t, "bin/agent", file{content, 0o755, 0})
		must(t, r.sys.Restart(t.Context(), "agent.service", 0))
		r.sys.calls = nil
	}
	for _, content := range []string{"agent 2", "agent 9"} { // the release's bytes, and others
		t.Run("only the operator: "+content, func(t *testing.T) {
			r := failed(t)
			byHand(t, r, content)
			for _, hold := range []bool{false, true} {
				if hold {
					must(t, r.tree.Update(state.RoleSwap, "agent", func(s *state.Status) { s.Held = &state.Hold{} }))
				}
				before := r.picture(t)
				r.fails(t, "begin", state.ResultRollbackFailed, "settle agent keep")
				r.step(t, "rollback") // as a unit would
				if after := r.picture(t); after["bin/agent"] != before["bin/agent"] || after["etc/config"] != before["etc/config"] {
					t.Errorf("changed from %q to %q", before, after)
				}
			}
			r.word(t, state.VerbSettleBack)
			r.fails(t, "rollback", state.ResultNotAttempted, "held since")
			for _, c := range r.sys.calls {
				if strings.Contains(c, "agent.service") && !strings.HasPrefix(c, "reset machinemon") {
					t.Errorf("call %q", c)
				}
			}
			r.reboot(t)
			config := r.installed(t)["etc/config"].content
			must(t, r.tree.Update(state.RoleSwap, "agent", func(s *state.Status) { s.Held = nil }))
			r.fails(t, "recover", state.ResultRollbackFailed, "another file was put there")
			if got := r.installed(t); got["bin/agent"].content != content || got["etc/config"].content != config {
				t.Errorf("the boot changed them: %q, %q", got["bin/agent"].content, got["etc/config"].content)
			}
		})
	}
	t.Run("keep", func(t *testing.T) {
		for _, c := range []struct{ content, installed, previous string }{
			{"agent 1", "v1", ""}, {"agent 2", "v2", "v1"}, {"agent 9", "v2", "v1"},
		} {
			r := failed(t)
			byHand(t, r, c.content)
			r.word(t, state.VerbSettleKeep)
			r.step(t, "rollback")
			r.ended(t, "a1", state.ResultSettled, "keeps what is installed")
			if w := r.last(t).Warning; w != "" {
				t.Errorf("a warning of what runs: %s", w)
			}
			st := r.status(t)
			if c.installed == "v1" {
				r.closed(t)
			} else if j, err := r.tree.Journal("agent"); j != nil || err != nil || installed.Unchanged(st.Installed) {
				t.Errorf("%s: journal %+v, %v; installed %+v", c.content, j, err, st.Installed)
			}
			// The operator did not keep v2, so it is not installed again by itself.
			if st.Rejects("", sum("v2"), 2) == nil {
				t.Errorf("%s: rejected: %+v", c.content, st.Rejected)
			}
			installed, previous := "", ""
			if st.Installed != nil {
				installed = st.Installed.Version
			}
			if st.Previous != nil {
				previous = st.Previous.Version
			}
			if installed != c.installed || previous != c.previous {
				t.Errorf("%s: installed %q, previous %q", c.content, installed, previous)
			}
			if slices.ContainsFunc(r.sys.calls, func(c string) bool { return strings.HasSuffix(c, " agent.service") }) {
				t.Errorf("calls: %q", r.sys.calls)
			}
			r.offer(t, "a2", "v3", 3, release3)
			r.step(t, "swap") // a new trial may begin
		}
	})
	t.Run("it does not run", func(t *testing.T) {
		r := failed(t)
		r.sys.units["agent.service"] = systemd.Unit{Load: "loaded", Active: "failed", Sub: "failed"}
		r.word(t, state.VerbSettleKeep)
		r.step(t, "rollback")
		r.ended(t, "a1", state.ResultSettled)
		if got, want := r.last(t).Warning, "agent.service does not run: it is failed (failed) (hint: sudo systemctl start agent.service)"; got != want {
			t.Errorf("warning %q, want %q", got, want)
		}
	})
	t.Run("the release as a whole", func(t *testing.T) {
		r := failed(t)
		for name, f := range newFiles {
			if name != "etc/config" {
				r.put(t, name, f)
			}
		}
		must(t, r.sys.Reload(t.Context()))
		must(t, r.sys.Restart(t.Context(), "agent.service", 0))
		r.word(t, state.VerbSettleKeep)
		r.step(t, "rollback")
		r.closed(t)
		if st := r.status(t); st.Installed == nil || st.Installed.Version != "v2" || st.Previous == nil || st.Previous.Version != "v1" || len(st.Rejected) > 0 {
			t.Errorf("status: %+v", st)
		}
	})
	t.Run("back", func(t *testing.T) {
		r := failed(t)
		// The first time, the old program still does not run.
		byHand(t, r, "agent 8")
		r.word(t, state.VerbSettleBack)
		r.sys.after = state.Baseline{Detail: "failed (dead)"}
		r.fails(t, "rollback", state.ResultRollbackFailed, "failed (dead)")
		r.sys.after = state.Baseline{Standing: true}
		byHand(t, r, "agent 9")
		r.word(t, state.VerbSettleBack)
		r.step(t, "rollback")
		r.want(t, oldFiles)
		r.closed(t)
		r.ended(t, "a1", state.ResultRolledBack)
		for name, content := range map[string]string{"bin/agent.aside-a1": "agent 8", "bin/agent.aside-a1.2": "agent 9"} {
			if got, err := os.ReadFile(r.at(name)); err != nil || string(got) != content {
				t.Errorf("the operator's own file is lost: %q, %v", got, err)
			}
			if w := r.last(t).Warning; !strings.Contains(w, r.at("bin/agent")+", which was not of this update, is now "+r.at(name)) {
				t.Errorf("its place is not told: %q", w)
			}
		}
	})
	t.Run("data", func(t *testing.T) {
		for _, c := range []struct{ by, want string }{
			{"", "config since"},                        // the old program ran
			{"agent 9", oldFiles["etc/config"].content}, // the operator's program ran and is moved aside
		} {
			r := failed(t)
			if c.by != "" {
				byHand(t, r, c.by)
			}
			must(t, os.WriteFile(r.at("etc/config"), []byte("config since"), 0))
			r.word(t, state.VerbSettleBack)
			// The operator's word is in the journal, for a rollback that is killed.
			r.sys.on["restart agent.service"] = func() {
				if j, err := r.tree.Journal("agent"); err != nil || !j.Back {
					t.Errorf("at the restart the journal says %+v, %v", j, err)
				}
				if got := r.installed(t)["etc/config"].content; got != c.want { // the old program writes it when it stops
					t.Errorf("%q: the configuration is %q, want %q", c.by, got, c.want)
				}
			}
			r.step(t, "rollback")
			r.closed(t)
		}
	})
	t.Run("data that did not come back", func(t *testing.T) {
		for _, back := range []bool{false, true} {
			r := failed(t)
			j, err := r.tree.Journal("agent")
			must(t, err)
			j.Restored, j.Back = false, back // a boot finishes the rollback that the operator asked for
			must(t, r.tree.SetJournal(j))
			must(t, os.WriteFile(r.at("etc/config"), []byte("mended"), 0))
			r.reboot(t)
			r.step(t, "recover")
			want := map[bool]string{false: "mended", true: oldFiles["etc/config"].content}[back]
			if got := r.installed(t)["etc/config"].content; got != want {
				t.Errorf("back %v: the configuration is %q, want %q", back, got, want)
			}
			if j, err := r.tree.Journal("agent"); err != nil || (j == nil) != back {
				t.Errorf("back %v: journal %+v, %v", back, j, err)
			}
		}
	})
	t.Run("changed in the trial", func(t *testing.T) {
		r := newRig(t)
		badTrial(t, r)
		byHand(t, r, "agent 9")
		config := r.installed(t)["etc/config"].content
		r.fails(t, "rollback", state.ResultRollbackFailed, "bin/agent", "another file was put there")
		if got := r.installed(t); got["bin/agent"].content != "agent 9" || got["etc/config"].content != config {
			t.Errorf("%v, %v", got["bin/agent"], got["etc/config"])
		}
		if got := r.sys.get("running"); got != "agent 9" {
			t.Errorf("the unit runs %q", got)
		}
	})
}

// TestLostPlaceOfBackup checks that data that could not be saved because the place of the
// backup is missing do not count as missing data, which a rollback would remove.
func TestLostPlaceOfBackup(t *testing.T) {
	r := newRig(t)
	for name, there := range map[string]bool{"etc/config": true, "etc/none": false} {
		c := state.Change{Kind: state.KindSnapshot, To: r.at(name), Pending: true}
		_, err := saveOwn(&c, r.at("nowhere/backup"), 1<<20)
		if (err != nil) != there || c.Pending != there {
			t.Errorf("%s: %v, pending %v", name, err, c.Pending)
		}
	}
}

// TestStaleLook checks that the baseline of an earlier rollback does not count when the
// baseline fails now, for example without a target file.
func TestStaleLook(t *testing.T) {
	r := newRig(t)
	badTrial(t, r)
	r.sys.after = state.Baseline{Detail: "failed (dead)"}
	r.fails(t, "rollback", state.ResultRollbackFailed, "failed (dead)")
	r.sys.fails["start machinemon-baseline@agent.service"] = &systemd.JobError{}
	r.word(t, state.VerbSettleBack)
	r.step(t, "rollback")
	r.closed(t)
}

// TestAlone checks that another target's trial of the same unit is not disturbed.
func TestAlone(t *testing.T) {
	r := newRig(t)
	must(t, r.tree.MakeSwapDir("other"))
	must(t, r.tree.SetJournal(&state.Journal{Attempt: "b1", Target: "other", Unit: "agent.service"}))
	r.offer(t, "a1", "v2", 2, release2)
	r.fails(t, "swap", state.ResultNotAttempted, "trial of target other")
	must(t, r.tree.CloseJournal("other"))
	r.offer(t, "a2", "v2", 2, release2)
	r.step(t, "swap")
}
