//go:build systemd

package systemtest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

const (
	mountReadOnly = "mountpoint -q /usr/local/bin || { mount --bind /usr/local/bin /usr/local/bin && mount -o remount,bind,ro /usr/local/bin; }"
	unmount       = "umount --lazy /usr/local/bin" // testd may run from it
)

// TestUnwritableDestination shows that an unwritable destination only ends the attempt.
// Once it is writable, the same release installs.
func TestUnwritableDestination(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	const immutable = ": operation not permitted (hint: is the file immutable?"
	for i, test := range []struct{ name, obstruct, cure, stage, says string }{
		{"immutable directory", "chattr +i /usr/local/bin", "chattr -i /usr/local/bin", "swap", "cannot stage " + testdPath + ": .machinemon-update" + immutable},
		{"immutable file", "chattr +i " + testdPath, "chattr -i " + testdPath, "swap", "cannot back up " + testdPath + immutable},
		// The rename fails, as the directory beside the file now exists: the last step that changes nothing.
		{"rename", "chattr +i /usr/local/bin", "chattr -i /usr/local/bin", "rollback", "cannot install " + testdPath + immutable},
		{"read-only", mountReadOnly, unmount, "swap", "read-only file system (hint: "},
	} {
		c.step(test.name, func() {
			old, version := fmt.Sprintf("1.%d.0", i), fmt.Sprintf("1.%d.0", i+1)
			backup := fmt.Sprintf("1.%d.0", i-1)
			if i == 0 {
				backup = ""
			}
			c.publish(c.dir, releases.Daemon{Version: version})
			if r := c.run("sh", "-c", test.obstruct); r.Code != 0 {
				c.t.Skipf("this host's file system cannot do it: %s", r.Stderr)
			}
			c.t.Cleanup(func() { c.Machine.Start("sh", "-c", test.cure) }) // otherwise the disk could not be removed
			since, pid := c.cursor(), c.mainPID()
			c.apply(1, "failed "+version+": ", test.says)
			c.assertUntouched(since)
			if now := c.mainPID(); now != pid {
				c.t.Errorf("the main process was %s and is %s", pid, now)
			}
			c.assertRuns(releases.Daemon{Version: old})
			c.assertLast(test.stage, "failed", old, version)
			// A rollback that went well leaves no failed unit.
			failed := []string{"machinemon-swap@testd.service"}
			if test.stage == "rollback" {
				failed = nil
			}
			c.assertClosed(backup, failed...)

			c.must("sh", "-c", test.cure)
			c.apply(0, "committed "+version)
			c.assertRuns(releases.Daemon{Version: version})
			c.assertClosed(old)
		})
	}
}

