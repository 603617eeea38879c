package gate

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// report is what a client reported of itself in a check-in. It is unverified.
type report struct {
	ClientID, Hostname, OS, Arch, Version string
	Seen                                  time.Time
	// The following fields are from its status line, and empty if it sent none.
	Target, Result, ResultVersion, Reason, Rejected string
	Attempted                                       time.Time
	Held                                            bool
	Lot                                             string // its ID for staged rollouts
	// Told is the version that the gate announced in its answer; "" if it announced none.
	// It is not a column of clients.
	Told string
}

// settings is the state of the switch.
type settings struct {
	Directives bool
	By         string // the administrator that turned it; "" if it was never turned
	At         time.Time
}

const columns = "client_id, hostname, os, arch, version, seen, target, result, result_version, reason, rejected, attempted, held, lot"

// forgetAfter is the time after its last check-in when a client is deleted.
const forgetAfter = 90 * 24 * time.Hour

// store is the database of clients and settings. Its SQL is valid in SQLite and PostgreSQL.
type store struct {
	db        *sql.DB
	postgres  bool
	collation string // SQL to append to a text column to sort by its bytes
}

func (s *store) Close() error { return s.db.Close() }

// insertReports writes reports in one transaction.
func (s *store) insertReports(ctx context.Context, reports []report) (err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	defer func() {
		if err != nil && ctx.Err() != nil { // package sql ends the transaction then, and says that
			err = ctx.Err()
		}
	}()
	tx, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	insert, err := tx.PrepareContext(ctx, upsert)
	if err != nil {
		return err
	}
	defer insert.Close()
	told, err := tx.PrepareContext(ctx, upsertTold)
	if err != nil {
		return err
	}
	defer told.Close()
	for _, r := range newest(reports) {
		if _, err := insert.ExecContext(ctx, r.ClientID, clean(r.Hostname), clean(r.OS), clean(r.Arch), clean(r.Version), r.Seen.Unix(), clean(r.Target),
			clean(r.Result), clean(r.ResultVersion), clean(r.Reason), clean(r.Rejected), unixSeconds(r.Attempted), boolToInt(r.Held), r.Lot); err != nil {
			return err
		}
		if err := remember(ctx, tx, told, r); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// upsert inserts a client's report or replaces its older one. A newer report, of another
// gate, stays unless it is newer by more than an hour: then that gate's clock was wrong.
var upsert = func() string {
	var values, set []string
	for i, c := range strings.Split(columns, ", ") {
		values, set = append(values, fmt.Sprintf("$%d", i+1)), append(set, c+" = excluded."+c)
	}
	return "INSERT INTO clients (" + columns + ") VALUES (" + strings.Join(values, ", ") + ") ON CONFLICT (client_id) DO UPDATE SET " +
		strings.Join(set[1:], ", ") + " WHERE clients.seen <= excluded.seen OR clients.seen > excluded.seen + 3600"
}()

// newest returns the newest report of each client, sorted by client ID. Gates that wrote
// the same clients in different orders would deadlock.
func newest(reports []report) []report {
	all := slices.Clone(reports)
	for i := range all {
		all[i].ClientID = clean(all[i].ClientID)
	}
	slices.Reverse(all)
	slices.SortStableFunc(all, func(a, b report) int {
		return cmp.Or(strings.Compare(a.ClientID, b.ClientID), b.Seen.Compare(a.Seen))
	})
	return slices.CompactFunc(all, func(a, b report) bool { return a.ClientID == b.ClientID })
}

// clean removes what PostgreSQL refuses, and would fail the transaction of all reports.
func clean(s string) string { return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "") }

// forgetOld deletes up to 1000 clients that were last seen before forgetAfter. It deletes
// each in its own transaction, because holding several locks could deadlock with a
// writer. There is no index of seen: it would cost each check-in more than it saves here.
func (s *store) forgetOld(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	before := now.Add(-forgetAfter).Unix()
	rows, err := s.db.QueryContext(ctx, "SELECT client_id FROM clients WHERE seen < $1 LIMIT 1000", before)
	if err != nil {
		return err
	}
	defer rows.Close()
	var gone []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return err
		}
		gone = append(gone, id)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, id := range gone {
		if _, err := s.db.ExecContext(ctx, "DELETE FROM clients WHERE client_id = $1 AND seen < $2", id, before); err != nil {
			return err
		}
		for _, table := range []string{"attempts", "told"} {
			if _, err := s.db.ExecContext(ctx, "DELETE FROM "+table+" WHERE client_id = $1 AND client_id NOT IN (SELECT client_id FROM clients WHERE client_id = $2)", id, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// orders maps the values of the parameter sort to the columns that they sort by.
var orders = map[string]string{"host": "hostname", "version": "version", "seen": "seen", "result": "result", "attempt": "attempted"}

// listTimeout limits reading all clients.
const listTimeout = 15 * time.Second

// clients calls f for each client, sorted by the column of sort in orders, or by host
// name if there is none. The order "desc" reverses it.
func (s *store) clients(ctx context.Context, sort, order string, f func(report)) error {
	column, ok := orders[sort]
	if !ok {
		column = "hostname"
	}
	if column != "seen" && column != "attempted" {
		column += s.collation
	}
	if order == "desc" {
		column += " DESC"
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	rows, err := s.db.QueryContext(ctx, "SELECT "+columns+" FROM clients ORDER BY "+column+", client_id"+s.collation)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var r report
		var seen, attempted, held int64
		if err := rows.Scan(&r.ClientID, &r.Hostname, &r.OS, &r.Arch, &r.Version, &seen, &r.Target, &r.Result,
			&r.ResultVersion, &r.Reason, &r.Rejected, &attempted, &held, &r.Lot); err != nil {
			return err
		}
		r.Seen, r.Attempted, r.Held = time.Unix(seen, 0).UTC(), unixTime(attempted), held != 0
		f(r)
	}
	return rows.Err()
}

// markNamesakes sets Namesake of the clients whose host name another client has, too. To
// count the names of all clients while they are read would take memory for each.
func (s *store) markNamesakes(ctx context.Context, listed []clientView) error {
	var names []any
	var places []string
	at := map[string][]int{}
	for i, c := range listed {
		if at[c.Hostname] == nil {
			names = append(names, c.Hostname)
			places = append(places, fmt.Sprintf("$%d", len(names)))
		}
		at[c.Hostname] = append(at[c.Hostname], i)
	}
	if len(names) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	rows, err := s.db.QueryContext(ctx, "SELECT hostname FROM clients WHERE hostname IN ("+strings.Join(places, ", ")+") GROUP BY hostname HAVING COUNT(*) > 1", names...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return err
		}
		for _, i := range at[name] {
			listed[i].Namesake = true
		}
	}
	return rows.Err()
}

const directives = "directives"

// settings reads the switch. Directives are on until an administrator turns them off.
func (s *store) settings(ctx context.Context) (settings, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var value, by string
	var at int64
	err := s.db.QueryRowContext(ctx, "SELECT value, changed_by, changed_at FROM settings WHERE name = $1", directives).Scan(&value, &by, &at)
	if errors.Is(err, sql.ErrNoRows) {
		return settings{Directives: true}, nil
	}
	return settings{value == "on", by, time.Unix(at, 0).UTC()}, err
}

func (s *store) setSettings(ctx context.Context, n settings) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	_, err := s.db.ExecContext(ctx, "INSERT INTO settings (name, value, changed_by, changed_at) VALUES ($1, $2, $3, $4) "+
		"ON CONFLICT (name) DO UPDATE SET value = excluded.value, changed_by = excluded.changed_by, changed_at = excluded.changed_at",
		directives, onOff(n.Directives), clean(n.By), n.At.Unix())
	return err
}

func unixSeconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func unixTime(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
