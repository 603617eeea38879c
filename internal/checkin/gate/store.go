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

// A report is what a check-in told of a client. All of it is the client's word.
type report struct {
	ClientID, Hostname, OS, Arch, Version string
	Seen                                  time.Time
	// Of its status line; empty where it has none.
	Target, Result, ResultVersion, Reason, Rejected string
	Attempted                                       time.Time
	Held                                            bool
}

// settings is what an operator decided.
type settings struct {
	Directives bool
	By         string // who decided; "" while nobody has
	At         time.Time
}

const columns = "client_id, hostname, os, arch, version, seen, target, result, result_version, reason, rejected, attempted, held"

// forget is when a client that does not check in any more is forgotten.
const forget = 90 * 24 * time.Hour

// store keeps clients and settings. Its SQL is what SQLite and PostgreSQL share.
type store struct {
	db       *sql.DB
	postgres bool
	bytewise string // behind a column of text to sort by
}

func (s *store) Close() error { return s.db.Close() }

// record writes what clients told, all in one transaction.
func (s *store) insertReports(ctx context.Context, reports []report) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
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
	for _, r := range newest(reports) {
		if _, err := insert.ExecContext(ctx, r.ClientID, clean(r.Hostname), clean(r.OS), clean(r.Arch), clean(r.Version), r.Seen.Unix(), clean(r.Target),
			clean(r.Result), clean(r.ResultVersion), clean(r.Reason), clean(r.Rejected), seconds(r.Attempted), number(r.Held)); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// upsert leaves a newer report of another gate alone. One from the future is no
// newer one: a clock was wrong when it was written.
var upsert = func() string {
	var values, set []string
	for i, c := range strings.Split(columns, ", ") {
		values, set = append(values, fmt.Sprintf("$%d", i+1)), append(set, c+" = excluded."+c)
	}
	return "INSERT INTO clients (" + columns + ") VALUES (" + strings.Join(values, ", ") + ") ON CONFLICT (client_id) DO UPDATE SET " +
		strings.Join(set[1:], ", ") + " WHERE clients.seen <= excluded.seen OR clients.seen > excluded.seen + 3600"
}()

// newest has of each client the newest report, in the order of their IDs: gates that
// write the same clients in different orders would wait for each other.
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

// clean takes out what PostgreSQL refuses: a report would cost all those that are
// written with it.
func clean(s string) string { return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "") }

// forgetOld forgets clients that are gone. One at a time, so that it holds no lock
// that a writer waits for which holds the next one. An index of seen would cost each
// check-in more than it would save here.
func (s *store) forgetOld(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	before := now.Add(-forget).Unix()
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
	}
	return nil
}

// orders are the columns that clients can be sorted by.
var orders = map[string]string{"host": "hostname", "version": "version", "seen": "seen", "result": "result", "attempt": "attempted"}

// listing is how long it may take to read all clients.
const listing = 15 * time.Second

// clients calls f with every client, in this order.
func (s *store) clients(ctx context.Context, order string, descending bool, f func(report)) error {
	column, ok := orders[order]
	if !ok {
		column = "hostname"
	}
	if column != "seen" && column != "attempted" {
		column += s.bytewise
	}
	if descending {
		column += " DESC"
	}
	ctx, cancel := context.WithTimeout(ctx, listing)
	defer cancel()
	rows, err := s.db.QueryContext(ctx, "SELECT "+columns+" FROM clients ORDER BY "+column+", client_id"+s.bytewise)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var r report
		var seen, attempted, held int64
		if err := rows.Scan(&r.ClientID, &r.Hostname, &r.OS, &r.Arch, &r.Version, &seen, &r.Target, &r.Result,
			&r.ResultVersion, &r.Reason, &r.Rejected, &attempted, &held); err != nil {
			return err
		}
		r.Seen, r.Attempted, r.Held = time.Unix(seen, 0).UTC(), moment(attempted), held != 0
		f(r)
	}
	return rows.Err()
}

const directives = "directives"

// settings reads what was decided; directives are on until somebody turns them off.
func (s *store) settings(ctx context.Context) (settings, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
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
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	value := map[bool]string{true: "on", false: "off"}[n.Directives]
	_, err := s.db.ExecContext(ctx, "INSERT INTO settings (name, value, changed_by, changed_at) VALUES ($1, $2, $3, $4) "+
		"ON CONFLICT (name) DO UPDATE SET value = excluded.value, changed_by = excluded.changed_by, changed_at = excluded.changed_at",
		directives, value, clean(n.By), n.At.Unix())
	return err
}

func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func moment(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}
