// Package gate is the server's side of updates: a reverse proxy in front of an
// unmodified MachineMon server, called upstream.
//
// It passes all requests on to upstream, with these exceptions:
//
//	/download/…                     files of its download directory, and what only that can have
//	/download/install.sh            leads to the gate, if that knows its own address
//	POST /api/v1/checkin            a directive is added to the answer if an update is due
//	/api/v1/admin/updates, /updates the state of the clients' updates, for administrators
//
// Upstream has no routes below base_path, so the gate strips that from all requests.
//
// Its database keeps the clients' reports, which are unverified, and whether an
// administrator has stopped updates. From the reports it counts, for the publisher, how the
// release does in a rollout by plan; the publisher alone changes plan and manifest. Without the database or a manifest, check-ins pass
// unchanged. Upstream alone accepts check-ins and administrators.
package gate

import (
	"bytes"
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
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/manifest"
)

// Gate is the proxy, with its caches of the switch and the manifest.
type Gate struct {
	config   *Config
	proxy    *httputil.ReverseProxy
	cross    *http.CrossOriginProtection
	admins   *admins
	problems *checkin.Problems
	quiet    *log.Logger
	now      func() time.Time // time.Now; tests of rollouts, which take days, replace it
	count    struct{ checkins, refused, directives, downloads, dropped, denied atomic.Int64 }
	spare    atomic.Int64 // bytes that large check-ins hold in memory beyond smallCheckin

	store   atomic.Pointer[store]    // nil while the database is not open
	decided atomic.Pointer[settings] // nil until the database was read once
	reports chan report
	written sync.WaitGroup

	deciding sync.Mutex // held while the decision is read or changed
	failing  sync.Mutex
	failed   map[string]bool // whether "reading" and "writing" the database fail

	mu      sync.Mutex
	seen    fileVersion // of the manifest that current was read from
	current *manifest.Manifest
}

// New returns a gate that logs with say, one line per call.
func New(c *Config, say func(string)) *Gate {
	g := &Gate{config: c, cross: http.NewCrossOriginProtection(), problems: checkin.NewProblems(say),
		quiet: checkin.PanicLog(say), now: time.Now, reports: make(chan report, 1024), failed: map[string]bool{}}
	g.proxy = g.newProxy()
	g.admins = newAdmins(g)
	return g
}

// release returns the published release, or nil if there is no valid manifest. It reads
// the manifest again when the file has changed.
func (g *Gate) release() *manifest.Manifest {
	m, _ := g.readManifest()
	return m
}

// readManifest is release; broken reports that there is a manifest, but no valid one.
func (g *Gate) readManifest() (m *manifest.Manifest, broken bool) {
	// Each check-in comes here, so a file that has not changed is not even opened.
	if info, err := os.Stat(filepath.Join(g.config.DownloadDir, g.config.Manifest)); err == nil {
		g.mu.Lock()
		seen, current := g.seen, g.current
		g.mu.Unlock()
		if current != nil && seen == versionOf(info) {
			return current, false
		}
	}
	f, info, err := g.open(g.config.Manifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	if err != nil {
		g.logState("manifest", "no client gets a directive", err)
		return nil, true
	}
	defer f.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := versionOf(info); now != g.seen {
		g.seen = now
		g.current, err = parse(f)
		g.logState("manifest", "no client gets a directive", err)
	}
	return g.current, g.current == nil
}

// fileVersion changes whenever the content, the mode or the owner of a file does.
type fileVersion struct {
	device, inode     uint64
	size              int64
	modified, changed syscall.Timespec
}

func versionOf(info fs.FileInfo) fileVersion {
	s := info.Sys().(*syscall.Stat_t)
	return fileVersion{uint64(s.Dev), s.Ino, s.Size, s.Mtim, s.Ctim}
}

// logState logs once that the gate cannot use something, and the consequence (meaning),
// or, if err is nil, once that it can use it again.
func (g *Gate) logState(what, meaning string, err error) {
	if err == nil {
		g.problems.End(what, "the "+what+" can be used again")
		return
	}
	line := fmt.Sprintf("cannot use the %s: %v", what, err)
	if meaning != "" {
		line += ": " + meaning
	}
	g.problems.Begin(what, line+unreadable(err))
}

// unreadable returns the hint for a file that the gate's user must not read; else "".
func unreadable(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return " (hint: the user machinemon-checkin must be able to read it)"
	}
	return ""
}

