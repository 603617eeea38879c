//go:build systemd

package systemtest

import (
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestBlameless shows that what a person does to the service during a trial is not the
// release's fault: it is rolled back, and not rejected. This program, like most, ends with
// status 0 when it is stopped, as one does that has nothing to do. Nor is it a fault that a unit
// which needs the service starts slowly.
func TestBlameless(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, strings.Replace(testdTarget, "settle_seconds = 1", "settle_seconds = 3", 1))
	c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "says-goodbye"})
	for _, row := range []struct{ do, says string }{
		{"systemctl stop testd.service", " stop"}, // the gate may see the job, or its result
		{"systemctl kill --signal=KILL testd.service", "another process ended its main process by SIGKILL"},
		{"systemctl freeze testd.service", "no answer within 2 s; somebody has frozen testd.service"},
	} {
		c.step(row.do, func() {
			apply := c.startApply()
			c.awaitTrial()
			c.must("sh", "-ec", row.do)
			c.said(c.wait(apply), 4, "rolled back 1.1.0: ", row.says, "(1.0.0 runs again)")
			c.assertRuns(releases.Daemon{Version: "1.0.0"})
			if s := c.status(); len(s.Rejected) > 0 || s.Trial != "" {
				c.t.Errorf("status shows %+v", s)
			}
		})
	}
	c.writeFile("/etc/systemd/system/needs.service", "[Unit]\nRequires=testd.service\nAfter=testd.service\n"+
		"[Service]\nExecStartPre=/bin/sh -c 'test ! -e /run/slow || sleep 60'\nExecStart=/bin/sleep infinity\n", 0o644)
	c.must("sh", "-ec", "systemctl daemon-reload; systemctl start needs.service; touch /run/slow")
	c.writeTarget(testdTarget)
	c.apply(0, "committed 1.1.0 (was 1.0.0)")
	if got := c.property("needs.service", "ActiveState"); got != "activating" {
		t.Errorf("needs.service is %s", got)
	}
}
