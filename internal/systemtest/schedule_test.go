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

// tick is one run of what the timer starts. It is over when the fetcher is;
// what it handed on goes on.
func (c *chain) tick() {
	c.t.Helper()
	c.must("systemctl", "start", "machinemon-fetch@testd.service")
}

// says runs a command that exits 0 and asserts a part of its output.
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

// The timer checks by itself and, once the operator says so, installs.
func TestTimer(t *testing.T) {
	t.Parallel()
	// As if an hour had passed, every two seconds.
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
	// The next one finds it current, however often it runs.
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

	// Held: neither the schedule nor a person updates it; checks go on.
	c.must("machinemon-update", "hold", "testd")
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.tick()
	c.assertTold("available", "")
	c.apply(8, "not attempted", "it is held since")
	c.says("held since", "machinemon-update", "status", "testd")
	c.must("machinemon-update", "unhold", "testd")

	// Skipped, and not any more.
	c.says("1.1.0 is skipped", "machinemon-update", "skip", "testd")
	c.tick()
	c.assertTold("not attempted", "it was rejected on")
	c.must("machinemon-update", "unskip", "testd")
	c.apply(0, "committed 1.1.0")

	// Gone back from by the operator: the schedule does not bring it again.
	if r := c.run("machinemon-update", "rollback", "testd"); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	c.tick()
	c.assertTold("not attempted", "rejected")
	c.awaitTestd("1.0.0")

	// Disabled: told, not installed.
	c.must("machinemon-update", "disable", "testd")
	c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
	c.tick()
	c.assertTold("available", "")

	// Changed by hand: not reverted silently, but by a person's word.
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

// A release that failed is not fetched again by the schedule.
func TestScheduleRemembersFailure(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.must("machinemon-update", "enable", "testd")
	archives := func() int { _, a := c.requests(); return len(a) }

	// Its trial failed: rejected.
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

	// Its archive is another one: left alone for the interval, but not when a
	// person asks. (A failed download would be tried again so soon after a boot.)
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
	for range 5 { // more would meet the start limit of 20 a minute
		c.tick()
	}
	c.assertTold("not attempted", "backing off until")
	if n := archives() - before; n != 1 {
		t.Errorf("%d requests for the altered archive, want 1", n)
	}
	c.server.Mend(path)
	c.apply(0, "committed 1.2.0")
	if got := c.must("systemctl", "is-active", "machinemon-verify@testd.path", "machinemon-swap@testd.path"); slices.Contains(strings.Fields(got), "failed") {
		t.Errorf("the path units are %s", got)
	}
}
