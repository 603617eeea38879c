package swap

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// planted are the users that plant; each test has a fetcher and a verifier.
const (
	fetcher  = 61001
	verifier = 61002
)

// plants are what a taken-over worker may leave in its directory, by the name of the file
// or spool that it replaces.
var plants = map[string]func(t *testing.T, path string){
	"a link":             func(t *testing.T, p string) { must(t, os.Symlink("/etc", p)) },
	"a link to nowhere":  func(t *testing.T, p string) { must(t, os.Symlink("nowhere", p)) },
	"a link to itself":   func(t *testing.T, p string) { must(t, os.Symlink(filepath.Base(p), p)) },
	"a FIFO":             func(t *testing.T, p string) { must(t, fifo(p)) },
	"a file":             func(t *testing.T, p string) { must(t, os.WriteFile(p, []byte("garbage"), 0o644)) },
	"a newer format":     func(t *testing.T, p string) { must(t, os.WriteFile(p, []byte(`{"format":999}`), 0o644)) },
	"an unreadable file": func(t *testing.T, p string) { must(t, os.WriteFile(p, []byte(`{}`), 0)) },
	"a huge file": func(t *testing.T, p string) {
		must(t, os.WriteFile(p, nil, 0o644))
		must(t, os.Truncate(p, 1<<40))
	},
	"a full directory": func(t *testing.T, p string) {
		must(t, os.MkdirAll(p+"/a1/b/c", 0o700))
		must(t, os.WriteFile(p+"/a1/b/file", []byte("x"), 0o600))
		must(t, os.Lchown(p+"/a1/b", verifier, verifier))
		must(t, os.Chmod(p, 0o700))
	},
}

// plantedFiles are the names in the directory of each role that anything reads or writes.
var plantedFiles = map[state.Role][]string{
	state.RoleFetch: {"ready", "ready/a1", "ready/A 1", "ready/.a1", "ready/" + strings.Repeat("n", 255), "status.json", "status.json.damaged", "manifest.json", "trust.json",
		"partial", "partial.json", "handover.json", ".status.json1", "unknown"},
	state.RoleVerify: {"ready", "ready/a1", "ready/A 1", "ready/.a1", "status.json", "status.json.damaged", "fallback.json", ".payload-1", ".fallback.json1", "unknown"},
}

// TestPlants checks that nothing that a worker may leave in its directory keeps the next
// attempt from beginning, and that the attempt then goes through the hands of all roles.
func TestPlants(t *testing.T) {
	testkit.Slow(t)
	for role, names := range plantedFiles {
		for n, name := range names {
			for what, plant := range plants {
				if n >= 2 && !slices.Contains([]string{"a full directory", "a FIFO", "a newer format"}, what) && name != "status.json" {
					continue // it is one of the files that are all read or removed in the same way
				}
				t.Run(fmt.Sprintf("%s %.20s %s", role, name, what), func(t *testing.T) {
					t.Parallel()
					r := newRigBelow(t, memory)
					for role, uid := range map[state.Role]int{state.RoleFetch: fetcher, state.RoleVerify: verifier} {
						must(t, os.Chown(r.tree.Dir(role, "agent"), uid, uid))
					}
					path := filepath.Join(r.tree.Dir(role, "agent"), name)
					if strings.HasPrefix(name, "ready/") {
						must(t, os.Mkdir(filepath.Dir(path), 0o770))
					}
					plant(t, path)
					must(t, os.Lchown(path, verifier, verifier))
					dead := map[state.Role]string{state.RoleFetch: "machinemon-verify@agent.path", state.RoleVerify: "machinemon-swap@agent.path"}[role]
					r.sys.units[dead] = systemd.Unit{Active: "failed"} // systemd gave up, as it does
					within(t, func() { r.step(t, "begin") })
					r.serves(t)
				})
			}
		}
	}
}

// serves checks that all roles can do their work in their directories.
func (r *rig) serves(t *testing.T) {
	t.Helper()
	attempt := r.order(t).Attempt
	for _, role := range []state.Role{state.RoleFetch, state.RoleVerify} {
		dir := r.tree.Dir(role, "agent")
		for _, name := range []string{"status.json", "trust.json", "fallback.json", "handover.json", "manifest.json", "partial.json", "partial"} {
			if info, err := os.Lstat(filepath.Join(dir, name)); err == nil && (!info.Mode().IsRegular() || info.Mode()&0o600 != 0o600) {
				t.Errorf("%s of %s is %v", name, role, info.Mode())
			}
		}
		must(t, r.tree.Tidy(role, "agent"))
		must(t, r.tree.Trust(role, "agent", &struct{}{}))
		must(t, r.tree.SetTrust(role, "agent", struct{}{}))
		must(t, r.tree.Update(role, "agent", func(s *state.Status) { s.Record(state.Attempt{ID: attempt, Result: state.ResultHandedOn}) }))
		must(t, r.tree.HandOn(role, "agent", attempt, func(b *state.Bundle) error { return b.Describe(nil, nil, state.Receipt{}) }))
		got, b, err := r.tree.Claim(role, "agent")
		if err != nil || got != attempt {
			t.Fatalf("claimed %q of %s: %v", got, role, err)
		}
		must(t, b.Consume())
	}
	must(t, r.tree.SetFallback("agent", state.Fallback{Attempt: attempt}))
	if f, err := r.tree.Fallback("agent"); err != nil || f == nil {
		t.Error(err)
	}
	must(t, r.tree.DropFallback("agent"))
	if _, err := r.tree.History("agent"); err != nil {
		t.Error(err)
	}
	r.offer(t, "z1", "v2", 2, release2)
	r.step(t, "swap")
	r.want(t, newFiles)
}

