package checkin

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// Connections counts the open connections of an HTTP server, so that it can end without
// losing a check-in. Later ones wait in the listening sockets, which systemd keeps
// open. [http.Server.Shutdown] would drop a request that the server has just accepted.
type Connections struct {
	server *http.Server
	idle   time.Duration
	timer  *time.Timer

	mu    sync.Mutex
	n     int
	empty chan struct{} // closed while n is 0
}

// CountConnections begins to count the connections of s, which must not serve yet.
func CountConnections(s *http.Server, idle time.Duration) *Connections {
	v := &Connections{server: s, idle: idle, timer: time.NewTimer(idle), empty: make(chan struct{})}
	close(v.empty)
	s.ConnState = v.stateChanged
	return v
}

func (v *Connections) stateChanged(_ net.Conn, s http.ConnState) {
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
