package swap

import (
	"os"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestGoneCannotGo checks that a file that cannot be removed after the verdict stays, and
// that the trial is closed all the same.
func TestGoneCannotGo(t *testing.T) {
	testkit.Slow(t)
	for name, plant := range map[string]func(path string) error{
		"link":      func(p string) error { return os.Symlink("agent", p) },
		"directory": func(p string) error { return os.Mkdir(p, 0o755) },
		"nothing":   func(string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.listing(t)
			r.installs(t, "a1", "v2", 2, with(release2, "bin:agent-a", "agent-a"))
			r.offer(t, "a2", "v3", 3, release3)
			r.step(t, "swap")
			must(t, os.Remove(r.at("bin/agent-a")))
			must(t, plant(r.at("bin/agent-a")))
			r.gate(t, "a2", state.FindingHealthy, "")
			r.step(t, "commit")
			r.ended(t, "a2", state.ResultCommitted)
			if open, err := r.tree.OpenTrials(); err != nil || len(open) > 0 {
				t.Errorf("open trials %v, %v", open, err)
			}
			if name != "nothing" && !strings.Contains(r.log.String(), "bin/agent-a stays: ") {
				t.Errorf("log:\n%s", r.log)
			}
			// The file does not stop the next update either.
			r.offer(t, "a3", "v4", 4, release4)
			r.step(t, "swap")
			r.gate(t, "a3", state.FindingHealthy, "")
			r.step(t, "commit")
			r.ended(t, "a3", state.ResultCommitted)
		})
	}
}

// TestGoneReloads: systemd reads its unit files again if one has gone, and only then.
func TestGoneReloads(t *testing.T) {
	for file, reloads := range map[string]int{"bin:agent-a": 0, "unit:agent-a.service": 1} {
		r := newRig(t)
		r.listing(t)
		_, name, _ := strings.Cut(file, ":")
		r.installs(t, "a1", "v2", 2, with(release2, file, name))
		r.offer(t, "a2", "v3", 3, release3)
		r.step(t, "swap")
		r.gate(t, "a2", state.FindingHealthy, "")
		r.sys.calls = nil
		r.step(t, "commit")
		if got := r.sys.called("reload"); got != reloads {
			t.Errorf("%s: reloaded %d times, want %d\n%s", file, got, reloads, r.log)
		}
	}
}

// TestGoneIsTheirs checks that an obsolete file stays if it is a link now, or if another
// target names it.
func TestGoneIsTheirs(t *testing.T) {
	testkit.Slow(t)
	for name, plant := range map[string]func(t *testing.T, r *rig){
		"a link": func(t *testing.T, r *rig) {
			must(t, os.Remove(r.at("bin/agent-a")))
			must(t, os.Symlink("agent", r.at("bin/agent-a")))
		},
		"another target's": func(t *testing.T, r *rig) {
			must(t, os.WriteFile(r.at("targets/other.toml"), []byte("unit = 'other.service'\n[[install]]\nfrom = 'x'\nto = '"+r.at("bin/agent-a")+"'\n"), 0o644))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.listing(t)
			r.installs(t, "a1", "v2", 2, with(release2, "bin:agent-a", "agent-a"))
			plant(t, r)
			r.offer(t, "a2", "v3", 3, release3)
			r.step(t, "swap")
			r.gate(t, "a2", state.FindingHealthy, "")
			r.step(t, "commit")
			r.ended(t, "a2", state.ResultCommitted)
			if _, err := os.Lstat(r.at("bin/agent-a")); err != nil {
				t.Error(err)
			}
			if !strings.Contains(r.log.String(), "bin/agent-a stays: ") {
				t.Errorf("log:\n%s", r.log)
			}
		})
	}
}

