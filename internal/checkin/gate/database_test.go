package gate

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// kind is the database of the tests: first "SQLite", then "PostgreSQL".
var kind string

// TestMain runs all tests with SQLite, and then all of them again with PostgreSQL. With
// -short it runs them with SQLite only.
func TestMain(m *testing.M) {
	flag.Parse()
	queryTimeout = 2 * time.Second
	status, kinds := 0, []string{"SQLite", "PostgreSQL"}
	// A process that a test started gets its database from the test.
	if testing.Short() || os.Getenv("PART") != "" {
		kinds = kinds[:1]
	}
	for _, kind = range kinds {
		if testing.Verbose() {
			fmt.Printf("# with %s\n", kind)
		}
		status = max(status, m.Run())
	}
	if server != nil {
		server.stop()
	}
	if os.Getenv("PART") != "" { // such a process ends with its goroutines
		os.Exit(status)
	}
	os.Exit(testkit.NoLeaks(status))
}

// database is a place for a gate's database, which the tests may break.
type database struct {
	t    testing.TB
	name string // as in the configuration
	path string // of SQLite's file
	// schema replaces the file in PostgreSQL: creating a schema is faster than a database.
	schema string
}

var schemas atomic.Int64

func newDatabase(t testing.TB) *database {
	t.Helper()
	t.Logf("with %s", kind)
	if kind == "SQLite" {
		path := filepath.Join(t.TempDir(), "gate.db")
		return &database{t: t, name: path, path: path}
	}
	d := &database{t: t, schema: fmt.Sprintf("test%d", schemas.Add(1))}
	d.name = thePostgres(t).address("search_path=" + d.schema)
	d.mend()
	return d
}

// ruin replaces the database by something that a gate cannot open.
func (d *database) ruin() {
	d.t.Helper()
	if kind == "PostgreSQL" {
		thePostgres(d.t).exec(d.t, "DROP SCHEMA "+d.schema+" CASCADE")
	} else if err := os.WriteFile(d.path, []byte(strings.Repeat("no database", 1000)), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// mend replaces what ruin left by an empty database.
func (d *database) mend() {
	d.t.Helper()
	if kind == "PostgreSQL" {
		thePostgres(d.t).exec(d.t, "CREATE SCHEMA "+d.schema)
	} else if err := os.Remove(d.path); err != nil {
		d.t.Fatal(err)
	}
}

// open opens the database, and closes it after the test.
func (d *database) open() *store {
	d.t.Helper()
	s, err := openStore(d.t.Context(), d.name)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { s.Close() })
	return s
}

// postgres is a server from Debian's package, on its own socket.
type postgres struct {
	dir     string
	process *exec.Cmd
	ended   chan struct{} // closed when the process has ended
	db      *sql.DB
}

var (
	server   *postgres
	startErr error
	starting sync.Once
)

// thePostgres returns the server of these tests, and starts it at the first call.
func thePostgres(t testing.TB) *postgres {
	t.Helper()
	starting.Do(func() { server, startErr = startPostgres() })
	if startErr != nil {
		t.Fatalf("cannot start PostgreSQL: %v", startErr)
	}
	return server
}

func startPostgres() (*postgres, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return nil, errors.New("Debian's package is not installed (hint: make deps)")
	}
	bin := filepath.Dir(slices.MaxFunc(found, func(a, b string) int {
		number := func(s string) int { n, _ := strconv.Atoi(strings.Split(s, "/")[4]); return n }
		return number(a) - number(b)
	}))
	// The test's own directory may have a path that is too long for a socket.
	dir, err := os.MkdirTemp("", "machinemon-gate-test")
	if err != nil {
		return nil, err
	}
	p := &postgres{dir: dir}
	if err := p.start(bin); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *postgres) start(bin string) error {
	attr := &syscall.SysProcAttr{}
	if os.Getuid() == 0 { // PostgreSQL refuses to run as root
		u, err := user.Lookup("postgres")
		if err != nil {
			return err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(p.dir, uid, gid); err != nil {
			return err
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	data := filepath.Join(p.dir, "data")
	c := exec.Command(filepath.Join(bin, "initdb"), "--pgdata", data, "--username", "gate", "--no-sync",
		"--encoding", "UTF8", "--locale", "C.UTF-8", "--locale-provider", "icu", "--icu-locale", "en-US") // a locale that does not sort by bytes
	c.SysProcAttr, c.Dir = attr, "/"
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	hba := "local all guest scram-sha-256\nlocal all all trust\n"
	if err := os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte(hba), 0o644); err != nil {
		return err
	}
	p.process = exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-k", p.dir, "-p", "5432", "-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=300")
	p.process.SysProcAttr, p.process.Dir = &syscall.SysProcAttr{Credential: attr.Credential, Pdeathsig: syscall.SIGQUIT}, "/"
	log, err := os.Create(filepath.Join(p.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	p.process.Stdout, p.process.Stderr = log, log
	started := make(chan error)
	p.ended = make(chan struct{})
	go func() {
		// Pdeathsig applies when the thread ends, so this goroutine keeps its thread.
		runtime.LockOSThread()
		defer close(p.ended)
		err := p.process.Start()
		started <- err
		if err == nil {
			p.process.Wait() // stop made it end
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	if p.db, err = sql.Open("pgx", p.address()); err != nil {
		return err
	}
	for range 300 {
		if err = p.db.Ping(); err == nil {
			_, err = p.db.Exec("CREATE ROLE guest LOGIN PASSWORD 'right'") // some test's login
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	said, _ := os.ReadFile(log.Name())
	return fmt.Errorf("%w: %s", err, said)
}

func (p *postgres) stop() {
	if p.db != nil {
		p.db.Close()
	}
	if p.process != nil && p.process.Process != nil {
		p.process.Process.Signal(syscall.SIGQUIT) // immediate shutdown: its data are not needed any more
		<-p.ended
	}
	if err := os.RemoveAll(p.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintln(os.Stderr, err)
	}
}

// address returns the URL of the server's database, with additional parameters.
func (p *postgres) address(more ...string) string { return at(p.dir, more...) }

// at returns the URL of the database whose socket is in dir.
func at(dir string, more ...string) string {
	return "postgres://gate@/postgres?" + strings.Join(append([]string{"port=5432", "host=" + url.QueryEscape(dir)}, more...), "&")
}

func (p *postgres) exec(t testing.TB, query string) {
	t.Helper()
	if _, err := p.db.ExecContext(context.Background(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}
