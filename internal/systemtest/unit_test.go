//go:build systemd

package systemtest

import (
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestReleaseWithUnitFile: a release brings its unit file. Daemon and unit file change
// together, and are rolled back together.
func TestReleaseWithUnitFile(t *testing.T) {
	t.Parallel()
	const unitPath = "/etc/systemd/system/testd.service"
	second := strings.Replace(testdUnit, "Description=Test daemon", "Description=Second test daemon", 1)
	third := strings.Replace(testdUnit, "Description=Test daemon", "Description=Third test daemon", 1)
	c := newChain(t, testdUnit, strings.Replace(testdTarget, "[health]", "[[install]]\nfrom = \"testd.service\"\nto = \""+unitPath+"\"\n[health]", 1))
	assertUnit := func(content string) {
		t.Helper()
		if got := c.readFile(unitPath); got != content {
			t.Errorf("%s is\n%s\nwant\n%s", unitPath, got, content)
		}
		want := strings.TrimPrefix(strings.Split(content, "\n")[1], "Description=")
		if got := c.property("testd.service", "Description"); got != want || c.property("testd.service", "NeedDaemonReload") != "no" {
			t.Errorf("systemd has loaded %q, want %q", got, want)
		}
		if got := c.must("stat", "--format=%U:%G %a", unitPath); got != "root:root 644\n" {
			t.Errorf("the unit file is %s", got)
		}
	}
	publish := func(d releases.Daemon, unit string) {
		t.Helper()
		c.publishFiles(c.dir, d.Version, releases.File{Name: "testd", Content: build(t, d)}, releases.File{Name: "testd.service", Content: []byte(unit)})
	}
	assertUnit(testdUnit)

	good := releases.Daemon{Version: "1.1.0"}
	publish(good, second)
	c.apply(0, "committed 1.1.0 (was 1.0.0)")
	c.assertRuns(good)
	assertUnit(second)
	if got := c.list("/etc/systemd/system/.machinemon-update"); len(got) != 1 {
		t.Errorf("backups of the unit file: %q", got)
	}
	c.assertClosed("1.0.0")

	publish(releases.Daemon{Version: "1.2.0", Behaviour: "exit1-at-once"}, third)
	c.apply(4, "rolled back 1.2.0: ", "(1.1.0 runs again)")
	c.assertRuns(good)
	assertUnit(second)
	c.assertClosed("1.0.0")

	c.said(c.run("machinemon-update", "rollback", "testd"), 0, "committed 1.0.0")
	c.assertRuns(releases.Daemon{Version: "1.0.0"})
	assertUnit(testdUnit)
	c.assertClosed("")
}

// TestDependents: units that require testd stop with it, and only the chain starts them again.
func TestDependents(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	for _, name := range []string{"active", "idle"} {
		c.writeFile("/etc/systemd/system/"+name+".service",
			"[Unit]\nRequires=testd.service\nAfter=testd.service\n[Service]\nExecStart=/bin/sleep infinity\n", 0o644)
	}
	c.must("systemctl", "daemon-reload")
	c.must("systemctl", "start", "active.service")
	assertDependents := func() {
		t.Helper()
		if active, idle := c.property("active.service", "ActiveState"), c.property("idle.service", "ActiveState"); active != "active" || idle != "inactive" {
			t.Errorf("the dependents are %s and %s", active, idle)
		}
	}

	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	since := c.cursor()
	c.apply(0, "committed 1.1.0")
	c.assertOrder(since, "active.service stopped", "testd.service stopped", "testd.service started", "active.service started")
	assertDependents()

	c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "never-listen"})
	c.writeFile("/etc/machinemon-update/targets.d/testd.toml", strings.Replace(testdTarget, "timeout_seconds = 10", "timeout_seconds = 2", 1), 0o644)
	since = c.cursor()
	c.apply(4, "rolled back 1.2.0")
	c.assertOrder(since, "machinemon-rollback@testd.service starting", "active.service stopped", "testd.service started", "active.service started")
	assertDependents()
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.assertClosed("1.0.0")
}

// TestBrokenUnitIsCured shows that an update may repair a broken unit.
func TestBrokenUnitIsCured(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, restart, within, broken string }{
		{"crash loop", "Restart=always\nRestartSec=200ms", "1s", "activating"},
		{"start limit", "Restart=always", "10s", "failed"},
		{"no restart", "Restart=no", "1s", "failed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newChain(t, strings.NewReplacer("Restart=on-failure", test.restart, "[Unit]", "[Unit]\nStartLimitIntervalSec="+test.within).Replace(testdUnit), testdTarget)
			broken := string(build(t, releases.Daemon{Version: "1.0.0", Behaviour: "exit1-at-once"}))
			c.writeFile(testdPath, broken, 0o755)
			c.run("systemctl", "restart", "testd.service")
			c.awaitProperty("testd.service", "ActiveState", func(state string) bool { return state == test.broken })

			// A release that is no better is rolled back, and is not rejected.
			c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "exit0-at-once"})
			c.apply(4, "rolled back 1.1.0: ", "not rejected: the old version is not healthy either")
			c.awaitProperty("testd.service", "ActiveState", func(state string) bool { return state == test.broken })
			if s := c.status(); s.Trial != "" || len(s.Rejected) > 0 {
				t.Errorf("status shows %+v", s)
			}

			c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
			c.apply(0, "committed 1.2.0 (was 1.0.0)")
			c.assertRuns(releases.Daemon{Version: "1.2.0"})
			c.assertLast("swap", "committed", "1.0.0", "1.2.0")
			if s := c.status(); s.Trial != "" || s.Previous != "1.0.0" || !slices.Equal(c.side(), []string{digest(broken)}) {
				t.Errorf("status shows %+v, and kept is %q", s, c.side())
			}
		})
	}
}
