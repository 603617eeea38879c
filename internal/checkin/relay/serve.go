package relay

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/user"
	"strconv"
	"time"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/state"
)

// idle is how long the relay stays without a connection. Its socket starts it again.
const idle = 10 * time.Second

// Serve serves on the listeners until nobody came for a while, or ctx ends. What has
// begun it finishes; what comes later waits in the sockets, which are systemd's.
func Serve(ctx context.Context, listeners []net.Listener, h http.Handler, say func(string)) error {
	return serve(ctx, listeners, h, say, idle)
}

// Refuse tells everybody that the relay has no configuration that it can use. It
// ends soon: the next start may find one.
func Refuse(ctx context.Context, listeners []net.Listener, say func(string)) error {
	return serve(ctx, listeners, unconfigured(), say, time.Second)
}

func serve(ctx context.Context, listeners []net.Listener, h http.Handler, say func(string), idle time.Duration) error {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		WriteTimeout:      2 * patience,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          checkin.Bugs(say),
	}
	// A connection that is kept would be closed under the next check-in.
	s.SetKeepAlivesEnabled(false)
	visits := checkin.CountVisits(s, idle)
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { ended <- s.Serve(l) }()
	}
	var failed error
	left := len(listeners)
	select {
	case failed = <-ended:
		left--
	case <-ctx.Done():
	case <-visits.Idle():
	}
	for _, l := range listeners {
		l.Close()
	}
	for ; left > 0; left-- {
		<-ended
	}
	end, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	visits.Finish(end)
	return failed
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
