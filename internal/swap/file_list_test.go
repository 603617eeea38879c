package swap

import (
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// listing lets releases list programs and units, in a file LIST.
func (r *rig) listing(t *testing.T) {
	t.Helper()
	r.configure(t, "[install_manifest]\nfile = 'LIST'\noptional = true\n"+
		"[[install_manifest.type]]\nname = 'bin'\ndirectory = '"+r.at("bin")+"'\nallow = ['agent-*']\nexclude = ['agent-update']\n"+
		"[[install_manifest.type]]\nname = 'unit'\ndirectory = '"+r.at("units")+"'\nmode = '0644'\nallow = ['agent*.service']\n")
}

// with returns a release with more files and a list of them.
func with(release map[string]string, list string, more ...string) map[string]string {
	all := maps.Clone(release)
	all["LIST"] = list
	for _, name := range more {
		all[name] = name + " of " + release["agent"]
	}
	return all
}

func (r *rig) installs(t *testing.T, attempt state.AttemptID, version string, sequence int64, files map[string]string) {
	t.Helper()
	r.offer(t, attempt, version, sequence, files)
	r.step(t, "swap")
	r.gate(t, attempt, state.FindingHealthy, "")
	r.step(t, "commit")
	r.ended(t, attempt, state.ResultCommitted)
	r.closed(t)
}

// holds checks the content of a file; "" means that there is no file.
func (r *rig) holds(t *testing.T, name, want string) {
	t.Helper()
	got, err := os.ReadFile(r.at(name))
	if err != nil && !os.IsNotExist(err) || string(got) != want {
		t.Errorf("%s holds %q, %v, want %q", name, got, err, want)
	}
}

// TestListed checks that listed files are installed, changed, removed at the commit, and
// restored when the operator goes back.
func TestListed(t *testing.T) {
	testkit.Slow(t)
	r := newRig(t)
	r.listing(t)
	r.installs(t, "a1", "v2", 2, with(release2, "bin:agent-a\nbin:agent-b\nbin:agent-update\nunit:agent-x.service\nunit:agent.service\n",
		"agent-a", "agent-b", "agent-update", "agent-x.service"))
	r.holds(t, "bin/agent-a", "agent-a of agent 2")
	r.holds(t, "bin/agent-b", "agent-b of agent 2")
	r.holds(t, "bin/agent-update", "") // excluded, because apt installs it
	r.holds(t, "units/agent-x.service", "agent-x.service of agent 2")
	if !strings.Contains(r.log.String(), "left alone, as the target file says: agent-update") {
		t.Errorf("not said:\n%s", r.log)
	}
	if info, err := os.Stat(r.at("units/agent-x.service")); err != nil || info.Mode() != 0o644 {
		t.Errorf("its mode: %v, %v", info, err)
	}

	r.offer(t, "a2", "v3", 3, with(release3, "bin:agent-b\nbin:agent-c\n", "agent-b", "agent-c"))
	r.step(t, "swap")
	r.holds(t, "bin/agent-a", "agent-a of agent 2") // it stays until the verdict
	r.gate(t, "a2", state.FindingBad, "it is bad")
	r.step(t, "rollback")
	r.ended(t, "a2", state.ResultRolledBack)
	r.closed(t)
	for name, want := range map[string]string{"bin/agent-a": "agent-a of agent 2", "bin/agent-b": "agent-b of agent 2", "bin/agent-c": ""} {
		r.holds(t, name, want)
	}

	r.installs(t, "a3", "v4", 4, with(release3, "bin:agent-b\nbin:agent-c\n", "agent-b", "agent-c"))
	gone := []string{"bin/agent-a", "units/agent-x.service"}
	for _, name := range gone {
		r.holds(t, name, "")
	}
	r.holds(t, "bin/agent-c", "agent-c of agent 3")

	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "b1", Verb: state.VerbRollback}))
	r.step(t, "swap")
	r.gate(t, "b1", state.FindingHealthy, "")
	r.step(t, "commit")
	r.ended(t, "b1", state.ResultCommitted)
	r.closed(t)
	r.holds(t, "bin/agent-a", "agent-a of agent 2")
	r.holds(t, "units/agent-x.service", "agent-x.service of agent 2")
	r.holds(t, "bin/agent-c", "")
	// An update created the files, so a release without a list removes them.
	r.installs(t, "a5", "v5", 5, release2)
	for _, name := range append(gone, "bin/agent-b", "bin/agent-c") {
		r.holds(t, name, "")
	}
}

