//go:build systemd

package systemtest

import (
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// testdConfig is the configuration of testd. A release with the behaviour "needs-key"
// needs a line KEY=… in it; a rollback must restore testdOwn.
const (
	testdConfig = "/etc/testd/config"
	testdOwn    = "# the operator's\nPORT=1\n"
)

// TestHooks: a release needs a new key in the configuration. It is committed if a hook
// adds the key, and the change is undone if the hook or the trial fails.
// (TestScaleboxMigration also covers the case without a hook.)
func TestHooks(t *testing.T) {
	t.Parallel()
	unit := strings.Replace(testdUnit, "[Service]\n", "[Service]\nEnvironmentFile=-"+testdConfig+"\n", 1)
	snapshot := testdTarget + "[rollback]\nsnapshot = [\"" + testdConfig + "\"]\n"
	c := newChain(t, unit, testdTarget)
	c.must("install", "-d", "-m", "755", "/etc/testd")
	c.writeFile(testdConfig, testdOwn, 0o640)
	c.must("chgrp", "daemon", testdConfig)
	was := c.must("stat", "-c", "%a %U:%G", testdConfig)
	unchanged := func() {
		t.Helper()
		if got := c.readFile(testdConfig); got != testdOwn {
			t.Errorf("%s is %q", testdConfig, got)
		}
		if got := c.must("stat", "-c", "%a %U:%G", testdConfig); got != was {
			t.Errorf("%s has %s, want %s", testdConfig, got, was)
		}
	}
	const dir = "/etc/machinemon-update/hooks"
	c.must("install", "-d", "-m", "755", dir)
	hooks := func(pre, post string) {
		t.Helper()
		c.writeFile(dir+"/pre", "#!/bin/sh\nset -eu\n"+pre, 0o755)
		c.writeFile(dir+"/post", "#!/bin/sh\nset -eu\n"+post, 0o755)
		c.target(snapshot + "[hooks]\npre_swap = [\"" + dir + "/pre\", \"an argument\"]\npost_commit = [\"" + dir + "/post\"]\n")
	}
	const migrate = "grep -q ^KEY= " + testdConfig + " || echo KEY=1 >>" + testdConfig + "\n"

	c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "needs-key"})
	c.step("it fails", func() {
		hooks(migrate+"echo cannot go on\nexit 3\n", "")
		since, pid := c.cursor(), c.mainPID()
		c.apply(1, "failed 1.1.0: the pre_swap hook failed: exit status 3; it said: cannot go on (hint: ")
		c.assertUntouched(since)
		if now := c.mainPID(); now != pid {
			t.Errorf("the main process was %s and is %s", pid, now)
		}
		c.assertRuns(releases.Daemon{Version: "1.0.0"})
		unchanged()
		if said := c.journal("-u", "machinemon-hook@testd.service"); !strings.Contains(said, "cannot go on") {
			t.Errorf("its output is not in the journal:\n%s", said)
		}
	})
	c.step("it is killed with the swapper", func() {
		hooks(migrate+"touch /run/reached\nsleep 600\n", "")
		apply := c.startApply()
		c.awaitFile("/run/reached")
		c.kill("swap")
		c.said(c.wait(apply), 4, "interrupted 1.1.0", "(the files of 1.0.0 are in place)")
		unchanged()
		if got := c.property("machinemon-hook@testd.service", "ActiveState"); got != "inactive" {
			t.Errorf("the hook is %s", got)
		}
	})
	// Now the power fails. This is not a step of its own, because the server must outlive it.
	c.must("rm", "/run/reached")
	apply := c.startApply()
	c.awaitFile("/run/reached")
	c.Yank()
	c.wait(apply)
	c.bootAndServe()
	c.awaitTestd("1.0.0")
	unchanged()
	c.assertRuns(releases.Daemon{Version: "1.0.0"})

	c.step("the trial fails", func() {
		c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "exit1-at-once"})
		hooks(migrate, "")
		c.apply(4, "rolled back 1.2.0")
		c.assertRuns(releases.Daemon{Version: "1.0.0"})
		unchanged()
		c.must("systemctl", "reset-failed", "testd.service")
	})
	c.step("committed", func() {
		c.publish(c.dir, releases.Daemon{Version: "1.3.0", Behaviour: "needs-key"})
		hooks(migrate+`env | sort >/run/told; echo "$1" >>/run/told; "$MACHINEMON_STAGING`+testdPath+`" --version >>/run/told`, "echo cannot tell\nexit 7\n")
		c.apply(0, "committed 1.3.0: the post_commit hook failed: exit status 7; it said: cannot tell (hint: ", "was 1.0.0")
		c.assertRuns(releases.Daemon{Version: "1.3.0", Behaviour: "needs-key"})
		if got := c.readFile(testdConfig); got != testdOwn+"KEY=1\n" {
			t.Errorf("%s is %q", testdConfig, got)
		}
		told := c.readFile("/run/told")
		for _, want := range []string{"MACHINEMON_TARGET=testd\n", "MACHINEMON_FROM=1.0.0\n", "MACHINEMON_VERSION=1.3.0\n",
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n", "an argument\n", "testd 1.3.0"} {
			if !strings.Contains(told, want) {
				t.Errorf("the hook was not told %q:\n%s", want, told)
			}
		}
		t.Logf("the hook was told:\n%s", told)
		c.assertClosed("1.0.0")
	})
}

// awaitFile waits until the file exists.
func (b *box) awaitFile(name string) {
	b.t.Helper()
	b.ok(machine.WaitFor(b.t.Context(), name+" is there", func() bool {
		_, err := b.Stat(name)
		return err == nil
	}))
}
