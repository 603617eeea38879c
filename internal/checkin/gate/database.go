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
