package testkit

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// Listen listens on a free port of the loopback until the test ends.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	Must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// Answer accepts connections to l, lets answer answer each one, and then closes it.
func Answer(l net.Listener, answer func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			answer(c)
		}()
	}
}

// AnswerHTTP is Answer for a server that first reads each request. answer may write bytes
// that are not HTTP.
func AnswerHTTP(l net.Listener, answer func(net.Conn)) {
	Answer(l, func(c net.Conn) {
		q, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		io.Copy(io.Discard, q.Body)
		answer(c)
	})
}

// Restart runs serve repeatedly, each time for the duration every, on a new listener of
// the socket that l has open, as systemd restarts a service. Meanwhile four clients make
// the number of requests, one after the other. Restart returns after the last answer.
func Restart(t *testing.T, every time.Duration, serve func(context.Context, net.Listener) error, requests int, request func(c *http.Client, url string)) {
	t.Helper()
	l := Listen(t)
	socket, err := l.(*net.TCPListener).File() // as systemd holds it
	Must(t, err)
	defer socket.Close()
	over, end := context.WithCancel(t.Context())
	var servers, clients sync.WaitGroup
	servers.Go(func() {
		for over.Err() == nil {
			mine, err := net.FileListener(socket)
			if err != nil {
				t.Error(err)
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), every)
			if err := serve(ctx, mine); err != nil {
				t.Error(err)
			}
			cancel()
		}
	})
	for range 4 {
		clients.Go(func() {
			c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			for range requests {
				request(c, "http://"+l.Addr().String())
			}
		})
	}
	clients.Wait()
	end()
	servers.Wait()
}
