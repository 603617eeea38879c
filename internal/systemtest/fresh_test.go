//go:build systemd

package systemtest

import (
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// active returns the machine's active units of the packages.
func (b *box) active() (units []string) {
	b.t.Helper()
	for line := range strings.Lines(b.must("systemctl", "list-units", "--state=active,activating", "--plain", "--no-legend", "--full", "machinemon-*")) {
		units = append(units, strings.Fields(line)[0])
	}
	slices.Sort(units)
	return units
}

// TestFreshInstall shows that a fresh installation only waits for work: before and after
// a boot none of its services runs, is enabled or installs a release. It then updates the
// target that a user names.
func TestFreshInstall(t *testing.T) {
	t.Parallel()
	b := bootBare(t)
	enabled := b.must("find", "/etc/systemd", "-type", "l")
	c := &chain{b, t.TempDir(), nil}
	since := c.cursor()
	c.install()
	c.ok(c.AwaitEvent(t.Context(), since, "timers.target started"))
	events, err := c.UnitEvents(t.Context(), since)
	c.ok(err)
	for _, e := range events {
		if strings.HasPrefix(e.Unit, "machinemon-") && strings.HasSuffix(e.Unit, ".service") {
			t.Errorf("the installation: %s", e)
		}
	}

	waiting := []string{ // of the shipped targets; target server has no source to check and gets no directives
		"machinemon-directive@agent.path", "machinemon-directive@scaleboxd.path",
		"machinemon-fetch@agent.timer", "machinemon-fetch@scaleboxd.timer",
		"machinemon-swap@agent.path", "machinemon-swap@scaleboxd.path", "machinemon-swap@server.path",
		"machinemon-verify@agent.path", "machinemon-verify@scaleboxd.path", "machinemon-verify@server.path",
	}
	idle := func(when string) {
		t.Helper()
		if got := c.active(); !slices.Equal(got, waiting) {
			t.Errorf("%s, active are %q, want %q", when, got, waiting)
		}
		if got := c.must("systemctl", "is-system-running"); got != "running\n" {
			t.Errorf("%s, the machine is %s", when, got)
		}
		if r := c.run("pgrep", "-af", "machinemon"); r.Code != 1 {
			t.Errorf("%s, there run\n%s", when, r.Stdout)
		}
		if got := c.must("find", "/etc/systemd", "-type", "l"); got != enabled {
			t.Errorf("%s, enabled are\n%s", when, got)
		}
		out := c.must("machinemon-update", "status", "--json")
		if strings.Count(out, `"target": `) != 3 || strings.Count(out, `"auto_update": false`) != 3 {
			t.Errorf("%s, status shows\n%s", when, out)
		}
	}
	idle("after the installation")
	c.reboot()
	idle("after a boot")

	c.installTestd("1.0.0", testdUnit)
	c.target(testdTarget)
	c.server = c.serve(c.dir)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.apply(0, "committed 1.1.0 (was 1.0.0)")
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.assertClosed("1.0.0")
}
