package main

import (
	"bufio"
	"crypto/rand"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	_ "modernc.org/sqlite"
)

// A store is the database and the file of acknowledged rows.
type store struct {
	db    *sql.DB
	acked string
	acks  *os.File
}

// open opens or makes the database, and migrates it to this version.
func open(dir, acked string) (*store, error) {
	own, err := major(version)
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "testd.db")+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	var its int
	if err := db.QueryRow("PRAGMA user_version").Scan(&its); err != nil {
		return nil, fmt.Errorf("FATAL: cannot read the database: %w", err)
	}
	if its > own {
		return nil, fmt.Errorf("FATAL: the database is of a newer version: %d, and not %d", its, own)
	}
	for ; its < own; its++ {
		if err := migrate(db, dir, its+1); err != nil {
			return nil, fmt.Errorf("FATAL: cannot migrate the database: %w", err)
		}
	}
	acks, err := os.OpenFile(acked, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	return &store{db, acked, acks}, err
}

const rows = 100_000

// migrate migrates a database from the version before to this one.
func migrate(db *sql.DB, dir string, to int) error {
	change := []string{"CREATE TABLE notes (id INTEGER PRIMARY KEY, note TEXT NOT NULL)",
		fmt.Sprintf("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < %d) INSERT INTO notes SELECT i, 'note ' || i FROM n", rows)}
	if to > 1 {
		column := fmt.Sprintf("checked%d", to)
		change = []string{"ALTER TABLE notes ADD COLUMN " + column + " TEXT", "UPDATE notes SET " + column + " = upper(note)"}
		for _, name := range []string{"added", "added.d/file", "sub/added"} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o750); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(version), 0o640); err != nil {
				return err
			}
		}
	}
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, statement := range append(change, fmt.Sprintf("PRAGMA user_version = %d", to)) {
		if _, err := tx.Exec(statement); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// write commits row after row until it gets a signal, and then one more.
func (s *store) write(stop <-chan os.Signal) error {
	tick := time.NewTicker(5 * time.Millisecond)
	for last := false; !last; {
		select {
		case <-stop:
			last = true
		case <-tick.C:
		}
		token := rand.Text()
		r, err := s.db.Exec("INSERT INTO notes (note) VALUES (?)", token)
		if err != nil {
			return err
		}
		id, err := r.LastInsertId()
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(s.acks, version, id, token); err != nil {
			return err
		}
	}
	return nil
}

// seen is the answer to /integrity.
type seen struct {
	Integrity   string
	UserVersion int
	Rows, Last  int64
	Acked       int64    // rows that were acknowledged by a program of this version
	Missing     []string // acknowledged rows that are missing or different in the database, at most ten
}

func (s *store) look() (got seen, err error) {
	tx, err := s.db.Begin()
	if err != nil {
		return got, err
	}
	defer tx.Rollback()
	for query, into := range map[string]any{
		"PRAGMA integrity_check": &got.Integrity, "PRAGMA user_version": &got.UserVersion,
		"SELECT count(*) FROM notes": &got.Rows, "SELECT max(id) FROM notes": &got.Last,
	} {
		if err := tx.QueryRow(query).Scan(into); err != nil {
			return got, fmt.Errorf("%s: %w", query, err)
		}
	}
	acks, err := os.Open(s.acked)
	if err != nil {
		return got, err
	}
	defer acks.Close()
	// These are the rows of this moment, because the writer waits for this transaction.
	for lines := bufio.NewScanner(acks); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) != 3 || f[0] != version {
			continue
		}
		got.Acked++
		var token string
		err := tx.QueryRow("SELECT note FROM notes WHERE id = ?", f[1]).Scan(&token)
		if err != nil && err != sql.ErrNoRows {
			return got, err
		}
		if token != f[2] && len(got.Missing) < 10 {
			got.Missing = append(got.Missing, lines.Text())
		}
	}
	return got, nil
}