// Handler returns the handler for the public sockets.
func (g *Gate) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = stripped(r, g.config.BasePath)
		path := r.URL.Path
		name, download := strings.CutPrefix(path, "/download/")
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead
		plain := r.URL.RawPath == "" // upstream does not decode a path, so it knows no other
		switch {
		case !printable(r.Header.Get("Upgrade")):
			// The proxy would treat it as an error of upstream.
			http.Error(w, "the header Upgrade is malformed", http.StatusBadRequest)
			return
		case download && reads && g.download(w, r, name):
			return
		case path == "/download/install.sh" && plain && r.Method == http.MethodGet:
			r = g.expectInstaller(r)
		case path == "/api/v1/checkin" && plain && r.Method == http.MethodPost:
			captured, release, err := g.captureBody(r)
			if err != nil {
				http.Error(w, incomplete, http.StatusBadRequest)
				return
			}
			defer release()
			r = captured
		case path == "/updates" || path == "/api/v1/admin/updates" || path == "/api/v1/admin/updates/settings":
			g.admin(w, r, path)
			return
		}
		g.proxy.ServeHTTP(w, r)
	})
}

func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// pendingCheckin is a check-in that upstream has not answered yet.
type pendingCheckin struct {
	body *capturedBody
	base string // URL of the directory from which this client downloads
}

type checkinKey struct{}

// captureBody makes a check-in's body keep a copy of what upstream reads, until release. It
// reads a small one at once: see rewrite.
func (g *Gate) captureBody(r *http.Request) (captured *http.Request, release func(), err error) {
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" || r.Body == nil {
		return r, func() {}, nil
	}
	p := &pendingCheckin{&capturedBody{ReadCloser: r.Body, length: r.ContentLength, spare: &g.spare}, g.external(r) + "/download/"}
	if n := r.ContentLength; n > 0 && n <= smallCheckin {
		var b bytes.Buffer
		b.Grow(int(min(n, 4<<10)) + bytes.MinRead) // a client that only announces much takes no more
		if _, err := io.CopyN(&b, r.Body, n); err != nil {
			return nil, nil, err
		}
		p.body.data, p.body.whole = b.Bytes(), true
	}
	r = r.WithContext(context.WithValue(r.Context(), checkinKey{}, p))
	r.Body = p.body
	return r, p.body.release, nil
}

// Serve serves on the listeners until ctx ends or one fails. Then it answers the requests
// that it has accepted, and writes their reports.
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
	// Updates count as stopped until the database has answered, so requests wait for it.
	select {
	case <-tried:
	case <-time.After(queryTimeout):
	case <-ctx.Done():
	}
	if m, broken := g.readManifest(); m == nil && !broken {
		g.problems.Say(fmt.Sprintf("there is no %s, so no client gets a directive (hint: machinemon-release publish %s writes it; download_dir in %s names the directory)",
			filepath.Join(g.config.DownloadDir, g.config.Manifest), g.config.DownloadDir, ConfigFile))
	}
	servers := []*http.Server{{Handler: g.Handler()}, {Handler: g.Local(), ConnContext: withPeer, WriteTimeout: 30 * time.Second}}
	shares := []func(net.Conn) []checkin.Share{g.shares, localShares}
	failed := make(chan error, len(public)+len(local))
	serve := func(s *http.Server, l net.Listener) { failed <- s.Serve(l) }
	connections := make([]*checkin.Connections, len(servers))
	for i, s := range servers {
		// Upstream decides how long a body may take, unless it stalls.
		s.ReadHeaderTimeout, s.IdleTimeout, s.MaxHeaderBytes, s.ErrorLog = 10*time.Second, 3*time.Minute, maxHeader, g.quiet
		connections[i] = checkin.TrackConnections(s, 0, shares[i])
	}
	for _, l := range public {
		l = checkin.Steady(l)
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
	for _, v := range connections {
		v.Finish(end)
	}
	return err
}

func parse(f *os.File) (*manifest.Manifest, error) {
	data, err := io.ReadAll(io.LimitReader(f, manifest.MaxSize+1))
	if err != nil {
		return nil, err
	}
	return manifest.Parse(data)
}
