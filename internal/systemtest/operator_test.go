//go:build systemd

package systemtest

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestDetachedCommand shows that Ctrl-C ends the command, not the update, and that a
// second command does not disturb the update.
func TestDetachedCommand(t *testing.T) {
	t.Parallel()
	c := newHeldChain(t, testdTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.hold(atRestart)
	since := c.cursor()
	apply := c.startApply()
	c.awaitHeld(since, atRestart)
	c.ok(apply.Signal(syscall.SIGINT))
	r := c.wait(apply)
	if r.Code != 130 || !strings.Contains(r.Stderr, "testd: detached, the attempt goes on (hint: journalctl -f -u 'machinemon-*@testd.service'") {
		t.Errorf("%+v", r)
	}
	c.apply(8, "not attempted: an attempt is under way already (machinemon-swap@testd.service)")
	if s := c.status(); s.Trial != "1.1.0" {
		t.Errorf("status shows %+v", s)
	}
	c.letGo(atRestart)
	c.awaitEvent(since, inChain("commit started")[0])
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.assertClosed("1.0.0")
	if i := slices.IndexFunc(c.history(), func(a attempt) bool { return a.Result == "committed" && a.Version == "1.1.0" }); i < 0 {
		t.Errorf("history has %+v", c.history())
	}
}

// TestOperatorsRollback shows that the release that the operator left is not installed again.
func TestOperatorsRollback(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	rollback := func(exit int, says ...string) {
		t.Helper()
		c.said(c.run("machinemon-update", "rollback", "testd"), exit, says...)
	}
	since := c.cursor()
	rollback(8, "not attempted: cannot go back: no previous release of testd is kept")
	c.assertUntouched(since)

	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.apply(0, "committed 1.1.0 (was 1.0.0)")
	c.powerOff() // removes the update's files in /run
	c.bootAndServe()
	since = c.cursor()
	rollback(0, "committed 1.0.0: the operator went back from 1.1.0")
	c.assertOrder(since, inChain("swap starting", "baseline started", "testd started", "swap started", "health-gate started", "commit started")...)
	c.assertNever(since, inChain("fetch starting")[0])
	c.assertRuns(releases.Daemon{Version: "1.0.0"})
	c.assertLast("swap", "committed", "1.1.0", "1.0.0")
	c.assertClosed("")
	c.assertRejected("1.1.0")
	rollback(8, "no previous release")
	c.assertRuns(releases.Daemon{Version: "1.0.0"})

	c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
	c.apply(0, "committed 1.2.0 (was 1.0.0)")
	c.assertClosed("1.0.0")
}

// TestUnitLeftAlone shows that a stopped, masked or missing unit is not touched, and that
// no order of an earlier attempt is carried out instead.
func TestUnitLeftAlone(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.0.0"})
	c.apply(0, "already current")
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	before := len(c.server.Requests())
	since := c.cursor()
	for _, test := range []struct{ does, reason string }{
		{"systemctl stop testd.service", "testd.service is stopped (hint: sudo systemctl start testd.service)"},
		{"mv /etc/systemd/system/testd.service /usr/lib/systemd/system; systemctl mask testd.service", "testd.service is masked"},
		{"systemctl unmask testd.service; rm /usr/lib/systemd/system/testd.service; systemctl daemon-reload", "testd.service is not installed (hint: systemctl list-units --type=service lists what unit may be)"},
	} {
		c.must("sh", "-ec", test.does)
		c.apply(8, "not attempted: "+test.reason)
		c.must("systemctl", "start", "machinemon-update.service")
		if last := c.status().Last; last.Result != "not attempted" || last.Reason != test.reason {
			t.Errorf("the last attempt was %+v", last)
		}
	}
	c.assertOrder(since, inChain("fetch starting", "fetch skipped", "fetch starting", "fetch skipped")...)
	if r := c.server.Requests(); len(r) > before {
		t.Errorf("the server was asked for %+v", r[before:])
	}
	c.assertNever(since, "testd.service started")
	if got := digest(c.readFile(testdPath)); got != digest(string(build(t, releases.Daemon{Version: "1.0.0"}))) {
		t.Errorf("%s has changed", testdPath)
	}
	c.assertClosed("")
}

// TestUmbrella shows that `systemctl start machinemon-update.service` runs an update of each target.
func TestUmbrella(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	for _, test := range []struct {
		does    string
		release releases.Daemon
		exit    int
		result  string
		runs    string
	}{
		{"current", releases.Daemon{Version: "1.0.0"}, 0, "already current", "1.0.0"},
		{"commit", releases.Daemon{Version: "1.1.0"}, 0, "committed", "1.1.0"},
		{"roll back", releases.Daemon{Version: "1.2.0", Behaviour: "exit1-at-once"}, 1, "rolled back", "1.1.0"},
		{"rejected", releases.Daemon{Version: "1.2.0", Behaviour: "exit1-at-once"}, 0, "not attempted", "1.1.0"},
	} {
		c.publish(c.dir, test.release)
		since := c.cursor()
		if r := c.run("systemctl", "start", "machinemon-update.service"); r.Code != test.exit {
			t.Errorf("%s: systemctl start: %+v, want exit status %d", test.does, r, test.exit)
		}
		end := " started"
		if test.exit != 0 {
			end = " failed"
		}
		c.assertOrder(since, "machinemon-update.service starting", inChain("fetch starting")[0], "machinemon-update.service"+end)
		if last := c.status().Last; last.Result != test.result || last.Origin != "operator" {
			t.Errorf("%s: the last attempt was %+v", test.does, last)
		}
		c.assertRuns(releases.Daemon{Version: test.runs})
	}
	c.assertClosed("1.0.0")
}
