//go:build systemd

package systemtest

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// startTrap is a drop-in with a command that root runs before each start of testd.
const startTrap = "/etc/systemd/system/testd.service.d/trap.conf"

// trap makes root run a shell command before each start of testd from now on.
func (c *chain) trap(does string) {
	c.t.Helper()
	c.writeFile(startTrap, "[Service]\nExecStartPre=+/bin/sh -ec '"+does+"'\n", 0o644)
	c.must("systemctl", "daemon-reload")
}

// untrap removes the drop-in and starts testd.
func (c *chain) untrap() {
	c.t.Helper()
	c.must("sh", "-ec", "rm -f "+startTrap+"; systemctl daemon-reload; systemctl reset-failed testd.service; systemctl restart testd.service")
}

// TestSettleBackSparesData: the old program has written data since a failed rollback
// restored them. Another rollback, by settle back, keeps what it has written.
func TestSettleBackSparesData(t *testing.T) {
	once(t)
	t.Parallel()
	c := newDataChain(t, dbdUnit, dbdTarget(wholeDir, stopFirst))
	c.trap("test ! -e /run/started; touch /run/started")
	c.publishDatabase(releases.Database{Version: "2.0.0", Behaviour: "answer-500"})
	c.apply(5, "rollback failed 2.0.0", "does not run", settleHint)
	c.untrap()
	c.awaitTestd("1.0.0")
	before := c.integrity().Acked
	c.must("sleep", "1")
	last := c.integrity()
	if last.Acked <= before {
		t.Fatalf("nothing is written: %+v", last)
	}
	c.settle("back", 0, "settled 2.0.0")
	if got := c.assertData(firstDatabase); got.Acked < last.Acked {
		t.Errorf("rows are gone: %+v, there were %+v", got, last)
	}
	c.assertDataClosed()
}

// TestBootSparesMendedData: a rollback could not restore the data, and the operator has
// mended them. A boot does not overwrite them; only the operator decides.
func TestBootSparesMendedData(t *testing.T) {
	once(t)
	t.Parallel()
	c := newDataChain(t, dbdUnit, dbdTarget(wholeDir, stopFirst))
	c.must("sh", "-ec", "systemctl stop testd; cp -a "+dbdDir+" /root/backup; systemctl start testd")
	c.trap("mkdir -p " + dbdDir + "/rooted; touch " + dbdDir + "/rooted/file")
	c.publishDatabase(releases.Database{Version: "2.0.0", Behaviour: "answer-500"})
	c.apply(5, "rollback failed 2.0.0", settleHint)
	c.must("sh", "-ec", "systemctl stop testd; rm -rf "+dbdDir+"/rooted "+dbdDir+"/*; cp -a /root/backup/. "+dbdDir+"; rm -f /var/log/dbd/acks")
	c.untrap()
	c.awaitTestd("1.0.0")
	c.must("sleep", "1")
	last := c.integrity()
	c.must("touch", dbdDir+"/mine")
	c.rebootAndServe()
	c.awaitTestd("1.0.0")
	if got := c.integrity(); len(got.Missing) > 0 || got.Acked < last.Acked {
		t.Errorf("rows are gone: %+v, there were %+v", got, last)
	}
	c.must("test", "-e", dbdDir+"/mine")
	var all struct {
		Targets []struct{ Trial, Unsettled string }
	}
	c.ok(json.Unmarshal([]byte(c.must("machinemon-update", "status", "--json", "testd")), &all))
	t.Logf("status: %+v", all)
	c.settle("keep", 0, "settled 2.0.0")
	c.assertDataClosed()
}

// TestSnapshotOfWhatGoes shows that an update succeeds although the daemon removes a file
// while the data are read, as SQLite does with its -journal after each transaction.
func TestSnapshotOfWhatGoes(t *testing.T) {
	once(t)
	t.Parallel()
	c := newDataChain(t, dbdUnit, dbdTarget(`"`+dbdFile+`"`))
	c.publishDatabase(releases.Database{Version: "1.1.0"})
	c.must("sh", "-ec", "touch "+dbdFile+"-journal; chown dbd: "+dbdFile+"-journal")
	c.hold(atData)
	since := c.cursor()
	p := c.startApply()
	c.awaitHeld(since, atData)
	c.must("rm", dbdFile+"-journal")
	c.letGo(atData)
	c.said(c.wait(p), 0, "committed 1.1.0")
}

