package gate

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// waits waits until done returns true, and fails the test after a timeout.
func waits(t *testing.T, what string, done func() bool) {
	t.Helper()
	for range 1500 {
		if done() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s: not within 15 s", what)
}

// follows makes the bench read the switch every 20 ms from now on.
func (b *bench) follows() {
	ctx, stop := context.WithCancel(b.t.Context())
	var following sync.WaitGroup
	following.Go(func() { b.follow(ctx, 20*time.Millisecond) })
	b.t.Cleanup(func() {
		stop()
		following.Wait()
	})
}

// TestTwoGates checks that a decision at one gate applies at all gates of its database.
func TestTwoGates(t *testing.T) {
	d := newDatabase(t)
	shared := func(c *Config) { c.Database = d.name }
	a, b := newBench(t, shared), newBench(t, shared)
	a.follows()
	b.follows()
	a.publish()
	b.publish()
	if got := b.checkIn(request("amd64", "v0.1.11")); !strings.Contains(got.body, "update_version") {
		t.Errorf("%+v", got)
	}
	if got := a.do("PUT", settingsPath, `{"directives": false}`, "Authorization: admin"); got.status != 200 {
		t.Errorf("%+v", got)
	}
	waits(t, "the other gate's stop", b.stopped)
	if got := b.checkIn(request("amd64", "v0.1.11")); got.body != plainAnswer {
		t.Errorf("%+v", got)
	}
	if _, err := b.decide(on, "bob"); err != nil {
		t.Fatal(err)
	}
	waits(t, "the other gate's start", func() bool { return !a.stopped() })
	if a.known("").Total != 1 || a.known("").Settings.ChangedBy != "bob" {
		t.Errorf("known is %+v", a.known(""))
	}
	const want = "directives are off now, by admin from 127.0.0.1\ndirectives are on now, by bob"
	if a.lines() != want || b.lines() != want {
		t.Errorf("they said\n%s\nand\n%s", a.lines(), b.lines())
	}
}

// TestDecideWhileReading checks that a read that began before a decision does not undo it.
func TestDecideWhileReading(t *testing.T) {
	testkit.Slow(t)
	b := newBench(t)
	ctx, stop := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	defer func() {
		stop()
		reading.Wait()
	}()
	for range 3 {
		reading.Go(func() {
			for ctx.Err() == nil {
				b.readDecision(ctx)
			}
		})
	}
	for i := range 100 {
		if _, err := b.decide(i%2 == 1, "alice"); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if b.stopped() != (i%2 == 0) {
				t.Fatalf("decision %d was undone", i)
			}
			time.Sleep(100 * time.Microsecond) // other goroutines read meanwhile
		}
	}
}

// TestDecisionOutlivesDatabase checks that a known decision survives the loss of the
// database, and that one in a returned database is adopted.
func TestDecisionOutlivesDatabase(t *testing.T) {
	if kind == "SQLite" {
		t.Skip("a file that is replaced while it is open is the operator's mistake")
	}
	b := newBench(t)
	if _, err := b.decide(off, "alice"); err != nil {
		t.Fatal(err)
	}
	b.follows()
	b.data.ruin()
	waits(t, "the loss", func() bool { return b.store.Load() == nil })
	b.data.mend()
	waits(t, "the return", func() bool { return b.store.Load() != nil })
	if d := b.decided.Load(); !b.stopped() || d.By != "alice" {
		t.Errorf("decided is %+v", d)
	}
}

