package checkin

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// stall is the time for which a peer may send nothing of a body that it has announced, or
// read nothing of an answer.
const stall = 30 * time.Second

// body is the body of a request on a tracked connection.
type body struct {
	io.ReadCloser
	control             *http.ResponseController
	complete            func() // is called at its end
	begun, done, failed atomic.Bool
}

type bodyKey struct{}

func (b *body) Read(p []byte) (int, error) {
	b.begun.Store(true)
	b.control.SetReadDeadline(time.Now().Add(stall))
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		// From here on the server reads only to notice that the peer disconnects.
		b.control.SetReadDeadline(time.Time{})
		if !b.done.Swap(true) {
			b.complete()
		}
	} else if err != nil {
		b.failed.Store(true)
	}
	return n, err
}

// BodyOf reports how far the body of a request was read: unfinished if not to its end, and
// failed if its peer stalled, disconnected or sent something that is not HTTP.
func BodyOf(ctx context.Context) (unfinished, failed bool) {
	b, ok := ctx.Value(bodyKey{}).(*body)
	if !ok {
		return false, false
	}
	return b.begun.Load() && !b.done.Load(), b.failed.Load()
}

// Steady returns a listener whose connections break off if the peer reads nothing of an
// answer for some time. [http.Server.WriteTimeout] would limit the whole answer, which is
// a large file for some.
func Steady(l net.Listener) net.Listener { return steadyListener{l} }

type steadyListener struct{ net.Listener }

func (l steadyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return steadyConn{c}, nil
}

type steadyConn struct{ net.Conn }

func (c steadyConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(stall)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// CloseWrite is for the server, which uses it when it refuses a request before its end:
// else the peer might see a reset instead of the answer.
func (c steadyConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
