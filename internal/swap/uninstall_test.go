package swap

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/snapshot"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// besideList returns the list of directories that a purge removes.
func (r *rig) besideList(t *testing.T) []string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(r.tree.Var, "beside"))
	must(t, err)
	return strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
}

// TestLeave checks that no trial stays open when the package is removed.
func TestLeave(t *testing.T) {
	testkit.Slow(t)
	decide := func(t *testing.T, r *rig, v state.Verdict) {
		j, err := r.tree.Journal("agent")
		must(t, err)
		j.Verdict = v
		must(t, r.tree.SetJournal(j))
	}
	t.Run("idle", func(t *testing.T) {
		r := newRig(t)
		r.step(t, "leave")
		r.want(t, oldFiles)
		if r.sys.called("restart agent.service") > 0 {
			t.Errorf("calls: %q", r.sys.calls)
		}
		r.fails(t, "begin", state.ResultNotAttempted, "being removed")
		r.offer(t, "a1", "v2", 2, release2)
		r.fails(t, "swap", state.ResultNotAttempted, "being removed")
		r.want(t, oldFiles)
	})
	t.Run("on trial", func(t *testing.T) {
		r := newRig(t)
		trial(t, r)
		r.step(t, "leave")
		r.want(t, oldFiles)
		r.closed(t)
		r.ended(t, "a1", state.ResultInterrupted)
	})
	t.Run("committing", func(t *testing.T) {
		r := newRig(t)
		goodTrial(t, r)
		decide(t, r, state.VerdictCommit)
		r.step(t, "leave")
		r.want(t, newFiles)
		r.closed(t)
		r.ended(t, "a1", state.ResultCommitted)
		if got, want := r.besideList(t), []string{r.at("bin/" + sideName), r.at("units/" + sideName)}; !slices.Equal(got, want) {
			t.Errorf("beside are %q, want %q", got, want)
		}
	})
	t.Run("decided while the rollback starts", func(t *testing.T) {
		r := newRig(t)
		goodTrial(t, r)
		r.sys.on["start machinemon-rollback@agent.service"] = func() { decide(t, r, state.VerdictCommit) }
		r.step(t, "leave")
		r.want(t, newFiles)
		r.closed(t)
	})
	t.Run("no way back", func(t *testing.T) {
		r := newRig(t)
		badTrial(t, r)
		must(t, os.RemoveAll(r.at("bin/"+sideName)))
		r.fails(t, "leave", state.ResultRollbackFailed, "the rollback of v2 failed", "settle agent keep")
		if r.sys.called("start machinemon-rollback@agent.service") != 1 {
			t.Errorf("calls: %q", r.sys.calls)
		}
	})
	t.Run("of a target that has no file any more", func(t *testing.T) {
		r := newRig(t)
		goodTrial(t, r)
		decide(t, r, state.VerdictCommit)
		must(t, os.Remove(r.at("targets/agent.toml")))
		r.step(t, "leave")
		r.want(t, newFiles)
		if got := r.besideList(t); len(got) != 2 {
			t.Errorf("beside are %q", got)
		}
	})
	t.Run("staged, and in the spools", func(t *testing.T) {
		r := newRig(t)
		r.offer(t, "a1", "v2", 2, release2)
		dir, err := sideDir(r.at("bin/agent"))
		must(t, err)
		must(t, os.WriteFile(sidePath(dir, "agent", "a0", 0, "new"), nil, 0o600))
		must(t, os.WriteFile(sidePath(dir, "other", "a0", 0, "old"), nil, 0o600))
		r.step(t, "leave")
		if got := r.beside(t); len(got) != 1 || !strings.Contains(got[0], "other@") {
			t.Errorf("beside are %q", got)
		}
		if pending, err := r.tree.Pending(state.RoleVerify, "agent"); err != nil || pending {
			t.Errorf("pending: %v, %v", pending, err)
		}
	})
	t.Run("space that a killed swap has reserved", func(t *testing.T) {
		r := newRig(t)
		must(t, unix.Mount("tmpfs", r.at("etc"), "tmpfs", 0, "mode=755")) // else it is beside the backup
		defer unix.Unmount(r.at("etc"), unix.MNT_DETACH)
		r.put(t, "etc/config", oldFiles["etc/config"])
		r.put(t, "bin/backup", oldFiles["etc/config"])
		must(t, snapshot.Reserve(r.at("bin/backup"), r.at("etc/config")))
		if names := testkit.Names(t, r.at("etc")); len(names) != 2 {
			t.Fatalf("nothing is reserved: %q", names)
		}
		r.step(t, "leave")
		if names := testkit.Names(t, r.at("etc")); len(names) != 1 {
			t.Errorf("left over: %q", names)
		}
	})
	t.Run("order", func(t *testing.T) {
		r := newRig(t)
		badTrial(t, r)
		r.sys.alive = map[string][]string{
			"machinemon-update.service":       {"machinemon-update.service"},
			"machinemon-fetch@*.timer":        {"machinemon-fetch@agent.timer"},
			"machinemon-directive@*.path":     {"machinemon-directive@agent.path"},
			"machinemon-directive@*":          {"machinemon-directive@agent.service", "machinemon-directive@agent.timer"},
			"machinemon-fetch@*.service":      {"machinemon-fetch@agent.service"},
			"machinemon-verify@*.path":        {"machinemon-verify@agent.path"},
			"machinemon-verify@*.service":     {"machinemon-verify@agent.service"},
			"machinemon-fetch-full@*.service": {"machinemon-fetch-full@agent.service"},
			"machinemon-swap@*.path":          {"machinemon-swap@agent.path"},
			"machinemon-swap@*.service":       {"machinemon-swap@agent.service"},
			"machinemon-baseline@*":           {"machinemon-baseline@agent.service"},
			"machinemon-preflight@*":          {"machinemon-preflight@agent.service"},
			"machinemon-deadline@*.timer":     {"machinemon-deadline@other.timer"},
			"machinemon-health-gate@*":        {"machinemon-health-gate@other.service"},
			"machinemon-rollback@*":           {"machinemon-rollback@other.service"},
			"machinemon-deadline@*.service":   {"machinemon-deadline@other.service"},
			"machinemon-commit@*":             {"machinemon-commit@other.service"},
		}
		r.sys.fails["start machinemon-rollback@other.service"] = &systemd.JobError{Verb: "start", Unit: "x", Result: "failed"}
		r.sys.on["stop machinemon-update.service"] = func() {
			if err := r.tree.Leaving(); err == nil {
				t.Error("what is stopped may begin again")
			}
		}
		r.step(t, "leave")
		if !r.sys.order("stop machinemon-update.service", "stop machinemon-fetch@agent.timer", "stop machinemon-directive@agent.path",
			"stop machinemon-directive@agent.service", "stop machinemon-directive@agent.timer", "stop machinemon-fetch@agent.service",
			"stop machinemon-verify@agent.path", "stop machinemon-swap@agent.path", "stop machinemon-verify@agent.service",
			"stop machinemon-fetch-full@agent.service",
			"stop machinemon-swap@agent.service", "start machinemon-rollback@agent.service", "stop machinemon-deadline@other.timer",
			"stop machinemon-health-gate@other.service", "start machinemon-rollback@other.service", "start machinemon-deadline@other.service",
			"start machinemon-commit@other.service", "stop machinemon-baseline@agent.service", "stop machinemon-preflight@agent.service") {
			t.Errorf("calls: %q", r.sys.calls)
		}
	})
	t.Run("what does not stop", func(t *testing.T) {
		r := newRig(t)
		r.sys.alive = map[string][]string{"machinemon-fetch@*.service": {"x"}}
		r.sys.fails["stop x"] = &systemd.JobError{Verb: "stop", Unit: "x", Result: "failed"}
		r.fails(t, "leave", state.ResultFailed, "cannot stop x")
		delete(r.sys.fails, "stop x")
		r.sys.fails["list machinemon-fetch@*.service"] = errors.New("no answer")
		r.fails(t, "leave", state.ResultFailed, "no answer")
	})
	t.Run("without systemd", func(t *testing.T) {
		r := newRig(t)
		r.sw.Systemd = nil
		must(t, os.RemoveAll(r.tree.Run))
		_, err := sideDir(r.at("bin/agent"))
		must(t, err)
		r.step(t, "leave")
		if got := r.besideList(t); len(got) != 1 {
			t.Errorf("beside are %q", got)
		}
		must(t, os.WriteFile(filepath.Join(r.tree.Dir(state.RoleSwap, "agent"), "journal.json"), []byte("{}"), 0o600))
		r.fails(t, "leave", state.ResultNotAttempted, "open trial of agent", "boot this system")
	})
}
