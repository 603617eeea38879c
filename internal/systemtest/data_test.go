//go:build systemd

package systemtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// This file has the helpers for tests of a rollback's data. Package dbd runs as testd,
// with a user of its own, and has its data in dbdDir.

const (
	dbdDir    = "/var/lib/dbd"
	dbdFile   = dbdDir + "/testd.db"
	snapshots = "/var/lib/machinemon-update/swap/testd/snapshot"
)

const dbdUnit = `[Unit]
Description=Test daemon
[Service]
ExecStart=/usr/local/bin/testd
Restart=on-failure
User=dbd
StateDirectory=dbd
StateDirectoryMode=0750
LogsDirectory=dbd
Environment=DBD_DIR=` + dbdDir + ` DBD_ACKS=/var/log/dbd/acks DBD_CONFIG=` + dbdDir + `/config
[Install]
WantedBy=multi-user.target
`

// dbdTarget returns a target that saves these paths; more are other lines of [rollback].
func dbdTarget(paths string, more ...string) string {
	return testdTarget + "[rollback]\nsnapshot = [" + paths + "]\n" + strings.Join(more, "\n") + "\n"
}

const (
	wholeDir  = `"` + dbdDir + `"`
	stopFirst = "stop = true"
)

var firstDatabase = releases.Database{Version: "1.0.0"}

// newDataChain is newChain with dbd and with holds.
func newDataChain(t *testing.T, unit, target string) *chain {
	t.Helper()
	m := boot(t)
	m.holdable()
	m.must("useradd", "--system", "dbd")
	m.writeTarget(target)
	m.writeFile("/etc/systemd/system/testd.service", unit, 0o644)
	m.installDatabase(firstDatabase)
	m.must("sh", "-ec", "touch "+dbdDir+"/config; chown dbd: "+dbdDir+"/config")
	m.must("systemctl", "start", "paths.target")
	m.stopShipped()
	dir := t.TempDir()
	return &chain{m, dir, m.serve(dir)}
}

// installDatabase installs dbd as an operator would, and starts it.
func (b *box) installDatabase(d releases.Database) {
	b.t.Helper()
	b.must("sh", "-c", "systemctl stop testd.service; rm -f "+testdPath)
	b.writeFile(testdPath, string(build(b.t, d)), 0o755)
	b.must("systemctl", "enable", "--quiet", "--now", "testd.service") // also reloads systemd
	b.awaitTestd(d.Version)
}

func (c *chain) publishDatabase(d releases.Database) {
	c.t.Helper()
	c.publishFiles(c.dir, d.Version, releases.File{Name: "testd", Content: build(c.t, d)})
}

// integrity is dbd's report on its database.
type integrity struct {
	Integrity         string
	UserVersion       int
	Rows, Last, Acked int64
	Missing           []string
}

func (b *box) integrity() (got integrity) {
	b.t.Helper()
	status, body, err := b.get("/integrity")
	if err != nil || status != http.StatusOK {
		b.t.Errorf("/integrity: %d, %v: %s", status, err, body)
		return got
	}
	b.ok(json.Unmarshal([]byte(body), &got))
	b.t.Logf("the database: %s", body)
	return got
}

// assertData fails the test unless this program runs with a database of its version that
// has every row that the program has acknowledged.
func (b *box) assertData(d releases.Database) integrity {
	b.t.Helper()
	b.assertProgram(build(b.t, d), d.Version)
	got := b.integrity()
	if got.Integrity != "ok" || fmt.Sprint(got.UserVersion) != d.Version[:1] || got.Acked == 0 || got.Rows < 100_000+got.Acked || len(got.Missing) > 0 {
		b.t.Errorf("the database: %+v", got)
	}
	return got
}

// picture lists dbd's directory without the files that SQLite has there while it runs.
func (b *box) picture() string {
	b.t.Helper()
	return b.must("sh", "-c", "cd "+dbdDir+`; find . ! -name '*-wal' ! -name '*-shm' -printf '%p %y %m %U:%G %l\n' | sort`)
}

// assertDataClosed fails the test if an attempt left its trial open, or left a backup or
// a unit of its data.
func (b *box) assertDataClosed() {
	b.t.Helper()
	for _, path := range []string{testdJournal, snapshots} {
		if _, err := b.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			b.t.Errorf("%s: %v", path, err)
		}
	}
	if got := b.must("systemctl", "list-units", "--all", "--plain", "--no-legend", "machinemon-data@*", "machinemon-hook@*"); got != "" {
		b.t.Errorf("still there: %s", got)
	}
	if s := b.status(); s.Trial != "" {
		b.t.Errorf("a trial is open: %+v", s)
	}
}

