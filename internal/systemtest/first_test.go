//go:build systemd

package systemtest

import (
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestDryRunAndDoctor: doctor names what an operator forgot, each with its cure; a dry run
// tries a release up to the swap and leaves nothing behind.
func TestDryRunAndDoctor(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	old, good := releases.Daemon{Version: "1.0.0"}, releases.Daemon{Version: "2.0.0"}
	c.publish(c.dir, old)

	c.step("doctor: all is well", func() {
		c.must("systemctl", "start", "machinemon-fetch@testd.timer")
		r := c.doctor(0, "ok    configuration: ", "ok    files: "+testdPath, "ok    installed: 1.0.0", "ok    unit: testd.service is active (running) and runs "+testdPath,
			"ok    triggers: the source is asked next at ", "ok    daemon-reload: ", "ok    source: already current (1.0.0)", "ok    trust: unsigned",
			"ok    health: testd.service stands", "ok    probe: http http://"+testdAddress+"/healthz: ", "ok    disk: ", "ok    inotify: ")
		if strings.Contains(r, "  bad  ") {
			c.t.Errorf("something is bad:\n%s", r)
		}
		c.must("systemctl", "stop", "machinemon-fetch@testd.timer") // its check would come between
	})
	c.step("doctor: each mistake, with its cure", func() {
		c.writeTarget(strings.NewReplacer(testdAddress, "127.0.0.1:9299", "client-manifest.json", "manifest.json").Replace(testdTarget))
		c.writeFile("/etc/systemd/system/testd.service", testdUnit+"# An edit.\n", 0o644)
		c.doctor(1, "warn  daemon-reload: ", "(hint: sudo systemctl daemon-reload)", "bad   source: not downloaded: ", "404", "bad   probe: http http://127.0.0.1:9299/healthz: ", "it never passed here")
		c.must("systemctl", "daemon-reload")
		c.must("systemctl", "stop", "testd.service")
		c.doctor(1, "bad   unit: testd.service is stopped (hint: ", "systemctl start testd.service)", "bad   health: testd.service is not as it must be: ")
		c.writeTarget(testdTarget)
		c.must("systemctl", "start", "testd.service")
		c.must("systemctl", "daemon-reload")
		c.awaitTestd("1.0.0")
	})
	c.step("init", func() {
		c.must("rm", "/etc/machinemon-update/targets.d/testd.toml")
		c.must("machinemon-update", "init", "--write", "testd", "--manifest", "http://"+releasesAt+"/client-manifest.json")
		text := c.readFile("/etc/machinemon-update/targets.d/testd.toml")
		c.contains("the target file", text, "unit = \"testd.service\"", "to = \""+testdPath+"\"", "version_command = [\""+testdPath+"\", \"--version\"]", "tcp = \""+testdAddress+"\"")
		c.doctor(0, "ok    source: already current (1.0.0)", "ok    probe: tcp "+testdAddress)
		c.must("systemctl", "stop", "machinemon-fetch@testd.timer")
		c.target(testdTarget)
	})
	c.step("dry run", func() {
		c.publish(c.dir, good)
		before, pid := c.list("/usr/local/bin"), c.mainPID()
		r := c.run("machinemon-update", "apply", "--dry-run", "testd")
		c.said(r, 3, "testd: available 2.0.0: dry run: verified, and apply would replace "+testdPath+", restarting testd.service (installed: 1.0.0)")
		if c.mainPID() != pid {
			c.t.Error("the daemon was restarted")
		}
		c.assertRuns(old)
		c.assertClosed("")
		if got := c.list("/usr/local/bin"); !slices.Equal(got, before) {
			c.t.Errorf("left behind %q, before there was %q", got, before)
		}
		for _, role := range []string{"fetch", "verify"} {
			if left := c.list("/var/lib/machinemon-update/" + role + "/testd/ready"); len(left) > 0 {
				c.t.Errorf("%s left %q", role, left)
			}
		}
	})
	c.step("dry run of a release that is refused", func() {
		c.publish(c.dir, releases.Daemon{Version: "3.0.0", Behaviour: "version-lies"})
		c.said(c.run("machinemon-update", "apply", "--dry-run", "testd"), 6, "refused 3.0.0")
		c.assertRuns(old)
		c.assertClosed("", "machinemon-swap@testd.service")
	})
	c.step("apply after a dry run", func() {
		c.publish(c.dir, good)
		c.apply(0, "committed 2.0.0")
		c.assertRuns(good)
		c.said(c.run("machinemon-update", "apply", "--dry-run", "testd"), 0, "already current (2.0.0)")
	})
}

// doctor runs `machinemon-update doctor testd`, which must exit with this status and say all
// this.
func (c *chain) doctor(exit int, says ...string) string {
	c.t.Helper()
	r := c.run("machinemon-update", "doctor", "testd")
	if r.Code != exit {
		c.t.Errorf("exit status %d, want %d:\n%s%s", r.Code, exit, r.Stdout, r.Stderr)
	}
	for _, s := range says {
		if !strings.Contains(r.Stdout, s) {
			c.t.Errorf("does not say %q:\n%s", s, r.Stdout)
		}
	}
	return r.Stdout
}
