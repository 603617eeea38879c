//go:build systemd

package systemtest

import (
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestDeclaredExits: after an upgrade a daemon asks for a restart by an exit status that
// its unit names. One such restart does not fail the trial, even if it is over when the
// gate first sees the unit; a second one does.
func TestDeclaredExits(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, declares string }{
		{"forced, and seen", "Restart=on-failure\nRestartSec=2s\nRestartForceExitStatus=75"},
		{"forced, and over", "Restart=no\nRestartSec=0\nRestartForceExitStatus=75"},
		{"a success, and seen", "Restart=always\nRestartSec=2s\nSuccessExitStatus=75"},
		{"a success, and over", "Restart=always\nRestartSec=0\nSuccessExitStatus=75"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newChain(t, strings.Replace(testdUnit, "Restart=on-failure", test.declares, 1), testdTarget)
			c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "restart-once"})
			c.apply(0, "committed 1.1.0 (was 1.0.0)")
			c.assertRuns(releases.Daemon{Version: "1.1.0", Behaviour: "restart-once"})
			if got := c.property("testd.service", "NRestarts"); got != "1" {
				t.Errorf("systemd restarted it %s times", got)
			}
			c.assertClosed("1.0.0")
		})
	}
	t.Run("twice", func(t *testing.T) {
		t.Parallel()
		c := newChain(t, strings.Replace(testdUnit, "Restart=on-failure", "Restart=no\nRestartForceExitStatus=75", 1), testdTarget)
		c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "restart-twice"})
		c.apply(4, "rolled back 1.1.0: its main process", "1.0.0 runs again")
		c.assertRuns(releases.Daemon{Version: "1.0.0"})
		c.assertRejected("1.1.0")
	})
	t.Run("not declared", func(t *testing.T) {
		t.Parallel()
		c := newChain(t, strings.Replace(testdUnit, "Restart=on-failure", "Restart=always\nRestartForceExitStatus=76", 1), testdTarget)
		c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "restart-once"})
		c.apply(4, "rolled back 1.1.0: its main process", "1.0.0 runs again")
		c.assertRejected("1.1.0")
	})
}