// assertNotStopped fails the test if testd's unit had an event since or has another process.
func (c *chain) assertNotStopped(since machine.Cursor, pid string) {
	c.t.Helper()
	c.assertUntouched(since)
	if now := c.mainPID(); now != pid {
		c.t.Errorf("the main process was %s and is %s", pid, now)
	}
}

// TestSnapshotSQLite shows that a rollback restores a database that the new version has
// migrated, and that root follows no link made by the daemon's user.
func TestSnapshotSQLite(t *testing.T) {
	t.Parallel()
	database := dbdTarget(`"`+dbdFile+`"`, stopFirst)
	c := newDataChain(t, dbdUnit, database)
	c.must("sh", "-ec", "install -d /etc/roots; echo secret >/etc/roots/file; cd "+dbdDir+`
		ln -s /etc/shadow shadow-before; ln -s /etc/roots roots-before
		mkdir sub blobs; echo 1 >sub/file; echo 1 >blobs/1; chmod 2710 sub; chmod 604 blobs/1
		chown -hR dbd:dbd .; chown dbd:dbd "$PWD"`)
	roots := func() string {
		c.t.Helper()
		return c.must("sh", "-ec", "find /etc/roots /etc/shadow -printf '%p %y %m %U:%G %T@ %s\n'; sha256sum /etc/shadow; cat /etc/roots/*")
	}
	c.must("systemctl", "start", "machinemon-accounts@testd.service") // it changes /etc/shadow
	was := roots()
	restored := func(runs releases.Database) {
		c.t.Helper()
		c.assertData(runs)
		c.assertDataClosed()
		if got := roots(); got != was {
			c.t.Errorf("root has followed a link of the user's: there are\n%s, were\n%s", got, was)
		}
		if got := c.must("stat", "-c", "%F %a %U:%G", dbdFile, dbdFile+"-wal", dbdFile+"-shm"); got != strings.Repeat("regular file 644 dbd:dbd\n", 3) {
			c.t.Errorf("the database's files are\n%s", got)
		}
		c.must("systemctl", "reset-failed", "testd.service")
	}
	kept := releases.Database{Version: "1.0.0", Behaviour: "never-close"}
	c.publishDatabase(releases.Database{Version: "2.0.0", Behaviour: "plant-links"})
	c.step("the file, and the log that was left beside it", func() {
		c.installDatabase(kept)
		before := c.integrity()
		c.apply(4, "rolled back 2.0.0", "1.0.0 runs again")
		restored(kept)
		if after := c.integrity(); after.Acked <= before.Acked {
			t.Errorf("no row was acknowledged during the update: %+v, then %+v", before, after)
		}
		if _, err := c.Stat(dbdDir + "/testd.db-journal"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the new version's journal is still there: %v", err)
		}
	})
	c.must("sh", "-ec", "cd "+dbdDir+"; rm -rf shadow sub blobs .machinemon-update added added.d; mkdir sub blobs; echo 1 >sub/file; echo 1 >blobs/1; chmod 2710 sub; chmod 604 blobs/1; chown -hR dbd:dbd .")
	c.must("machinemon-update", "unskip", "testd")
	c.step("the directory", func() {
		c.target(dbdTarget(wholeDir, stopFirst))
		c.installDatabase(firstDatabase)
		picture := c.picture()
		c.apply(4, "rolled back 2.0.0", "1.0.0 runs again")
		restored(firstDatabase)
		if got := c.picture(); got != picture {
			t.Errorf("there are\n%s, were\n%s", got, picture)
		}
		c.must("machinemon-update", "unskip", "testd")
	})
	// Files saved while they are written may be inconsistent, but the other guarantees hold.
	c.step("the directory, while it is written", func() {
		c.target(dbdTarget(wholeDir))
		picture := c.picture()
		r := c.run("machinemon-update", "apply", "testd")
		t.Logf("%+v", r)
		if r.Code != 4 && r.Code != 5 {
			t.Errorf("exit status %d", r.Code)
		}
		if got := c.picture(); got != picture {
			t.Errorf("there are\n%s, were\n%s", got, picture)
		}
		if got := roots(); got != was {
			t.Errorf("root has followed a link of the user's: there are\n%s, were\n%s", got, was)
		}
		if r.Code == 4 {
			c.awaitTestd("1.0.0")
			c.assertDataClosed()
		}
	})
}
