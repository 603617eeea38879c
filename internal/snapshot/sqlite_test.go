package snapshot

import (
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"reflect"
	"testing"

	_ "modernc.org/sqlite"
)

// TestCompanions tests which files have companions.
func TestCompanions(t *testing.T) {
	for name, row := range map[string]struct {
		plant func(db string)
		want  bool
	}{
		"database":                {func(db string) { put(t, db, sqliteMagic+"\x10\x00") }, true},
		"empty":                   {func(db string) { put(t, db, "") }, true},
		"nothing there":           {func(db string) {}, true},
		"something beside":        {func(db string) { put(t, db, "x"); put(t, db+"-journal", "") }, true},
		"only something beside":   {func(db string) { put(t, db+"-wal", "") }, true},
		"configuration":           {func(db string) { put(t, db, "key = 'value'") }, false},
		"almost a database":       {func(db string) { put(t, db, "SQLite format 3") }, false},
		"directory":               {func(db string) { put(t, db+"/x", sqliteMagic) }, false},
		"symlink to a database":   {func(db string) { put(t, db+"2", sqliteMagic); must(t, os.Symlink(db+"2", db)) }, false},
		"device, which is opened": {func(db string) { must(t, os.Symlink("/dev/zero", db)) }, false},
	} {
		db := t.TempDir() + "/db"
		row.plant(db)
		var want []string
		if row.want {
			want = []string{db + "-wal", db + "-shm", db + "-journal"}
		}
		if got, err := Companions(db); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	if got, err := Companions(t.TempDir() + "/none/db"); err != nil || len(got) != 3 {
		t.Errorf("no directory: got %v, %v", got, err)
	}
}

// TestMigration: a database in WAL mode of a killed daemon is restored with all committed
// data after a migration that the old version cannot read.
func TestMigration(t *testing.T) {
	dir := t.TempDir()
	live, data, backups := dir+"/live.db", dir+"/app.db", dir+"/backups"
	must(t, os.Mkdir(backups, 0o700))
	open := func(path string) *sql.DB {
		db, err := sql.Open("sqlite", path)
		must(t, err)
		db.SetMaxOpenConns(1)
		return db
	}
	exec := func(db *sql.DB, statements ...string) {
		t.Helper()
		for _, s := range statements {
			_, err := db.Exec(s)
			must(t, err)
		}
	}
	// A killed daemon leaves the same files that are on the disk while it runs.
	db := open(live)
	exec(db, "PRAGMA journal_mode=WAL", "PRAGMA wal_autocheckpoint=0", "CREATE TABLE t (v)",
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 100000) INSERT INTO t SELECT i FROM n")
	for _, suffix := range []string{"", "-wal", "-shm"} {
		content, err := os.ReadFile(live + suffix)
		must(t, err)
		must(t, os.WriteFile(data+suffix, content, 0o644))
	}
	must(t, db.Close())

	companions, err := Companions(data)
	must(t, err)
	args := []string{}
	for n, path := range append([]string{data}, companions...) {
		backup := backups + "/" + string(rune('0'+n))
		if _, err := Measure(path); errors.Is(err, fs.ErrNotExist) {
			args = append(args, "-", path)
			continue
		}
		save(t, path, backup)
		args = append(args, backup, path)
	}
	if len(args) != 8 || args[2] == "-" || args[6] != "-" { // a WAL exists, and no rollback journal
		t.Fatalf("not what was to be tested: %v", args)
	}

	db = open(data)
	exec(db, "PRAGMA wal_checkpoint(TRUNCATE)", "CREATE TABLE t2 (v, w)", "INSERT INTO t2 SELECT v, v*2 FROM t", "DROP TABLE t", "VACUUM")
	must(t, db.Close())
	must(t, os.WriteFile(data+"-journal", []byte("hot"), 0o644))

	must(t, restoreAll(nil, args))
	db = open(data)
	defer db.Close()
	var sum, count int64
	var integrity string
	must(t, db.QueryRow("PRAGMA integrity_check").Scan(&integrity))
	must(t, db.QueryRow("SELECT count(*), sum(v) FROM t").Scan(&count, &sum))
	if integrity != "ok" || count != 100000 || sum != 100000*100001/2 {
		t.Errorf("integrity is %s, %d rows with the sum %d", integrity, count, sum)
	}
}
