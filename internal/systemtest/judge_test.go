//go:build systemd

package systemtest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// The tests of this file have units whose program is not what systemd calls the main
// process, or is in a directory that the gate's user may not enter. A good release is
// committed, and a bad one rolled back.

// plainTarget has no probe and no version_command: only the state of the unit speaks for
// a release.
const plainTarget = `unit = "testd.service"
[source]
url = "http://` + releasesAt + `/client-manifest.json"
[[install]]
from = "testd"
to = "` + testdPath + `"
[health]
timeout_seconds = 5
settle_seconds = 2
`

const listens = "[[health.probe]]\nhttp = \"http://" + testdAddress + "/healthz\"\n"

// judged returns a machine on which testd runs by this unit, for this target.
func judged(t *testing.T, unit, target string, more map[string]string) *chain {
	t.Helper()
	b := boot(t)
	for name, content := range more {
		b.writeFile(name, content, 0o755)
	}
	return b.chain(unit, target)
}

// updates runs a good and a bad release through the chain. alive asserts that the program
// of this version runs as it should.
func (c *chain) updates(bad string, alive func(version string)) {
	c.t.Helper()
	c.step("a good release", func() {
		c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
		c.apply(0, "committed 1.1.0")
		c.awaitTestd("1.1.0")
		alive("1.1.0")
	})
	c.step("a bad release", func() {
		c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: bad})
		c.apply(4, "rolled back 1.2.0", "1.1.0 runs again")
		c.awaitTestd("1.1.0")
		alive("1.1.0")
		if s := c.status(); len(s.Rejected) != 1 || s.Rejected[0] != "1.2.0" || s.Trial != "" {
			c.t.Errorf("status shows %+v", s)
		}
	})
	c.step("back", func() {
		c.said(c.run("machinemon-update", "rollback", "testd"), 0, "committed", "the operator went back from 1.1.0")
		c.awaitTestd("1.0.0")
	})
}

// TestProgramInAClosedDirectory: the gate's user may not enter the program's directory.
// An earlier gate failed: three scheduled runs restarted a healthy service six times.
func TestProgramInAClosedDirectory(t *testing.T) {
	t.Parallel()
	const path = "/opt/app/testd"
	b := boot(t)
	b.must("groupadd", "app")
	b.must("install", "-d", "-g", "app", "-m", "0750", "/opt/app")
	b.writeFile(path, string(build(t, releases.Daemon{Version: "1.0.0"})), 0o755)
	if r := b.run("runuser", "-u", "mm-gate-testd", "--", "stat", path); r.Code == 0 {
		t.Fatalf("the gate's user may enter: %+v", r)
	}
	c := b.chain(strings.ReplaceAll(testdUnit, testdPath, path), strings.ReplaceAll(plainTarget+listens, testdPath, path))
	c.updates("never-listen", func(string) {
		c.must("test", fmt.Sprintf("/proc/%s/exe", c.mainPID()), "-ef", path)
	})
}

// TestWrapperThatStays: a wrapper keeps running with the program as its child.
func TestWrapperThatStays(t *testing.T) {
	t.Parallel()
	const wrapper = "/usr/local/bin/run-testd"
	c := judged(t, strings.Replace(testdUnit, "ExecStart="+testdPath, "ExecStart="+wrapper, 1), testdTarget,
		map[string]string{wrapper: "#!/bin/sh\n" + testdPath + "\nexit $?\n"})
	c.updates("never-listen", func(string) {
		c.must("pgrep", "--parent", c.mainPID(), "--exact", "testd")
	})
}

// TestWrapperThatRestarts: a wrapper restarts the program and hides its crashes from systemd.
func TestWrapperThatRestarts(t *testing.T) {
	once(t)
	t.Parallel()
	const wrapper = "/usr/local/bin/run-testd"
	c := judged(t, strings.Replace(testdUnit, "ExecStart="+testdPath, "ExecStart="+wrapper, 1), strings.Replace(plainTarget, "settle_seconds = 2", "settle_seconds = 10", 1),
		map[string]string{wrapper: "#!/bin/sh\nwhile :; do\n\t" + testdPath + "\ndone\n"})
	c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "exit-after-3s"})
	c.apply(4, "rolled back 1.1.0: ", testdPath)
	c.assertRejected("1.1.0")
}

// TestForkingWithoutPIDFile: systemd does not know which process is the main one.
func TestForkingWithoutPIDFile(t *testing.T) {
	t.Parallel()
	c := judged(t, strings.Replace(testdUnit, "ExecStart="+testdPath, "Type=forking\nExecStart=/bin/sh -c '"+testdPath+" & /bin/sleep infinity & exit 0'", 1), testdTarget, nil)
	if pid := c.mainPID(); pid != "0" {
		t.Fatalf("the main process is %s", pid)
	}
	c.updates("never-listen", func(string) {
		if pid := c.mainPID(); pid != "0" {
			c.t.Errorf("the main process is %s", pid)
		}
		c.must("pgrep", "--exact", "testd")
	})
}

