package swap

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"crypto/sha256"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// childEnv makes the test binary a swapper that can be killed: "VERB DIR".
const childEnv = "MACHINEMON_TEST_SWAPPER"

func TestMain(m *testing.M) {
	if verb, dir, ok := strings.Cut(os.Getenv(childEnv), " "); ok {
		r := open(dir)
		r.sw.Log = io.Discard
		if err := r.do(verb); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(ExitStatus(err))
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// file is an installed file as it is on disk.
type file struct {
	content string
	mode    fs.FileMode
	gid     int
}

// The files of the releases of target agent. The daemon rewrites its
// configuration, which is a snapshot, when it starts.
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
	release2 = map[string]string{"agent": "agent 2", "extra": "extra 2", "agent.service": "unit 2"}
	release3 = map[string]string{"agent": "agent 3", "agent.service": "unit 1"}
)

// rig is a machine with the target agent on it, all of it below dir.
type rig struct {
	dir  string
	tree state.Tree
	sys  *machine
	sw   *Swapper
}

// newRig makes a machine on which release v1 is installed. It is not below
// /tmp, for a target may install nothing there.
func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: targets and what they install must belong to root")
	}
	dir, err := os.MkdirTemp("/opt", "machinemon-update-test-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	r := open(dir)
	r.makeRun(t)
	for _, d := range []string{"bin", "units", "etc", "targets", "admin", "releases", "machine",
		"var/fetch/agent", "var/verify/agent", "var/swap/agent"} {
		must(t, os.MkdirAll(r.at(d), 0o755))
	}
	r.configure(t, "")
	release := &state.Release{Version: "v1", Sequence: 1}
	for _, name := range slices.Sorted(maps.Keys(oldFiles)) {
		f := oldFiles[name]
		must(t, os.WriteFile(r.at(name), []byte(f.content), f.mode))
		must(t, os.Chmod(r.at(name), f.mode))
		must(t, os.Chown(r.at(name), 0, f.gid))
		if name != "etc/config" {
			release.Files = append(release.Files, state.File{To: r.at(name), SHA256: sum(f.content)})
		}
	}
	must(t, r.tree.SetStatus(state.Swap, "agent", state.Status{Installed: release}))
	r.sys.set("running", "agent 1")
	r.sys.set("loaded", "unit 1")
	return r
}

// open returns the machine below dir, in whatever state it is.
func open(dir string) *rig {
	r := &rig{dir: dir, tree: state.Tree{Var: filepath.Join(dir, "var"), Run: filepath.Join(dir, "run")}}
	r.sys = &machine{rig: r, pid: 4242, fails: map[string]error{}}
	r.sw = &Swapper{Tree: r.tree, Targets: target.Dirs{Vendor: r.at("targets"), Admin: r.at("admin")},
		Systemd: r.sys, Log: &strings.Builder{}}
	unitDirs = []string{"/etc/systemd/system", "/opt"}
	isUnit = func(path string) bool { return filepath.Dir(path) == r.at("units") }
	return r
}
