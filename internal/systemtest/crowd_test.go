//go:build systemd

package systemtest

import (
	"regexp"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestTenAppliesAtOnce shows that ten simultaneous calls of apply make one attempt and
// one restart.
func TestTenAppliesAtOnce(t *testing.T) {
	once(t)
	t.Parallel()
	c := newHeldChain(t, testdTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.hold(atRestart) // no apply may end before the last has begun
	since := c.cursor()
	ended := make(chan machine.Result)
	for range 10 {
		p := c.startApply()
		go func() {
			r, err := p.Wait(t.Context())
			if err != nil {
				t.Error(err)
			}
			ended <- r
		}()
	}
	for range 9 {
		c.said(<-ended, 8, "not attempted: ", "at work on it")
	}
	c.awaitHeld(since, atRestart)
	c.letGo(atRestart)
	c.said(<-ended, 0, "committed 1.1.0 (was 1.0.0)")

	events, err := c.UnitEvents(t.Context(), since)
	c.ok(err)
	count := map[string]int{}
	for _, e := range events {
		count[e.String()]++
	}
	for _, e := range append(inChain("fetch starting", "verify starting", "swap starting", "commit starting"), "testd.service started") {
		if count[e] != 1 {
			t.Errorf("%s: %d times", e, count[e])
		}
	}
	if h := c.history(); len(h) != 1 {
		t.Errorf("history has %+v", h)
	}
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.assertClosed("1.0.0")
}

// TestQuickUpdates shows that quick updates reach no start limit, even on a fast machine.
func TestQuickUpdates(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, strings.Replace(testdTarget, "settle_seconds = 1", "settle_seconds = 0", 1))
	for _, step := range []string{"verify", "baseline", "swap", "health-gate", "commit", "rollback"} { // as if all updates happened within a minute
		c.writeFile("/etc/systemd/system/machinemon-"+step+"@.service.d/slow.conf", "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=3\n", 0o644)
	}
	c.must("systemctl", "daemon-reload")
	versions := []string{"1.1.0", "1.0.0"} // linking a program takes longer than installing it
	for i := range 7 {
		c.publish(c.dir, releases.Daemon{Version: versions[i%2]})
		c.apply(0, "committed "+versions[i%2])
		c.must("systemctl", "reset-failed", "testd.service") // the daemon's own limit must not count
	}
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.assertClosed("1.0.0")
}

// TestDaemonsNotInstalled: targets are configured for daemons that the machine does not have.
func TestDaemonsNotInstalled(t *testing.T) {
	once(t)
	t.Parallel()
	m := boot(t)
	server := m.serve(t.TempDir())
	m.writeFile("/etc/machinemon-update/targets.d/ghost.toml", strings.NewReplacer("testd.service", "ghost.service", testdPath, "/usr/local/bin/ghost").Replace(testdTarget), 0o644)
	m.must("systemctl", "daemon-reload")
	for range 2 {
		m.must("systemctl", "start", "machinemon-update.service")
		if r := m.run("machinemon-update", "apply", "ghost"); r.Code != 8 || !strings.Contains(r.Stdout, "ghost: not attempted: ghost.service is not installed") {
			t.Errorf("apply: %+v", r)
		}
		m.powerOff()
		m.boot()
		if got := m.must("systemctl", "is-system-running"); got != "running\n" {
			t.Errorf("the machine is %s", got)
		}
	}
	if r := server.Requests(); len(r) > 0 {
		t.Errorf("the server was asked for %+v", r)
	}
}

// TestBrokenTargetBesideGoodOne shows that a broken target file affects that target and
// the exit status for all, but no other target, no boot and no daemon-reload.
func TestBrokenTargetBesideGoodOne(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	for name, content := range map[string]string{
		"a.toml": "unit = \"a.service\"\nsecret = \"hunter2\nsource\n", "zero.toml": "\x00\x00", "empty.toml": "", "b.toml": "unit = 7\n",
	} {
		c.writeFile("/etc/machinemon-update/targets.d/"+name, content, 0o644)
	}
	c.must("systemctl", "daemon-reload")
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	if r := c.run("systemctl", "start", "machinemon-update.service"); r.Code == 0 {
		t.Error("the umbrella does not tell of the broken targets")
	}
	if got := c.property("machinemon-update.service", "ExecMainStatus"); got != "2" {
		t.Errorf("the umbrella's exit status is %s", got)
	}
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.must("systemctl", "reset-failed")

	c.powerOff()
	c.bootAndServe()
	if got := c.must("systemctl", "is-system-running"); got != "running\n" {
		t.Errorf("the machine is %s", got)
	}
	if got := c.must("systemctl", "is-active", "machinemon-fetch@testd.timer"); got != "active\n" {
		t.Errorf("the timer is %s", got)
	}
	c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "exit1-at-once"})
	// The exit status of a rollback takes precedence.
	if r := c.run("machinemon-update", "apply"); r.Code != 4 || !strings.Contains(r.Stdout, "testd: rolled back 1.2.0") || strings.Contains(r.Stdout+r.Stderr, "hunter2") {
		t.Errorf("apply: %+v", r)
	}
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.assertClosed("1.0.0")
}

