package relay

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/machinemon/machinemon-update/internal/checkin"
)

// idle is the time without a connection after which the relay ends.
const idle = 10 * time.Second

// The agent's user has a limit of its own, so that other users of this machine cannot keep
// the agent out.
const (
	maxAgent  = 8  // connections of the agent's user
	maxOthers = 32 // connections of all other users
)

// Serve serves on the listeners until the relay is idle, ctx ends or an update is
// announced. It then answers the requests that it has accepted; later ones wait in the
// sockets, which systemd keeps open. It reports whether an update was announced.
func Serve(ctx context.Context, listeners []net.Listener, r *Relay) (announced bool, err error) {
	sorted := make([]net.Listener, len(listeners))
	for i, l := range listeners {
		sorted[i] = r.sort(l)
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	over := make(chan struct{})
	go func() {
		defer close(over)
		select {
		case <-r.announced:
			announced = true
			end()
		case <-ctx.Done():
		}
	}()
	err = serve(ctx, sorted, r, r.problems.Say, idle)
	end()
	<-over
	// The last answer may have announced it.
	return announced || len(r.announced) > 0, err
}

// Refuse answers each request with 503, for a relay without a usable configuration. It
// ends after a second without a connection, since the next start may find one.
func Refuse(ctx context.Context, listeners []net.Listener, say func(string)) error {
	return serve(ctx, listeners, unconfigured(), say, time.Second)
}

func serve(ctx context.Context, listeners []net.Listener, h http.Handler, say func(string), idle time.Duration) error {
	s := &http.Server{
		Handler:           h,
		ConnContext:       withPeer,
		ReadHeaderTimeout: 10 * time.Second,
		WriteTimeout:      2 * checkinTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          checkin.PanicLog(say),
	}
	// When the relay ends, it would close a kept connection under the next check-in.
	s.SetKeepAlivesEnabled(false)
	connections := checkin.TrackConnections(s, idle, shares)
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

func shares(c net.Conn) []checkin.Share {
	if p, ok := c.(*peer); ok && p.isAgent() {
		return []checkin.Share{{Of: "agent", Limit: maxAgent}}
	}
	return []checkin.Share{{Of: "others", Limit: maxOthers}}
}