// TestNewFileIsTheirs checks that a file created in the place of a new one is neither
// overwritten nor removed by the rollback.
func TestNewFileIsTheirs(t *testing.T) {
	r := newRig(t)
	r.configure(t, "[hooks]\npre_swap = ['"+r.at("bin/migrate")+"']\n")
	r.offer(t, "a1", "v2", 2, release2)
	r.sys.on["hook migrate"] = func() { r.put(t, "bin/extra", file{"theirs", 0o644, 0}) }
	r.fails(t, "swap", state.ResultFailed, "cannot install "+r.at("bin/extra"), "file exists")
	r.step(t, "rollback")
	r.holds(t, "bin/extra", "theirs")
	r.holds(t, "bin/agent", "agent 1")

	// The same holds if the power fails before any rename.
	r = newRig(t)
	r.sys.fails["arm machinemon-deadline@agent.timer"] = os.ErrDeadlineExceeded
	r.offer(t, "a1", "v2", 2, release2)
	r.fails(t, "swap", state.ResultFailed)
	r.put(t, "bin/extra", file{"theirs", 0o644, 0})
	r.reboot(t)
	r.step(t, "recover")
	r.holds(t, "bin/extra", "theirs")
}

// TestSameFileChangedByHook checks that a hook's change of an unchanged file is found.
func TestSameFileChangedByHook(t *testing.T) {
	r := newRig(t)
	r.configure(t, "[hooks]\npre_swap = ['"+r.at("bin/migrate")+"']\n")
	r.offer(t, "a1", "v3", 3, release3) // the unit file stays the same
	r.sys.on["hook migrate"] = func() { r.put(t, "units/agent.service", file{"unit of a hook", 0o644, 0}) }
	r.step(t, "swap")
	r.holds(t, "units/agent.service", "unit 1")
}

// TestGoingBackAndTheirs checks that going back overwrites no file that an update did not
// bring, and rejects the release it leaves, even if its files were changed by hand.
func TestGoingBackAndTheirs(t *testing.T) {
	testkit.Slow(t)
	r := newRig(t)
	r.listing(t)
	r.installs(t, "a1", "v2", 2, with(release2, "bin:agent-a", "agent-a"))
	r.installs(t, "a2", "v3", 3, with(release3, "bin:agent-b", "agent-b"))
	r.put(t, "bin/agent-a", file{"the operator's", 0o755, 0})
	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "b1", Verb: state.VerbRollback}))
	r.fails(t, "swap", state.ResultRefused, r.at("bin/agent-a"), "no update has brought it")
	r.holds(t, "bin/agent-a", "the operator's")
	must(t, os.Remove(r.at("bin/agent-a")))

	r.put(t, "bin/agent-b", file{"changed by hand", 0o755, 0})
	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "b2", Verb: state.VerbRollback}))
	r.step(t, "swap")
	r.gate(t, "b2", state.FindingHealthy, "")
	r.step(t, "commit")
	r.ended(t, "b2", state.ResultCommitted)
	r.holds(t, "bin/agent-b", "changed by hand")
	must(t, os.Remove(r.at("bin/agent-b")))
	r.offer(t, "a3", "v3", 3, with(release3, "bin:agent-b", "agent-b"))
	r.fails(t, "swap", state.ResultNotAttempted, "rejected")
}

// TestLeftOut checks that a release must contain the files that its manifest lists.
func TestLeftOut(t *testing.T) {
	for _, left := range []string{"LIST", "extra"} {
		r := newRig(t)
		r.listing(t)
		must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a1", Origin: state.OriginOperator, Verb: state.VerbApply, Installed: "v1"}))
		all := with(release2, "bin:agent-a", "agent-a")
		some := with(release2, "bin:agent-a", "agent-a")
		delete(some, left)
		r.spool(t, "a1", "v2", 2, some, func(_ string, m *manifest.Manifest) {
			m.Platforms[manifest.Host()].Contents[left] = manifest.Content{SHA256: sum(all[left]), Size: int64(len(all[left]))}
		})
		r.fails(t, "swap", state.ResultRefused, "cannot find "+left+" in the release")
	}
}
