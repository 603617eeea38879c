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
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// patience is how long a query may take, and how long the start waits for the
// database: one that takes a connection may still never answer. The tests have less.
var patience = 5 * time.Second

// migrating is how long a migration may take, which may have to rewrite everything.
const migrating = time.Minute

// migrations bring a database from each version to the next, SQLite and PostgreSQL
// alike. Only ever append: what was released stays as it was.
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
}

// openStore opens the database, a file's path or PostgreSQL's address, and makes or
// migrates it.
func openStore(ctx context.Context, database string) (*store, error) {
	open := openSQLite
	if isAddress(database) {
		open = openPostgres
	}
	s, err := open(database)
	if err != nil {
		return nil, err
	}
	if err := s.prepare(ctx, migrations); err != nil {
		s.Close()
		if !s.postgres {
			err = fmt.Errorf("%s: %w", database, err) // PostgreSQL's errors tell where it is, if that matters
		}
		return nil, err
	}
	return s, nil
}

// openSQLite: readers do not wait for the writer, nor it for them (WAL). A commit
// that a power cut undoes is in the next check-in again, hence synchronous=NORMAL.
func openSQLite(path string) (*store, error) {
	dsn := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: "_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_pragma=synchronous(NORMAL)&_txlock=immediate"}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	db.SetMaxOpenConns(4)
	return &store{db: db}, nil
}

// isAddress tells PostgreSQL's address from a file's path.
func isAddress(database string) bool {
	return strings.HasPrefix(database, "postgres://") || strings.HasPrefix(database, "postgresql://")
}

// parameters are what an address may have behind the "?". The driver would take a
// misspelt "sslmode" for something to tell the server, and verify nothing.
var parameters = []string{"user", "password", "host", "port", "dbname", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword",
	"sslnegotiation", "channel_binding", "require_auth", "connect_timeout", "target_session_attrs", "application_name", "search_path", "options",
	"default_query_exec_mode"}

// parseAddress reads PostgreSQL's address. Its errors quote nothing of it: there is a
// password in it, and if it is malformed, anywhere in it.
func parseAddress(address string) (*pgx.ConnConfig, error) {
	var options pgx.ParseConfigOptions
	options.ConnStringAllowedKeys = parameters
	c, err := pgx.ParseConfigWithOptions(address, options)
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, fmt.Errorf("names a file that cannot be read: %w", pe.Err)
	}
	if err != nil || misread(c.Database) || misread(c.Host) || len(c.Fallbacks) > 0 && misread(c.Fallbacks[len(c.Fallbacks)-1].Host) {
		return nil, fmt.Errorf(`cannot be read as PostgreSQL's address (allowed: "postgres://USER@HOST/NAME", "postgres://USER:PASSWORD@HOST:PORT/NAME", `+
			`"postgres:///NAME?host=/run/postgresql", with %%XX for all but letters and digits in a password; parameters: %s)`, strings.Join(parameters, ", "))
	}
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = "machinemon-checkin-gate"
	}
	return c, nil
}

// misread tells whether the end of a password was taken for a host or a name, which
// errors would tell: "postgres://user:pass@word@host".
func misread(s string) bool { return strings.Contains(s, "@") }

func openPostgres(address string) (*store, error) {
	c, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	db := stdlib.OpenDB(*c)
	db.SetMaxOpenConns(4)
	// The same order as SQLite's, whatever the language of the database.
	return &store{db: db, postgres: true, bytewise: ` COLLATE "C"`}, nil
}

// begin begins a transaction. What a gate has locked when its machine dies, others
// would wait for as long as TCP does, for hours.
func (s *store) begin(ctx context.Context) (*sql.Tx, error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err == nil && s.postgres {
		if _, err = tx.ExecContext(ctx, "SET LOCAL idle_in_transaction_session_timeout = 10000"); err != nil {
			tx.Rollback()
		}
	}
	return tx, err
}

// prepare connects, and makes the tables or migrates them.
func (s *store) prepare(ctx context.Context, steps []string) error {
	connect, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.db.PingContext(connect); err != nil {
		return oneLine(err)
	}
	if s.postgres {
		var encoding string
		if err := s.db.QueryRowContext(connect, "SHOW server_encoding").Scan(&encoding); err != nil {
			return err
		}
		// A name that it cannot spell would cost all reports that are written with it.
		if encoding != "UTF8" && encoding != "SQL_ASCII" {
			return fmt.Errorf("its encoding is %s (hint: createdb --encoding=UTF8 --template=template0)", encoding)
		}
	}
	ctx, cancel = context.WithTimeout(ctx, migrating)
	defer cancel()
	return s.migrate(ctx, steps)
}

// migrationLock is a number that no other program is likely to lock.
const migrationLock = 0x6d6d2d67617465 // "mm-gate"

// migrate does all steps or none.
func (s *store) migrate(ctx context.Context, steps []string) error {
	tx, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if s.postgres {
		// Of gates that start at once one makes the tables, and the others wait: in
		// PostgreSQL even "IF NOT EXISTS" fails when two do it. SQLite has one writer.
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

// oneLine makes one line of the driver's error, which has one for each attempt: with
// TLS and without, at each host.
func oneLine(err error) error {
	ce, ok := errors.AsType[*pgconn.ConnectError](err)
	if !ok {
		return err
	}
	causes := slices.Compact(strings.Split(ce.Unwrap().Error(), "\n"))
	return fmt.Errorf("%s as %s: %s", ce.Config.Database, ce.Config.User, strings.Join(causes, "; "))
}