// TestSnapshotOfOddName shows that a path is taken literally, even with odd characters.
func TestSnapshotOfOddName(t *testing.T) {
	once(t)
	t.Parallel()
	c := newDataChain(t, dbdUnit, dbdTarget(`"`+dbdDir+`/keep$none", "`+dbdDir+`/100%n ${HOME}"`, stopFirst))
	odd := dbdDir + "/100%n ${HOME}"
	c.must("sh", "-ec", "cd "+dbdDir+`; echo 1 >keep; echo 1 >"$0"; chown dbd: keep "$0"`, odd)
	c.publishDatabase(releases.Database{Version: "1.1.0", Behaviour: "answer-500"})
	c.apply(4, "rolled back 1.1.0")
	for _, path := range []string{dbdDir + "/keep", odd} {
		if got := strings.TrimSpace(c.readFile(path)); got != "1" {
			t.Errorf("%s has %q", path, got)
		}
	}
	c.assertDataClosed()
}

// TestSettleBackKilled shows that a rollback by settle back continues after it is killed:
// the journal records the request, and the unit does not stay down with half of its data.
func TestSettleBackKilled(t *testing.T) {
	t.Parallel()
	c := newDataChain(t, dbdUnit, dbdTarget(wholeDir, stopFirst))
	c.trap("mkdir -p " + dbdDir + "/rooted; touch " + dbdDir + "/rooted/file")
	c.publishDatabase(releases.Database{Version: "2.0.0", Behaviour: "answer-500"})
	c.apply(5, "rollback failed 2.0.0", settleHint)
	// The rest of the data came back, and 1.0.0 has written them since: "back" undoes that.
	c.must("sh", "-ec", "systemctl stop testd.service; rm -r "+startTrap+" "+dbdDir+"/rooted /var/log/dbd/acks; systemctl daemon-reload")
	for _, point := range []hold{atData, atDataDone} {
		c.hold(point)
	}
	p := c.start("machinemon-update", "settle", "testd", "back")
	for _, point := range []hold{atData, atDataDone} {
		c.awaitHeld("", point)
		// After the first kill systemd may not have started the rollback again yet.
		c.awaitProperty(unitOf("rollback"), "MainPID", func(pid string) bool { return pid != "0" })
		c.kill("rollback")
		c.letGo(point)
	}
	r := c.wait(p)
	t.Logf("settle: %+v", r)
	c.awaitProperty(unitOf("rollback"), "ActiveState", func(state string) bool { return state == "inactive" || state == "failed" })
	c.assertData(firstDatabase)
	c.assertDataClosed()
}

// TestSnapshotShowsNothing shows that root follows no symbolic link of the daemon's user on
// the way to its data: errors do not reveal whether the link's target exists, or its size.
func TestSnapshotShowsNothing(t *testing.T) {
	once(t)
	t.Parallel()
	c := newDataChain(t, dbdUnit, dbdTarget(`"`+dbdDir+`/sub/key"`, "snapshot_max_bytes = 1"))
	c.must("sh", "-ec", `install -d -m 700 /etc/private; head -c 123456 /dev/zero >/etc/private/key; ln -s /etc/private `+dbdDir+`/sub; chown -h dbd `+dbdDir+`/sub`)
	c.publishDatabase(releases.Database{Version: "1.1.0"})
	ends := func() string {
		c.t.Helper()
		c.apply(1, "cannot take a snapshot of the data of user dbd: exit status 1")
		return c.history()[0].Reason
	}
	there := ends()
	c.must("rm", "/etc/private/key")
	if gone := ends(); gone != there {
		t.Errorf("with the file it ends by %q, without by %q", there, gone)
	}
	c.step("the user's own link", func() {
		c.must("sh", "-ec", "cd "+dbdDir+"; mkdir real; echo 1 >real/key; chown -R dbd: real; ln -sfn real sub; chown -h dbd: sub")
		c.target(dbdTarget(`"` + dbdDir + `/sub/key"`))
		c.apply(0, "committed 1.1.0")
	})
}