// TestFailedRollback shows that a rollback that fails reports so, keeps the files that it
// needs, and is completed by the operator's settle once the obstacle is gone.
func TestFailedRollback(t *testing.T) {
	once(t)
	t.Parallel()
	const (
		license = "/etc/testd.license"
		trap    = "/etc/systemd/system/testd.service.d/trap.conf"
	)
	old := string(build(t, releases.Daemon{Version: "1.0.0"}))
	bad := releases.Daemon{Version: "1.1.0", Behaviour: "answer-500"}
	// The trap is a command that runs when the new release starts.
	spring := func(command string) string { return "[Service]\nExecStartPre=+/bin/sh -c '" + command + "'\n" }
	for _, test := range []struct {
		name     string
		trap     string
		cure     func(c *chain)
		says     string
		new, old string // the digests of the installed file and the backup meanwhile
	}{
		{"read-only destination", spring(mountReadOnly), func(c *chain) { c.must("sh", "-c", unmount) },
			"cannot restore " + testdPath + ": testd@", digest(string(build(t, bad))), digest(old)},
		{"damaged backup", spring("echo damaged | tee " + testdSide + "/*.old"), func(c *chain) { c.writeFile(testdPath, old, 0o755) },
			"is missing or damaged", digest(string(build(t, bad))), digest("damaged\n")},
		{"old version cannot run", spring("rm " + license), func(c *chain) { c.writeFile(license, "", 0o644) },
			"the old files are back, but testd.service does not run", digest(old), digest(old)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newChain(t, testdUnit, strings.Replace(testdTarget, "timeout_seconds = 10", "timeout_seconds = 2", 1))
			c.publish(c.dir, bad)
			c.writeFile(license, "", 0o644)
			c.writeFile(trap, test.trap, 0o644)
			c.must("systemctl", "daemon-reload")

			since := c.cursor()
			c.apply(5, "rollback failed 1.1.0: ", test.says, settleHint)
			c.assertOrder(since, inChain("swap starting", "testd started", "swap started", "health-gate failed", "rollback starting", "rollback failed")...)
			c.assertOpen(test.new, test.old)
			c.apply(5, "rollback failed: the rollback of 1.1.0 failed, and its trial waits for you", settleHint)
			c.assertOpen(test.new, test.old)

			c.ok(c.Root().Remove(trap[1:]))
			c.must("systemctl", "daemon-reload")
			test.cure(c)
			since = c.cursor()
			c.settle("back", 0, "settled 1.1.0")
			c.assertOrder(since, inChain("rollback starting", "testd started", "rollback started")...)
			c.apply(8, "not attempted 1.1.0", "rejected")
			c.assertRuns(releases.Daemon{Version: "1.0.0"})
			c.assertClosed("")

			c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
			c.apply(0, "committed 1.2.0 (was 1.0.0)")
			c.assertRuns(releases.Daemon{Version: "1.2.0"})
			c.assertClosed("1.0.0")
		})
	}
}

// assertOpen fails the test unless the trial of 1.1.0 is open, every user can see why,
// and both files exist with these digests.
func (c *chain) assertOpen(installed, backup string) {
	c.t.Helper()
	if _, err := c.Stat(testdJournal); err != nil {
		c.t.Errorf("the journal is not kept: %v", err)
	}
	if s := c.status(); s.Trial != "1.1.0" || s.Last.Result != "rollback failed" || s.Last.Reason == "" {
		c.t.Errorf("status shows %+v", s)
	}
	if got := digest(c.readFile(testdPath)); got != installed {
		c.t.Errorf("%s has sha256 %s, want %s", testdPath, got, installed)
	}
	for _, name := range c.list(testdSide) {
		if got := digest(c.readFile(testdSide + "/" + name)); strings.HasSuffix(name, ".old") && got == backup {
			return
		}
	}
	c.t.Errorf("the backup with sha256 %s is not in %q", backup, c.list(testdSide))
}

// TestCrashLoopIsCured: systemd restarts a daemon without end. An update at any moment
// cures it, because the next restart does not count against the new version.
func TestCrashLoopIsCured(t *testing.T) {
	t.Parallel()
	const path = "/etc/systemd/system/testd.service"
	unit := strings.Replace(testdUnit, "[Service]\n", "StartLimitIntervalSec=0\n[Service]\nRestartSec=20ms\n", 1)
	c := newChain(t, unit, testdTarget+"[[install]]\nfrom = \"testd.service\"\nto = \""+path+"\"\n")
	bad := string(build(t, releases.Daemon{Version: "1.0.0", Behaviour: "exit1-at-once"}))
	for n := range 5 {
		c.writeFile(testdPath, bad, 0o755)
		c.must("systemctl", "restart", "--no-block", "testd.service")
		c.awaitProperty("testd.service", "NRestarts", func(n string) bool { return len(n) > 1 })
		good := releases.Daemon{Version: fmt.Sprintf("1.1.%d", n)}
		c.publishFiles(c.dir, good.Version, releases.File{Name: "testd", Content: build(t, good)},
			releases.File{Name: "testd.service", Content: []byte(unit + fmt.Sprintf("# %d\n", n))})
		c.apply(0, "committed "+good.Version)
		c.assertRuns(good)
	}
}
