package swap

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// childEnv makes the test binary run as a swapper that can be killed: "VERB DIR".
const childEnv = "MACHINEMON_TEST_SWAPPER"

// base holds the machines of all tests. It is not below /tmp, where a target may not
// install. memory is a file system in RAM below base. It spares the disk the thousands of
// machines that are made for the kills and the attacks.
var base, memory string

func TestMain(m *testing.M) {
	verbOfUser()
	if verb, dir, ok := strings.Cut(os.Getenv(childEnv), " "); ok {
		useUnits(filepath.Dir(dir))
		r := open(dir)
		r.sw.Log = log.Plain(os.Stdout)
		if err := testkit.BeTraced(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := r.do(verb); err != nil {
			log.Plain(os.Stderr).Error(err)
			os.Exit(ExitStatus(err))
		}
		os.Exit(0)
	}
	flag.Parse()
	os.Exit(func() int {
		if os.Geteuid() == 0 {
			dir, err := os.MkdirTemp("/opt", "machinemon-update-test-")
			if err == nil {
				err = os.Chmod(dir, 0o755)
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			defer os.RemoveAll(dir)
			base, memory = dir, filepath.Join(dir, "memory")
			if err := os.Mkdir(memory, 0o755); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			// If the mount fails, the tests only take longer.
			if err := unix.Mount("tmpfs", memory, "tmpfs", 0, "mode=755"); err == nil {
				defer unix.Unmount(memory, unix.MNT_DETACH)
			}
			useUnits(base)
			useUnits(memory)
			if testing.Short() {
				base = memory
			}
		}
		return m.Run()
	}())
}

func useUnits(of string) { unitDirs = append(unitDirs, filepath.Join(of, "units")) }

// file is an installed file as it is on disk.
type file struct {
	content string
	mode    fs.FileMode
	gid     int
}

// These are the files of target agent before and after release v2. The daemon rewrites
// its configuration, which is in the snapshot, when it starts.
var (
	oldFiles = map[string]file{
		"bin/agent":           {"agent 1", 0o750, 12},
		"units/agent.service": {"unit 1", 0o644, 0},
		"etc/config":          {"config of agent 1", 0o640, 12},
	}
	newFiles = map[string]file{
		"bin/agent":           {"agent 2", 0o750, 12},
		"bin/extra":           {"extra 2", 0o755, 0},
		"units/agent.service": {"unit 2", 0o644, 0},
		"etc/config":          {"config of agent 2", 0o640, 12},
	}
	// These are the files after the operator went back: the old program does not rewrite
	// the configuration of a newer one.
	wentBack = map[string]file{
		"bin/agent":           oldFiles["bin/agent"],
		"units/agent.service": oldFiles["units/agent.service"],
		"etc/config":          newFiles["etc/config"],
	}
	release1 = map[string]string{"agent": "agent 1", "agent.service": "unit 1"}
	release2 = map[string]string{"agent": "agent 2", "extra": "extra 2", "agent.service": "unit 2"}
	release3 = map[string]string{"agent": "agent 3", "agent.service": "unit 1"}
	release4 = map[string]string{"agent": "agent 4", "agent.service": "unit 1"}
)

// rig is a machine with the target agent. All its files are below dir, except the unit
// files.
type rig struct {
	dir  string
	tree state.Tree
	sys  *machine
	sw   *Swapper
	log  *strings.Builder
}

var rigs atomic.Int32

// newRig returns a machine on which release v1 is installed and runs.
func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigBelow(t, base)
}

func newRigBelow(t *testing.T, base string) *rig {
	t.Helper()
	testkit.NeedRoot(t, "target files and what they install must belong to root")
	r := open(fmt.Sprintf("%s/%d", base, rigs.Add(1)))
	for _, d := range []string{"bin", "units", "etc", "targets", "admin", "releases", "machine",
		"var/fetch/agent", "var/verify/agent", "var/swap/agent"} {
		must(t, os.MkdirAll(r.at(d), 0o755))
	}
	r.makeRun(t)
	t.Cleanup(func() {
		must(t, os.RemoveAll(r.dir))
		must(t, os.RemoveAll(r.at("units")))
	})
	r.configure(t, "")
	release := &state.Release{Version: "v1", Sequence: 1}
	for _, name := range slices.Sorted(maps.Keys(oldFiles)) {
		r.put(t, name, oldFiles[name])
		if name != "etc/config" {
			release.Files = append(release.Files, state.File{To: r.at(name), SHA256: sum(oldFiles[name].content)})
		}
	}
	must(t, r.tree.SetStatus(state.RoleSwap, "agent", state.Status{Installed: release}))
	must(t, r.sys.set("running", "agent 1"))
	must(t, r.sys.set("loaded", "unit 1"))
	return r
}

// open returns the machine below dir, in the state in which it is.
func open(dir string) *rig {
	r := &rig{dir: dir, log: &strings.Builder{},
		tree: state.Tree{Var: filepath.Join(dir, "var"), Run: filepath.Join(dir, "run")}}
	r.sys = newMachine(r)
	r.sw = &Swapper{Tree: r.tree, Systemd: r.sys, Log: log.Plain(r.log),
		Targets: target.Dirs{Vendor: r.at("targets"), Admin: r.at("admin")}}
	return r
}

// at returns the path of a file of the machine.
func (r *rig) at(name string) string {
	if rest, ok := strings.CutPrefix(name, "units"); ok {
		return filepath.Join(filepath.Dir(r.dir), "units", filepath.Base(r.dir), rest)
	}
	return filepath.Join(r.dir, name)
}

func (r *rig) makeRun(t *testing.T) {
	t.Helper()
	for _, d := range []string{"request", "attempt", "gate/agent", "baseline", "lock"} {
		must(t, os.MkdirAll(filepath.Join(r.tree.Run, d), 0o755))
	}
}

// configure writes the target file and appends more to it.
func (r *rig) configure(t *testing.T, more string) {
	t.Helper()
	content := fmt.Sprintf(`unit = "agent.service"
auto_update_enabled = true
[source]
type = "file"
path = %q
[[install]]
from = "agent"
to = %q
[[install]]
from = "extra"
to = %q
optional = true
[[install]]
from = "agent.service"
to = %q
[rollback]
snapshot = [%q]
[health]
timeout_seconds = 30
settle_seconds = 5
`, r.at("releases"), r.at("bin/agent"), r.at("bin/extra"), r.at("units/agent.service"), r.at("etc/config"))
	if !strings.Contains(more, "main =") {
		content += "main = ''\n"
	}
	must(t, os.WriteFile(r.at("targets/agent.toml"), []byte(content+more), 0o644))
}

func (r *rig) put(t *testing.T, name string, f file) {
	t.Helper()
	must(t, os.WriteFile(r.at(name), []byte(f.content), 0o600))
	must(t, os.Chown(r.at(name), 0, f.gid))
	must(t, os.Chmod(r.at(name), f.mode))
}

// offer does the verifier's part: it puts a tree with the release into the spool, and
// root's order for it. The sum of the version stands for that of the archive.
func (r *rig) offer(t *testing.T, attempt state.AttemptID, version string, sequence int64, files map[string]string) {
	t.Helper()
	must(t, r.tree.SetOrder("agent", state.Order{Attempt: attempt, Origin: state.OriginOperator, Verb: state.VerbApply, Installed: "v1"}))
	must(t, look(r.tree, state.Baseline{Attempt: attempt, Standing: true}))
	r.spool(t, attempt, version, sequence, files, nil)
}

// spool leaves a verified tree, which change may damage before it is offered.
func (r *rig) spool(t *testing.T, attempt state.AttemptID, version string, sequence int64, files map[string]string, change func(entry string, m *manifest.Manifest)) {
	t.Helper()
	must(t, r.tree.HandOn(state.RoleVerify, "agent", attempt, func(b *state.Bundle) error {
		p := manifest.Platform{File: "agent.tar.gz", SHA256: sum(version), Size: 1, Contents: map[string]manifest.Content{}}
		receipt := state.Receipt{Attempt: attempt, Platform: manifest.Host()}
		for i, name := range slices.Sorted(maps.Keys(files)) {
			plain := fmt.Sprint(i)
			must(t, b.WriteFile(plain, []byte(files[name]), 0o640))
			receipt.Files = append(receipt.Files, state.ReceiptFile{Entry: name, Name: plain})
			p.Contents[name] = manifest.Content{SHA256: sum(files[name]), Size: int64(len(files[name]))}
		}
		must(t, b.Describe(nil, nil, receipt))
		m := &manifest.Manifest{Schema: 1, Product: "agent", Version: version, Sequence: sequence,
			Platforms: map[string]manifest.Platform{manifest.Host(): p}}
		if change != nil {
			change(filepath.Join(r.tree.Ready(state.RoleVerify, "agent"), "."+string(attempt)), m)
		}
		raw, err := m.Marshal()
		must(t, err)
		must(t, r.tree.SetHandover("agent", state.Handover{Attempt: attempt, Manifest: manifest.Digest(raw)}))
		return b.WriteFile(state.ManifestName, raw, 0o640)
	}))
}

// runs puts a real program on trial, starts it, and returns its process ID.
func (r *rig) runs(t *testing.T, program []byte) (pid int) {
	t.Helper()
	r.offer(t, "a1", "v2", 2, map[string]string{"agent": string(program), "agent.service": "unit 2"})
	r.step(t, "swap")
	daemon := exec.Command(r.at("bin/agent"), "100")
	must(t, daemon.Start())
	t.Cleanup(func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
	})
	return daemon.Process.Pid
}

