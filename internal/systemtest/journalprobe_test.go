//go:build systemd

package systemtest

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestJournalProbe: a probe waits for a line in the unit's journal. A release that works
// but does not log that line is rolled back.
func TestJournalProbe(t *testing.T) {
	t.Parallel()
	const probe = "[[health.probe]]\njournal = \"is at your service\"\n"
	c := newChain(t, testdUnit, strings.Replace(testdTarget, "timeout_seconds = 10", "timeout_seconds = 3", 1)+probe)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.apply(0, "committed 1.1.0 (was 1.0.0)")
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.assertClosed("1.0.0")
	c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "silent"})
	c.apply(4, `rolled back 1.2.0: journal "is at your service" did not pass within 3 s: no line since the start of the unit contains it`, "1.1.0 runs again")
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.assertClosed("1.0.0")
	c.assertRejected("1.2.0")
}

// before returns the probes' results before the last swap.
func (c *chain) before() (probes []struct {
	Probe, Detail   string
	Passed, Unknown bool
}) {
	c.t.Helper()
	var b struct {
		Probes []struct {
			Probe, Detail   string
			Passed, Unknown bool
		}
	}
	c.ok(json.Unmarshal([]byte(c.readFile("/run/machinemon-update/baseline/testd.json")), &b))
	return b.Probes
}

// TestJournalProbeRotatedAway: an old line may be gone with old files of the journal.
// Then the probe has no answer before the swap, which does not excuse a failure after it.
func TestJournalProbeRotatedAway(t *testing.T) {
	once(t)
	t.Parallel()
	const probe = "[[health.probe]]\njournal = \"is at your service\"\n"
	c := newChain(t, testdUnit, strings.Replace(testdTarget, "timeout_seconds = 10", "timeout_seconds = 3", 1)+probe)
	c.must("sh", "-c", "journalctl --rotate && sleep 1.1 && journalctl --vacuum-time=1s")
	c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "silent"})
	c.apply(4, "rolled back 1.1.0: journal")
	p := c.before()
	if len(p) != 2 || p[1].Passed || !p[1].Unknown || p[1].Detail != "the journal does not reach back to the start of the unit" {
		t.Errorf("before the swap: %+v", p)
	}
	c.assertRejected("1.1.0")
}

// TestJournalProbeCannotRead shows that an unreadable or missing journal is reported as such.
func TestJournalProbeCannotRead(t *testing.T) {
	once(t)
	t.Parallel()
	const probe = "[[health.probe]]\njournal = \"is at your service\"\n"
	c := newChain(t, testdUnit, testdTarget+probe)
	unreadable := func(version string) {
		c.t.Helper()
		c.publish(c.dir, releases.Daemon{Version: version})
		c.apply(0, "committed "+version)
		p := c.before()
		if len(p) != 2 || p[1].Passed || p[1].Unknown || !strings.HasPrefix(p[1].Detail, "cannot read the journal: ") {
			c.t.Errorf("before the swap: %+v", p)
		}
		c.t.Logf("%+v", p)
	}
	c.step("no group", func() {
		for _, u := range []string{"baseline", "health-gate"} {
			c.writeFile("/etc/systemd/system/machinemon-"+u+"@.service.d/group.conf", "[Service]\nSupplementaryGroups=\nSupplementaryGroups=machinemon-gate\n", 0o644)
		}
		c.must("systemctl", "daemon-reload")
		unreadable("1.1.0")
		c.must("rm", "-r", "/etc/systemd/system/machinemon-baseline@.service.d", "/etc/systemd/system/machinemon-health-gate@.service.d")
	})
	c.step("no storage", func() {
		c.writeFile("/etc/systemd/journald.conf.d/none.conf", "[Journal]\nStorage=none\n", 0o644)
		c.must("systemctl", "daemon-reload")
		c.must("systemctl", "restart", "systemd-journald.service")
		c.must("sh", "-c", "rm -rf /var/log/journal/* /run/log/journal/*")
		unreadable("1.2.0")
	})
}

// TestAgentThatCannotCheckIn: an agent whose check-ins fail runs on and looks healthy to
// systemd. Such a release is rolled back and rejected. A release that came while the
// server was down is also rolled back but never rejected, however often.
func TestAgentThatCannotCheckIn(t *testing.T) {
	once(t)
	t.Parallel()
	a := newAgent(t)
	a.writeFile("/etc/machinemon-update/targets.d/agent.toml", "auto_update_check_every_seconds = 3600\n[health]\ntimeout_seconds = 5\nsettle_seconds = 1\n", 0o644)
	a.configure(9001, "")
	server, dir := a.source(9001)
	a.installClient("1.0.0")
	a.release(dir, releases.Client{Version: "1.1.0"})
	a.asks(0, "committed 1.1.0 (was 1.0.0)", "apply", "agent")

	a.step("a release that does not check in", func() {
		a.release(dir, releases.Client{Version: "1.2.0", Behaviour: "wrong-password"})
		a.asks(4, `rolled back 1.2.0: journal "check-in successful" did not pass within 5 s: no line since the start of the unit contains it (hint: if machinemon-client.service needs longer to start, raise health.timeout_seconds) (1.1.0 runs again)`, "apply", "agent")
		a.runs("1.1.0")
		a.asks(8, "it was rejected", "apply", "agent")
	})
	a.step("the server is down", func() {
		a.release(dir, releases.Client{Version: "1.3.0"})
		for range 4 { // more often than an interrupted trial is tried again
			server.Break(checkInAt, accepts)
			since := a.cursor()
			a.must("systemctl", "restart", "machinemon-client.service")
			a.checksIn(since)
			server.Break(checkInAt, releases.Status(http.StatusServiceUnavailable))
			a.asks(4, `not rejected: the old version is not healthy either: journal "check-in successful"`, "apply", "agent")
			a.runs("1.1.0")
		}
		if failed := a.must("systemctl", "show", "--property=Result", "--value", "machinemon-client.service"); failed != "success\n" {
			a.t.Errorf("the agent's unit is %s", failed)
		}
		var all struct{ Targets []status }
		a.ok(json.Unmarshal([]byte(a.must("machinemon-update", "status", "--json", "agent")), &all))
		if rejected := all.Targets[0].Rejected; !slices.Equal(rejected, []string{"1.2.0"}) {
			a.t.Errorf("rejected: %q", rejected)
		}
	})
	a.step("scheduled runs let it be", func() {
		a.must("machinemon-update", "enable", "agent")
		a.must("systemctl", "stop", "machinemon-fetch@agent.timer")
		pid := a.property("machinemon-client.service", "MainPID")
		for range 3 {
			a.tick()
		}
		if now := a.property("machinemon-client.service", "MainPID"); now != pid {
			a.t.Errorf("the agent was restarted: %s, then %s", pid, now)
		}
		a.asks(0, "it failed before: backing off until", "history", "agent")
	})
	a.step("the server is up again", func() {
		server.Break(checkInAt, accepts)
		a.asks(0, "committed 1.3.0 (was 1.1.0)", "apply", "agent")
		a.runs("1.3.0")
	})
}
