package gate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// migrationTimeout limits a migration, which may have to rewrite whole tables.
const migrationTimeout = 10 * time.Minute

// migrations are the SQL statements for both SQLite and PostgreSQL that bring a database
// from one schema version to the next: version N has had the first N. Append to them
// only, and never change one that was released. COLLATE bytes stands for the order by bytes.
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
	`CREATE TABLE settings (
		name       TEXT PRIMARY KEY,
		value      TEXT NOT NULL,
		changed_by TEXT NOT NULL,
		changed_at BIGINT NOT NULL
	)`,
	`CREATE TABLE attempts (
		client_id TEXT NOT NULL,
		ended     BIGINT NOT NULL,
		result    TEXT NOT NULL,
		version   TEXT NOT NULL,
		reason    TEXT NOT NULL,
		PRIMARY KEY (client_id, ended)
	)`,
	// since is when the client was first told of this version. seen was when it was last,
	// up to version 5; since then the client's class has that.
	`CREATE TABLE told (
		client_id TEXT PRIMARY KEY,
		version   TEXT NOT NULL,
		since     BIGINT NOT NULL,
		seen      BIGINT NOT NULL
	)`,
	`ALTER TABLE clients ADD COLUMN lot TEXT NOT NULL DEFAULT ''`,
	// used is the day on which a gate last wrote a client of the class: see forgetClasses.
	`CREATE TABLE classes (
		id             BIGINT PRIMARY KEY,
		os             TEXT NOT NULL,
		arch           TEXT NOT NULL,
		version        TEXT NOT NULL,
		result         TEXT NOT NULL,
		result_version TEXT NOT NULL,
		rejected       TEXT NOT NULL,
		held           INTEGER NOT NULL,
		unexplained    INTEGER NOT NULL,
		told           TEXT NOT NULL,
		used           BIGINT NOT NULL,
		UNIQUE (os, arch, version, result, result_version, rejected, held, unexplained, told)
	)`,
	`ALTER TABLE clients ADD COLUMN class BIGINT NOT NULL DEFAULT 0`,
	`INSERT INTO classes (id, used, os, arch, version, result, result_version, rejected, held, unexplained, told)
		SELECT row_number() OVER (), 0, os, arch, version, result, result_version, rejected, held, unexplained, told FROM (
			SELECT DISTINCT os, arch, clients.version, result, result_version, rejected, held,
				CASE WHEN result = '' AND reason <> '' THEN 1 ELSE 0 END AS unexplained, COALESCE(told.version, '') AS told
			FROM clients LEFT JOIN told ON told.client_id = clients.client_id AND told.seen = clients.seen AND told.seen - told.since <= 900
		) AS found`,
	`UPDATE clients SET class = (SELECT id FROM classes WHERE classes.os = clients.os AND classes.arch = clients.arch AND classes.version = clients.version AND
		classes.result = clients.result AND classes.result_version = clients.result_version AND classes.rejected = clients.rejected AND classes.held = clients.held AND
		classes.unexplained = CASE WHEN clients.result = '' AND clients.reason <> '' THEN 1 ELSE 0 END AND classes.told = COALESCE(
			(SELECT told.version FROM told WHERE told.client_id = clients.client_id AND told.seen = clients.seen AND told.seen - told.since <= 900), ''))`,
	// Each has all columns that a list of the page needs to find its first clients.
	`CREATE INDEX clients_class ON clients (class, client_id COLLATE bytes)`,
	`CREATE INDEX clients_hostname ON clients (hostname COLLATE bytes, client_id COLLATE bytes, class)`,
	`CREATE INDEX clients_seen ON clients (seen, client_id COLLATE bytes, class)`,
	`CREATE INDEX clients_attempted ON clients (attempted, client_id COLLATE bytes, class)`,
	// The index of seen has what a rollout depends on, too. Of the indexes, each check-in
	// writes this one only.
	`DROP INDEX clients_seen`,
	`CREATE INDEX clients_seen ON clients (seen, client_id COLLATE bytes, class, lot)`,
}

// migrationLock is the number of PostgreSQL's advisory lock for migrations. It spells
// "mm-gate" in ASCII, so that no other program is likely to use it.
const migrationLock int64 = 0x6d6d2d67617465

// migrate executes those of steps that the database has not had, in one transaction.
func (s *store) migrate(ctx context.Context, steps []string) error {
	tx, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if s.postgres {
		// If gates start together, one creates the tables and the others wait: in
		// PostgreSQL two concurrent "IF NOT EXISTS" fail. SQLite has only one writer.
		if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1)", migrationLock); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)"); err != nil {
		return err
	}
	var version int
	err = tx.QueryRowContext(ctx, "SELECT version FROM schema_version").Scan(&version)
	if errors.Is(err, sql.ErrNoRows) {
		_, err = tx.ExecContext(ctx, "INSERT INTO schema_version (version) VALUES (0)")
	}
	if err != nil {
		return err
	}
	if version > len(steps) {
		return fmt.Errorf("its schema %d is newer than this program's %d (hint: upgrade machinemon-checkin)", version, len(steps))
	}
	for _, step := range steps[version:] {
		if _, err := tx.ExecContext(ctx, strings.ReplaceAll(step, " COLLATE bytes", s.collation)); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, "UPDATE schema_version SET version = $1", len(steps)); err != nil {
		return err
	}
	return tx.Commit()
}
