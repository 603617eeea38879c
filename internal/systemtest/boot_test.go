//go:build systemd

package systemtest

import (
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestNetworkComesLate: the network comes 90 s after the boot, after the first scheduled
// attempt has failed. The next attempt must not wait for an hour.
func TestNetworkComesLate(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.must("machinemon-update", "enable", "testd")
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	// The drop-in replaces the random delay, which begins one minute after the boot.
	c.writeFile("/etc/systemd/system/machinemon-fetch@testd.timer.d/test.conf",
		"[Timer]\nOnActiveSec=\nOnActiveSec=45s\nRandomizedDelaySec=0\n", 0o644)
	c.powerOff()
	booted := time.Now()
	c.boot() // without its server, which is all that the machine has of a network
	since := c.cursor()
	failed := func(e machine.Entry) bool { return strings.Contains(e["MESSAGE"], "not downloaded") }
	c.await(since, failed)
	if got := c.property("machinemon-fetch@testd.service", "SubState"); got != "auto-restart" {
		t.Errorf("the fetch unit is %s", got)
	}
	// A user need not wait for the next attempt.
	c.apply(7, "not downloaded", "connection refused")
	c.must("systemctl", "start", "--no-block", "machinemon-fetch@testd.service")
	c.await(since, failed)
	time.Sleep(time.Until(booted.Add(90 * time.Second)))
	c.server = c.serve(c.dir)
	c.awaitEvent(since, "machinemon-commit@testd.service started")
	c.awaitTestd("1.1.0")
	c.assertClosed("1.0.0")
	t.Logf("installed %.0f s after the boot", time.Since(booted).Seconds())
}

// TestOutlook shows what status says about the next scheduled run on a machine.
func TestOutlook(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.must("systemctl", "start", "timers.target")
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.must("systemctl", "start", "machinemon-fetch@testd.service")
	shows := func(want string, never ...string) {
		t.Helper()
		// Every user sees this.
		out := c.must("runuser", "-u", "nobody", "machinemon-update", "status", "testd")
		if !strings.Contains(out, want) {
			t.Errorf("status does not say %q:\n%s", want, out)
		}
		for _, n := range append(never, "daemon-reload") {
			if n != want && strings.Contains(out, n) {
				t.Errorf("status says %q:\n%s", n, out)
			}
		}
	}
	shows("scheduled runs only check")
	shows("next check: 20")
	c.must("machinemon-update", "enable", "testd")
	shows("next check: 20", "scheduled runs only check")
	c.must("systemctl", "stop", "testd.service")
	shows("testd.service is stopped")
	// Scheduled runs check nevertheless.
	c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
	c.must("systemctl", "start", "machinemon-fetch@testd.service")
	c.assertTold("available", "")
	c.must("systemctl", "start", "testd.service")

	c.writeFile("/etc/machinemon-update/targets.d/testd.toml.d/50-often.toml", "auto_update_check_every_seconds = 60\n", 0o644)
	shows("daemon-reload")
	c.must("systemctl", "daemon-reload")
	shows("next check: 20")
	if got := c.property("machinemon-fetch@testd.timer", "TimersMonotonic"); !strings.Contains(got, "OnUnitInactiveUSec=1min ") {
		t.Errorf("the timer is %s", got)
	}
}
