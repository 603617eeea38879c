package relay

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os/user"
	"strconv"
	"sync"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

// idle is how long the relay stays without a connection. Its socket starts it again.
const idle = 10 * time.Second

// Serve serves on the listeners until nobody came for a while, or ctx ends. What has
// begun it finishes; what comes later waits in the sockets, which are systemd's.
func Serve(ctx context.Context, listeners []net.Listener, h http.Handler, say func(string)) error {
	return serve(ctx, listeners, h, say, idle)
}

func serve(ctx context.Context, listeners []net.Listener, h http.Handler, say func(string), idle time.Duration) error {
	v := newVisitors(idle)
	defer v.quiet.Stop()
	s := &http.Server{
		Handler:           h,
		ConnState:         v.note,
		ReadHeaderTimeout: 10 * time.Second,
		WriteTimeout:      2 * patience,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          log.New(panics{say}, "", 0),
	}
	// A connection that is kept would be closed under the next check-in.
	s.SetKeepAlivesEnabled(false)
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { ended <- s.Serve(l) }()
	}
	var failed error
	left := len(listeners)
	for waiting := true; waiting; {
		select {
		case failed = <-ended:
			left, waiting = left-1, false
		case <-ctx.Done():
			waiting = false
		case <-v.quiet.C:
			waiting = !v.empty()
		}
	}
	// First nobody accepts any more: what Accept has just returned would be lost
	// if Shutdown did not see it.
	for _, l := range listeners {
		l.Close()
	}
	for ; left > 0; left-- {
		<-ended
	}
	end, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	if s.Shutdown(end) != nil {
		s.Close()
	}
	return failed
}

// visitors counts connections; quiet elapses when there was none for a while.
type visitors struct {
	mu    sync.Mutex
	n     int
	idle  time.Duration
	quiet *time.Timer
}

func newVisitors(idle time.Duration) *visitors {
	return &visitors{idle: idle, quiet: time.NewTimer(idle)}
}

func (v *visitors) note(_ net.Conn, s http.ConnState) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch s {
	case http.StateNew:
		v.n++
	case http.StateClosed, http.StateHijacked:
		if v.n--; v.n == 0 {
			v.quiet.Reset(v.idle)
		}
	}
}

func (v *visitors) empty() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.n == 0
}

// Prepare is root's part, before the relay runs: it lends the relay the directory in
// which it drops its directives. Of a configuration that cannot be used, the relay
// itself tells.
func Prepare(configFile string) error {
	c, err := Load(configFile)
	if err != nil {
		return nil
	}
	u, err := user.Lookup(User)
	if err != nil {
		return fmt.Errorf("cannot prepare: %w", err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return fmt.Errorf("cannot prepare: the user ID of %s is no number", User)
	}
	return state.System.LendDirectives(c.Target, uid)
}
