package gate

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestClassesOfOldClients checks that the clients of a database from before it had classes
// are counted and listed as before, and those that were told of a release are told apart.
func TestClassesOfOldClients(t *testing.T) {
	b := newBench(t)
	b.publish()
	old := &database{t: t, name: b.data.name, path: b.data.path}
	s := b.store.Swap(nil)
	for _, table := range []string{"clients", "settings", "attempts", "told", "classes", "schema_version"} {
		if _, err := s.db.Exec("DROP TABLE " + table); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.prepare(t.Context(), migrations[:5]); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = old.unprepared()
	now := time.Unix(1_800_000_000, 0).UTC()
	b.now = func() time.Time { return now }
	silent := map[string]string{}
	for i := range 700 {
		id, seen, reason := fmt.Sprintf("c-%d", i), now.Unix()-int64(i*60), []string{"", "it died"}[i/2%2]
		if _, err := s.db.Exec("INSERT INTO clients ("+columns+") VALUES ($1, $2, 'linux', $3, $4, $5, 'agent', $6, $7, $8, $9, $10, $11, '')", id, fmt.Sprintf("host-%d", i%99), []string{"amd64", "arm"}[i%2],
			[]string{"", "v0.1.11", "v0.1.12"}[i%3], seen, []string{"", "committed", "rolled back"}[i/3%3], []string{"", "v0.1.12"}[i%2], reason, []string{"", "v0.1.12"}[i/5%2], seen, i/7%2); err != nil {
			t.Fatal(err)
		}
		told, since := seen-int64(i%2), seen-int64(i%5*300)
		if i%3 > 0 {
			if _, err := s.db.Exec("INSERT INTO told (client_id, version, since, seen) VALUES ($1, 'v0.1.12', $2, $3)", id, since, told); err != nil {
				t.Fatal(err)
			}
			if told == seen && seen-since <= 900 && i > 30 {
				silent[id] = "v0.1.12"
			}
		}
	}
	s.Close()
	b.store.Store(b.data.open())
	of := func(r report) string { return silent[r.ClientID] }
	b.same("after the migration", of, everyQuery[:50]...)
	// The first check-ins change the classes of some.
	all := b.store.Load().rows(t)[:300]
	for i := range all {
		all[i].Seen = now
		delete(silent, all[i].ClientID)
		if i%2 == 0 {
			all[i].Version = "v0.1.13"
		}
	}
	b.report(all...)
	b.same("after check-ins", of, everyQuery[:50]...)
}

// TestQueryPlans checks that SQLite reads no list of the page by reading or sorting all
// clients.
func TestQueryPlans(t *testing.T) {
	if kind != "SQLite" {
		t.Skip("PostgreSQL plans by its statistics")
	}
	s := newDatabase(t).open()
	plan := func(query string, args ...any) (all []string) {
		t.Helper()
		rows, err := s.db.Query("EXPLAIN QUERY PLAN "+query, args...)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		defer rows.Close()
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			all = append(all, detail)
		}
		return all
	}
	const all = 1_000_000
	for _, column := range []string{"hostname", "seen", "attempted", "client_id"} {
		for _, desc := range []bool{false, true} {
			for _, n := range []int{10, all / 2} {
				for _, classes := range []int{1, 2} {
					l := selection{whole: []selected{{id: 1, n: n}, {id: 2}}[:classes]}
					query, args := s.firstQuery(l, order{column, desc}, maxRows, all)
					got := strings.Join(plan(query, args...), "; ")
					by := "clients_" + column
					if n == 10 || column == "client_id" {
						by = "clients_class"
					}
					sorts := n == 10 || column == "client_id"
					// It would sort a part of the order if clients with the same value were in another order.
					if !strings.Contains(got, " INDEX "+by) || n > 10 && !strings.Contains(got, "COVERING INDEX") || !sorts && strings.Contains(got, "TEMP B-TREE FOR") {
						t.Errorf("%s\nis planned as %s", query, got)
					}
					l.like, l.found = "%a%", n
					query, args = s.firstQuery(l, order{column, desc}, maxRows, all)
					if got := strings.Join(plan(query, args...), "; "); !strings.Contains(got, " INDEX "+by) || !sorts && strings.Contains(got, "TEMP B-TREE FOR") {
						t.Errorf("%s\nis planned as %s", query, got)
					}
				}
			}
		}
	}
	read := func(what, want, query string, args ...any) {
		t.Helper()
		if got := strings.Join(plan(query, args...), "; "); !strings.Contains(got, want) {
			t.Errorf("%s: %s\nis planned as %s", what, query, got)
		}
	}
	if got := strings.Join(plan(s.lotsQuery(), "[1,2]"), "; "); !strings.Contains(got, "SCAN clients USING COVERING INDEX clients_seen") || strings.Contains(got, "TEMP B-TREE") {
		t.Errorf("%s\nis planned as %s", s.lotsQuery(), got)
	}
	read("silent clients", "SEARCH clients USING COVERING INDEX clients_seen (seen<?)", countSilent, 1)
	read("classes", "SCAN clients USING COVERING INDEX clients_class;", countClasses)
	query, args := s.countQuery("%a%", []selection{{whole: []selected{{id: 1}}}, {whole: []selected{{id: 2}, {id: 3}}}}, false)
	read("what a search finds", "SCAN clients USING COVERING INDEX clients_hostname;", query, args...)
	for name, column := range orders {
		for _, text := range []string{"a", "ä"} {
			query, args := s.findQuery(text, order{column: column}, 5000)
			read("search by "+name, "SCAN clients USING COVERING INDEX clients_hostname", query, args...)
			read("search by "+name, "SEARCH clients USING INDEX sqlite_autoindex_clients_1 (client_id=?)", query, args...)
		}
	}
}