// TestPlantsReported checks what root says about foreign files, and that it says nothing
// about what is left of an ordinary attempt.
func TestPlantsReported(t *testing.T) {
	testkit.Slow(t)
	r := newRig(t)
	must(t, r.tree.SetHandover("agent", state.Handover{Attempt: "a1"}))
	must(t, r.tree.SetFallback("agent", state.Fallback{Attempt: "a1"}))
	for _, role := range []state.Role{state.RoleFetch, state.RoleVerify} {
		must(t, r.tree.Update(role, "agent", func(s *state.Status) { s.Record(state.Attempt{ID: "a1", Result: state.ResultHandedOn}) }))
		must(t, os.WriteFile(r.tree.Dir(role, "agent")+"/.status.json1", []byte("{"), 0o600))
		must(t, os.MkdirAll(r.tree.Ready(role, "agent")+"/.a1", 0o700)) // of a worker that was killed
	}
	r.step(t, "begin")
	if f := r.status(t).Foreign; f != nil || strings.Contains(r.log.String(), "does not leave") {
		t.Errorf("reported: %+v\n%s", f, r.log)
	}
	for role, name := range map[state.Role]string{state.RoleFetch: "fallback.json", state.RoleVerify: "handover.json"} {
		if _, err := os.Lstat(filepath.Join(r.tree.Dir(role, "agent"), name)); !os.IsNotExist(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s, err := r.tree.Status(state.RoleVerify, "agent"); err != nil || len(s.Attempts) != 1 {
		t.Errorf("the verifier's records: %+v, %v", s, err)
	}

	dir := r.tree.Dir(state.RoleVerify, "agent")
	must(t, os.WriteFile(dir+"/status.json", []byte(`{"format":999}`), 0o644))
	must(t, os.Symlink("/etc", dir+"/\x1b[31mred"))
	must(t, os.Mkdir(dir+"/ready", 0o770))
	must(t, os.Mkdir(dir+"/ready/.a1", 0o700))
	must(t, os.Lchown(dir+"/ready/.a1", fetcher, fetcher))
	r.step(t, "begin")
	for _, want := range []string{" [31mred (a symbolic link of user 0, mode 0777)", "ready/.a1 (a directory of user 61001, mode 0700)",
		"status.json: its format 999 is newer than this program's 1", "removed from " + dir + " what its program does not leave there: "} {
		f := r.status(t).Foreign[state.RoleVerify]
		if !strings.Contains(f.What, want) || time.Since(f.Time) > time.Minute || !strings.Contains(r.log.String(), want) {
			t.Errorf("not reported: %q in %+v\n%s", want, f, r.log)
		}
	}
	if _, err := os.Stat(dir + "/status.json.damaged"); err != nil {
		t.Error(err)
	}

	for n := range 3000 { // a flood is a few names in the log
		must(t, os.WriteFile(fmt.Sprintf("%s/flood%d", dir, n), nil, 0o600))
	}
	r.step(t, "begin")
	if f := r.status(t).Foreign[state.RoleVerify]; !strings.HasSuffix(f.What, "and 2995 more") || len(f.What) > 600 {
		t.Errorf("reported: %+v", f)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestTrialBeforePlants checks that an open trial ends before anything that a worker left
// is looked at, and that no entry of the verifier can end it.
func TestTrialBeforePlants(t *testing.T) {
	testkit.Slow(t)
	for name, plant := range plants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRigBelow(t, memory)
			badTrial(t, r)
			r.sys.units["machinemon-verify@agent.path"] = systemd.Unit{Active: "failed"}
			for _, role := range []state.Role{state.RoleFetch, state.RoleVerify} {
				must(t, os.RemoveAll(r.tree.Ready(role, "agent")))
				plant(t, r.tree.Ready(role, "agent"))
			}
			// systemd starts the swap for what is there, and the gate is still at work.
			within(t, func() { r.step(t, "swap") })
			if j, err := r.tree.Journal("agent"); err != nil || j == nil || j.Verdict != "" {
				t.Fatalf("the trial is %+v, %v", j, err)
			}
			r.want(t, newFiles)
			if _, err := os.Lstat(r.tree.Ready(state.RoleVerify, "agent")); !os.IsNotExist(err) && name != "a full directory" && name != "a link to nowhere" && name != "a link to itself" {
				t.Errorf("it starts the swap again: %v", err)
			}
			within(t, func() { r.step(t, "begin") })
			r.want(t, oldFiles)
			r.closed(t)
			r.ended(t, "a1", state.ResultRolledBack)
		})
	}
}

// TestRollbackBeforePlants checks that nothing in the verifier's spool keeps the operator
// from going back.
func TestRollbackBeforePlants(t *testing.T) {
	testkit.Slow(t)
	for name, plant := range plants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRigBelow(t, memory)
			goBack(t, r)
			must(t, os.RemoveAll(r.tree.Ready(state.RoleVerify, "agent")))
			plant(t, r.tree.Ready(state.RoleVerify, "agent"))
			within(t, func() { r.step(t, "swap") })
			r.gate(t, "b1", state.FindingHealthy, "")
			r.step(t, "commit")
			r.want(t, wentBack)
		})
	}
	t.Run("a whole tree", func(t *testing.T) {
		r := newRig(t)
		goBack(t, r)
		r.spool(t, "x1", "v3", 3, release3, nil)
		r.step(t, "swap")
		r.step(t, "swap") // the tree starts the unit again
		r.gate(t, "b1", state.FindingHealthy, "")
		r.step(t, "commit")
		r.want(t, wentBack)
	})
	t.Run("an entry takes no other request away", func(t *testing.T) {
		r := newRig(t)
		must(t, r.tree.SetRequest("agent", state.Request{Attempt: "op-1", Verb: state.VerbApply}))
		must(t, os.MkdirAll(r.tree.Ready(state.RoleVerify, "agent")+"/A 1", 0o770))
		r.step(t, "swap")
		r.step(t, "begin")
		if o := r.order(t); o.Attempt != "op-1" {
			t.Errorf("order %+v", o)
		}
	})
}

