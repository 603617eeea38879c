//go:build systemd

package systemtest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestRollbackOnFullDisk shows that a version that fills the disk of its data, which a
// hook and the version itself have changed, is rolled back with the data of its user.
func TestRollbackOnFullDisk(t *testing.T) {
	once(t)
	t.Parallel()
	const hook = "/etc/machinemon-update/hooks/pre"
	// Version 2 makes the file "added". It fills the disk as late as possible.
	fills := strings.Replace(dbdUnit, "[Install]", "ExecStopPost=/bin/sh -c 'test ! -e "+dbdDir+"/added || cat /dev/zero >>"+dbdDir+"/ballast'\n[Install]", 1)
	c := newDataChain(t, fills, dbdTarget(`"`+dbdFile+`", "`+dbdDir+`/config"`, stopFirst)+"[hooks]\npre_swap = [\""+hook+"\"]\n")
	c.must("install", "-d", "-m", "755", "/etc/machinemon-update/hooks")
	c.writeFile(hook, "#!/bin/sh\nset -eu\necho hooked >>"+dbdDir+"/config\n", 0o755)
	c.must("sh", "-ec", "systemctl stop testd.service; cp -a "+dbdDir+" /root/dbd; mount -t tmpfs -o size=48m,mode=750,uid=$(id -u dbd),gid=$(id -g dbd) tmpfs "+dbdDir+
		"; cp -a /root/dbd/. "+dbdDir+"; systemctl start testd.service")
	c.awaitTestd("1.0.0")
	c.publishDatabase(releases.Database{Version: "2.0.0", Behaviour: "answer-500"})
	c.apply(4, "rolled back 2.0.0", "1.0.0 runs again")
	c.assertData(firstDatabase)
	if got := c.readFile(dbdDir + "/config"); got != "the last words of 1.0.0\n" {
		t.Errorf("the configuration is %q", got)
	}
	c.assertDataClosed()
	nothingLeft := func() {
		t.Helper()
		if got := c.must("find", dbdDir, "-name", ".machinemon-update*"); got != "" {
			t.Errorf("left over:\n%s", got)
		}
	}
	nothingLeft()
	c.must("sh", "-c", "rm -r "+dbdDir+"/ballast "+dbdDir+"/added*; systemctl reset-failed")
	good := releases.Database{Version: "1.1.0"}
	c.publishDatabase(good)
	c.apply(0, "committed 1.1.0 (was 1.0.0)")
	c.assertData(good)
	nothingLeft()
}

// TestRollbackAgain shows what becomes of a rollback on a disk that is full: with the
// space that was kept it succeeds; without that the old version starts, and the rollback
// is tried again when there is space, but not on data that were written since.
func TestRollbackAgain(t *testing.T) {
	once(t)
	t.Parallel()
	const (
		disk = "/opt/disk"
		data = disk + "/data"
		blob = data + "/blob"
		hook = "/etc/machinemon-update/hooks/pre"
		room = data + "/.machinemon-update.restore-room"
	)
	c := newChain(t, testdUnit, withLimit(testdTarget, "4")+"[rollback]\nsnapshot = [\""+data+"\"]\n[hooks]\npre_swap = [\""+hook+"\"]\n")
	c.must("sh", "-ec", "mkdir "+disk+"; mount -t tmpfs -o size=16m,mode=755 tmpfs "+disk+"; mkdir -m 755 "+data+"; head -c 4M /dev/urandom >"+blob)
	c.must("systemctl", "daemon-reload") // the swap's unit may write to the data now
	c.must("install", "-d", "-m", "755", "/etc/machinemon-update/hooks")
	c.writeFile(hook, "#!/bin/sh\nset -eu\nhead -c 4M /dev/zero >"+blob+"\necho >"+data+"/added\n", 0o755)
	was := digest(c.readFile(blob))
	restored := func() {
		t.Helper()
		if got := digest(c.readFile(blob)); got != was {
			t.Errorf("the data are not back")
		}
		if got := c.must("ls", "-A", data); got != "blob\n" {
			t.Errorf("there are %q", got)
		}
		c.assertRuns(releases.Daemon{Version: "1.0.0"})
		if s := c.status(); s.Trial != "" {
			t.Errorf("status shows %+v", s)
		}
		c.must("sh", "-c", "systemctl reset-failed; machinemon-update unskip testd; true")
	}
	c.publish(c.dir, rejected)
	trial := func(lose bool) *machine.Process {
		t.Helper()
		apply := c.startApply()
		c.awaitTestd(rejected.Version)
		if lose {
			c.must("rm", room)
		}
		c.fill(disk, 0)
		return apply
	}
	const looks = "machinemon-deadline@testd.service" // the timer starts it
	unreturned := func() {
		t.Helper()
		c.said(c.wait(trial(true)), 5, "rollback failed 1.1.0", "testd.service starts although not all data came back from 1.1.0; those from before the update are kept in "+snapshots+"/",
			"no space left on device", "it is tried again by itself when there is space, until ", settleHint)
		c.awaitTestd("1.0.0")
		if got := strings.TrimSpace(c.must("systemctl", "is-active", "machinemon-deadline@testd.timer")); got != "active" {
			t.Errorf("the timer is %s", got)
		}
		c.says("it is tried again by itself", "machinemon-update", "status", "testd")
	}

	c.step("the space is kept", func() {
		apply := trial(false)
		// Now systemd cannot start units with PrivateDevices=, among them the gate's.
		c.must("sh", "-ec", "for d in /tmp /var/tmp; do mount -t tmpfs -o nr_inodes=1 tmpfs $d; done")
		c.said(c.wait(apply), 4)
		c.must("umount", "--lazy", "/tmp", "/var/tmp")
		restored()
		c.empty(disk)
	})
	c.step("there is space again", func() {
		unreturned()
		pid := c.mainPID()
		c.must("systemctl", "start", looks)
		if c.mainPID() != pid || digest(c.readFile(blob)) == was {
			t.Error("on the full disk something was done")
		}
		c.empty(disk)
		c.must("systemctl", "start", looks)
		restored()
		if h := c.history(); h[0].Result != "rolled back" {
			t.Errorf("history has %+v", h[0])
		}
	})
	c.step("the data were written since", func() {
		unreturned()
		c.must("sh", "-ec", "rm "+disk+"/ballast; echo mine >"+data+"/added")
		c.must("systemctl", "start", looks)
		c.says("it is not tried again by itself: the data were written since", "machinemon-update", "status", "testd")
		if got := c.readFile(data + "/added"); got != "mine\n" {
			t.Errorf("what was written since is %q", got)
		}
		c.says("rolled back", "machinemon-update", "settle", "testd", "back")
		restored()
	})
	c.step("not enough space to begin", func() {
		c.fill(disk, 2<<20)
		since := c.cursor()
		c.apply(1, "cannot keep space for a rollback", "a rollback needs ", fmt.Sprintf(" bytes on the file system mounted on %s, and 2097152 are free", disk))
		c.assertUntouched(since)
		restored()
	})
}
