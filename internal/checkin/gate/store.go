package gate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"
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

// migrations bring a database from each version to the next. Only ever append: what
// was released stays as it was.
var migrations = []string{
	`CREATE TABLE clients (
		client_id      TEXT PRIMARY KEY,
		hostname       TEXT NOT NULL,
		os             TEXT NOT NULL,
		arch           TEXT NOT NULL,
		version        TEXT NOT NULL,
		seen           BIGINT NOT NULL,
		target         TEXT NOT NULL,
		result         TEXT NOT NULL,
		result_version TEXT NOT NULL,
		reason         TEXT NOT NULL,
		rejected       TEXT NOT NULL,
		attempted      BIGINT NOT NULL,
		held           INTEGER NOT NULL
	)`,
	`CREATE INDEX clients_seen ON clients (seen)`,
	`CREATE TABLE settings (
		name       TEXT PRIMARY KEY,
		value      TEXT NOT NULL,
		changed_by TEXT NOT NULL,
		changed_at BIGINT NOT NULL
	)`,
}

const columns = "client_id, hostname, os, arch, version, seen, target, result, result_version, reason, rejected, attempted, held"

// forget is when a client that does not check in any more is forgotten.
const forget = 90 * 24 * time.Hour

// store keeps clients and settings. Its SQL is what SQLite and PostgreSQL share.
type store struct{ db *sql.DB }

// openStore opens the database, and makes or migrates it. Readers do not wait for
// the writer, nor it for them (WAL). A commit that a power cut undoes is in the next
// check-in again, hence synchronous=NORMAL.
func openStore(path string) (*store, error) {
	dsn := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: "_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_pragma=synchronous(NORMAL)&_txlock=immediate"}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", path, err)
	}
	db.SetMaxOpenConns(4)
	s := &store{db}
	if err := s.migrate(); err != nil {
		db.Close()
		return nil, fmt.Errorf("cannot open %s: %w", path, err)
	}
	return s, nil
}

func (s *store) Close() error { return s.db.Close() }

func (s *store) migrate() error {
	tx, err := s.db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.Exec("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)"); err != nil {
		return err
	}
	var version int
	err = tx.QueryRow("SELECT version FROM schema_version").Scan(&version)
	if errors.Is(err, sql.ErrNoRows) {
		_, err = tx.Exec("INSERT INTO schema_version (version) VALUES (0)")
	}
	if err != nil {
		return err
	}
	if version > len(migrations) {
		return fmt.Errorf("its schema %d is newer than this program's %d", version, len(migrations))
	}
	for _, step := range migrations[version:] {
		if _, err := tx.Exec(step); err != nil {
			return err
		}
	}
	if _, err := tx.Exec("UPDATE schema_version SET version = ?", len(migrations)); err != nil {
		return err
	}
	return tx.Commit()
}

// record writes what clients told, all in one transaction.
func (s *store) record(reports []report) error {
	tx, err := s.db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	set := make([]string, 0, 12)
	for _, c := range strings.Split(columns, ", ")[1:] {
		set = append(set, c+" = excluded."+c)
	}
	insert, err := tx.Prepare("INSERT INTO clients (" + columns + ") VALUES (?" + strings.Repeat(", ?", 12) +
		") ON CONFLICT (client_id) DO UPDATE SET " + strings.Join(set, ", "))
	if err != nil {
		return err
	}
	defer insert.Close()
	for _, r := range reports {
		if _, err := insert.Exec(r.ClientID, r.Hostname, r.OS, r.Arch, r.Version, r.Seen.Unix(), r.Target, r.Result,
			r.ResultVersion, r.Reason, r.Rejected, seconds(r.Attempted), number(r.Held)); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// forgetOld forgets clients that are gone.
func (s *store) forgetOld(now time.Time) error {
	_, err := s.db.Exec("DELETE FROM clients WHERE seen < ?", now.Add(-forget).Unix())
	return err
}

// orders are the columns that clients can be sorted by.
var orders = map[string]string{"host": "hostname", "version": "version", "seen": "seen", "result": "result", "attempt": "attempted"}

// clients calls f with every client, in this order.
func (s *store) clients(ctx context.Context, order string, descending bool, f func(report)) error {
	column, ok := orders[order]
	if !ok {
		column = "hostname"
	}
	if descending {
		column += " DESC"
	}
	rows, err := s.db.QueryContext(ctx, "SELECT "+columns+" FROM clients ORDER BY "+column+", client_id")
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
func (s *store) settings() (settings, error) {
	var value, by string
	var at int64
	err := s.db.QueryRow("SELECT value, changed_by, changed_at FROM settings WHERE name = ?", directives).Scan(&value, &by, &at)
	if errors.Is(err, sql.ErrNoRows) {
		return settings{Directives: true}, nil
	}
	return settings{value == "on", by, time.Unix(at, 0).UTC()}, err
}

func (s *store) setSettings(n settings) error {
	value := map[bool]string{true: "on", false: "off"}[n.Directives]
	_, err := s.db.Exec("INSERT INTO settings (name, value, changed_by, changed_at) VALUES (?, ?, ?, ?) "+
		"ON CONFLICT (name) DO UPDATE SET value = excluded.value, changed_by = excluded.changed_by, changed_at = excluded.changed_at",
		directives, value, n.By, n.At.Unix())
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
