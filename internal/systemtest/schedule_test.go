//go:build systemd

package systemtest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// tick runs the unit that the timer starts. It returns when the fetcher has ended; the
// chain may still work on the bundle that it handed on.
func (c *chain) tick() {
	c.t.Helper()
	c.must("systemctl", "start", "machinemon-fetch@testd.service")
}

// says runs a command, which must exit with 0, and asserts a part of its output.
func (c *chain) says(want string, argv ...string) {
	c.t.Helper()
	if out := c.must(argv...); !strings.Contains(out, want) {
		c.t.Errorf("%q said %q, want %q", argv, out, want)
	}
}

// assertTold asserts result and reason of the last attempt.
func (c *chain) assertTold(result, reason string) {
	c.t.Helper()
	h := c.history()
	if len(h) == 0 || string(h[0].Result) != result || !strings.Contains(h[0].Reason, reason) {
		c.t.Errorf("the last attempt is not %s (%s): %+v", result, reason, h)
	}
}

// TestTimer shows that the timer checks by itself and, after the operator's enable, installs.
func TestTimer(t *testing.T) {
	t.Parallel()
	// The timer runs every two seconds instead of every hour.
	const fast = "[Timer]\nOnActiveSec=\nOnActiveSec=1s\nOnUnitInactiveSec=2s\nRandomizedDelaySec=0\n"
	c := newChain(t, testdUnit, testdTarget)
	c.must("systemctl", "start", "timers.target")
	if got := c.must("systemctl", "show", "machinemon-fetch@testd.timer", "--property=TimersMonotonic", "--property=RandomizedDelayUSec"); !strings.Contains(got, "OnUnitInactiveUSec=1h") || !strings.Contains(got, "RandomizedDelayUSec=6min") {
		t.Errorf("the timer is %s", got)
	}
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.writeFile("/etc/systemd/system/machinemon-fetch@testd.timer.d/fast.conf", fast, 0o644)
	since := c.cursor()
	c.must("systemctl", "daemon-reload")
	c.must("systemctl", "restart", "timers.target")
	c.await(since, func(e machine.Entry) bool { return strings.Contains(e["MESSAGE"], "available 1.1.0") })
	c.awaitTestd("1.0.0")

	since = c.cursor()
	c.says("testd: scheduled runs install what they find", "machinemon-update", "enable", "testd")
	c.awaitEvent(since, "machinemon-commit@testd.service started")
	c.awaitTestd("1.1.0")
	// Further runs find the release current and add nothing to the history.
	c.await(c.cursor(), func(e machine.Entry) bool { return strings.Contains(e["MESSAGE"], "already current") })
	if h := c.history(); h[len(h)-1].Result != "available" || len(h) > 4 {
		t.Errorf("history has %+v", h)
	}
}

func TestOperatorsWordIsLast(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.must("machinemon-update", "enable", "testd")
	if got := c.must("systemctl", "is-active", "machinemon-fetch@testd.timer"); got != "active\n" {
		t.Errorf("the timer is %s", got)
	}
	c.must("systemctl", "stop", "machinemon-fetch@testd.timer") // no more than the runs below

	// While the target is held, neither scheduled runs nor apply update it; checks go on.
	c.must("machinemon-update", "hold", "testd")
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.tick()
	c.assertTold("available", "")
	c.apply(8, "not attempted", "it is held since")
	c.says("held since", "machinemon-update", "status", "testd")
	c.must("machinemon-update", "unhold", "testd")

	// The release is skipped, and then not any more.
	c.says("1.1.0 is skipped", "machinemon-update", "skip", "testd")
	c.tick()
	c.assertTold("not attempted", "it was rejected on")
	c.must("machinemon-update", "unskip", "testd")
	c.apply(0, "committed 1.1.0")

	// After the operator's rollback, scheduled runs do not install the release again.
	if r := c.run("machinemon-update", "rollback", "testd"); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	c.tick()
	c.assertTold("not attempted", "rejected")
	c.awaitTestd("1.0.0")

	// If scheduled runs are disabled, they report the release and do not install it.
	c.must("machinemon-update", "disable", "testd")
	c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
	c.tick()
	c.assertTold("available", "")

	// Scheduled runs do not replace a file that was changed by hand; apply does.
	c.must("machinemon-update", "enable", "testd")
	c.writeFile(testdPath+".new", string(build(t, releases.Daemon{Version: "1.1.5"})), 0o755)
	c.must("mv", testdPath+".new", testdPath)
	c.must("systemctl", "restart", "testd.service")
	c.awaitTestd("1.1.5")
	c.tick()
	c.assertTold("available", "")
	c.awaitTestd("1.1.5")
	c.apply(0, "committed 1.2.0 (was 1.1.5)")
}

// TestScheduleRemembersFailure shows that scheduled runs do not fetch a failed release again.
func TestScheduleRemembersFailure(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.must("machinemon-update", "enable", "testd")
	archives := func() int { _, a := c.requests(); return len(a) }

	// This release fails its trial and is rejected.
	c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "exit1-at-once"})
	since := c.cursor()
	c.tick()
	c.awaitEvent(since, "machinemon-rollback@testd.service started")
	c.awaitTestd("1.0.0")
	for range 10 {
		c.tick()
	}
	if n := archives(); n != 1 {
		t.Errorf("%d requests for archives after ten further runs, want 1", n)
	}
	c.assertTold("not attempted", "rejected")
	c.must("systemctl", "reset-failed", "testd.service")

	// This release's archive is altered. Scheduled runs wait for the interval, but apply does
	// not. (A failed download would be tried again, because the boot is recent.)
	c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
	path := c.archive("1.2.0")
	altered, err := os.ReadFile(filepath.Join(c.dir, path))
	c.ok(err)
	altered[len(altered)/2]++
	c.server.Break(path, releases.Content(altered))
	before := archives()
	if r := c.run("systemctl", "start", "machinemon-fetch@testd.service"); r.Code == 0 {
		t.Error("a refused archive is no failed unit")
	}
	tick3 := func() { // more would reach the start limit of 20 a minute
		for range 3 {
			c.tick()
		}
	}
	tick3()
	c.assertTold("not attempted", "backing off until")
	if n := archives() - before; n != 1 {
		t.Errorf("%d requests for the altered archive, want 1", n)
	}
	// A change of the target file may have been the cure, once.
	c.must("touch", "--date=2001-01-01", testdTOML)
	c.run("systemctl", "start", "machinemon-fetch@testd.service")
	tick3()
	if n := archives() - before; n != 2 {
		t.Errorf("%d requests for the altered archive after the target file changed, want 2", n)
	}
	c.server.Mend(path)
	c.apply(0, "committed 1.2.0")
	if got := c.must("systemctl", "is-active", "machinemon-verify@testd.path", "machinemon-swap@testd.path"); slices.Contains(strings.Fields(got), "failed") {
		t.Errorf("the path units are %s", got)
	}
}
