//go:build systemd

package systemtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// dbdSocket starts testd for each client that connects. dbd accepts no connection from
// it, so one client is enough for systemd to start testd whenever it is stopped.
const dbdSocket = "[Socket]\nListenStream=127.0.0.1:9300\n"

// TestRollbackOrder shows that the configuration that a daemon writes when it stops is
// written before the old one is restored, and that nothing starts the daemon in between.
func TestRollbackOrder(t *testing.T) {
	once(t)
	t.Parallel()
	const snapshot = `"` + testdConfig + `"`
	unit := strings.NewReplacer("User=dbd\n", "", dbdDir+"/config", testdConfig).Replace(dbdUnit)
	c := newDataChain(t, unit, dbdTarget(snapshot))
	c.must("install", "-d", "-m", "755", "/etc/testd")
	configure := func() {
		c.t.Helper()
		c.writeFile(testdConfig, testdOwn, 0o640)
		c.must("chgrp", "daemon", testdConfig)
	}
	configure()
	was := c.must("stat", "-c", "%a %U:%G %y", testdConfig)
	unchanged := func(want string) {
		c.t.Helper()
		if got := c.readFile(testdConfig); got != testdOwn {
			c.t.Errorf("%s is %q", testdConfig, got)
		}
		if got := c.must("stat", "-c", "%a %U:%G %y", testdConfig); got != want {
			c.t.Errorf("%s has %s, want %s", testdConfig, got, want)
		}
	}
	c.writeFile("/etc/systemd/system/testd.socket", dbdSocket, 0o644)
	c.must("sh", "-ec", "systemctl daemon-reload; systemctl stop testd.service; systemctl start testd.socket testd.service")
	configure()
	was = c.must("stat", "-c", "%a %U:%G %y", testdConfig)
	c.awaitTestd("1.0.0")
	connect := func() {
		c.t.Helper()
		conn, err := c.Dial(c.t.Context(), "tcp", "127.0.0.1:9300")
		c.ok(err)
		c.t.Cleanup(func() { conn.Close() })
	}
	connect()
	bad := releases.Database{Version: "1.1.0", Behaviour: "answer-500"}
	c.publishDatabase(bad)

	rolledBack := func(want ...string) {
		c.t.Helper()
		since := c.cursor()
		c.apply(4, "rolled back 1.1.0", "1.0.0 runs again")
		c.assertData(firstDatabase)
		c.assertDataClosed()
		if got := c.eventsOf(since, "machinemon-rollback@testd.service starting", "testd.service", "testd.socket"); !slices.Equal(got, want) {
			c.t.Errorf("in the rollback there were %q, want %q", got, want)
		}
		if got := c.must("systemctl", "is-active", "testd.socket", "testd.service"); got != "active\nactive\n" {
			c.t.Errorf("the units are %q", got)
		}
		c.must("sh", "-c", "systemctl reset-failed; machinemon-update unskip testd")
	}
	stopRestoreStart := []string{"testd.socket stopped", "testd.service stopping", "testd.service stopped", "testd.socket started", "testd.service started"}
	c.step("stop, restore, start", func() {
		rolledBack(stopRestoreStart...)
		unchanged(was)
	})
	c.step("in a directory with setgid", func() {
		c.target(dbdTarget(`"/etc/testd"`))
		c.must("sh", "-ec", "mkdir -p /etc/testd/conf.d; chgrp daemon /etc/testd; chmod 2750 /etc/testd")
		picture := c.must("ls", "-lAR", "--time-style=full-iso", "/etc/testd")
		rolledBack(stopRestoreStart...)
		unchanged(was)
		if got := c.must("ls", "-lAR", "--time-style=full-iso", "/etc/testd"); got != picture {
			t.Errorf("there are\n%s, were\n%s", got, picture)
		}
	})
	c.step("stopped for the snapshot", func() {
		c.target(dbdTarget(snapshot, stopFirst))
		rolledBack(stopRestoreStart...)
		// The daemon wrote this when it was stopped, before the snapshot.
		if got := c.readFile(testdConfig); got != "the last words of 1.0.0\n" {
			t.Errorf("%s is %q", testdConfig, got)
		}
	})
	c.step("without a snapshot", func() {
		c.target(testdTarget)
		since := c.cursor()
		rolledBack("testd.service stopping", "testd.service stopped", "testd.service started")
		jobs := c.jobsOf(since, "machinemon-rollback@testd.service starting", "testd.service")
		if len(slices.Compact(slices.Clone(jobs))) != 1 {
			t.Errorf("the jobs were %q", jobs)
		}
	})
	c.step("committed", func() {
		c.target(dbdTarget(snapshot, stopFirst))
		c.publishDatabase(releases.Database{Version: "1.2.0"})
		since := c.cursor()
		c.apply(0, "committed 1.2.0 (was 1.0.0)")
		c.assertData(releases.Database{Version: "1.2.0"})
		if got := c.eventsOf(since, "machinemon-swap@testd.service starting", "testd.service", "testd.socket"); !slices.Equal(got, stopRestoreStart) {
			t.Errorf("in the swap there were %q, want %q", got, stopRestoreStart)
		}
		if got := c.must("systemctl", "is-active", "testd.socket", "testd.service"); got != "active\nactive\n" {
			t.Errorf("the units are %q", got)
		}
		c.assertDataClosed()
	})
}

// eventsOf lists the events of these units after the last event after, except the kinds
// that only some versions of systemd log.
func (b *box) eventsOf(since machine.Cursor, after string, units ...string) []string {
	b.t.Helper()
	var all []string
	for _, e := range b.entriesOf(since, after, units...) {
		event, _ := e.UnitEvent()
		all = append(all, event.String())
	}
	return all
}

// jobsOf lists the jobs of the same events.
func (b *box) jobsOf(since machine.Cursor, after string, units ...string) []string {
	b.t.Helper()
	var all []string
	for _, e := range b.entriesOf(since, after, units...) {
		all = append(all, fmt.Sprint(e["JOB_ID"]))
	}
	return all
}

func (b *box) entriesOf(since machine.Cursor, after string, units ...string) (of []machine.Entry) {
	b.t.Helper()
	entries, err := b.JournalSince(b.t.Context(), since)
	b.ok(err)
	for _, e := range entries {
		event, ok := e.UnitEvent()
		switch {
		case !ok:
		case event.String() == after:
			of = []machine.Entry{}
		case of != nil && slices.Contains(units, event.Unit) && !slices.Contains([]string{"starting", "done"}, event.What):
			of = append(of, e)
		}
	}
	return of
}
