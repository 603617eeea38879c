//go:build systemd

package systemtest

import (
	"strconv"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestFloodedSpools fills the spools of fetcher and verifier with names, as their accounts
// may. PID 1 then has no more work with a further name than before, and the next update is
// installed.
func TestFloodedSpools(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.apply(0, "committed 1.1.0")
	for _, dir := range []string{fetchDir, verifyDir} {
		quiet := c.woken(dir, "quiet")
		c.as(dir, `perl -e 'for (1..30_000) { open(my $f, ">", "ready/.flood$_") or die $! }'`)
		loud := c.woken(dir, "loud")
		t.Logf("%s: PID 1 worked %.1f ms before the flood and %.1f ms after it", dir, quiet/1e6, loud/1e6)
		if loud > 5*quiet {
			t.Errorf("%s: after the flood, PID 1 works %.0f times as long", dir, loud/quiet)
		}
	}
	c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
	c.apply(0, "committed 1.2.0")
	c.assertRuns(releases.Daemon{Version: "1.2.0"})
	c.says("removed from /var/lib/machinemon-update/", "machinemon-update", "status", "testd")
	c.assertClosed("1.1.0")
}

// woken makes files in a spool, each of which wakes PID 1 once, and returns how long PID 1
// worked for that, in nanoseconds.
func (c *chain) woken(dir, name string) float64 {
	c.t.Helper()
	before := c.workOfPID1()
	c.as(dir, "for i in $(seq 30); do : >ready/."+name+"$i; systemctl is-active --quiet machinemon-verify@testd.path; done")
	return c.workOfPID1() - before
}

func (c *chain) workOfPID1() float64 {
	c.t.Helper()
	first, _, _ := strings.Cut(c.must("cat", "/proc/1/schedstat"), " ")
	n, err := strconv.ParseFloat(first, 64)
	c.ok(err)
	return n
}
