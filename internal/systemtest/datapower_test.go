//go:build systemd

package systemtest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// heldDatabase is dbdUnit with a start that can be held after the program has started.
var heldDatabase = strings.Replace(dbdUnit, "ExecStart=", "ExecStartPost="+atStarted.waits()+"\nExecStart=", 1)

// TestSnapshotPower cuts the power while data are saved or restored: after the boot the old
// version serves with all rows that it has acknowledged, and an update succeeds.
func TestSnapshotPower(t *testing.T) {
	t.Parallel()
	c := newDataChain(t, heldDatabase, dbdTarget(wholeDir, stopFirst))
	picture := c.picture()
	// The cases share one machine and are not subtests, because the server must outlive each.
	for n, test := range []struct {
		name, behaviour string
		// reach returns at the moment to cut the power.
		reach func(since machine.Cursor)
	}{
		{"before the data are saved, the unit is stopped", "exit-migrated", func(since machine.Cursor) {
			c.awaitHeld(since, atData)
		}},
		{"when the data are saved", "exit-migrated", func(since machine.Cursor) {
			c.letGo(atData)
			c.awaitHeld(since, atDataDone)
		}},
		{"in the trial, after the migration", "", func(since machine.Cursor) {
			c.pass()
			c.awaitTrial()
		}},
		{"before the data are restored", "exit-migrated", func(since machine.Cursor) {
			c.passTo(since)
			c.awaitHeld(since, atData)
		}},
		{"when the data are restored", "exit-migrated", func(since machine.Cursor) {
			c.passTo(since)
			c.letGo(atData)
			c.awaitHeld(since, atDataDone)
		}},
		{"when the old version runs again", "exit-migrated", func(since machine.Cursor) {
			c.passTo(since)
			c.hold(atStarted)
			c.letGo(atData)
			c.letGo(atDataDone)
			c.awaitHeld(since, atStarted)
			c.awaitTestd("1.0.0")
			c.awaitAcked(c.integrity().Acked + 20)
		}},
	} {
		t.Log(test.name)
		c.target(strings.Replace(dbdTarget(wholeDir, stopFirst), "settle_seconds = 1", "settle_seconds = 50", 1))
		version := fmt.Sprintf("2.%d.0", n)
		c.publishDatabase(releases.Database{Version: version, Behaviour: test.behaviour})
		acked := c.integrity().Acked
		c.hold(atData)
		c.hold(atDataDone)
		since := c.cursor()
		apply := c.startApply()
		test.reach(since)
		c.Yank()
		c.wait(apply) // it died with the machine

		c.bootAndServe()
		c.assertOrder(since, recoverFirst...)
		if got := c.assertData(firstDatabase); got.Acked <= acked {
			t.Errorf("no row was acknowledged during the update: %d, then %+v", acked, got)
		}
		if got := c.picture(); got != picture {
			t.Errorf("there are\n%s, were\n%s", got, picture)
		}
		c.assertDataClosed()
		if t.Failed() {
			t.Fatalf("the power went %s", test.name)
		}
	}
	c.target(dbdTarget(wholeDir, stopFirst))
	good := releases.Database{Version: "3.0.0"}
	c.publishDatabase(good)
	c.apply(0, "committed 3.0.0 (was 1.0.0)")
	c.assertData(good)
	c.assertDataClosed()
}

// pass lets the data be saved or restored.
func (c *chain) pass() {
	c.t.Helper()
	c.letGo(atData)
	c.letGo(atDataDone)
}

// passTo lets the data be saved, and holds the rollback before they are restored.
func (c *chain) passTo(since machine.Cursor) {
	c.t.Helper()
	c.letGo(atData)
	c.awaitHeld(since, atDataDone)
	c.hold(atData)
	c.letGo(atDataDone)
	// The unit polls for the file.
	c.awaitProperty(unitOf("data"), "SubState", func(state string) bool { return state != "start-post" })
	c.hold(atDataDone)
	c.awaitEvent(since, inChain("rollback starting")[0])
	c.awaitHeld(since, atData)
}

