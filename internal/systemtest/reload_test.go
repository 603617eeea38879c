//go:build systemd

package systemtest

import (
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// reload makes systemd read its units twice and re-execute itself, which cuts all
// connections to it.
func (b *box) reload() {
	b.t.Helper()
	b.must("sh", "-ec", "systemctl daemon-reload; systemctl daemon-reexec; systemctl daemon-reload")
}

// TestReloadInEveryStage shows that reloads of systemd, as by an administrator or an
// upgrade of another package, harm a good release in no stage.
func TestReloadInEveryStage(t *testing.T) {
	t.Parallel()
	c := newHeldChain(t, strings.Replace(testdTarget, "settle_seconds = 1", "settle_seconds = 4", 1))
	good := releases.Daemon{Version: "1.1.0"}
	c.publishFiles(c.dir, "1.1.0", releases.File{Name: "testd", Content: build(t, good)},
		releases.File{Name: "bulk", Content: make([]byte, 128<<20)})
	came, goOn := c.breakUntil(c.archive("1.1.0"))
	c.hold(atPreflight)
	c.hold(atArming)
	c.hold(atRestart)

	since := c.cursor()
	apply := c.startApply()
	c.arrived(came)
	c.reload()
	close(goOn)
	c.awaitUnpacking()
	c.reload()
	for _, h := range []hold{atPreflight, atArming, atRestart} {
		c.awaitHeld(since, h)
		c.reload()
		c.letGo(h)
	}
	c.awaitTrial()
	c.hold(atClosing) // four seconds are left to do this
	c.reload()
	if got := c.property("machinemon-deadline@testd.timer", "ActiveState"); got != "active" {
		t.Errorf("the deadline's timer is %s", got)
	}
	c.awaitHeld(since, atClosing)
	c.reload()
	c.letGo(atClosing)

	c.said(c.wait(apply), 0, "committed 1.1.0 (was 1.0.0)")
	// A consumer starts when the spool entry exists. PID 1 may log the end of the
	// producer later, so the order of these two is not checked.
	c.assertOrder(since, inChain("fetch starting", "verify starting", "baseline starting",
		"swap starting", "testd started", "swap started", "health-gate started", "commit starting", "commit started")...)
	c.assertNever(since, inChain("rollback starting")[0])
	c.assertRuns(good)
	c.assertLast("swap", "committed", "1.0.0", "1.1.0")
	c.assertClosed("1.0.0")
}

func TestReloadInTheRollback(t *testing.T) {
	t.Parallel()
	c := newHeldChain(t, strings.Replace(testdTarget, "timeout_seconds = 10", "timeout_seconds = 3", 1))
	c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "never-listen"})
	since := c.cursor()
	apply := c.startApply()
	c.awaitEvent(since, inChain("swap started")[0])
	c.hold(atRestart) // three seconds are left to do this
	from := c.cursor()
	c.awaitHeld(from, atRestart)
	c.hold(atClosing)
	c.reload()
	c.reload()
	c.letGo(atRestart)
	c.awaitHeld(from, atClosing)
	c.reload()
	c.letGo(atClosing)

	c.said(c.wait(apply), 4, "rolled back 1.1.0: ", "(1.0.0 runs again)")
	c.assertOrder(since, inChain("health-gate failed", "rollback starting", "testd started", "rollback started")...)
	c.assertRuns(releases.Daemon{Version: "1.0.0"})
	c.assertLast("rollback", "rolled back", "1.0.0", "1.1.0")
	c.assertClosed("")
	c.assertRejected("1.1.0")
}

// TestDeadline shows that the deadline is set before any file is renamed, is longer than
// restart and gate may take, and ends a trial whose gate hangs.
func TestDeadline(t *testing.T) {
	t.Parallel()
	c := newHeldChain(t, longTrial)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.hold(atArming)
	c.hold(atRestart)
	const timer = "machinemon-deadline@testd.timer"

	since := c.cursor()
	apply := c.startApply()
	c.awaitHeld(since, atArming)
	if got, want := digest(c.readFile(testdPath)), digest(string(build(t, releases.Daemon{Version: "1.0.0"}))); got != want {
		t.Error("the new file is in place, and no deadline is armed")
	}
	c.letGo(atArming)
	c.awaitHeld(since, atRestart)
	// The sum is testd's TimeoutStopSec= of 90 s, health.timeout 10 s, which also bounds
	// its start, health.settle 50 s, and 90 s of slack.
	if got := c.property(timer, "ActiveState") + " " + c.property(timer, "TimersMonotonic"); !strings.HasPrefix(got, "active { OnActiveUSec=4min ;") {
		t.Errorf("the deadline's timer is %s", got)
	}
	c.letGo(atRestart)
	c.awaitTrial()
	c.must("systemctl", "kill", "--signal=STOP", "--kill-who=main", unitOf("health-gate"))
	c.must("systemctl", "start", "machinemon-deadline@testd.service") // as the timer would

	c.said(c.wait(apply), 4, "interrupted 1.1.0: the trial was interrupted", "(1.0.0 runs again)")
	c.assertOrder(since, inChain("deadline starting", "health-gate failed", "testd started", "deadline started")...)
	c.assertNever(since, inChain("commit starting")[0])
	c.assertRuns(releases.Daemon{Version: "1.0.0"})
	c.assertLast("rollback", "interrupted", "1.0.0", "1.1.0")
	c.assertClosed("")
}
