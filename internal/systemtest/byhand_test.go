//go:build systemd

package systemtest

import (
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestByHand shows that what a person does to the service during a trial is not the release's
// fault: it is rolled back, and not rejected. This program, like most, ends with status 0 when
// it is stopped, as one does that has nothing to do.
func TestByHand(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, strings.Replace(testdTarget, "settle_seconds = 1", "settle_seconds = 4", 1))
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
}