// look leaves a baseline of the gate, as its unit does.
func look(tree state.Tree, b state.Baseline) error {
	var data bytes.Buffer
	return errors.Join(b.Write(&data), os.WriteFile(filepath.Join(tree.Gate("agent"), "baseline.json"), data.Bytes(), 0o644))
}

// report leaves a report of the gate, as its unit does.
func report(tree state.Tree, r state.Report) error {
	var data bytes.Buffer
	return errors.Join(r.Write(&data), os.WriteFile(filepath.Join(tree.Gate("agent"), "report.json"), data.Bytes(), 0o644))
}

// gate leaves the gate's report on the attempt.
func (r *rig) gate(t *testing.T, attempt state.AttemptID, f state.Finding, reason string) {
	t.Helper()
	must(t, report(r.tree, state.Report{Attempt: attempt, Finding: f, Reason: reason, MainPID: r.sys.pid}))
}

// reboot leaves what a power cut leaves: /run is empty, nothing runs, and systemd has
// loaded the unit file that is on disk.
func (r *rig) reboot(t *testing.T) {
	t.Helper()
	must(t, os.RemoveAll(r.tree.Run))
	r.makeRun(t)
	must(t, os.RemoveAll(r.at("machine")))
	must(t, os.Mkdir(r.at("machine"), 0o755))
	must(t, r.sys.Reload(t.Context()))
}

