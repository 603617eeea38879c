//go:build systemd

package systemtest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// bootReleased returns a fresh machine that has the packages of the earlier release.
func bootReleased(t *testing.T) *box {
	t.Helper()
	if *from == "" {
		t.Skip("there is no release to upgrade from (hint: make check-update, which gives one with -from)")
	}
	return bootBy(t, lab.NewReleased)
}

// versions returns the versions and states of our installed packages.
func (b *box) versions() []string {
	b.t.Helper()
	// It exits with 1 if the earlier release had no package of one of the names.
	return strings.Fields(b.run("dpkg-query", "--show", "--showformat=${Package}=${Version}=${db:Status-Status}\n", "machinemon-*", "scalebox-update").Stdout)
}

// operators returns the operator's files with their content, without unchanged files of
// the new package.
func (b *box) operators() string {
	b.t.Helper()
	return b.must("sh", "-ec", `
		find /etc/machinemon-update /etc/needrestart /etc/systemd/system -type f ! -name "checkin-*.toml" -exec sha256sum {} + | sort -k2
		find /etc/machinemon-update /etc/needrestart /etc/systemd/system ! -name "checkin-*.toml" -printf '%p %M %u %l\n' | sort`)
}

// TestUpgradeFromRelease shows that an upgrade from the last release keeps targets,
// history, rejected and held releases, and every file that the operator wrote.
func TestUpgradeFromRelease(t *testing.T) {
	t.Parallel()
	b := bootReleased(t)
	b.installTestd("1.0.0", testdUnit)
	for name, content := range map[string]string{
		"/etc/machinemon-update/targets.d/testd.toml.d/50-operator.toml": "auto_update_check_every_seconds = 7200\n",
		"/etc/machinemon-update/targets.d/agent.toml":                    "[source]\nurl = \"https://releases.example.com/client-manifest.json\"\n",
		// No scheduled run may start meanwhile.
		"/etc/systemd/system/machinemon-fetch@.timer.d/10-operator.conf": "[Timer]\nOnActiveSec=\nOnActiveSec=1h\n",
	} {
		b.writeFile(name, content, 0o644)
	}
	const conffile = "/etc/needrestart/conf.d/machinemon-update.conf"
	b.writeFile(conffile, b.readFile(conffile)+"# changed by the operator\n", 0o644)
	b.target(testdTarget)
	dir := t.TempDir()
	c := &chain{b, dir, b.serve(dir)}
	c.must("machinemon-update", "enable", "testd")
	c.must("machinemon-update", "hold", "server")

	// The publisher may be upgraded later or earlier than the machines.
	c.publishAsReleased(releases.Daemon{Version: "1.1.0"})
	c.apply(0, "committed 1.1.0 (was 1.0.0)")
	c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "exit1-at-once"})
	c.apply(4, "rolled back 1.2.0")
	c.must("systemctl", "reset-failed")

	released, files, history, active := c.versions(), c.operators(), c.history(), c.active()
	since := c.cursor()
	c.ok(c.Upgrade(t.Context(), packages(t)...))
	t.Logf("upgraded %q to %q", released, c.versions())
	if both := without(released, without(released, c.versions())); len(both) > 0 {
		t.Errorf("not upgraded: %q", both)
	}
	c.assertUntouched(since)
	if got := c.operators(); got != files {
		t.Errorf("the operator's files were\n%s\nand are\n%s", files, got)
	}
	if got := c.history(); !slices.Equal(got, history) || len(got) != 2 {
		t.Errorf("history was\n%+v\nand is\n%+v", history, got)
	}
	if gone := without(active, c.active()); len(gone) > 0 {
		t.Errorf("not active any more: %q", gone)
	}
	if got := c.must("systemctl", "is-system-running"); got != "running\n" {
		t.Errorf("the machine is %s", got)
	}
	if got := c.property("machinemon-fetch@testd.timer", "TimersMonotonic"); !strings.Contains(got, "OnActiveUSec=1h") || !strings.Contains(got, "OnUnitInactiveUSec=2h") {
		t.Errorf("the timer is %s", got)
	}
	c.says("held since", "machinemon-update", "status", "server")
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.assertClosed("1.0.0")
	c.assertRejected("1.2.0")

	c.said(c.run("machinemon-update", "rollback", "testd"), 0, "committed 1.0.0: the operator went back from 1.1.0")
	c.assertRuns(releases.Daemon{Version: "1.0.0"})

	// Scheduled runs may still install.
	c.publish(c.dir, releases.Daemon{Version: "1.3.0"})
	since = c.cursor()
	c.tick()
	c.awaitEvent(since, "machinemon-commit@testd.service started")
	c.assertRuns(releases.Daemon{Version: "1.3.0"})
	c.assertClosed("1.0.0")
}

// publishAsReleased is publish with the machinemon-release of the earlier release.
func (c *chain) publishAsReleased(d releases.Daemon) {
	c.t.Helper()
	program := filepath.Join(c.t.TempDir(), "machinemon-release")
	c.ok(os.WriteFile(program, []byte(c.readFile("/usr/bin/machinemon-release")), 0o755))
	archive := filepath.Join(c.t.TempDir(), "testd-linux-amd64.tar.gz")
	c.ok(releases.Pack(archive, releases.File{Name: "testd", Content: build(c.t, d)}))
	c.ok(releases.Publish(c.t.Context(), program, c.dir, d.Version, archive))
}
