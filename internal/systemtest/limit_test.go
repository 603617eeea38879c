//go:build systemd

package systemtest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// withLimit returns a target file with another health.timeout_seconds.
func withLimit(target, seconds string) string {
	return strings.Replace(target, "timeout_seconds = 10", "timeout_seconds = "+seconds, 1)
}

// TestStartHasALimit: a start that takes longer than health.timeout_seconds fails the trial.
// The old version runs again a moment later, and the release is rejected.
func TestStartHasALimit(t *testing.T) {
	t.Parallel()
	const limit, back = 10 * time.Second, 6 * time.Second // back is the time that the rollback may take here
	notify := strings.Replace(testdUnit, "[Service]\n", "[Service]\nType=notify\n", 1)
	hangs := "[Service]\nExecStartPre=/bin/sleep infinity\n"
	for _, test := range []struct {
		name, old, new string
		behaviour      string
		says           string
	}{
		{"ExecStartPre= hangs", testdUnit, strings.Replace(testdUnit, "[Service]\n", hangs, 1), "", "start-pre"},
		{"it is never ready", notify, "", "never-listen", "(start)"},
		{"it is never ready, and systemd would wait for ever",
			strings.Replace(notify, "[Service]\n", "[Service]\nTimeoutStartSec=infinity\n", 1), "", "never-listen", "(start)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			target := testdTarget
			d := releases.Daemon{Version: "1.1.0", Behaviour: test.behaviour}
			if test.new != "" {
				target = withUnit
			}
			c := newChain(t, test.old, target)
			if test.new != "" {
				c.publishWithUnit(d, test.new)
			} else {
				c.publish(c.dir, d)
			}
			p, err := c.Probe(testdAddress, "/healthz", 20*time.Millisecond)
			c.ok(err)
			c.apply(4, "rolled back 1.1.0: not healthy in time: ", test.says, "(1.0.0 runs again)")
			out := p.Stop()
			t.Logf("%+v", out)
			if out.Longest < limit || out.Longest > limit+back {
				t.Errorf("no service for %s with a limit of %s", out.Longest, limit)
			}
			if got := c.must("systemctl", "list-jobs", "--no-legend", "testd.service"); got != "" {
				t.Errorf("a job is left: %s", got)
			}
			c.assertRuns(releases.Daemon{Version: "1.0.0"})
			c.assertRejected("1.1.0")
			c.assertClosed("")
		})
	}
}

// TestSlowStopIsNotHeldAgainst shows that the limit covers the new version's start only: the
// time that the old version takes to stop does not count.
func TestSlowStopIsNotHeldAgainst(t *testing.T) {
	t.Parallel()
	unit := strings.Replace(testdUnit, "[Service]\n", "[Service]\nTimeoutStopSec=8\n", 1)
	c := newChain(t, unit, withLimit(testdTarget, "5"))
	c.replaceTestd(releases.Daemon{Version: "1.0.0", Behaviour: "ignore-sigterm"})
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	p, err := c.Probe(testdAddress, "/version", 20*time.Millisecond)
	c.ok(err)
	since := c.cursor()
	started := time.Now()
	c.apply(0, "committed 1.1.0 (was 1.0.0)")
	if out, took := p.Stop(), time.Since(started); took < 8*time.Second {
		t.Errorf("it took %s, the old version must have taken 8 s to stop: %+v", took, out)
	}
	c.assertOrder(since, inChain("swap starting", "testd stopping", "testd started", "commit started")...)
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
}

// TestReadyLate: a daemon that is ready late has the rest of the limit to become healthy.
func TestReadyLate(t *testing.T) {
	t.Parallel()
	c := newChain(t, strings.Replace(testdUnit, "[Service]\n", "[Service]\nType=notify\n", 1), testdTarget)
	late := releases.Daemon{Version: "1.1.0", Behaviour: "ready-after-6s"}
	c.publish(c.dir, late)
	c.apply(0, "committed 1.1.0 (was 1.0.0)")
	c.assertRuns(late)
	c.assertClosed("1.0.0")
}

// replaceTestd replaces the installed daemon by hand and restarts its unit.
func (b *box) replaceTestd(d releases.Daemon) {
	b.t.Helper()
	b.writeFile(testdPath+".new", string(build(b.t, d)), 0o755)
	b.must("mv", testdPath+".new", testdPath)
	b.must("systemctl", "reset-failed", "testd.service")
	b.must("systemctl", "restart", "testd.service")
	b.awaitTestd(d.Version)
}

// TestReleaseThatClings: a release that asks for more time to stop, again and again, is
// killed by its rollback, which else would fail while that release goes on running.
func TestReleaseThatClings(t *testing.T) {
	t.Parallel()
	c := newChain(t, strings.Replace(testdUnit, "[Service]\n", "[Service]\nType=notify\nTimeoutStartSec=5\nTimeoutStopSec=2\n", 1), testdTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "clings"})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // the rollback is patient
	defer cancel()
	r, err := c.start("machinemon-update", "apply", "testd").Wait(ctx)
	c.ok(err)
	c.said(r, 4, "rolled back 1.1.0", "status 500", "1.0.0 runs again")
	c.assertRuns(releases.Daemon{Version: "1.0.0"})
}

// TestLimitsOfCommands: the commands of a release may not take more of the machine than
// its pre-flight. A machine in a container may have no controllers for memory and
// processes, so the test asks systemd.
func TestLimitsOfCommands(t *testing.T) {
	t.Parallel()
	b := boot(t)
	for name, want := range map[string]string{"MemoryMax": fmt.Sprint(1 << 30), "MemorySwapMax": "0", "TasksMax": "256", "OOMPolicy": "continue"} {
		if got := b.property("machinemon-command@testd.service", name); got != want {
			t.Errorf("%s=%s, want %s", name, got, want)
		}
	}
}
