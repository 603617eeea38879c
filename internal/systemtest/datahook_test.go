//go:build systemd

package systemtest

import (
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestSnapshotOperator shows that the operator's rollback stops, saves and restores as an
// update does, and that both do so with a hook that changes the data.
func TestSnapshotOperator(t *testing.T) {
	once(t)
	t.Parallel()
	c := newDataChain(t, dbdUnit, dbdTarget(wholeDir, stopFirst))
	rollback := func(exit int, says ...string) {
		c.t.Helper()
		c.said(c.run("machinemon-update", "rollback", "testd"), exit, says...)
		c.assertDataClosed()
	}
	minor, major := releases.Database{Version: "1.1.0"}, releases.Database{Version: "2.0.0"}
	c.step("to a version that knows the data", func() {
		c.publishDatabase(minor)
		c.apply(0, "committed 1.1.0 (was 1.0.0)")
		c.assertData(minor)
		c.assertDataClosed()
		last := c.integrity().Last
		rollback(0, "committed 1.0.0: the operator went back from 1.1.0")
		if got := c.assertData(firstDatabase); got.Last < last {
			c.t.Errorf("rows of 1.1.0 are gone: %+v, there were %d", got, last)
		}
	})
	c.step("to a version that does not", func() {
		c.publishDatabase(major)
		c.apply(0, "committed 2.0.0 (was 1.0.0)")
		c.assertData(major)
		picture := c.picture()
		rollback(4, "rolled back 1.0.0", "2.0.0 runs again")
		c.assertData(major)
		if got := c.picture(); got != picture {
			c.t.Errorf("there are\n%s, were\n%s", got, picture)
		}
		c.must("systemctl", "reset-failed", "testd.service")
	})

	const hook = "/etc/machinemon-update/hooks/pre"
	c.must("install", "-d", "-m", "755", "/etc/machinemon-update/hooks")
	hooked := "[hooks]\npre_swap = [\"" + hook + "\"]\n"
	picture := c.picture()
	migrate := func(does string) {
		c.t.Helper()
		c.writeFile(hook, "#!/bin/sh\nset -eu\ncd "+dbdDir+"\n"+does, 0o755)
	}
	const ruin = "echo >>config\necho >hooked\necho more >>testd.db\n"
	restored := func() {
		c.t.Helper()
		c.assertData(major)
		if got := c.picture(); got != picture {
			c.t.Errorf("there are\n%s, were\n%s", got, picture)
		}
		c.assertDataClosed()
		c.must("sh", "-c", "systemctl reset-failed; machinemon-update unskip testd")
	}
	c.publishDatabase(releases.Database{Version: "3.0.0", Behaviour: "exit-migrated"})
	for _, test := range []struct {
		name, target, hook string
		exit               int
		says               string
	}{
		{"a hook fails", dbdTarget(wholeDir, stopFirst), ruin + "exit 3\n", 1, "failed 3.0.0: the pre_swap hook failed: exit status 3"},
		{"a hook fails while the unit runs", dbdTarget(`"` + dbdDir + `/config"`), "echo >>config\nexit 3\n", 1, "failed 3.0.0: the pre_swap hook failed: exit status 3"},
		{"a hook, and the trial fails", dbdTarget(wholeDir, stopFirst), ruin, 4, "rolled back 3.0.0"},
	} {
		c.step(test.name, func() {
			c.target(test.target + hooked)
			migrate(test.hook)
			config := c.readFile(dbdDir + "/config")
			c.apply(test.exit, test.says)
			restored()
			// The daemon has written it when it was stopped for the snapshot.
			if got := c.readFile(dbdDir + "/config"); got != config && got != "the last words of 2.0.0\n" {
				c.t.Errorf("the configuration is %q, was %q", got, config)
			}
		})
	}
	c.step("a hook, committed", func() {
		c.target(dbdTarget(wholeDir, stopFirst) + hooked)
		migrate("echo >hooked\n")
		good := releases.Database{Version: "3.1.0"}
		c.publishDatabase(good)
		c.apply(0, "committed 3.1.0 (was 2.0.0)")
		c.assertData(good)
		c.assertDataClosed()
		c.must("test", "-e", dbdDir+"/hooked")
	})
}
