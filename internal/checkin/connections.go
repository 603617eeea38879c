package checkin

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// Connections tracks the open connections of an HTTP server. It bounds their number, and
// it lets the server end without losing a check-in: later ones wait in the listening
// sockets, which systemd keeps open. [http.Server.Shutdown] would drop a request that the
// server has just accepted.
//
// A limit must not let strangers keep the others out, so a new connection above it does
// not wait: it replaces the one that has kept the server waiting for the longest time.
// One that sends its request at once is answered long before its turn comes.
type Connections struct {
	server  *http.Server
	handler http.Handler
	shares  func(net.Conn) []Share
	idle    time.Duration
	timer   *time.Timer

	mu    sync.Mutex
	n     int
	empty chan struct{} // closed while n is 0
	open  map[net.Conn]*connection
	held  map[any]int // connections of each share
}

// Share limits the number of connections that have something in common.
type Share struct {
	Of    any // what they have in common, such as their peer's address; it is comparable
	Limit int
}

type connection struct {
	net.Conn
	shares   []Share
	waiting  bool      // whether the peer has to send something
	since    time.Time // when that began, or when its request was complete
	closed   bool      // by evict
	hijacked bool
}

// longAnswer is the time after which an answer, too, may be broken off at a limit. A
// check-in is answered by then; a peer that reads a file too slowly may never end.
const longAnswer = time.Minute

// TrackConnections begins to track the connections of s, which must have its handler and
// must not serve yet. idle is the time without a connection after which Idle receives.
// shares returns the limits for a new connection; nil: there are none.
func TrackConnections(s *http.Server, idle time.Duration, shares func(net.Conn) []Share) *Connections {
	v := &Connections{server: s, handler: s.Handler, shares: shares, idle: idle, timer: time.NewTimer(idle),
		empty: make(chan struct{}), open: map[net.Conn]*connection{}, held: map[any]int{}}
	close(v.empty)
	s.Handler, s.ConnState = v, v.stateChanged
	before := s.ConnContext
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if before != nil {
			ctx = before(ctx, c)
		}
		return context.WithValue(ctx, connKey{}, c)
	}
	return v
}

type connKey struct{}

func (v *Connections) stateChanged(c net.Conn, s http.ConnState) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch s {
	case http.StateNew:
		if v.n++; v.n == 1 {
			v.timer.Stop()
			v.empty = make(chan struct{})
		}
		v.admit(c)
	case http.StateIdle:
		v.waits(c, true)
	case http.StateHijacked:
		v.open[c].hijacked = true // its handler goes on
		v.ended()
	case http.StateClosed:
		v.forget(c)
		v.ended()
	}
}

func (v *Connections) ended() {
	if v.n--; v.n == 0 {
		v.timer.Reset(v.idle)
		close(v.empty)
	}
}

func (v *Connections) waits(c net.Conn, waiting bool) {
	if o := v.open[c]; o != nil {
		o.waiting, o.since = waiting, time.Now()
	}
}

// admit takes in a new connection, and closes one of each share that is above its limit.
func (v *Connections) admit(c net.Conn) {
	o := &connection{Conn: c, waiting: true, since: time.Now()}
	if v.shares != nil {
		o.shares = v.shares(c)
	}
	v.open[c] = o
	for _, s := range o.shares {
		v.held[s.Of]++
	}
	for _, s := range o.shares {
		if v.held[s.Of] > s.Limit {
			v.evict(s.Of, o)
		}
	}
}

// evict closes the connection of a share that has waited for its peer for the longest
// time; if none waits, the answer that takes longest; and if none takes too long, the
// newest connection.
func (v *Connections) evict(of any, newest *connection) {
	var worst *connection
	for _, o := range v.open {
		if o.closed || o == newest || !o.has(of) || !o.waiting && time.Since(o.since) < longAnswer {
			continue
		}
		if worst == nil || o.waiting && !worst.waiting || o.waiting == worst.waiting && o.since.Before(worst.since) {
			worst = o
		}
	}
	if worst == nil {
		worst = newest
	}
	if worst.closed {
		return // it had to leave another share already
	}
	worst.closed = true
	v.release(worst)
	// A TLS connection would first write to its peer, and could wait for it.
	raw := worst.Conn
	if t, ok := raw.(interface{ NetConn() net.Conn }); ok {
		raw = t.NetConn()
	}
	raw.Close() // the server notices, and forgets the connection
}

func (o *connection) has(of any) bool {
	for _, s := range o.shares {
		if s.Of == of {
			return true
		}
	}
	return false
}

// release gives back the places of a connection.
func (v *Connections) release(o *connection) {
	for _, s := range o.shares {
		if v.held[s.Of]--; v.held[s.Of] == 0 {
			delete(v.held, s.Of)
		}
	}
}

func (v *Connections) forget(c net.Conn) {
	o := v.open[c]
	if o == nil {
		return
	}
	delete(v.open, c)
	if !o.closed {
		v.release(o)
	}
}

// ServeHTTP notes when a request is complete, and calls the server's own handler.
func (v *Connections) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(connKey{}).(net.Conn)
	complete := func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.waits(c, false)
	}
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if o := v.open[c]; o != nil && o.hijacked {
			v.forget(c)
		}
	}()
	if r.Body == nil || r.Body == http.NoBody {
		complete()
	} else {
		b := &body{ReadCloser: r.Body, control: http.NewResponseController(w), complete: complete}
		r = r.WithContext(context.WithValue(r.Context(), bodyKey{}, b))
		r.Body = b
	}
	v.handler.ServeHTTP(w, r)
}

// Idle returns a channel that receives once the server was idle for its idle time.
func (v *Connections) Idle() <-chan time.Time { return v.timer.C }

// Finish waits until all accepted requests have been answered or ctx ends, and closes
// the server. Before, the caller must close the listeners and wait for the server's
// Serve to return for each, since Serve accepts connections until it returns.
func (v *Connections) Finish(ctx context.Context) {
	// This closes idle connections now, and the others after their current request.
	v.server.SetKeepAlivesEnabled(false)
	v.mu.Lock()
	empty := v.empty
	v.mu.Unlock()
	select {
	case <-empty:
	case <-ctx.Done():
	}
	v.timer.Stop()
	v.server.Close()
}