// do runs a step as the swapper's command line would.
func (r *rig) do(verb string) error {
	ctx := context.Background()
	switch verb {
	case "directive":
		return r.sw.Directive(ctx, "agent")
	case "begin":
		return r.sw.Begin(ctx, "agent")
	case "swap":
		return r.sw.Swap(ctx, "agent")
	case "commit":
		return r.sw.Commit(ctx, "agent")
	case "rollback":
		return r.sw.Rollback(ctx, "agent")
	case "recover":
		return r.sw.Recover(ctx)
	case "leave":
		return r.sw.Leave(ctx)
	}
	panic(verb)
}

// journal changes the journal of the open trial.
func (r *rig) journal(t *testing.T, change func(*state.Journal)) {
	t.Helper()
	j, err := r.tree.Journal("agent")
	must(t, err)
	change(j)
	must(t, r.tree.SetJournal(j))
}

// step runs a step that must succeed.
func (r *rig) step(t *testing.T, verb string) {
	t.Helper()
	if err := r.do(verb); err != nil {
		t.Fatalf("%s: %v\n%s", verb, err, r.log)
	}
}

// fails runs a step whose error must have the result want and contain all words.
func (r *rig) fails(t *testing.T, verb string, want state.Result, words ...string) {
	t.Helper()
	err := r.do(verb)
	if err == nil {
		t.Fatalf("%s succeeded, want %q", verb, want)
	}
	if got := resultOf(err); got != want {
		t.Errorf("%s: result %q, want %q: %v", verb, got, want, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: error %q lacks %q", verb, err, w)
		}
	}
}

func (r *rig) status(t *testing.T) state.Status {
	t.Helper()
	st, err := r.tree.Status(state.RoleSwap, "agent")
	must(t, err)
	return st
}

