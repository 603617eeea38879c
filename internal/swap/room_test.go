package swap

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// large returns a release whose program has a MiB, and begins with the version.
func large(version string) map[string]string {
	return map[string]string{"agent": "agent " + version + strings.Repeat(" ", 1<<20), "agent.service": "unit 1"}
}

// newFullRig returns a machine with v3 installed and the release before it kept, whose disk for programs has
// room for half of another one. In the orders of the tests v1 is always what was installed.
func newFullRig(t *testing.T) *rig {
	r := newRigBelow(t, memory)
	must(t, unix.Mount("tmpfs", r.at("bin"), "tmpfs", 0, "mode=755,size=8m"))
	t.Cleanup(func() { must(t, unix.Unmount(r.at("bin"), unix.MNT_DETACH)) })
	r.put(t, "bin/agent", oldFiles["bin/agent"])
	r.installs(t, "a1", "v2", 2, large("2"))
	r.installs(t, "a2", "v3", 3, large("3"))
	free, err := state.Free(r.at("bin"))
	must(t, err)
	r.put(t, "bin/ballast", file{strings.Repeat("x", int(free-1<<19)), 0o600, 0})
	return r
}

func TestPreviousGivenUp(t *testing.T) {
	testkit.Slow(t)
	r := newFullRig(t)
	if p := r.status(t).Previous; p.Version != "v1" || p.File(r.at("bin/agent")).Size != int64(len(large("2")["agent"])) {
		t.Errorf("kept is %+v", p)
	}
	r.offer(t, "a3", "v4", 4, large("4"))
	r.step(t, "swap")
	if p := r.status(t).Previous; p != nil {
		t.Errorf("kept is %+v", p)
	}
	const says = "release v1, which was kept for a rollback by command, is given up: the new files need 1.1 MB on the disk of "
	if !strings.Contains(r.log.String(), says) {
		t.Errorf("the log lacks %q", says)
	}
	// The trial has its own backup.
	r.gate(t, "a3", state.FindingBad, "it is bad")
	r.step(t, "rollback")
	r.ended(t, "a3", state.ResultRolledBack)
	if got := r.last(t).Warning; !strings.HasPrefix(got, says) || !strings.HasSuffix(got, ", and 0.5 MB are free") {
		t.Errorf("the warning: %q", got)
	}
	r.holds(t, "bin/agent", large("3")["agent"])
	r.closed(t)
	if left := r.beside(t); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

// TestPreviousGivenUpForCopy: before a hook runs, the installed program is copied, which needs
// room on its disk, too.
func TestPreviousGivenUpForCopy(t *testing.T) {
	testkit.Slow(t)
	for hook, given := range map[string]bool{"": false, "[hooks]\npre_swap = ['/bin/true']\n": true} {
		r := newFullRig(t)
		must(t, os.Remove(r.at("bin/ballast")))
		free, err := state.Free(r.at("bin"))
		must(t, err)
		r.put(t, "bin/ballast", file{strings.Repeat("x", int(free-3<<19)), 0o600, 0}) // room for one copy and a half
		r.retarget(t, "[health]", hook+"[health]")
		r.offer(t, "a3", "v4", 4, large("4"))
		r.step(t, "swap")
		if p := r.status(t).Previous; (p == nil) != given {
			t.Errorf("with %q, kept is %+v", hook, p)
		}
	}
}

// TestPreviousKept: what the operator keeps stays, and so does what would not help.
func TestPreviousKept(t *testing.T) {
	testkit.Slow(t)
	for _, c := range []struct {
		name    string
		more    string
		program string
		says    string
	}{
		{"keep_previous", "keep_previous = true\n[health]", large("4")["agent"],
			", and 0.5 MB are free; release v1, which rollback.keep_previous keeps, has 1.0 MB (hint: df shows what is full)"},
		{"too large without it", "[health]", large("4")["agent"] + strings.Repeat(" ", 1<<20), "it needs 2097159 bytes, "},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newFullRig(t)
			r.retarget(t, "[health]", c.more)
			r.offer(t, "a3", "v4", 4, map[string]string{"agent": c.program, "agent.service": "unit 1"})
			r.fails(t, "swap", state.ResultFailed, c.says)
			if p := r.status(t).Previous; p == nil || p.Version != "v1" {
				t.Errorf("kept is %+v", p)
			}
			if w := r.last(t).Warning; w != "" {
				t.Errorf("it warns: %s", w)
			}
			r.holds(t, "bin/agent", large("3")["agent"])
			if left := r.beside(t); len(left) != 2 {
				t.Errorf("beside program and unit: %q", left)
			}
		})
	}
}