// TestDeepPlant has trees that no recursive removal could walk with so few open files.
func TestDeepPlant(t *testing.T) {
	testkit.Slow(t)
	r := newRigBelow(t, memory)
	ready := r.tree.Ready(state.RoleVerify, "agent")
	must(t, os.Mkdir(ready, 0o770))
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	defer func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) }()
	for _, name := range []string{"a1", ".a1", "a0"} {
		at, err := unix.Open(ready, unix.O_DIRECTORY, 0)
		must(t, err)
		for range 1500 {
			must(t, unix.Mkdirat(at, name, 0o700))
			next, err := unix.Openat(at, name, unix.O_DIRECTORY, 0)
			must(t, err)
			must(t, unix.Close(at))
			at = next
		}
		must(t, unix.Close(at))
	}
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 200, Max: old.Max}))
	must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a1", Origin: state.OriginOperator, Verb: state.VerbApply, Installed: "v1"}))
	within(t, func() { r.fails(t, "swap", state.ResultFailed, "manifest.json: no such file") })
	if left, err := os.ReadDir(ready); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	r.untouched(t)
}

// TestForgedManifest checks that the verifier cannot install a release of its own: its
// manifest must be the one that the fetcher handed on in this attempt.
func TestForgedManifest(t *testing.T) {
	testkit.Slow(t)
	handOn := func(attempt state.AttemptID, digest string) func(t *testing.T, r *rig) {
		return func(t *testing.T, r *rig) {
			must(t, r.tree.SetHandover("agent", state.Handover{Attempt: attempt, Manifest: digest}))
		}
	}
	path := func(r *rig) string { return r.tree.Dir(state.RoleFetch, "agent") + "/handover.json" }
	for name, c := range map[string]struct {
		fetched func(t *testing.T, r *rig)
		result  state.Result
		words   string
	}{
		"another manifest":   {handOn("a1", manifest.Digest([]byte("{}"))), state.ResultRefused, "the verifier handed on another one"},
		"of another attempt": {handOn("a0", "x"), state.ResultFailed, "has not recorded which one it handed on in attempt a1"},
		"nothing handed on":  {func(t *testing.T, r *rig) { must(t, os.Remove(path(r))) }, state.ResultFailed, "has not recorded"},
		"a link": {func(t *testing.T, r *rig) {
			must(t, os.Rename(path(r), r.at("elsewhere")))
			must(t, os.Symlink(r.at("elsewhere"), path(r)))
		}, state.ResultFailed, "it is a symbolic link"},
		"a FIFO": {func(t *testing.T, r *rig) {
			must(t, os.Remove(path(r)))
			must(t, fifo(path(r)))
		}, state.ResultFailed, "it is not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.offer(t, "a1", "v2", 2, release2)
			c.fetched(t, r)
			within(t, func() { r.fails(t, "swap", c.result, c.words) })
			r.ended(t, "a1", c.result, c.words)
			r.untouched(t)
			r.offer(t, "a2", "v2", 2, release2)
			r.step(t, "swap")
			r.want(t, newFiles)
		})
	}
}