// last returns the newest attempt of the swapper's status.
func (r *rig) last(t *testing.T) state.Attempt {
	t.Helper()
	all := r.status(t).Attempts
	if len(all) == 0 {
		t.Fatalf("no attempt is recorded\n%s", r.log)
	}
	return all[len(all)-1]
}

// ended checks the record of the newest attempt.
func (r *rig) ended(t *testing.T, attempt state.AttemptID, want state.Result, words ...string) {
	t.Helper()
	a := r.last(t)
	if a.ID != attempt || a.Result != want {
		t.Errorf("recorded attempt %s: %s (%s), want %s: %s", a.ID, a.Result, a.Reason, attempt, want)
	}
	for _, w := range words {
		if !strings.Contains(a.Reason, w) {
			t.Errorf("recorded reason %q lacks %q", a.Reason, w)
		}
	}
}

// installed reads the files of the target's releases, and its configuration.
func (r *rig) installed(t *testing.T) map[string]file {
	t.Helper()
	all := map[string]file{}
	for _, name := range []string{"bin/agent", "bin/extra", "units/agent.service", "etc/config"} {
		info, err := os.Lstat(r.at(name))
		if os.IsNotExist(err) {
			continue
		}
		must(t, err)
		var content []byte
		if info.Mode().IsRegular() { // it might be a FIFO
			content, err = os.ReadFile(r.at(name))
			must(t, err)
		}
		all[name] = file{string(content), info.Mode(), int(info.Sys().(*syscall.Stat_t).Gid)}
	}
	return all
}

func (r *rig) want(t *testing.T, want map[string]file) {
	t.Helper()
	got := r.installed(t)
	for _, name := range []string{"bin/agent", "bin/extra", "units/agent.service", "etc/config"} {
		if got[name] != want[name] {
			t.Errorf("%s is %q %v group %d, want %q %v group %d", name, got[name].content, got[name].mode, got[name].gid,
				want[name].content, want[name].mode, want[name].gid)
		}
	}
}

// beside returns the files in the side directories, and the directories of releases to
// which no link leads.
func (r *rig) beside(t *testing.T) []string {
	t.Helper()
	all := r.unlinked(t)
	for _, d := range []string{"bin", "units", "etc", "opt", "opt/releases"} {
		dir := filepath.Join(r.at(d), sideName)
		entries, err := os.ReadDir(dir)
		if !os.IsNotExist(err) {
			must(t, err)
		}
		for _, e := range entries {
			all = append(all, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(all)
	return all
}

// closed checks what holds after every verdict: there is no trial and no deadline, the
// program runs the installed files, and the side directories hold only the previous
// release.
func (r *rig) closed(t *testing.T) {
	t.Helper()
	if open, err := r.tree.OpenTrials(); err != nil || len(open) > 0 {
		t.Errorf("open trials: %v, %v", open, err)
	}
	if r.sys.get("deadline") != "" {
		t.Error("the deadline is still armed")
	}
	now := r.installed(t)
	if got := r.sys.get("running"); got != now["bin/agent"].content && got != "" {
		t.Errorf("the unit runs %q, installed is %q", got, now["bin/agent"].content)
	}
	if got := r.sys.get("loaded"); got != now["units/agent.service"].content {
		t.Errorf("systemd has loaded %q, installed is %q", got, now["units/agent.service"].content)
	}
	st := r.status(t)
	var kept []string
	if st.Previous != nil {
		for _, f := range st.Previous.Files {
			if f.Backup == "" {
				continue
			}
			kept = append(kept, f.Backup)
			if got, err := (state.File{To: f.Backup, Tree: f.Tree}).Digest(); err != nil || got != f.SHA256 {
				t.Errorf("the backup of %s is damaged: %s, %v", f.To, got, err)
			}
		}
	}
	slices.Sort(kept)
	if got := r.beside(t); !slices.Equal(got, kept) {
		t.Errorf("beside the installed files are\n%q, want\n%q", got, kept)
	}
	if st.Installed != nil {
		for _, f := range st.Installed.Files {
			if !f.Same() {
				t.Errorf("%s is not as the status says", f.To)
			}
		}
	}
}

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

var (
	must   = testkit.Must
	within = testkit.Within
)
