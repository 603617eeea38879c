//go:build systemd

package systemtest

import (
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestSettleWithoutTargetFile shows that a trial can be settled by its journal if the
// target file is gone or cannot be read.
func TestSettleWithoutTargetFile(t *testing.T) {
	once(t)
	t.Parallel()
	for _, test := range []struct{ name, does, word string }{
		{"gone", "rm /etc/machinemon-update/targets.d/testd.toml", "keep"},
		{"broken", "echo 'unit = 3' >/etc/machinemon-update/targets.d/testd.toml", "keep"},
		{"gone", "rm /etc/machinemon-update/targets.d/testd.toml", "back"},
	} {
		t.Run(test.name+" "+test.word, func(t *testing.T) {
			t.Parallel()
			c := newUnsettled(t)
			c.cure()
			c.must("sh", "-ec", test.does+"; systemctl daemon-reload")
			r := c.run("machinemon-update", "status")
			t.Logf("status: %+v", r)
			if !strings.Contains(r.Stdout, settleHint) {
				t.Errorf("status does not say what to decide: %+v", r)
			}
			if r := c.run("machinemon-update", "status", "--check"); r.Code == 0 {
				t.Errorf("status --check: %+v", r)
			}
			c.settle(test.word, 0, "settled 1.1.0")
		})
	}
}

// TestTwoTargetsOfOneUnit shows that while a release of one target is on trial another
// target does not restart the same unit, and that neither release is rejected.
func TestTwoTargetsOfOneUnit(t *testing.T) {
	t.Parallel()
	const other = "/usr/local/bin/other"
	c := newChain(t, testdUnit, strings.Replace(longTrial, "settle_seconds = 50", "settle_seconds = 10", 1))
	c.must("cp", testdPath, other)
	c.writeFile("/etc/machinemon-update/targets.d/other.toml", strings.NewReplacer(`to = "`+testdPath, `to = "`+other, "[health]", "[health]\nmain = \"\"",
		`version_command = ["`+testdPath+`", "--version"]`, "").Replace(testdTarget), 0o644)
	c.must("sh", "-ec", "systemctl daemon-reload; systemctl start paths.target")
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	p := c.startApply()
	c.awaitTrial()
	r := c.run("machinemon-update", "apply", "other")
	if r.Code != 8 || !strings.Contains(r.Stdout, "the trial of target testd, whose unit is testd.service, too, is open") {
		t.Errorf("apply other: %+v", r)
	}
	c.said(c.wait(p), 0, "committed 1.1.0 (was 1.0.0)")
	r = c.run("machinemon-update", "apply", "other")
	if r.Code != 0 || !strings.Contains(r.Stdout, "committed 1.1.0") {
		t.Errorf("apply other: %+v", r)
	}
}