// TestDatabaseAway checks that the loss, or hang, of a database and its return are
// logged once each, that no check-in waits for it, and that the switch stays as it was.
func TestDatabaseAway(t *testing.T) {
	if kind == "SQLite" {
		t.Skip("is no server")
	}
	for _, state := range []string{"cut", "silent"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			w, address := wired(t, d)
			b := newBench(t, func(c *Config) { c.Database = address })
			b.publish()
			checkIn := func() {
				t.Helper()
				began := time.Now()
				a := b.do("POST", "/api/v1/checkin", request("amd64", "v0.1.11"), "X-Client-Password: "+client)
				if !strings.Contains(a.body, "update_version") || time.Since(began) > queryTimeout/2 {
					t.Errorf("%+v after %s", a, time.Since(began))
				}
			}
			checkIn()
			b.follows()
			w.is(state)
			for range 3 {
				checkIn()
			}
			waits(t, "the loss", func() bool { return b.store.Load() == nil })
			for range 3 {
				checkIn()
			}
			if a := b.do("GET", "/updates", "", "Authorization: admin"); a.status != 503 || !strings.Contains(a.body, errNoDatabase.Error()) {
				t.Errorf("%+v", a)
			}
			if a := b.do("PUT", settingsPath, `{"directives": false}`, "Authorization: admin"); a.status != 503 || b.stopped() {
				t.Errorf("%+v", a)
			}
			b.written.Wait()
			w.is("")
			waits(t, "the return", func() bool { return b.store.Load() != nil })
			b.checkIn(request("amd64", "v0.1.11"))
			if o := b.known(""); o.Total != 1 {
				t.Errorf("known is %+v", o)
			}
			waits(t, "what it says", func() bool { return strings.HasSuffix(b.lines(), "\nthe database can be used again") })
			if got := b.lines(); !strings.HasPrefix(got, "cannot use the database: ") || strings.Count(got, "\n") != 1 ||
				!strings.Contains(got, "the gate passes check-ins on without recording them; the switch stays as it is\n") {
				t.Errorf("it said\n%s", got)
			}
		})
	}
}

// TestWritesFail checks that a database that can only be read is logged once.
func TestWritesFail(t *testing.T) {
	b := newBench(t)
	b.follows()
	s := b.store.Load()
	if _, err := s.db.Exec("ALTER TABLE clients RENAME TO away"); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		b.checkIn(request("amd64", "v0.1.11"))
		time.Sleep(50 * time.Millisecond) // the switch is read meanwhile
	}
	if got := b.lines(); !strings.HasPrefix(got, "cannot use the database: ") || strings.Contains(got, "\n") || b.count.dropped.Load() != 5 {
		t.Errorf("it said\n%s", got)
	}
	if _, err := s.db.Exec("ALTER TABLE away RENAME TO clients"); err != nil {
		t.Fatal(err)
	}
	b.checkIn(request("amd64", "v0.1.11"))
	if got := b.lines(); strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "\nthe database can be used again") {
		t.Errorf("it said\n%s", got)
	}
}

// TestStartWithoutAnswer checks that a gate starts and ends in time if the database
// does not answer, or if another gate migrates it.
func TestStartWithoutAnswer(t *testing.T) {
	if kind == "SQLite" {
		t.Skip("is no server")
	}
	t.Run("silent", func(t *testing.T) {
		t.Parallel()
		w, address := wired(t, newDatabase(t))
		w.is("silent")
		said := serveOnce(t, address, 1)
		if !strings.HasPrefix(said, "cannot use the database: postgres as gate: ") || !strings.HasSuffix(said, ": no client gets a directive, and checksum clients get a disabled manifest") {
			t.Errorf("it said %s", said)
		}
	})
	t.Run("migrated", func(t *testing.T) {
		t.Parallel()
		// It has its own database, since the lock would block the other tests.
		p := thePostgres(t)
		p.exec(t, "DROP DATABASE IF EXISTS busy")
		p.exec(t, "CREATE DATABASE busy TEMPLATE template0")
		s, err := openPostgres(p.address("dbname=busy"))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		tx, err := s.db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback()
		if _, err := tx.Exec("SELECT pg_advisory_xact_lock($1)", migrationLock); err != nil {
			t.Fatal(err)
		}
		if said := serveOnce(t, p.address("dbname=busy"), 0); said != "" {
			t.Errorf("it said %s", said)
		}
	})
}