// awaitAcked waits until the daemon has acknowledged n rows.
func (b *box) awaitAcked(n int64) {
	b.t.Helper()
	b.ok(machine.WaitFor(b.t.Context(), fmt.Sprintf("%d rows are acknowledged", n), func() bool { return b.integrity().Acked >= n }))
}

// TestSnapshotKilled shows that the unit runs again with all acknowledged rows after the
// swapper was killed while it saved or restored data.
func TestSnapshotKilled(t *testing.T) {
	once(t)
	t.Parallel()
	c := newDataChain(t, heldDatabase, dbdTarget(wholeDir, stopFirst))
	picture := c.picture()
	for n, test := range []struct {
		name  string
		stop  string
		reach func(since machine.Cursor)
		ends  func(r machine.Result)
	}{
		{"before it saves, and before the journal", "", func(since machine.Cursor) {
			c.awaitHeld(since, atData)
			c.kill("swap")
		}, func(r machine.Result) {
			c.said(r, 1, "failed: machinemon-swap@testd.service failed (signal)", "nothing was changed")
		}},
		{"when it has saved, the unit is stopped", stopFirst, func(since machine.Cursor) {
			c.letGo(atData)
			c.awaitHeld(since, atDataDone)
			c.kill("swap")
		}, func(r machine.Result) { c.said(r, 4, "interrupted 2.1.0", "1.0.0 runs again") }},
		{"before it restores", stopFirst, func(since machine.Cursor) {
			c.passTo(since)
			c.kill("rollback")
			c.awaitEvent(since, inChain("rollback restarting")[0])
		}, func(r machine.Result) { c.said(r, 4, "rolled back 2.2.0", "1.0.0 runs again") }},
		{"when it has restored", stopFirst, func(since machine.Cursor) {
			c.passTo(since)
			c.letGo(atData)
			c.awaitHeld(since, atDataDone)
			c.kill("rollback")
			c.awaitEvent(since, inChain("rollback restarting")[0])
		}, func(r machine.Result) { c.said(r, 4, "rolled back 2.3.0", "1.0.0 runs again") }},
		{"when the old version runs again", stopFirst, func(since machine.Cursor) {
			c.passTo(since)
			c.hold(atStarted)
			c.pass()
			c.awaitHeld(since, atStarted)
			c.awaitTestd("1.0.0")
			c.awaitAcked(c.integrity().Acked + 20)
			c.kill("rollback")
			c.awaitEvent(since, inChain("rollback restarting")[0])
			c.letGo(atStarted)
		}, func(r machine.Result) { c.said(r, 4, "rolled back 2.4.0", "1.0.0 runs again") }},
	} {
		c.step(test.name, func() {
			c.target(dbdTarget(wholeDir, test.stop))
			version := fmt.Sprintf("2.%d.0", n)
			c.publishDatabase(releases.Database{Version: version, Behaviour: "exit-migrated"})
			acked := c.integrity().Acked
			c.hold(atData)
			c.hold(atDataDone)
			since := c.cursor()
			apply := c.startApply()
			test.reach(since)
			c.must("rm", "-f", atData.file(), atDataDone.file())
			test.ends(c.wait(apply))
			if got := c.assertData(firstDatabase); got.Acked <= acked {
				c.t.Errorf("no row was acknowledged during the update: %d, then %+v", acked, got)
			}
			if got := c.picture(); got != picture {
				c.t.Errorf("there are\n%s, were\n%s", got, picture)
			}
			if n > 0 { // otherwise the next update clears it
				c.assertDataClosed()
			}
			c.must("sh", "-c", "systemctl reset-failed; machinemon-update unskip testd")
		})
	}
	good := releases.Database{Version: "3.0.0"}
	c.publishDatabase(good)
	c.apply(0, "committed 3.0.0 (was 1.0.0)")
	c.assertData(good)
	c.assertDataClosed()
}
