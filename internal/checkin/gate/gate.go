// Package gate is the server's side of updates: a reverse proxy before an unmodified
// MachineMon server.
//
// It passes everything on, but for this:
//
//	/download/…                     releases of its own directory, else upstream's
//	POST /api/v1/checkin            the answer gets a directive, where one is due
//	/api/v1/admin/updates, /updates how the clients' updates went, for admins
//
// and keeps in its database what clients tell of themselves, which nobody verifies,
// and whether an administrator has stopped updates. A check-in needs neither the
// database nor a manifest: without them it passes unchanged. Who is an
// administrator, and which check-in is good, upstream alone decides.
package gate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// Gate is the proxy and what it knows.
type Gate struct {
	config *Config
	proxy  *httputil.ReverseProxy
	cross  *http.CrossOriginProtection
	admins *admins
	once   *once
	quiet  *log.Logger
	count  struct{ checkins, refused, directives, downloads, dropped, denied atomic.Int64 }

	store   atomic.Pointer[store]    // nil while there is no database
	decided atomic.Pointer[settings] // nil until the database could be read
	reports chan report
	written sync.WaitGroup

	deciding sync.Mutex // held while the decision is read or changed
	failing  sync.Mutex
	failed   map[string]bool // what the database cannot be used for

	mu      sync.Mutex
	seen    string // etag of the manifest that current was read from
	current *manifest.Manifest
}

// New makes a gate. What it says goes to say, one line each.
func New(c *Config, say func(string)) *Gate {
	g := &Gate{config: c, cross: http.NewCrossOriginProtection(), once: &once{print: say, bad: map[string]bool{}},
		quiet: checkin.Bugs(say), reports: make(chan report, 1024), failed: map[string]bool{}}
	g.proxy = g.newProxy()
	g.admins = newAdmins(g)
	return g
}

// release is the release that clients are to have; nil if there is none. The manifest
// is read again when it is another one.
func (g *Gate) release() *manifest.Manifest {
	f, info, err := g.open(g.config.Manifest)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			g.told("manifest", "no client gets a directive", err)
		}
		return nil
	}
	defer f.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := etag(info); now != g.seen {
		g.seen = now
		g.current, err = parse(f)
		g.told("manifest", "no client gets a directive", err)
	}
	return g.current
}

// told says that something does not work, and what that means, or that it does again.
func (g *Gate) told(what, meaning string, err error) {
	if err == nil {
		g.once.over(what, "the "+what+" can be used again")
		return
	}
	line := fmt.Sprintf("cannot use the %s: %v", what, err)
	if meaning != "" {
		line += ": " + meaning
	}
	g.once.say(what, line)
}

// Handler serves everybody.
func (g *Gate) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, ours := strings.CutPrefix(r.URL.Path, g.config.BasePath)
		name, download := strings.CutPrefix(path, "/download/")
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead
		switch {
		case !ours:
		case download && reads && g.download(w, r, name):
			return
		case path == "/api/v1/checkin" && r.Method == http.MethodPost:
			r = g.watch(r)
		case path == "/updates" || path == "/api/v1/admin/updates" || path == "/api/v1/admin/updates/settings":
			g.admin(w, r, path)
			return
		}
		g.proxy.ServeHTTP(w, r)
	})
}

// pending is a check-in on its way.
type pending struct {
	body *copied
	base string // where this client downloads from
}

type checkinKey struct{}

// watch keeps a check-in's body as it passes.
func (g *Gate) watch(r *http.Request) *http.Request {
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" || r.Body == nil {
		return r
	}
	_, trusted := g.client(r)
	p := &pending{&copied{ReadCloser: r.Body, length: r.ContentLength}, g.scheme(r, trusted) + "://" + g.host(r, trusted) + g.config.BasePath + "/download/"}
	r = r.WithContext(context.WithValue(r.Context(), checkinKey{}, p))
	r.Body = p.body
	return r
}

// Serve serves on the listeners until ctx ends, and then finishes what has begun: the
// last reports come with the last requests.
func (g *Gate) Serve(ctx context.Context, public, local []net.Listener) error {
	keeping, stop := context.WithCancel(context.Background())
	kept, tried := make(chan struct{}), make(chan struct{})
	go func() {
		g.runDatabase(keeping, tried)
		close(kept)
	}()
	defer func() {
		stop()
		<-kept
	}()
	// Before the database has answered, a request would find updates stopped.
	select {
	case <-tried:
	case <-time.After(patience):
	case <-ctx.Done():
	}
	servers := []*http.Server{{Handler: g.Handler()}, {Handler: g.Local(), ConnContext: withPeer}}
	failed := make(chan error, len(public)+len(local))
	serve := func(s *http.Server, l net.Listener) { failed <- s.Serve(l) }
	visits := make([]*checkin.Visits, len(servers))
	for i, s := range servers {
		// The headers' own time; a body may take as long as upstream lets it.
		s.ReadHeaderTimeout, s.IdleTimeout, s.ErrorLog = 30*time.Second, 3*time.Minute, g.quiet
		visits[i] = checkin.CountVisits(s, 0)
	}
	for _, l := range public {
		if g.config.Certificate != nil {
			l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{*g.config.Certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
		}
		go serve(servers[0], l)
	}
	for _, l := range local {
		go serve(servers[1], l)
	}
	left := len(public) + len(local)
	var err error
	select {
	case err = <-failed:
		left--
	case <-ctx.Done():
	}
	for _, l := range append(public, local...) {
		l.Close()
	}
	for ; left > 0; left-- {
		<-failed
	}
	end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, v := range visits {
		v.Finish(end)
	}
	return err
}

// once says of each thing once that it does not work, and once that it works again.
type once struct {
	print func(string)
	mu    sync.Mutex
	bad   map[string]bool
}

func (o *once) say(what, line string) { o.change(what, true, line) }

func (o *once) over(what, line string) { o.change(what, false, line) }

func (o *once) change(what string, bad bool, line string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.bad[what] != bad {
		o.bad[what] = bad
		o.print(state.Line(line))
	}
}

func parse(f *os.File) (*manifest.Manifest, error) {
	data, err := io.ReadAll(io.LimitReader(f, manifest.MaxSize+1))
	if err != nil {
		return nil, err
	}
	return manifest.Parse(data)
}