// TestPreviousGivenUpForDownload: what the fetcher lacked is made up when the next attempt
// begins, if the previous release is on its disk, large enough and not to be kept.
func TestPreviousGivenUpForDownload(t *testing.T) {
	testkit.Slow(t)
	for _, c := range []struct {
		name   string
		more   string
		beside bool // the state is on the disk of the programs
		lacks  int64
		gone   bool
	}{
		{"large enough", "", true, 1 << 19, true},
		{"too small", "", true, 1 << 21, false},
		{"there is space", "", true, -1 << 19, false},
		{"kept", "keep_previous = true\n", true, 1 << 19, false},
		{"on another disk", "", false, 1 << 19, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newFullRig(t)
			r.retarget(t, "[health]", c.more+"[health]")
			if c.beside {
				dir := r.tree.Dir(state.RoleFetch, "agent")
				must(t, os.RemoveAll(dir))
				must(t, os.Mkdir(r.at("bin/fetch"), 0o755))
				must(t, os.MkdirAll(dir, 0o755))
				must(t, unix.Mount(r.at("bin/fetch"), dir, "", unix.MS_BIND, ""))
				t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
			}
			free, err := state.Free(r.tree.Dir(state.RoleFetch, "agent"))
			must(t, err)
			must(t, r.tree.Update(state.RoleFetch, "agent", func(s *state.Status) {
				s.Record(state.Attempt{ID: "a9", Result: state.ResultFailed, Needs: free + c.lacks})
			}))
			r.step(t, "begin")
			if gone := r.status(t).Previous == nil; gone != c.gone {
				t.Errorf("given up: %v\n%s", gone, r.log)
			}
			if said := strings.Contains(r.log.String(), "is given up: the download needs "); said != c.gone {
				t.Errorf("the log: %s", r.log)
			}
			if left := len(r.beside(t)); left > 0 == c.gone {
				t.Errorf("%d backups", left)
			}
		})
	}
}

// TestOneDisk installs a program from a verified tree on the same disk, which has no room
// for both. The program is there twice, and its second copy is as good as the first.
func TestOneDisk(t *testing.T) {
	testkit.Slow(t)
	testkit.NeedRoot(t, "it mounts a small file system")
	disk, err := os.MkdirTemp(base, "disk-")
	must(t, err)
	must(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "mode=755,size=64m"))
	t.Cleanup(func() { must(t, unix.Unmount(disk, unix.MNT_DETACH)) })
	newRig := func(t *testing.T) *rig { // what the test's machine and daemon write is elsewhere
		r := newRigBelow(t, disk)
		for _, dir := range []string{"machine", "etc"} {
			must(t, unix.Mount("tmpfs", r.at(dir), "tmpfs", 0, "mode=755"))
			t.Cleanup(func() { must(t, unix.Unmount(r.at(dir), unix.MNT_DETACH)) })
		}
		r.put(t, "etc/config", oldFiles["etc/config"])
		must(t, r.sys.set("running", "agent 1"))
		must(t, r.sys.set("loaded", "unit 1"))
		return r
	}
	program := "agent 2" + strings.Repeat(" 2345678", 4<<20)
	t.Run("it fits once", func(t *testing.T) {
		r := newRig(t)
		r.offer(t, "a1", "v2", 2, map[string]string{"agent": program, "agent.service": "unit 1"})
		r.step(t, "swap")
		r.gate(t, "a1", state.FindingHealthy, "")
		r.step(t, "commit")
		r.holds(t, "bin/agent", program)
	})
	t.Run("it is installed twice", func(t *testing.T) {
		r := newRig(t)
		r.retarget(t, `from = "extra"`, `from = "agent"`)
		program := program[:12<<20]
		r.offer(t, "a1", "v2", 2, map[string]string{"agent": program, "agent.service": "unit 1"})
		r.step(t, "swap")
		r.holds(t, "bin/agent", program)
		r.holds(t, "bin/extra", program)
	})
	t.Run("it does not fit", func(t *testing.T) {
		r := newRig(t)
		r.put(t, "bin/ballast", file{strings.Repeat("x", 26<<20), 0o600, 0})
		r.offer(t, "a1", "v2", 2, map[string]string{"agent": program, "agent.service": "unit 1"})
		r.fails(t, "swap", state.ResultFailed, "it needs 8388608 bytes, ")
		r.closed(t)
	})
}