// TestOneshotThatRemains: the unit is up without a process, as one for docker compose is.
func TestOneshotThatRemains(t *testing.T) {
	t.Parallel()
	script := func(version, end string) []byte {
		return []byte("#!/bin/sh\nif [ \"$1\" = --version ]; then echo testd " + version + "; exit; fi\necho " + version + " >>/run/ups\n" + end)
	}
	b := boot(t)
	b.writeFile(testdPath, string(script("1.0.0", "")), 0o755)
	b.writeFile("/etc/systemd/system/testd.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart="+testdPath+"\n[Install]\nWantedBy=multi-user.target\n", 0o644)
	b.writeTarget(plainTarget + "version_command = [\"" + testdPath + "\", \"--version\"]\n")
	b.must("systemctl", "enable", "--quiet", "--now", "testd.service")
	b.must("systemctl", "start", "paths.target")
	b.stopShipped()
	dir := t.TempDir()
	c := &chain{b, dir, b.serve(dir)}
	ups := func(want string) {
		c.t.Helper()
		if got := strings.ReplaceAll(c.readFile("/run/ups"), "\n", " "); got != want {
			c.t.Errorf("it went up as %q, want %q", got, want)
		}
		if got := c.property("testd.service", "ActiveState") + " " + c.property("testd.service", "SubState"); got != "active exited" {
			c.t.Errorf("the unit is %s", got)
		}
	}
	c.step("a good release", func() {
		c.publishFiles(c.dir, "1.1.0", releases.File{Name: "testd", Content: script("1.1.0", "")})
		c.apply(0, "committed 1.1.0 (was 1.0.0)")
		ups("1.0.0 1.1.0 ")
	})
	c.step("a bad release", func() {
		c.publishFiles(c.dir, "1.2.0", releases.File{Name: "testd", Content: script("1.2.0", "exit 3\n")})
		c.apply(4, "rolled back 1.2.0: its main process exited with status 3", "1.1.0 runs again")
		ups("1.0.0 1.1.0 1.2.0 1.1.0 ")
		c.assertRejected("1.2.0")
	})
}

// TestInterpreter: another program runs the installed file, so no release could be
// judged. Nothing is replaced, restarted or downloaded repeatedly until the operator
// writes the line that the error names.
func TestInterpreter(t *testing.T) {
	t.Parallel()
	script := func(version string) []byte {
		return []byte("#!/bin/bash\n[ \"$1\" = --version ] && { echo testd " + version + "; exit; }\nwhile :; do sleep 1; done\n")
	}
	b := boot(t)
	b.writeFile(testdPath, string(script("1.0.0")), 0o755)
	b.writeFile("/etc/systemd/system/testd.service", testdUnit, 0o644)
	target := strings.Replace(plainTarget, "[source]", "auto_update_enabled = true\n[source]", 1) + "version_command = [\"" + testdPath + "\", \"--version\"]\n"
	b.writeTarget(target)
	b.must("systemctl", "enable", "--quiet", "--now", "testd.service")
	b.must("systemctl", "start", "paths.target")
	b.must("systemctl", "stop", "machinemon-fetch@testd.timer")
	b.stopShipped()
	dir := t.TempDir()
	c := &chain{b, dir, b.serve(dir)}
	c.publishFiles(c.dir, "1.1.0", releases.File{Name: "testd", Content: script("1.1.0")})
	before, since := c.readFile(testdPath), c.cursor()

	const hint = `(hint: install.to must be what the unit runs; where another program runs it, write main = "" below [health] in /etc/machinemon-update/targets.d/testd.toml)`
	c.apply(2, "misconfigured 1.1.0: cannot judge testd: no process of testd.service runs "+testdPath+"; its main process runs /usr/bin/bash "+hint)
	c.assertLast("swap", "misconfigured", "1.0.0", "1.1.0")
	archives := c.archives()
	for range 3 {
		c.tick()
	}
	if n := c.archives(); n != archives {
		t.Errorf("scheduled runs downloaded %d archives", n-archives)
	}
	if c.readFile(testdPath) != before {
		t.Errorf("%s was replaced", testdPath)
	}
	c.assertUntouched(since)
	c.assertClosed("", unitOf("swap"))

	c.step("with the line", func() {
		c.writeTarget(target + "main = \"\"\n")
		c.apply(0, "committed 1.1.0 (was 1.0.0)")
		if got := c.must(testdPath, "--version"); got != "testd 1.1.0\n" {
			c.t.Errorf("installed is %s", got)
		}
	})
}

// TestReplacedByHand shows that a file replaced by hand, without a restart, is no obstacle.
func TestReplacedByHand(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.writeFile(testdPath+".tmp", string(build(t, releases.Daemon{Version: "1.0.5"})), 0o755)
	c.must("mv", testdPath+".tmp", testdPath)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.apply(0, "committed 1.1.0 (was 1.0.5)")
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
}
