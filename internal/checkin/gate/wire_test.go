package gate

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// wire is a connection to PostgreSQL that a test can cut, or make swallow all data.
type wire struct {
	t   *testing.T
	dir string // directory of the socket to which the gate connects
	to  string

	mu     sync.Mutex
	state  string // "", "cut" or "silent"
	freed  chan struct{}
	active map[net.Conn]bool
}

// wired returns a wire to the database, and the URL of its near end.
func wired(t *testing.T, d *database) (*wire, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "machinemon-gate-test")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{t: t, dir: dir, to: filepath.Join(thePostgres(t).dir, ".s.PGSQL.5432"), freed: make(chan struct{}), active: map[net.Conn]bool{}}
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go w.carry(c)
		}
	}()
	t.Cleanup(func() {
		w.is("cut")
		l.Close()
		os.RemoveAll(dir)
	})
	return w, at(dir, "search_path="+d.schema)
}

func (w *wire) carry(c net.Conn) {
	defer c.Close()
	server, err := net.Dial("unix", w.to)
	if err != nil {
		return
	}
	defer server.Close()
	w.mu.Lock()
	w.active[c] = true
	cut := w.state == "cut"
	w.mu.Unlock()
	if cut {
		return
	}
	go func() {
		io.Copy(passing{w, server}, c)
		server.Close()
	}()
	io.Copy(passing{w, c}, server)
}

// is makes the wire "cut" or "silent", or with "" whole; it then sends what it held
// back.
func (w *wire) is(state string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = state
	close(w.freed)
	w.freed = make(chan struct{})
	if state == "cut" {
		for c := range w.active {
			c.Close()
		}
		clear(w.active)
	}
}

type passing struct {
	w  *wire
	to io.Writer
}

func (p passing) Write(b []byte) (int, error) {
	for {
		p.w.mu.Lock()
		silent, freed := p.w.state == "silent", p.w.freed
		p.w.mu.Unlock()
		if !silent {
			return p.to.Write(b)
		}
		<-freed
	}
}
