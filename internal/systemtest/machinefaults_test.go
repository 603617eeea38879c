//go:build systemd

package systemtest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestMachineFaults takes from the chain, in each stage, what only a booted machine can take
// from it: the D-Bus daemon, and the time in which a worker must end.
//
//	make faults
func TestMachineFaults(t *testing.T) {
	if !testkit.ManyFaults() {
		t.Skip("takes minutes; run make faults")
	}
	t.Parallel()
	c := newHeldChain(t, strings.Replace(testdTarget, "settle_seconds = 1", "settle_seconds = 3", 1))
	c.step("the bus restarts in each stage", c.busRestarts)
	c.step("the bus is away during the trial", c.busAway)
	c.step("workers stop past their limits", c.pastLimits)
}

// big adds a release whose archive takes a while to unpack.
func (c *chain) big(version string) {
	c.t.Helper()
	c.publishFiles(c.dir, version, releases.File{Name: "testd", Content: build(c.t, releases.Daemon{Version: version})},
		releases.File{Name: "bulk", Content: make([]byte, 128<<20)})
}

func (c *chain) busRestarts() {
	bus := func() {
		c.t.Helper()
		c.must("systemctl", "reset-failed", "dbus.service") // its limit of starts
		c.must("systemctl", "restart", "dbus.service")
	}
	c.big("1.1.0")
	came, goOn := c.breakUntil(c.archive("1.1.0"))
	for _, h := range []hold{atPreflight, atArming, atRestart} {
		c.hold(h)
	}
	since := c.cursor()
	apply := c.startApply()
	c.arrived(came)
	bus()
	close(goOn)
	c.awaitUnpacking()
	bus()
	for _, h := range []hold{atPreflight, atArming, atRestart} {
		c.awaitHeld(since, h)
		bus()
		c.letGo(h)
	}
	c.awaitTrial()
	bus()
	c.said(c.wait(apply), 0, "committed 1.1.0 (was 1.0.0)")
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.must("systemctl", "reset-failed") // logind does not survive this
	c.assertClosed("1.0.0")
}

// busAway: the gate, which is no root, can ask systemd only by the bus. It waits for the
// bus until the trial's deadline.
func (c *chain) busAway() {
	c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
	c.hold(atRestart)
	since := c.cursor()
	apply := c.startApply()
	c.awaitHeld(since, atRestart)
	c.must("systemctl", "stop", "dbus.socket", "dbus.service")
	c.letGo(atRestart)
	begin := time.Now()
	c.awaitEvent(since, inChain("health-gate starting")[0])
	ctx, cancel := context.WithTimeout(c.t.Context(), 6*time.Minute)
	defer cancel()
	r, err := apply.Wait(ctx)
	c.ok(err)
	c.t.Logf("without the bus the trial took %s and ended with %d: %s", time.Since(begin).Round(time.Second), r.Code, r.Stdout)
	c.must("systemctl", "start", "dbus.socket")
	if r.Code != 4 {
		c.t.Errorf("the exit status is %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	if s := c.status(); len(s.Rejected) > 0 {
		c.t.Errorf("rejected without a proof: %q", s.Rejected)
	}
	c.must("systemctl", "reset-failed")
	c.apply(0, "committed 1.2.0 (was 1.1.0)")
	c.assertClosed("1.1.0")
}

func (c *chain) pastLimits() {
	for _, step := range []string{"fetch", "verify", "swap"} {
		c.writeFile("/etc/systemd/system/machinemon-"+step+"@.service.d/limit.conf", "[Service]\nTimeoutStartSec=4s\n", 0o644)
	}
	c.must("systemctl", "daemon-reload")
	stop := func(step string) {
		c.t.Helper()
		c.must("systemctl", "kill", "--signal=STOP", "--kill-who=main", unitOf(step))
	}
	c.big("1.3.0")
	for _, row := range []struct {
		step  string
		await func(since machine.Cursor) (letGo func())
		exit  int
		says  string
	}{
		{"fetch", func(machine.Cursor) func() {
			came, goOn := c.breakUntil(c.archive("1.3.0"))
			c.arrived(came)
			return func() { close(goOn); c.server.Mend(c.archive("1.3.0")) }
		}, 1, "failed: machinemon-fetch@testd.service failed (timeout)"},
		{"verify", func(machine.Cursor) func() { c.awaitUnpacking(); return func() {} }, 1, "failed: machinemon-verify@testd.service failed (timeout)"},
		{"swap", func(since machine.Cursor) func() {
			c.awaitHeld(since, atPreflight)
			return func() { c.letGo(atPreflight) }
		}, 1, "failed: machinemon-swap@testd.service failed (timeout)"},
		{"swap", func(since machine.Cursor) func() {
			c.awaitHeld(since, atRestart)
			return func() { c.letGo(atRestart) }
		}, 4, "interrupted 1.3.0: the trial was interrupted"},
	} {
		if row.step == "swap" && row.exit == 1 {
			c.hold(atPreflight)
		} else if row.step == "swap" {
			c.hold(atRestart)
		}
		since := c.cursor()
		apply := c.startApply()
		letGo := row.await(since)
		stop(row.step)
		if row.exit == 4 { // the rollback restarts testd, too
			c.awaitEvent(since, inChain("swap failed")[0])
			letGo()
		}
		c.said(c.wait(apply), row.exit, row.says)
		if row.exit != 4 {
			letGo()
		}
		c.assertRuns(releases.Daemon{Version: "1.2.0"})
		c.must("systemctl", "reset-failed")
	}
	c.must("rm", "-r", "/etc/systemd/system/machinemon-fetch@.service.d", "/etc/systemd/system/machinemon-verify@.service.d", "/etc/systemd/system/machinemon-swap@.service.d")
	c.must("systemctl", "daemon-reload")
	c.apply(0, "committed 1.3.0 (was 1.2.0)")
	c.assertClosed("1.2.0")
}
