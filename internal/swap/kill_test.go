package swap

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

func trial(t *testing.T, r *rig) {
	r.offer(t, "a1", "v2", 2, release2)
	r.step(t, "swap")
}

func badTrial(t *testing.T, r *rig) {
	trial(t, r)
	r.gate(t, "a1", state.FindingBad, "it is bad")
}

func goodTrial(t *testing.T, r *rig) {
	trial(t, r)
	r.gate(t, "a1", state.FindingHealthy, "")
}

func committed(t *testing.T, r *rig) {
	goodTrial(t, r)
	r.step(t, "commit")
}

func goBack(t *testing.T, r *rig) {
	committed(t, r)
	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "b1", Verb: state.VerbRollback}))
}

// hooked offers a release whose swap begins with a migration.
func hooked(t *testing.T, r *rig) {
	r.configure(t, "[hooks]\npre_swap = ['"+r.at("bin/migrate")+"']\npost_commit = ['"+r.at("bin/notify")+"']\n")
	r.offer(t, "a1", "v2", 2, release2)
}

// dropping offers a release that no longer lists a file that v2 brought.
func dropping(t *testing.T, r *rig) {
	r.configure(t, "[install_manifest]\nfile = 'LIST'\noptional = true\n[[install_manifest.type]]\nname = 'bin'\ndirectory = '"+r.at("bin")+"'\nallow = ['extra']\n")
	committed(t, r)
	r.offer(t, "a2", "v3", 3, release3)
}

func droppingWell(t *testing.T, r *rig) {
	dropping(t, r)
	r.step(t, "swap")
	r.gate(t, "a2", state.FindingHealthy, "")
}

// droppedFiles are the installed files after the commit of that release.
var droppedFiles = map[string]file{
	"bin/agent":           {"agent 3", 0o750, 12},
	"units/agent.service": {"unit 1", 0o644, 0},
	"etc/config":          {"config of agent 3", 0o640, 12},
}

// TestKilled kills each step of the swapper before each of its durable steps and runs the
// step that systemd would start next. It then wants all files old or all new, the trial
// closed and recorded once, and no file left over.
func TestKilled(t *testing.T) {
	testkit.Slow(t)
	for _, c := range []struct {
		name    string
		prepare func(*testing.T, *rig)
		verb    string // the step that is killed
		then    string // the step that runs next; recover after a power cut
		attempt state.AttemptID
		want    map[string]file
		result  state.Result
	}{
		{"swap, then its failure handler", func(t *testing.T, r *rig) { r.offer(t, "a1", "v2", 2, release2) },
			"swap", "rollback", "a1", oldFiles, state.ResultInterrupted},
		{"swap, then a boot", func(t *testing.T, r *rig) { r.offer(t, "a1", "v2", 2, release2) },
			"swap", "recover", "a1", oldFiles, state.ResultInterrupted},
		{"swap with a hook, then its failure handler", hooked, "swap", "rollback", "a1", oldFiles, state.ResultInterrupted},
		{"swap with a hook, then a boot", hooked, "swap", "recover", "a1", oldFiles, state.ResultInterrupted},
		{"rollback after a hook, then again", func(t *testing.T, r *rig) {
			hooked(t, r)
			r.step(t, "swap")
			r.gate(t, "a1", state.FindingBad, "it is bad")
		}, "rollback", "rollback", "a1", oldFiles, state.ResultRolledBack},
		{"rollback, then again", badTrial, "rollback", "rollback", "a1", oldFiles, state.ResultRolledBack},
		{"rollback that is tried again, then again", waiting, "rollback", "rollback", "a1", oldFiles, state.ResultRolledBack},
		{"rollback, then a boot", badTrial, "rollback", "recover", "a1", oldFiles, state.ResultRolledBack},
		{"commit, then again", goodTrial, "commit", "commit", "a1", newFiles, state.ResultCommitted},
		{"commit, then a boot", goodTrial, "commit", "recover", "a1", newFiles, state.ResultCommitted},
		{"recover, then again", func(t *testing.T, r *rig) { trial(t, r); r.reboot(t) },
			"recover", "recover", "a1", oldFiles, state.ResultInterrupted},
		{"going back, then its failure handler", goBack, "swap", "rollback", "b1", newFiles, state.ResultInterrupted},
		{"commit with a hook, then again", func(t *testing.T, r *rig) {
			hooked(t, r)
			r.step(t, "swap")
			r.gate(t, "a1", state.FindingHealthy, "")
		}, "commit", "commit", "a1", newFiles, state.ResultCommitted},
		{"commit of going back, then again", func(t *testing.T, r *rig) {
			goBack(t, r)
			r.step(t, "swap")
			r.gate(t, "b1", state.FindingHealthy, "")
		}, "commit", "commit", "b1", wentBack, state.ResultCommitted},
		{"swap of a release with fewer files, then a boot", dropping, "swap", "recover", "a2", newFiles, state.ResultInterrupted},
		{"commit of fewer files, then again", droppingWell, "commit", "commit", "a2", droppedFiles, state.ResultCommitted},
		{"commit of fewer files, then a boot", droppingWell, "commit", "recover", "a2", droppedFiles, state.ResultCommitted},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n++ {
				r := newRigBelow(t, memory)
				c.prepare(t, r)
				before, files := r.status(t), r.installed(t)
				steps, killed := r.trace(t, c.verb, n)
				if !killed {
					if n < 10 {
						t.Fatalf("only %d durable steps were seen: %q", n-1, steps)
					}
					return
				}
				where := "before " + strings.ReplaceAll(steps[n-1].String(), r.dir+"/", "")
				ok := t.Run(fmt.Sprint(n), func(t *testing.T) {
					j, err := r.tree.Journal("agent")
					must(t, err)
					if c.verb == "swap" && j == nil && !maps.Equal(r.installed(t), files) {
						t.Error("files were changed without a journal")
					}
					if c.verb == "swap" && !maps.Equal(r.installed(t), files) && r.sys.get("deadline") == "" {
						t.Error("files were changed without a deadline")
					}
					want, result := c.want, c.result
					if c.then == "recover" {
						r.reboot(t)
						if j != nil && j.Verdict == "" { // the gate's report is lost, too
							want, result = files, state.ResultInterrupted
							if c.verb != "swap" {
								want = oldFiles
								if c.attempt == "a2" {
									want = newFiles
								}
							}
						}
					}
					r.step(t, c.then)
					r.want(t, want)
					if j == nil && c.verb == "swap" {
						// Only staged files are left, which the next attempt removes.
						if after := r.status(t); !reflect.DeepEqual(after, before) {
							t.Errorf("the status has changed: %+v", after)
						}
					} else {
						r.ended(t, c.attempt, result)
					}
					if j != nil {
						r.closed(t)
					}
					once := r.picture(t)
					r.step(t, c.then)
					if again := r.picture(t); !reflect.DeepEqual(again, once) {
						t.Errorf("the second %s made\n%q of\n%q", c.then, again, once)
					}
					if result == state.ResultInterrupted && j != nil {
						if st := r.status(t); len(st.Rejected) != 1 || st.Rejected[0].Interruptions != 1 {
							t.Errorf("an interruption is not counted once: %+v", st.Rejected)
						}
					}
					if st := r.status(t); result == state.ResultCommitted && c.attempt == "a1" && (st.Previous == nil || st.Previous.Sequence != 1) {
						t.Errorf("the previous release is %+v", st.Previous)
					}
					if j == nil {
						if r.sys.get("running") == "" { // the boot starts the unit
							must(t, r.sys.Restart(t.Context(), "agent.service", 0))
						}
						_, err := r.tree.TakeRequest("agent") // as the next attempt does, when it begins
						must(t, err)
						r.offer(t, "z1", "v4", 4, release4)
						r.step(t, "swap")
						r.gate(t, "z1", state.FindingHealthy, "")
						r.step(t, "commit")
						r.ended(t, "z1", state.ResultCommitted)
						r.closed(t)
					}
				})
				if !ok {
					t.Fatalf("killed %s", where)
				}
			}
		})
	}
}