// said matches a program's lines in the command's JSON.
var said = regexp.MustCompile(`\s*"said": \[[^\]]*\],`)

// TestUmask shows that files made by root under a tight umask are usable and visible for
// all users that they are meant for.
func TestUmask(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	tight := func(exit int, command string) {
		t.Helper()
		if r := c.run("sh", "-c", "umask 077; "+command); r.Code != exit {
			t.Errorf("%s: %+v", command, r)
		}
		for _, argv := range [][]string{{"machinemon-update", "status", "--json", "testd"}, {"machinemon-update", "history", "--json", "testd"}} {
			want, got := c.run(argv...), c.run(asUser("nobody", "nogroup", argv...)...)
			want.Stdout = said.ReplaceAllString(want.Stdout, "") // root alone sees what the program said
			if got != want || got.Code != 0 || got.Stdout == "" {
				t.Errorf("after %s, %q: nobody sees %+v\nroot sees %+v", command, argv, got, want)
			}
		}
	}
	tight(0, "machinemon-update hold testd; machinemon-update unhold testd")
	tight(0, "machinemon-update enable testd")
	c.must("systemctl", "stop", "machinemon-fetch@testd.timer") // only the runs below may start
	tight(0, "machinemon-update apply testd")
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "exit1-at-once"})
	tight(4, "machinemon-update apply testd")
	tight(0, "machinemon-update rollback testd")
	c.publish(c.dir, releases.Daemon{Version: "1.3.0"})
	c.installs("1.3.0")
	tight(0, "machinemon-update disable testd; machinemon-update skip testd; machinemon-update unskip testd")
	c.assertClosed("1.0.0")
}

// TestTargetInOpt: the files of a target are in a directory of its own.
func TestTargetInOpt(t *testing.T) {
	once(t)
	t.Parallel()
	const path = "/opt/x/bin/testd"
	elsewhere := strings.NewReplacer(testdPath, path).Replace
	m := boot(t)
	m.writeFile(path, string(build(t, releases.Daemon{Version: "1.0.0"})), 0o755)
	m.writeFile("/etc/systemd/system/testd.service", elsewhere(testdUnit), 0o644)
	m.must("systemctl", "daemon-reload")
	m.must("systemctl", "enable", "--quiet", "--now", "testd.service")
	m.awaitTestd("1.0.0")
	m.target(elsewhere(testdTarget))
	dir := t.TempDir()
	c := &chain{m, dir, m.serve(dir)}
	runs := func(version string) {
		t.Helper()
		c.awaitTestd(version)
		if got := digest(c.readFile(path)); got != digest(string(build(t, releases.Daemon{Version: version}))) {
			t.Errorf("%s is not %s", path, version)
		}
	}
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.apply(0, "committed 1.1.0 (was 1.0.0)")
	runs("1.1.0")
	c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "exit1-at-once"})
	c.apply(4, "rolled back 1.2.0", "(1.1.0 runs again)")
	runs("1.1.0")
	c.said(c.run("machinemon-update", "rollback", "testd"), 0, "committed 1.0.0")
	runs("1.0.0")
	if got := c.list("/opt/x/bin"); len(got) != 1 || len(c.side()) > 0 {
		t.Errorf("left in /opt/x/bin: %q, in /usr/local/bin: %q", got, c.side())
	}
}
