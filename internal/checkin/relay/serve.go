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

// idle is the time without a connection after which the relay ends.
const idle = 10 * time.Second

// Serve serves on the listeners until the relay is idle or ctx ends. It then answers the
// requests that it has accepted; later ones wait in the sockets, which systemd keeps open.
func Serve(ctx context.Context, listeners []net.Listener, h http.Handler, say func(string)) error {
	return serve(ctx, listeners, h, say, idle)
}

// Refuse answers each request with 503, for a relay without a usable configuration. It
// ends after a second without a connection, since the next start may find one.
func Refuse(ctx context.Context, listeners []net.Listener, say func(string)) error {
	return serve(ctx, listeners, unconfigured(), say, time.Second)
}

func serve(ctx context.Context, listeners []net.Listener, h http.Handler, say func(string), idle time.Duration) error {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		WriteTimeout:      2 * checkinTimeout,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          checkin.PanicLog(say),
	}
	// When the relay ends, it would close a kept connection under the next check-in.
	s.SetKeepAlivesEnabled(false)
	connections := checkin.CountConnections(s, idle)
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
	case <-connections.Idle():
	}
	for _, l := range listeners {
		l.Close()
	}
	for ; left > 0; left-- {
		<-ended
	}
	end, cancel := context.WithTimeout(context.Background(), 2*checkinTimeout)
	defer cancel()
	connections.Finish(end)
	return failed
}

// Prepare runs as root before the relay: it gives User write access to the directory for
// the target's directives. It ignores an unusable configuration, which the relay logs.
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
		return fmt.Errorf("cannot prepare: the user ID of %s is not a number", User)
	}
	return state.System.LendDirectives(c.Target, uid)
}