// picture returns the files on disk that must not change when a step is repeated.
func (r *rig) picture(t *testing.T) map[string]string {
	t.Helper()
	p := map[string]string{"running": r.sys.get("running"), "loaded": r.sys.get("loaded"), "deadline": r.sys.get("deadline")}
	for name, f := range r.installed(t) {
		p[name] = fmt.Sprint(f)
	}
	for _, path := range append(r.beside(t), filepath.Join(r.tree.Dir(state.RoleSwap, "agent"), "status.json")) {
		content, err := os.ReadFile(path)
		must(t, err)
		p[path] = string(content)
	}
	return p
}

// TestOrder checks the order of the durable steps: a power cut, unlike a kill, loses what
// was not synced.
func TestOrder(t *testing.T) {
	testkit.Slow(t)
	const journal = "var/swap/agent/journal.json"
	var (
		newMain   = durableStep{Call: "rename", Path: "bin/.machinemon-update/agent@a1.0.new", To: "bin/agent"}
		newUnit   = durableStep{Call: "rename", Path: "units/.machinemon-update/agent@a1.2.new", To: "units/agent.service"}
		syncState = durableStep{Call: "sync", Path: "var/swap/agent"}
		restart   = durableStep{Call: "rename", Path: "machine/running.tmp", To: "machine/running"}
		closing   = durableStep{Call: "unlink", Path: journal}
		write     = durableStep{Call: "rename", Path: "*", To: journal}
		record    = durableStep{Call: "rename", Path: "*", To: "var/swap/agent/status.json"}
		arm       = durableStep{Call: "rename", Path: "machine/deadline.tmp", To: "machine/deadline"}
	)
	for _, c := range []struct {
		verb    string
		prepare func(*testing.T, *rig)
		chains  map[string][]durableStep
	}{
		{"swap", func(t *testing.T, r *rig) { r.offer(t, "a1", "v2", 2, release2) }, map[string][]durableStep{
			"new bytes, owner and mode before the journal": {
				{Call: "write", Path: "bin/.machinemon-update/agent@a1.0.new"},
				{Call: "chmod", Path: "bin/.machinemon-update/agent@a1.0.new"},
				{Call: "sync", Path: "bin/.machinemon-update/agent@a1.0.new"}, write, newMain},
			"backups before the journal": {
				{Call: "link", Path: "bin/agent", To: "bin/.machinemon-update/agent@a1.0.old"},
				{Call: "sync", Path: "bin"}, {Call: "sync", Path: "bin/.machinemon-update"}, write, newMain},
			"a snapshot before the journal": {
				{Call: "chmod", Path: "var/swap/agent/snapshot/a1/3"},
				{Call: "sync", Path: "var/swap/agent/snapshot/a1/3"},
				{Call: "sync", Path: "var/swap/agent/snapshot/a1"}, write, newMain},
			"journal, deadline, renames, journal, restart": {
				write, syncState, arm, newMain, newUnit, {Call: "sync", Path: "bin"}, write, syncState, restart},
			"hidden before it is read": {
				{Call: "rename", Path: "var/verify/agent/ready/a1", To: "var/verify/agent/ready/.a1"},
				{Call: "create", Path: "bin/.machinemon-update/agent@a1.0.new"}},
			"the units' directory before the second journal": {newUnit, {Call: "sync", Path: "units"}, write},
		}},
		{"swap", func(t *testing.T, r *rig) {
			r.withTree(t, linkLine, oldTreeFiles)
			r.offer(t, "a1", "v2", 2, withPublished(release2, "2", publishedTree))
		}, map[string][]durableStep{
			"a tree before the link to it, and the link before the second journal": {
				{Call: "write", Path: "opt/releases/.machinemon-update/agent@a1.3.tree/share/deep/new"}, write,
				{Call: "rename", Path: "opt/releases/.machinemon-update/agent@a1.3.tree", To: "opt/releases/v2"}, {Call: "sync", Path: "opt/releases"},
				{Call: "symlink", Path: "opt/.machinemon-update/agent@a1.3.link"},
				{Call: "rename", Path: "opt/.machinemon-update/agent@a1.3.link", To: "opt/app"}, {Call: "sync", Path: "opt"}, write, restart},
		}},
		{"commit", func(t *testing.T, r *rig) {
			r.withTree(t, linkLine, layouts[1].old)
			r.update(t, "a0", "v0", 1, withPublished(release3, "0", map[string]string{"share/a": "a 0"}))
			r.offer(t, "a1", "v2", 2, withPublished(release2, "2", publishedTree))
			r.step(t, "swap")
			r.gate(t, "a1", state.FindingHealthy, "")
		}, map[string][]durableStep{
			"an old release leaves between its record and the closing": {
				write, record, {Call: "rename", Path: "opt/releases/v1", To: "opt/releases/.machinemon-update/agent@a1.3.v1.gone"},
				{Call: "sync", Path: "opt/releases"}, {Call: "sync", Path: "opt/releases/.machinemon-update"}, closing},
		}},
		{"rollback", badTrial, map[string][]durableStep{
			"verdict, files, restart, record, closing": {
				write, syncState, {Call: "rename", Path: "bin/.machinemon-update/agent@a1.0.back", To: "bin/agent"},
				{Call: "sync", Path: "bin"}, restart, record, syncState, closing, syncState,
				{Call: "unlink", Path: "bin/.machinemon-update/agent@a1.0.old"}},
			"a snapshot's bytes before its rename": {
				{Call: "chmod", Path: "etc/.machinemon-update.restore-*"},
				{Call: "sync", Path: "etc/.machinemon-update.restore-*"},
				{Call: "rename", Path: "etc/.machinemon-update.restore-*", To: "etc/config"},
				{Call: "sync", Path: "etc"}, closing},
		}},
		{"commit", goodTrial, map[string][]durableStep{
			"verdict, record, closing, clearing": {
				write, syncState, record, syncState, closing, syncState,
				{Call: "unlink", Path: "var/swap/agent/snapshot/a1/3"}},
		}},
	} {
		t.Run(c.verb, func(t *testing.T) {
			r := newRig(t)
			c.prepare(t, r)
			steps, _ := r.trace(t, c.verb, 0)
			short := func(p string) string {
				if rest, ok := strings.CutPrefix(p, r.at("units")); ok {
					return "units" + rest
				}
				return strings.TrimPrefix(p, r.dir+"/")
			}
			for i := range steps {
				steps[i].Path, steps[i].To = short(steps[i].Path), short(steps[i].To)
			}
			for name, chain := range c.chains {
				rest := steps
				for _, want := range chain {
					i := slices.IndexFunc(rest, func(d durableStep) bool {
						begins, any := strings.CutSuffix(want.Path, "*")
						return d.Call == want.Call && d.To == want.To && (d.Path == want.Path || any && strings.HasPrefix(d.Path, begins))
					})
					if i < 0 {
						t.Errorf("%s: %q is missing, or too early, in\n%s", name, want, join(steps))
						break
					}
					rest = rest[i+1:]
				}
			}
		})
	}
}

func join(steps []durableStep) string {
	var b strings.Builder
	for _, s := range steps {
		b.WriteString(s.String() + "\n")
	}
	return b.String()
}
