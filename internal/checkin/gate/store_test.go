package gate

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// tables returns the names of the gate's tables that exist.
func (s *store) tables() string {
	var there []string
	for _, name := range []string{"clients", "settings", "schema_version"} {
		if _, err := s.db.Exec("SELECT 1 FROM " + name); err == nil {
			there = append(there, name)
		}
	}
	return strings.Join(there, " ")
}

// unprepared returns a store without tables.
func (d *database) unprepared() *store {
	d.t.Helper()
	open := openSQLite
	if isAddress(d.name) {
		open = openPostgres
	}
	s, err := open(d.name)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { s.Close() })
	return s
}

func TestMigrations(t *testing.T) {
	d := newDatabase(t)
	s := d.unprepared()
	// A migration that fails half-way leaves nothing, and starts from the beginning
	// again.
	broken := append(slices.Clone(migrations), "CREATE TABLE more (x INTEGER)", "CREATE NONSENSE")
	if err := s.prepare(t.Context(), broken); err == nil || s.tables() != "" {
		t.Errorf("%v leaves %s", err, s.tables())
	}
	for n := range migrations {
		if err := s.prepare(t.Context(), migrations[:n+1]); err != nil {
			t.Fatalf("to version %d: %v", n+1, err)
		}
	}
	r := report{ClientID: "c", Seen: time.Unix(1000, 0).UTC()}
	if err := s.insertReports(t.Context(), []report{r}); err != nil {
		t.Fatal(err)
	}
	// Existing data stay.
	if err := s.prepare(t.Context(), broken); err == nil || len(d.all("")) != 1 {
		t.Errorf("%v leaves %v", err, d.all(""))
	}
	if err := s.prepare(t.Context(), append(slices.Clone(migrations), "CREATE TABLE more (x INTEGER)")); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("its schema %d is newer than this program's %d (hint: upgrade machinemon-checkin)", len(migrations)+1, len(migrations))
	if _, err := openStore(t.Context(), d.name); err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestMigrationsAtOnce checks that gates wait for the one that creates the tables.
func TestMigrationsAtOnce(t *testing.T) {
	for range 3 {
		d := newDatabase(t)
		var gates sync.WaitGroup
		for range 8 {
			gates.Go(func() {
				s, err := openStore(t.Context(), d.name)
				if err != nil {
					t.Error(err)
					return
				}
				defer s.Close()
				if err := s.insertReports(t.Context(), []report{{ClientID: "c", Seen: time.Now()}}); err != nil {
					t.Error(err)
				}
			})
		}
		gates.Wait()
		if n := len(d.all("")); n != 1 {
			t.Errorf("%d clients are known", n)
		}
	}
}

// all returns all clients, sorted by a key of orders.
func (d *database) all(order string) (all []report) {
	d.t.Helper()
	s := d.open()
	ids, err := s.sorted(d.t.Context(), newOrder(order, ""))
	if err != nil {
		d.t.Fatal(err)
	}
	reports, err := s.reportsOf(d.t.Context(), ids)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, id := range ids {
		all = append(all, reports[id].report)
	}
	return all
}

// sorted returns the IDs of all clients, as the page finds them.
func (s *store) sorted(ctx context.Context, o order) ([]string, error) {
	l := newLister(s, nil, url.Values{}, 0)
	l.order = o
	if err := s.classes(ctx, time.Now(), func(k counted) { l.add(k, view(k.report(), nil)) }); err != nil {
		return nil, err
	}
	return s.first(ctx, l.trouble.with(l.others), o, 1_000_000, l.all)
}

// TestWritersAtOnce checks that gates that write in opposite orders do not deadlock.
func TestWritersAtOnce(t *testing.T) {
	d := newDatabase(t)
	var up []report
	for i := range 100 {
		up = append(up, report{ClientID: fmt.Sprintf("c-%d", i), Seen: time.Now()})
	}
	down := slices.Clone(up)
	slices.Reverse(down)
	var gates sync.WaitGroup
	for _, reports := range [][]report{up, down} {
		s := d.open()
		gates.Go(func() {
			for range 20 {
				if err := s.insertReports(t.Context(), reports); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	gates.Wait()
}

// TestNewestReport checks that the newest report stays, in each order of writing. written.
func TestNewestReport(t *testing.T) {
	d := newDatabase(t)
	s := d.open()
	now := time.Unix(1_800_000_000, 0).UTC()
	at := func(seconds int, version string) report {
		return report{ClientID: "c", Seen: now.Add(time.Duration(seconds) * time.Second), Version: version}
	}
	for i, c := range []struct {
		written []report
		want    string
	}{
		{[]report{at(0, "first")}, "first"},
		{[]report{at(60, "b"), at(120, "newest"), at(90, "c")}, "newest"},
		{[]report{at(119, "late, from another gate")}, "newest"},
		{[]report{at(120, "same time"), at(120, "same time, later")}, "same time, later"},
		{[]report{at(100_000, "from the future")}, "from the future"},
		{[]report{at(180, "the clock was set")}, "the clock was set"},
	} {
		if err := s.insertReports(t.Context(), c.written); err != nil {
			t.Fatal(err)
		}
		if all := d.all(""); len(all) != 1 || all[0].Version != c.want {
			t.Errorf("%d: known is %+v, want %s", i, all, c.want)
		}
	}
	mixed := []report{{ClientID: "b", OS: "1"}, {ClientID: "a"}, {ClientID: "b", OS: "2"}}
	if got := newest(mixed); len(got) != 2 || got[0].ClientID != "a" || got[1].OS != "2" {
		t.Errorf("of %+v the newest are %+v", mixed, got)
	}
}

// TestOrder checks that both databases sort by bytes.
func TestOrder(t *testing.T) {
	d := newDatabase(t)
	want := []string{"", "-", "B", "Z", "a", "a-b", "ab", "z", "ä", "文"}
	var reports []report
	for i, name := range want {
		reports = append(reports, report{ClientID: fmt.Sprint(len(want) - i), Hostname: name, Version: name, Result: name, Seen: time.Now()})
		reports = append(reports, report{ClientID: "x" + name, Hostname: "same", Seen: time.Now()})
	}
	if err := d.open().insertReports(t.Context(), reports); err != nil {
		t.Fatal(err)
	}
	for order, of := range map[string]func(report) string{
		"host":    func(r report) string { return r.Hostname },
		"version": func(r report) string { return r.Version },
		"result":  func(r report) string { return r.Result },
	} {
		var got, ids []string
		for _, r := range d.all(order) {
			if id, same := strings.CutPrefix(r.ClientID, "x"); !same {
				got = append(got, of(r))
			} else {
				ids = append(ids, id)
			}
		}
		if !slices.Equal(got, want) || !slices.Equal(ids, want) {
			t.Errorf("%s: %q and %q, want %q", order, got, ids, want)
		}
	}
}

// TestStrangeText checks that any text of a client or administrator can be stored.
func TestStrangeText(t *testing.T) {
	d := newDatabase(t)
	s := d.open()
	const strange = "a\x00b\xff\xed\xa0\x80\\x00'\"%s$1😀"
	r := report{ClientID: strange, Hostname: strange, OS: strange, Arch: strange, Version: strange, Seen: time.Now(), Target: strange, Result: strange,
		ResultVersion: strange, Reason: strange, Rejected: strange, Attempted: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), Held: true}
	if err := s.insertReports(t.Context(), []report{r}); err != nil {
		t.Fatal(err)
	}
	const clean = "ab\\x00'\"%s$1😀"
	if all := d.all(""); len(all) != 1 || all[0].ClientID != clean || all[0].Rejected != clean || !all[0].Attempted.Equal(r.Attempted) || !all[0].Held {
		t.Errorf("known is %+v", all)
	}
	if err := s.setSettings(t.Context(), settings{false, strange, time.Now()}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.settings(t.Context()); err != nil || got.By != clean || got.Directives {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestLocksEnd checks that the locks of a gate whose machine died end in time.
func TestLocksEnd(t *testing.T) {
	if kind == "SQLite" {
		t.Skip("the kernel frees the locks of a process that ends")
	}
	tx, err := newDatabase(t).open().begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	var after string
	if err := tx.QueryRow("SHOW idle_in_transaction_session_timeout").Scan(&after); err != nil || after != "10s" {
		t.Errorf("%s, %v", after, err)
	}
}

func TestEncoding(t *testing.T) {
	if kind == "SQLite" {
		t.Skip("has only UTF-8")
	}
	p := thePostgres(t)
	p.exec(t, "DROP DATABASE IF EXISTS latin")
	p.exec(t, "CREATE DATABASE latin ENCODING LATIN1 LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0")
	if _, err := openStore(t.Context(), p.address("dbname=latin")); err == nil || err.Error() != "its encoding is LATIN1 (hint: createdb --encoding=UTF8 --template=template0)" {
		t.Error(err)
	}
}

// BenchmarkClients reads 100,000 clients, as the page does. It also reports how long
// writing them took, for new clients and for known ones.
func BenchmarkClients(b *testing.B) {
	d := newDatabase(b)
	s := d.open()
	for _, what := range []string{"new", "again"} {
		began := time.Now()
		for i := 0; i < 100_000; i += maxBatch {
			var reports []report
			for j := range maxBatch {
				reports = append(reports, report{ClientID: fmt.Sprintf("c-%d", i+j), Hostname: fmt.Sprintf("host-%d.example.com", (i+j)*7919%100_000), OS: "linux", Arch: "amd64",
					Version: "v0.1.12", Seen: time.Now(), Target: "agent", Result: "committed", ResultVersion: "v0.1.12", Attempted: time.Now()})
			}
			if err := s.insertReports(b.Context(), reports); err != nil {
				b.Fatal(err)
			}
		}
		b.Logf("%s: %s", what, time.Since(began))
	}
	for b.Loop() {
		if all, err := s.sorted(b.Context(), newOrder("host", "")); err != nil || len(all) < 100_000 {
			b.Fatal(len(all), err)
		}
	}
}