// serveOnce starts a gate, serves a check-in, and ends the gate; start and end must be
// quick. It waits for the first lines of the log, as many as wait, and returns the log.
func serveOnce(t *testing.T, address string, wait int) string {
	t.Helper()
	at, err := url.Parse(newUpstream(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 10)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "m.json"), []byte(`{"version":"v1","platforms":{"linux-amd64":{"file":"a","sha256":"`+strings.Repeat("a", 64)+`","size":1}}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	g := New(&Config{Upstream: at, DownloadDir: dir, Manifest: "m.json", Database: address}, func(s string) { lines <- s })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- g.Serve(ctx, []net.Listener{l}, nil) }()
	q, err := http.NewRequest("POST", "http://"+l.Addr().String()+"/api/v1/checkin", strings.NewReader(request("amd64", "v1")))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("X-Client-Password", client)
	resp, err := http.DefaultClient.Do(q)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%+v, %v", resp, err)
	}
	resp.Body.Close()
	if took := time.Since(began); took > queryTimeout+5*time.Second || !g.stopped() {
		t.Errorf("the start took %s", took)
	}
	said := ""
	for range wait {
		said += <-lines
	}
	stop()
	began = time.Now()
	if err := <-ended; err != nil || time.Since(began) > queryTimeout {
		t.Errorf("the end took %s, %v", time.Since(began), err)
	}
	for len(lines) > 0 {
		said += "\n" + <-lines
	}
	return said
}

// TestPassword checks that no error contains a password, since errors are shown.
func TestPassword(t *testing.T) {
	for _, address := range []string{
		"postgres://u:secret@h:port/n", "postgres://u:se/secret@h/n", "postgres://u:1/secret@h/n", "postgres://u:x@secret@h/n", "postgres://u:x@secret@h,i/n",
		"postgres://u:x@h,secret@i/n", "postgres://u:secret%zz@h/n", "postgres://u:secret@h/n?sslmod=verify-full", "postgres://u:secret@h/n?secret=1",
		"postgres://u:secret@[h/n", "postgres://u:secret", "postgres://u:secret@h/n?sslmode=secret", "postgres://u@h/n?password=secret&port=x",
		"postgres://u@h/n?sslrootcert=/none/secret&sslmode=verify-full", "postgres://u:secret@h/n?connect_timeout=secret", "postgresql://u:a@b@secret/n",
		"postgres://u:secret\x00@h/n", "mysql://u:secret@h/n", "postgres:/u:secret@h/n", " postgres://u:secret@h/n",
	} {
		f := defaults()
		f.Database = address
		_, err := f.check()
		if err == nil || !strings.HasPrefix(err.Error(), "database: ") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", address, err)
		}
		if !isAddress(address) {
			continue
		}
		if _, err := openStore(t.Context(), address); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", address, err)
		}
	}
	for _, text := range []string{`database = postgres://u:secret@h/n`, `database = "postgres://u:secret@h/n`, `database = "postgres://u:secret\q@h/n"`,
		`database = ["postgres://u:secret@h/n"]`} {
		if _, err := load(t, text); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if kind == "SQLite" {
		return
	}
	secrets := t.TempDir()
	if err := os.WriteFile(secrets+"/wrong", []byte("*:*:*:*:wrong-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(secrets+"/right", []byte("*:*:*:*:right\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, more := range []string{"user=guest&password=wrong-secret", "user=guest&passfile=" + secrets + "/wrong"} {
		b := newBench(t, func(c *Config) { c.Database = thePostgres(t).address(more) })
		page := b.do("GET", "/updates", "", "Authorization: admin")
		if got := b.lines(); !strings.Contains(got, "password authentication failed") || strings.Contains(got+page.body, "secret") || strings.Contains(got, "\n") {
			t.Errorf("it said %s, and the page is %s", got, page.body)
		}
	}
	d := newDatabase(t)
	thePostgres(t).exec(t, "GRANT ALL ON SCHEMA "+d.schema+" TO guest")
	s, err := openStore(t.Context(), d.name+"&user=guest&passfile="+secrets+"/right")
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}
