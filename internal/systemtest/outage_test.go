//go:build systemd

package systemtest

import (
	"flag"
	"fmt"
	"os/exec"
	"path"
	"slices"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

var outageRounds = flag.Int("outage", 0, "measure outages in so many `rounds`")

// TestOutage measures for how long testd does not serve, with a prober that asks every 2
// ms: at a plain restart, which is the measure for an update, at a good update, and at a
// release that exits at once and is rolled back, without a snapshot and with one of a
// directory of 100 MB. All kinds take turns on one machine. The last rows are of a disk
// whose files share blocks. The figures are only meaningful if nothing else runs, so the
// test is skipped unless it is asked for:
//
//	sudo go test -tags systemd -run '^TestOutage$' -v ./internal/systemtest -outage 5
func TestOutage(t *testing.T) {
	if *outageRounds == 0 {
		t.Skip("measures; run it alone with -outage 5")
	}
	m := &outages{chain: newChain(t, testdUnit, testdTarget), runs: "1.0.0"}
	const rewrite = "/etc/machinemon-update/hooks/rewrite"
	m.must("install", "-d", "-m", "755", path.Dir(rewrite), outageData)
	// This is a migration, which runs after the snapshot.
	m.writeFile(rewrite, "#!/bin/sh\nset -eu\nfor f in "+outageData+"/*; do head -c 10M /dev/urandom >$f; done\n", 0o755)
	m.must("sh", "-ec", "for i in 0 1 2 3 4 5 6 7 8 9; do head -c 10M /dev/urandom >"+outageData+"/$i; done")
	snapshot := "[rollback]\nsnapshot = [\"" + outageData + "\"]\n"
	hook := "[hooks]\npre_swap = [\"" + rewrite + "\"]\n"
	data := func(disk string) []outageKind {
		return []outageKind{
			m.rollback("100 MB, "+disk+", as they were", snapshot),
			m.rollback("100 MB, "+disk+", rewritten", snapshot+hook),
			m.rollback("100 MB, "+disk+", stopped first", snapshot+"stop = true\n"+hook),
		}
	}
	m.measure(append([]outageKind{
		{"plain restart", "", func(int) {}, func() { m.must("systemctl", "restart", "testd.service") }},
		{"good update", "", func(round int) {
			m.runs = fmt.Sprintf("1.%d.0", round)
			m.publish(m.dir, releases.Daemon{Version: m.runs})
		}, func() { m.apply(0, "committed") }},
		m.rollback("exits at once", ""),
	}, data("copied")...))
	if _, err := exec.LookPath("mkfs.xfs"); err != nil {
		t.Log("without a disk that shares blocks: ", err)
	} else {
		m.ok(m.MountImage("xfs", 2<<30, "/mnt"))
		// Two mounts of one file system may share blocks since Linux 5.18.
		m.must("sh", "-ec", "systemctl stop 'machinemon-*.path'; cp -a /var/lib/. /mnt; mount --bind /mnt /var/lib; systemctl start paths.target 'machinemon-verify@testd.path' 'machinemon-swap@testd.path'")
		m.measure(data("shared"))
	}
	t.Log(m.table)
}

// outageData is the directory that is saved, for the rows with a snapshot.
const outageData = "/var/lib/testd"

// An outageKind is a row of the table.
type outageKind struct {
	name, target string // the end of the target file
	prepare      func(round int)
	act          func()
}

// outages measures the kinds and holds the results.
type outages struct {
	*chain
	runs  string // the version that must serve in the end
	bad   int
	plain float64 // the median of the first kind
	table string
}

// rollback returns a kind that ends with a rollback, with these lines in the target file.
func (m *outages) rollback(name, target string) outageKind {
	return outageKind{name, target, func(int) {
		m.bad++
		m.publish(m.dir, releases.Daemon{Version: fmt.Sprintf("2.%d.0", m.bad), Behaviour: "exit1-at-once"})
	}, func() { m.apply(4, "rolled back") }}
}

// measure lets all kinds take turns, and adds them to the table.
func (m *outages) measure(kinds []outageKind) {
	m.t.Helper()
	seen := make([][]time.Duration, len(kinds))
	for round := range *outageRounds {
		for i, kind := range kinds {
			kind.prepare(round + 1)
			m.target(testdTarget + kind.target)
			m.must("sync") // preparing one kind must not slow another
			p, err := m.Probe(testdAddress, "/healthz", 2*time.Millisecond)
			m.ok(err)
			kind.act()
			m.awaitTestd(m.runs)
			out := p.Stop()
			if out.Failed == 0 {
				m.t.Errorf("%s: no outage: the prober saw %+v", kind.name, out)
			}
			seen[i] = append(seen[i], out.Total)
			m.must("systemctl", "reset-failed", "testd.service") // restarts count towards the start limit
		}
	}
	if m.table == "" {
		m.table = fmt.Sprintf("outages, medians of %d:\n", *outageRounds)
		m.plain = median(seen[0])
	}
	for i, kind := range kinds {
		m.table += fmt.Sprintf("  %-30s %7.1f ms  %5.2f × a plain restart  %v\n", kind.name,
			median(seen[i]), median(seen[i])/m.plain, seen[i])
	}
}

// median returns the median in milliseconds.
func median(all []time.Duration) float64 {
	return float64(slices.Sorted(slices.Values(all))[len(all)/2]) / float64(time.Millisecond)
}
