package swap

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestFromRelease checks that root runs its own, checked copy of the release's program
// before any file is replaced, and none if the release has none.
func TestFromRelease(t *testing.T) {
	migrating := func(t *testing.T, r *rig) map[string]string {
		r.configure(t, "[hooks]\nfrom_release = ['migrate-{version}', '-v']\nfrom_release_unsigned = true\npre_swap = ['"+r.at("bin/migrate")+"']\n")
		files := maps.Clone(release2)
		files["migrate-v2"] = "#!/bin/sh\n# migrates\n"
		return files
	}
	const program = "agent@a1.0.run"
	t.Run("committed", func(t *testing.T) {
		r := newRig(t)
		r.offer(t, "a1", "v2", 2, migrating(t, r))
		r.sys.on["hook "+program] = func() {
			r.want(t, oldFiles)
			argv := r.sys.hook.Argv
			content, err := os.ReadFile(argv[0])
			if info, serr := os.Stat(argv[0]); err != nil || serr != nil || string(content) != "#!/bin/sh\n# migrates\n" || info.Mode() != 0o700 || len(argv) != 2 || argv[1] != "-v" {
				t.Errorf("%q: %q, %v, %v", argv, content, err, serr)
			}
			must(t, os.WriteFile(r.tree.Run+"/attempt/agent.notice", []byte(" migrated\nHOST_IP \x1b[2J "), 0o644))
		}
		r.step(t, "swap")
		if !r.sys.order("hook "+program, "hook migrate", "restart agent.service") {
			t.Errorf("calls %q", r.sys.calls)
		}
		r.gate(t, "a1", state.FindingHealthy, "")
		r.step(t, "commit")
		r.want(t, newFiles)
		r.closed(t)
		if got := r.last(t).Warning; !strings.HasPrefix(got, "migrated HOST_IP ") || strings.Contains(got, "\x1b") {
			t.Errorf("its notice: %q", got)
		}
		for _, dir := range []string{"bin", "units"} {
			if left, _ := filepath.Glob(r.at(dir) + "/.machinemon-update/*.run"); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		}
		if left, _ := filepath.Glob(r.tree.Run + "/attempt/*.notice"); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
	t.Run("failed", func(t *testing.T) {
		r := newRig(t)
		r.offer(t, "a1", "v2", 2, migrating(t, r))
		r.sys.fails["hook "+program] = errors.New("exit status 3")
		r.fails(t, "swap", state.ResultFailed, "the from_release hook failed: exit status 3", "journalctl -u machinemon-hook@agent.service")
		r.step(t, "rollback")
		r.want(t, oldFiles)
		r.closed(t)
		if r.sys.called("hook migrate") > 0 {
			t.Error("the pre_swap hook ran after it")
		}
	})
	t.Run("none in the release", func(t *testing.T) {
		r := newRig(t)
		migrating(t, r)
		r.offer(t, "a1", "v2", 2, release2)
		r.step(t, "swap")
		if r.sys.called("hook "+program) > 0 || r.sys.called("hook migrate") != 1 {
			t.Errorf("calls %q", r.sys.calls)
		}
	})
	for name, change := range map[string]func(entry string, m *manifest.Manifest){
		"altered": func(entry string, m *manifest.Manifest) {
			must(t, os.WriteFile(filepath.Join(entry, "3"), []byte("#!/bin/sh\n# is evil \n"), 0o640))
		},
		"not in the contents": func(_ string, m *manifest.Manifest) { delete(m.Platforms[manifest.Host()].Contents, "migrate-v2") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			files := migrating(t, r)
			r.offer(t, "a1", "v2", 2, files)
			must(t, os.RemoveAll(filepath.Join(r.tree.Ready(state.RoleVerify, "agent"), "a1")))
			r.spool(t, "a1", "v2", 2, files, change)
			r.fails(t, "swap", state.ResultRefused, "cannot run migrate-v2 of the release: ")
			r.want(t, oldFiles)
			if r.sys.called("hook "+program) > 0 {
				t.Error("it ran")
			}
		})
	}
}

// TestUnrun checks what is said of the script that a release brings for its own updater.
func TestUnrun(t *testing.T) {
	testkit.Slow(t)
	r := newRig(t)
	r.listing(t)
	list := "bin:agent-a\nbin:agent-update\n"
	install := func(attempt state.AttemptID, version string, sequence int64, files map[string]string, warns string) {
		t.Helper()
		r.installs(t, attempt, version, sequence, files)
		if got := r.last(t).Warning; !strings.HasPrefix(got, warns) || (warns == "") != (got == "") {
			t.Errorf("%s: the warning is %q, not %q", version, got, warns)
		}
		kept := filepath.Join(r.tree.Dir(state.RoleSwap, "agent"), "left-out", "agent-update")
		if got, err := os.ReadFile(kept); err != nil || string(got) != files["agent-update"] {
			t.Errorf("%s: kept is %q, %v", version, got, err)
		}
		if warns != "" && !strings.Contains(r.last(t).Warning, "(hint: read it in "+filepath.Dir(kept)+"; write a pre_swap hook for what it migrates)") {
			t.Errorf("no cure: %s", r.last(t).Warning)
		}
	}
	two := with(release2, list, "agent-a", "agent-update")
	install("a1", "v2", 2, two, "agent-update of v2 is not run, and the one of the installed release is not known: it may contain a migration")
	three := with(release3, list, "agent-a")
	three["agent-update"] = two["agent-update"]
	install("a2", "v3", 3, three, "")
	four := maps.Clone(three)
	four["agent"], four["agent-update"] = "agent 4", "it migrates"
	install("a3", "v4", 4, four, "agent-update of v4 is not run, and it differs from that of v3: it may contain a migration")
	if got := r.status(t).Installed; got.List != list || got.LeftOut["agent-update"] != sum("it migrates") {
		t.Errorf("recorded: %+v", got.Listed)
	}
	// Without the file, as after deltas, the contents have its digest.
	five := maps.Clone(four)
	five["agent"] = "agent 5"
	r.offer(t, "a4", "v5", 5, five)
	must(t, os.RemoveAll(filepath.Join(r.tree.Ready(state.RoleVerify, "agent"), "a4")))
	delete(five, "agent-update")
	r.spool(t, "a4", "v5", 5, five, func(_ string, m *manifest.Manifest) {
		m.Platforms[manifest.Host()].Contents["agent-update"] = manifest.Content{SHA256: sum("it migrates more"), Size: 16}
	})
	must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a4", Origin: state.OriginOperator, Verb: state.VerbApply, Installed: "v4"}))
	r.step(t, "swap")
	r.gate(t, "a4", state.FindingHealthy, "")
	r.step(t, "commit")
	if got := r.last(t).Warning; !strings.HasPrefix(got, "agent-update of v5 is not run, and it differs from that of v4") || !strings.Contains(got, "read it in the archive agent.tar.gz") {
		t.Errorf("the warning is %q", got)
	}
	if strings.Contains(r.log.String(), "is not kept") {
		t.Errorf("log:\n%s", r.log)
	}
	// An update to a release without it, and the way back.
	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "b1", Verb: state.VerbRollback}))
	r.step(t, "swap")
	r.gate(t, "b1", state.FindingHealthy, "")
	r.step(t, "commit")
	if got := r.status(t).Installed; got.Version != "v4" || got.LeftOut["agent-update"] != sum("it migrates") || r.last(t).Warning != "" {
		t.Errorf("after going back: %+v, %q", got, r.last(t).Warning)
	}
}