// TestListedIsTheirs checks that files that others created or changed are left alone.
func TestListedIsTheirs(t *testing.T) {
	testkit.Slow(t)
	r := newRig(t)
	r.listing(t)
	r.put(t, "bin/agent-a", file{"the operator's", 0o755, 0})
	r.offer(t, "a1", "v2", 2, with(release2, "bin:agent-a", "agent-a"))
	r.fails(t, "swap", state.ResultRefused, r.at("bin/agent-a"), "no update has brought it", "(hint: move it away")
	r.holds(t, "bin/agent-a", "the operator's")
	r.want(t, oldFiles)

	// An identical file may be installed, but no update has created it.
	r.put(t, "bin/agent-a", file{"agent-a of agent 2", 0o755, 0})
	r.installs(t, "a2", "v2", 2, with(release2, "bin:agent-a\nbin:agent-b\nbin:agent-c", "agent-a", "agent-b", "agent-c"))
	r.put(t, "bin/agent-b", file{"changed by hand", 0o755, 0})
	r.offer(t, "a3", "v3", 3, with(release3, "bin:agent-d", "agent-d"))
	r.step(t, "swap")
	r.put(t, "bin/agent-c", file{"changed in the trial", 0o755, 0})
	r.gate(t, "a3", state.FindingHealthy, "")
	r.step(t, "commit")
	r.ended(t, "a3", state.ResultCommitted)
	r.closed(t)
	r.holds(t, "bin/agent-a", "agent-a of agent 2")
	r.holds(t, "bin/agent-b", "changed by hand")
	r.holds(t, "bin/agent-c", "changed in the trial")
	r.holds(t, "bin/agent-d", "agent-d of agent 3")

	// A rollback, too, leaves a file alone that was changed during the trial.
	r.offer(t, "a4", "v4", 4, release2)
	r.step(t, "swap")
	r.put(t, "bin/agent-d", file{"changed in the trial", 0o755, 0})
	r.gate(t, "a4", state.FindingBad, "it is bad")
	r.step(t, "rollback")
	r.ended(t, "a4", state.ResultRolledBack)
	r.holds(t, "bin/agent-d", "changed in the trial")
}

// TestListedRefused checks that a list that exceeds the target's limits is refused.
func TestListedRefused(t *testing.T) {
	for name, c := range map[string]struct {
		list   string
		change func(entry string, m *manifest.Manifest)
		words  []string
	}{
		"not allowed": {"bin:sudo", nil, []string{"cannot use LIST", `"bin:sudo" is not among`}},
		"elsewhere":   {"bin:../agent-x", nil, []string{"cannot use LIST", "does not name a file plainly"}},
		"missing":     {"bin:agent-z", nil, []string{"cannot find agent-z in the release"}},
		"not the list that was verified": {"bin:agent-a", func(_ string, m *manifest.Manifest) {
			m.Platforms[manifest.Host()].Contents["LIST"] = manifest.Content{SHA256: sum("another")}
		}, []string{"LIST: it is not the one in the manifest's contents"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.listing(t)
			must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a1", Origin: state.OriginOperator, Verb: state.VerbApply, Installed: "v1"}))
			r.spool(t, "a1", "v2", 2, with(release2, c.list, "agent-a"), c.change)
			r.fails(t, "swap", state.ResultRefused, c.words...)
			r.want(t, oldFiles)
			r.closed(t)
		})
	}
	t.Run("another target's", func(t *testing.T) {
		r := newRig(t)
		r.listing(t)
		must(t, os.WriteFile(r.at("targets/other.toml"), []byte("unit = 'other.service'\n[[install]]\nfrom = 'x'\nto = '"+r.at("bin/other")+"'\n"), 0o644))
		must(t, os.MkdirAll(r.tree.Dir(state.RoleSwap, "other"), 0o755))
		must(t, r.tree.SetStatus(state.RoleSwap, "other", state.Status{Installed: &state.Release{Version: "1", Files: []state.File{{To: r.at("bin/agent-a")}}}}))
		r.offer(t, "a1", "v2", 2, with(release2, "bin:agent-a", "agent-a"))
		r.fails(t, "swap", state.ResultMisconfigured, "install_manifest: "+r.at("bin/agent-a")+" belongs to target other")
		r.want(t, oldFiles)
	})
}

// TestSameFileStays checks that an unchanged unit file is not replaced.
func TestSameFileStays(t *testing.T) {
	r := newRig(t)
	before, err := os.Stat(r.at("units/agent.service"))
	must(t, err)
	r.installs(t, "a1", "v3", 3, release3)
	after, err := os.Stat(r.at("units/agent.service"))
	must(t, err)
	if !os.SameFile(before, after) {
		t.Error("another file of the same content is there")
	}
	// The file is written in place now, but its backup is a copy.
	must(t, os.WriteFile(r.at("units/agent.service"), []byte("unit of the operator"), 0o644))
	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "b1", Verb: state.VerbRollback}))
	r.step(t, "swap")
	r.holds(t, "units/agent.service", "unit 1")
}
