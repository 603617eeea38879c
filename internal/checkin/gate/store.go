package gate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
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
	known     knownClasses
}

func (s *store) Close() error { return s.db.Close() }

// forgetOld deletes up to 1000 clients that were last seen before forgetAfter. It deletes
// each in its own transaction, because holding several locks could deadlock with a
// writer.
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
	return s.forgetClasses(ctx)
}

// listTimeout limits each query of the page, some of which read all clients.
const listTimeout = 15 * time.Second

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
