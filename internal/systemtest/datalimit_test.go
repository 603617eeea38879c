//go:build systemd

package systemtest

import (
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestSnapshotLimits shows that a failed snapshot ends the attempt and spares the service.
func TestSnapshotLimits(t *testing.T) {
	once(t)
	t.Parallel()
	c := newDataChain(t, dbdUnit, dbdTarget(wholeDir, stopFirst))
	c.publishDatabase(releases.Database{Version: "2.0.0"})
	unit := func(replace ...string) func() {
		return func() {
			c.writeFile("/etc/systemd/system/testd.service", strings.NewReplacer(replace...).Replace(dbdUnit), 0o644)
			c.must("sh", "-ec", "systemctl stop testd.service; systemctl daemon-reload; rm -rf /var/log/dbd /var/log/private/dbd; systemctl start testd.service")
			c.awaitTestd("1.0.0")
		}
	}
	const users = "cannot take a snapshot of " + dbdDir + ": others than root can write there, and testd.service "
	for _, test := range []struct {
		name    string
		prepare func()
		target  string
		exit    int
		says    []string
	}{
		{"more than snapshot_max_bytes", func() {}, dbdTarget(wholeDir, stopFirst, "snapshot_max_bytes = 1000000"), 2,
			[]string{"misconfigured 2.0.0: cannot take a snapshot: the data have ", " bytes, more than 1000000 (hint: rollback.snapshot_max_bytes, or name less in rollback.snapshot)"}},
		{"more than there is room for", func() {
			c.smallState("size=96m")
			c.must("sh", "-ec", "head -c 80M /dev/zero >"+dbdDir+"/ballast; chown dbd: "+dbdDir+"/ballast")
			c.fill(stateDir, 64<<20) // enough for the release
		}, dbdTarget(wholeDir, stopFirst), 1,
			[]string{"failed 2.0.0: cannot take a snapshot: it needs ", " are free in " + stateDir + " (hint: df shows what is full)"}},
		{"data of a user, and a unit of root's", func() {
			c.must("rm", dbdDir+"/ballast")
			c.empty(stateDir)
			unit("User=dbd\n", "", "StateDirectory=dbd\n", "")()
		}, dbdTarget(wholeDir, stopFirst), 2,
			[]string{"misconfigured 2.0.0: " + users + "runs as root (hint: name what root alone can write, or set User= in the unit)"}},
		{"a user for the run only", unit("User=dbd\n", "DynamicUser=yes\n"), dbdTarget(`"/var/lib/private/dbd"`, stopFirst), 2,
			[]string{"misconfigured 2.0.0: cannot take a snapshot of /var/lib/private/dbd: others than root can write there, and testd.service has a user for its run only (DynamicUser=)"}},
	} {
		c.step(test.name, func() {
			test.prepare()
			c.target(test.target)
			since, pid := c.cursor(), c.mainPID()
			c.apply(test.exit, test.says...)
			c.assertNotStopped(since, pid)
			c.awaitTestd("1.0.0")
			c.assertDataClosed()
			if s := c.status(); len(s.Rejected) > 0 {
				c.t.Errorf("the release is blamed: %+v", s)
			}
		})
	}
	c.step("where it can be taken again", func() {
		c.must("sh", "-ec", "systemctl stop testd.service; rm -rf /var/lib/dbd /var/lib/private/dbd")
		unit()()
		c.target(dbdTarget(wholeDir, stopFirst))
		c.apply(0, "committed 2.0.0 (was 1.0.0)")
		c.assertData(releases.Database{Version: "2.0.0"})
		c.assertDataClosed()
	})
}

// TestSnapshotWarning shows that root is warned of data that the unit may write during the save.
func TestSnapshotWarning(t *testing.T) {
	once(t)
	t.Parallel()
	c := newDataChain(t, dbdUnit, dbdTarget(wholeDir))
	c.publishDatabase(releases.Database{Version: "2.0.0"})
	const says = "warning: testd.service has " + dbdFile
	for _, said := range []string{c.must("machinemon-update", "status", "testd"), c.run("machinemon-update", "check", "testd").Stderr} {
		if !strings.Contains(said, says) || !strings.Contains(said, "(hint: rollback.stop = true in /etc/machinemon-update/targets.d/testd.toml)") {
			t.Errorf("it does not say %q: %s", says, said)
		}
	}
	if said := c.must("runuser", "-u", "nobody", "--", "machinemon-update", "status", "testd"); strings.Contains(said, "warning") {
		t.Errorf("others than root are warned: %s", said)
	}
	c.target(dbdTarget(wholeDir, stopFirst))
	if said := c.must("machinemon-update", "status", "testd"); strings.Contains(said, "warning") {
		t.Errorf("it warns although the unit is stopped first: %s", said)
	}
}
