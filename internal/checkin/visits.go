package checkin

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// Visits counts the connections of an HTTP server, so that it can end without losing
// a check-in: what comes later waits in its sockets, which are systemd's.
// [http.Server.Shutdown] would drop a request that it has just accepted.
type Visits struct {
	server *http.Server
	idle   time.Duration
	timer  *time.Timer

	mu    sync.Mutex
	n     int
	empty chan struct{} // closed while there is none
}

// CountVisits counts from before the server serves.
func CountVisits(s *http.Server, idle time.Duration) *Visits {
	v := &Visits{server: s, idle: idle, timer: time.NewTimer(idle), empty: make(chan struct{})}
	close(v.empty)
	s.ConnState = v.note
	return v
}

func (v *Visits) note(_ net.Conn, s http.ConnState) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch s {
	case http.StateNew:
		if v.n++; v.n == 1 {
			v.timer.Stop()
			v.empty = make(chan struct{})
		}
	case http.StateClosed, http.StateHijacked:
		if v.n--; v.n == 0 {
			v.timer.Reset(v.idle)
			close(v.empty)
		}
	}
}

// Idle ticks when there was no connection for a while.
func (v *Visits) Idle() <-chan time.Time { return v.timer.C }

// Finish lets all requests end that came, until ctx ends. The listeners must be
// closed, and the server's Serve must have returned for each: until then it accepts.
func (v *Visits) Finish(ctx context.Context) {
	// Closes connections that wait for a next request, and the others after theirs.
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
