package gate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite" // the driver "sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// queryTimeout limits each query, and how long the gate's start waits for the database,
// since one that accepts a connection may never answer. Tests set a shorter one.
var queryTimeout = 5 * time.Second

// migrationTimeout limits a migration, which may have to rewrite whole tables.
const migrationTimeout = time.Minute

// migrations are the SQL statements for both SQLite and PostgreSQL that bring a database
// from one schema version to the next: version N has had the first N. Append to them
// only, and never change one that was released.
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
	// since is when the client was first told of this version, seen when it was last.
	`CREATE TABLE told (
		client_id TEXT PRIMARY KEY,
		version   TEXT NOT NULL,
		since     BIGINT NOT NULL,
		seen      BIGINT NOT NULL
	)`,
	`ALTER TABLE clients ADD COLUMN lot TEXT NOT NULL DEFAULT ''`,
}

// openStore opens an SQLite file or a PostgreSQL URL, and migrates its tables.
func openStore(ctx context.Context, database string) (*store, error) {
	open := openSQLite
	if isAddress(database) {
		open = openPostgres
	}
	s, err := open(database)
	if err != nil {
		return nil, err
	}
	if !s.postgres {
		err = s.awaitMode(ctx)
	}
	if err == nil {
		err = s.prepare(ctx, migrations)
	}
	if err != nil {
		s.Close()
		if !s.postgres {
			err = fmt.Errorf("%s: %w", database, err) // a PostgreSQL URL may contain a password
		}
		return nil, err
	}
	return s, nil
}

// openSQLite opens an SQLite file in WAL mode, in which readers and the writer do not
// wait for each other. synchronous=NORMAL is enough: a power cut may undo the last
// commits, but the next check-ins bring the same reports.
func openSQLite(path string) (*store, error) {
	dsn := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: fmt.Sprintf("_pragma=journal_mode(WAL)&_pragma=busy_timeout(%d)&_pragma=synchronous(NORMAL)&_txlock=immediate", busyTime.Milliseconds())}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	db.SetMaxOpenConns(4)
	return &store{db: db}, nil
}

// busyTime is how long SQLite waits for a lock.
const busyTime = 5 * time.Second

// awaitMode makes the first connection. SQLite does not wait by itself while another
// process puts a new file into WAL mode.
func (s *store) awaitMode(ctx context.Context) error {
	deadline := time.Now().Add(busyTime)
	for {
		err := s.db.PingContext(ctx)
		busy, is := errors.AsType[*sqlite.Error](err)
		if !is || busy.Code()&0xff != sqlite3.SQLITE_BUSY || time.Now().After(deadline) {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// isAddress reports whether database is a PostgreSQL URL, not the path of a file.
func isAddress(database string) bool {
	return strings.HasPrefix(database, "postgres://") || strings.HasPrefix(database, "postgresql://")
}

// parameters are allowed after the "?" of a PostgreSQL URL. Without this list the driver
// would send a misspelt "sslmode" to the server, and not verify the server.
var parameters = []string{"user", "password", "host", "port", "dbname", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword",
	"sslnegotiation", "channel_binding", "require_auth", "connect_timeout", "target_session_attrs", "application_name", "search_path", "options",
	"default_query_exec_mode"}

// parseAddress parses a PostgreSQL URL. Its errors quote nothing of the URL, because a
// malformed one may contain the password anywhere.
func parseAddress(address string) (*pgx.ConnConfig, error) {
	var options pgx.ParseConfigOptions
	options.ConnStringAllowedKeys = parameters
	c, err := pgx.ParseConfigWithOptions(address, options)
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, fmt.Errorf("names a file that cannot be read: %w", pe.Err)
	}
	if err != nil || hasPasswordRest(c.Database) || hasPasswordRest(c.Host) || len(c.Fallbacks) > 0 && hasPasswordRest(c.Fallbacks[len(c.Fallbacks)-1].Host) {
		return nil, fmt.Errorf(`cannot be read as PostgreSQL's address (allowed: "postgres://USER@HOST/NAME", "postgres://USER:PASSWORD@HOST:PORT/NAME", `+
			`"postgres:///NAME?host=/run/postgresql", with %%XX for all but letters and digits in a password; parameters: %s)`, strings.Join(parameters, ", "))
	}
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = "machinemon-checkin-gate"
	}
	return c, nil
}

// hasPasswordRest reports whether the end of an unescaped password was parsed as a part of
// a host or database name, as in "postgres://user:pass@word@host". Errors show such names.
func hasPasswordRest(s string) bool { return strings.Contains(s, "@") }

func openPostgres(address string) (*store, error) {
	c, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	db := stdlib.OpenDB(*c)
	db.SetMaxOpenConns(4)
	// The collation gives the same order as SQLite's, for each locale of the database.
	return &store{db: db, postgres: true, collation: ` COLLATE "C"`}, nil
}

// begin begins a transaction. PostgreSQL ends it when it is idle for 10 s: else, if a
// gate's machine dies, others would wait for its locks for hours, until TCP times out.
func (s *store) begin(ctx context.Context) (*sql.Tx, error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err == nil && s.postgres {
		if _, err = tx.ExecContext(ctx, "SET LOCAL idle_in_transaction_session_timeout = 10000"); err != nil {
			tx.Rollback()
		}
	}
	return tx, err
}

// prepare connects to the database, and creates its tables or migrates them.
func (s *store) prepare(ctx context.Context, steps []string) error {
	connect, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	if err := s.db.PingContext(connect); err != nil {
		return oneLine(err)
	}
	if s.postgres {
		var encoding string
		if err := s.db.QueryRowContext(connect, "SHOW server_encoding").Scan(&encoding); err != nil {
			return err
		}
		// One name that the encoding cannot express would fail a whole transaction.
		if encoding != "UTF8" && encoding != "SQL_ASCII" {
			return fmt.Errorf("its encoding is %s (hint: createdb --encoding=UTF8 --template=template0)", encoding)
		}
	}
	ctx, cancel = context.WithTimeout(ctx, migrationTimeout)
	defer cancel()
	return s.migrate(ctx, steps)
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
		if _, err := tx.ExecContext(ctx, step); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, "UPDATE schema_version SET version = $1", len(steps)); err != nil {
		return err
	}
	return tx.Commit()
}

// oneLine returns the driver's error as one line. The driver reports each attempt (with
// TLS and without, at each host) on a line of its own.
func oneLine(err error) error {
	ce, ok := errors.AsType[*pgconn.ConnectError](err)
	if !ok {
		return err
	}
	causes := slices.Compact(strings.Split(ce.Unwrap().Error(), "\n"))
	return fmt.Errorf("%s as %s: %s", ce.Config.Database, ce.Config.User, strings.Join(causes, "; "))
}
