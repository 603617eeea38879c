//go:build systemd

package systemtest

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

var outageRounds = flag.Int("outage", 0, "measure outages in so many `rounds`")

// TestOutage measures for how long testd does not serve, by a prober that asks
// every 2 ms: at a plain restart, which is what an update is held against, at a
// good update, and at a release that exits at once and is rolled back. All three
// take turns on one machine. Figures mean something only where nothing else
// runs, so this is left out unless it is asked for:
//
//	sudo go test -tags systemd -run '^TestOutage$' -v ./internal/systemtest -outage 5
func TestOutage(t *testing.T) {
	if *outageRounds == 0 {
		t.Skip("measures; run it alone with -outage 5")
	}
	c := newChain(t, testdUnit, testdTarget)
	runs := "1.0.0"
	outages := make([][]time.Duration, 3)
	kinds := []struct {
		name    string
		prepare func(round int)
		act     func()
	}{
		{"plain restart", func(int) {}, func() { c.must("systemctl", "restart", "testd.service") }},
		{"good update", func(round int) {
			runs = fmt.Sprintf("1.%d.0", round)
			c.publish(c.dir, releases.Daemon{Version: runs})
		}, func() { c.apply(0, "committed") }},
		{"exits at once", func(round int) {
			c.publish(c.dir, releases.Daemon{Version: fmt.Sprintf("2.%d.0", round), Behaviour: "exit1-at-once"})
		}, func() { c.apply(4, "rolled back") }},
	}
	for round := range *outageRounds {
		for i, kind := range kinds {
			kind.prepare(round + 1)
			p, err := c.Probe(testdAddress, "/healthz", 2*time.Millisecond)
			c.ok(err)
			kind.act()
			c.awaitTestd(runs)
			out := p.Stop()
			if out.Failed == 0 {
				t.Errorf("%s: no outage: the prober saw %+v", kind.name, out)
			}
			outages[i] = append(outages[i], out.Total)
			c.must("systemctl", "reset-failed", "testd.service") // restarts count towards the start limit
		}
	}
	median := func(all []time.Duration) float64 {
		return float64(slices.Sorted(slices.Values(all))[len(all)/2]) / float64(time.Millisecond)
	}
	table := fmt.Sprintf("outages, medians of %d:\n", *outageRounds)
	for i, kind := range kinds {
		table += fmt.Sprintf("  %-14s %7.1f ms  %5.2f × a plain restart  %v\n", kind.name,
			median(outages[i]), median(outages[i])/median(outages[0]), outages[i])
	}
	t.Log(table)
}
