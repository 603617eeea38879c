package swap

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestPreSwap checks what the hook is told and sees, and what becomes of its work.
func TestPreSwap(t *testing.T) {
	testkit.Slow(t)
	t.Run("committed", func(t *testing.T) {
		r := newRig(t)
		hooked(t, r)
		r.sys.on["hook migrate"] = func() {
			r.want(t, map[string]file{"bin/agent": oldFiles["bin/agent"], "bin/extra": oldFiles["bin/extra"],
				"units/agent.service": oldFiles["units/agent.service"], "etc/config": {"migrated", oldFiles["etc/config"].mode, oldFiles["etc/config"].gid}})
			if r.sys.get("deadline") == "" {
				t.Error("the hook runs without a deadline")
			}
			if r.sys.armed < hookTime+35*time.Second {
				t.Errorf("the deadline is in %s, which leaves the hook no time", r.sys.armed)
			}
			staging := r.sys.hook.Env[len(r.sys.hook.Env)-1]
			file := filepath.Join(strings.TrimPrefix(staging, "MACHINEMON_STAGING="), r.at("bin/agent"))
			if content, err := os.ReadFile(file); err != nil || string(content) != release2["agent"] {
				t.Errorf("the new program is not at %s: %q, %v", file, content, err)
			}
		}
		r.step(t, "swap")
		if got := r.sys.hook.Env[:4]; !slices.Equal(got[1:], []string{"MACHINEMON_TARGET=agent", "MACHINEMON_FROM=v1", "MACHINEMON_VERSION=v2"}) || !strings.HasPrefix(got[0], "PATH=/usr/local/sbin:") {
			t.Errorf("its environment is %q", got)
		}
		if len(r.sys.hook.Env) != 6 || r.sys.hook.Env[4] != "MACHINEMON_NOTICE="+r.tree.Run+"/attempt/agent.notice" {
			t.Errorf("its environment is %q", r.sys.hook.Env)
		}
		r.gate(t, "a1", state.FindingHealthy, "")
		r.step(t, "commit")
		r.want(t, newFiles)
		r.closed(t)
		if !r.sys.order("hook migrate", "restart agent.service", "hook notify") {
			t.Errorf("calls %q", r.sys.calls)
		}
		if left, err := filepath.Glob(r.tree.Run + "/attempt/*.staging"); err != nil || len(left) > 0 {
			t.Errorf("left: %q, %v", left, err)
		}
	})
	t.Run("failed", func(t *testing.T) {
		r := newRig(t)
		hooked(t, r)
		r.sys.fails["hook migrate"] = errors.New("exit status 3")
		r.fails(t, "swap", state.ResultFailed, "the pre_swap hook failed: exit status 3", "journalctl -u machinemon-hook@agent.service")
		r.step(t, "rollback")
		r.want(t, oldFiles)
		r.closed(t)
		r.ended(t, "a1", state.ResultFailed, "the pre_swap hook failed: exit status 3")
		if r.sys.called("restart agent.service") > 0 {
			t.Error("the old program was restarted for nothing")
		}
		if r.last(t).Manifest == "" {
			t.Error("its back-off is not keyed by the manifest")
		}
		if !r.sys.order("stop machinemon-hook@agent.service") {
			t.Errorf("calls %q", r.sys.calls)
		}
	})
	t.Run("failed, and what it changed does not come back", func(t *testing.T) {
		r := newRig(t)
		hooked(t, r)
		r.sys.on["hook migrate"] = func() {
			r.put(t, "bin/agent", file{"of the hook", 0o750, 12})
			must(t, os.Remove(r.at("bin/.machinemon-update/agent@a1.0.old")))
		}
		r.sys.fails["hook migrate"] = errors.New("exit status 3")
		r.fails(t, "swap", state.ResultFailed, "the pre_swap hook failed: exit status 3")
		r.fails(t, "rollback", state.ResultRollbackFailed, "cannot restore", "bin/agent", "missing or damaged")
		if open, err := r.tree.OpenTrials(); err != nil || len(open) != 1 {
			t.Errorf("open trials: %v, %v", open, err)
		}
	})
	t.Run("failed, with data that the program is at work on", func(t *testing.T) {
		r := newRig(t)
		hooked(t, r)
		must(t, os.WriteFile(r.at("etc/config-wal"), []byte("pages"), 0o640))
		r.sys.fails["hook migrate"] = errors.New("exit status 3")
		r.fails(t, "swap", state.ResultFailed, "the pre_swap hook failed: exit status 3")
		r.step(t, "rollback")
		r.want(t, oldFiles)
		r.ended(t, "a1", state.ResultFailed, "the pre_swap hook failed: exit status 3")
		if !r.sys.order("stop machinemon-hook@agent.service", "stop agent.service", "restart agent.service") {
			t.Errorf("calls %q", r.sys.calls)
		}
	})
	t.Run("rolled back", func(t *testing.T) {
		r := newRig(t)
		hooked(t, r)
		r.step(t, "swap")
		r.gate(t, "a1", state.FindingBad, "it is bad")
		r.step(t, "rollback")
		r.want(t, oldFiles)
		r.closed(t)
		if r.sys.called("hook notify") > 0 {
			t.Error("the post_commit hook ran")
		}
	})
}

// TestPostCommit checks that the release stays after any end of the hook.
func TestPostCommit(t *testing.T) {
	ready := func(t *testing.T) *rig {
		r := newRig(t)
		hooked(t, r)
		r.step(t, "swap")
		r.gate(t, "a1", state.FindingHealthy, "")
		return r
	}
	t.Run("failed", func(t *testing.T) {
		r := ready(t)
		r.sys.fails["hook notify"] = errors.New("it did not end within 10m0s")
		r.step(t, "commit")
		r.want(t, newFiles)
		r.closed(t)
		r.ended(t, "a1", state.ResultCommitted, "the post_commit hook failed: it did not end within 10m0s")
	})
	t.Run("killed, and not run twice", func(t *testing.T) {
		r := ready(t)
		j, err := r.tree.Journal("agent")
		must(t, err)
		j.Verdict, j.PostHooked = state.VerdictCommit, true
		must(t, r.tree.SetJournal(j))
		r.step(t, "commit")
		r.ended(t, "a1", state.ResultCommitted, "the post_commit hook failed: it was interrupted")
		if r.sys.called("hook notify") > 0 {
			t.Error("it ran again")
		}
	})
	t.Run("a power cut", func(t *testing.T) {
		r := ready(t)
		j, err := r.tree.Journal("agent")
		must(t, err)
		j.Verdict = state.VerdictCommit
		must(t, r.tree.SetJournal(j))
		r.reboot(t)
		r.step(t, "recover")
		r.ended(t, "a1", state.ResultCommitted, "the machine stopped before the post_commit hook was done")
		if r.sys.called("hook notify") > 0 {
			t.Error("it ran in the early boot")
		}
	})
}
