// Package systemd makes the D-Bus calls that the toolkit needs, through go-systemd. It
// survives `systemctl daemon-reexec`, which closes every connection: a call whose
// connection is lost is made again on a new connection.
//
// Programs use the system bus, which passes on only the signals that they asked for. For
// root there is also PID 1's private socket, which exists before the bus does (early boot)
// and needs no policy. But PID 1 sends each change of every unit to everyone who is
// connected there. So only what undoes a trial prefers that socket; the rest uses it where
// there is no bus.
//
// It owns nothing on disk.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// patience limits how long a call waits for a lost connection. A daemon-reexec takes
// well under a second, so after a minute PID 1 is not merely restarting.
const patience = time.Minute

// Conn is a connection to systemd that renews itself.
type Conn struct {
	watched []string
	ticks   chan struct{}
	private bool                            // root does without the bus
	changed func(map[string]godbus.Variant) // receives properties of a watched unit that changed; may be nil

	turn chan struct{} // holds a value while a caller connects; unlike a lock, a caller can give it up
	mu   sync.Mutex
	cur  *link
}

// link is one connection, until it is lost.
type link struct {
	sd   *dbus.Conn
	raw  *godbus.Conn
	bus  bool // to the system bus, and not to the private socket
	stop context.CancelFunc
}

// Running reports whether systemd is the init of this machine. It is not in a chroot.
func Running() bool {
	_, err := os.Lstat("/run/systemd/system") // sd_booted(3)
	return err == nil
}

// Connect makes a connection. [Conn.Changes] reports changes of the watched units.
func Connect(ctx context.Context, watch ...string) (*Conn, error) {
	c := newConn(watch...)
	return c, c.do(ctx, func(*link) error { return nil })
}

// ConnectPrivate makes a connection of root that needs no bus.
func ConnectPrivate(ctx context.Context) (*Conn, error) {
	c := newConn()
	c.private = true
	return c, c.do(ctx, func(*link) error { return nil })
}

func newConn(watch ...string) *Conn {
	return &Conn{watched: watch, ticks: make(chan struct{}, 1), turn: make(chan struct{}, 1)}
}

// Close ends the connection.
func (c *Conn) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cur != nil {
		c.cur.stop()
		c.cur = nil
	}
}

// Changes receives a value after a watched unit has changed and after the connection
// was renewed. One value may stand for several changes, so read the units again.
func (c *Conn) Changes() <-chan struct{} { return c.ticks }

func (c *Conn) tick() {
	select {
	case c.ticks <- struct{}{}:
	default:
	}
}

// do makes a call, and repeats it on a new connection while the connection is lost,
// until the call has an answer, ctx ends or patience is over. A call must be safe to
// repeat: if the answer was lost, systemd may have carried it out.
func (c *Conn) do(ctx context.Context, call func(*link) error) error {
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		l, err := c.link(ctx) // not less: PID 1 is slow while a hundred updates begin
		if err == nil {
			err = call(l)
		}
		if err == nil || !lost(err) {
			return err
		}
		c.drop(l)
		select {
		case <-patient.Done():
			return fmt.Errorf("systemd does not answer: %w", err)
		case <-time.After(pause): // PID 1 sends no event when it listens again
		}
	}
}

// ask is [Conn.do] for a call with an answer.
func ask[T any](ctx context.Context, c *Conn, call func(*dbus.Conn) (T, error)) (answer T, err error) {
	err = c.do(ctx, func(l *link) (err error) {
		answer, err = call(l.sd)
		return err
	})
	return answer, err
}

// link returns the connection, and makes it if there is none. A peer may accept it and then
// not answer, so link ends with ctx.
func (c *Conn) link(ctx context.Context) (*link, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	c.mu.Lock()
	cur := c.cur
	c.mu.Unlock()
	if cur != nil {
		return cur, nil
	}
	life, stop := context.WithCancel(context.Background())
	inTime := context.AfterFunc(ctx, stop) // which closes the connection, and so ends the calls below
	l := &link{stop: stop}
	var err error
	l.raw, l.bus, err = dial(life, c.private)
	if err == nil {
		// go-systemd wants one connection for calls and one for signals. PID 1 would send all
		// signals to both.
		l.sd, err = dbus.NewConnection(func() (*godbus.Conn, error) { return l.raw, nil })
	}
	if err == nil {
		err = c.watch(life, l)
	}
	if !inTime() {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		stop()
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cur = l
	return l, nil
}

func (c *Conn) drop(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l != nil && c.cur == l {
		l.stop()
		c.cur = nil
	}
}

// lost is closed when the connection ends.
func (l *link) lost() <-chan struct{} { return l.raw.Context().Done() }

// call makes a call to systemd's manager for which go-systemd has no method.
func (l *link) call(ctx context.Context, method string, args ...any) *godbus.Call {
	return l.raw.Object(service, "/org/freedesktop/systemd1").CallWithContext(ctx, manager+"."+method, 0, args...)
}

// service and manager are names of systemd on the bus.
const (
	service = "org.freedesktop.systemd1"
	manager = service + ".Manager"
)

var privateSocket = "unix:path=/run/systemd/private"

// dial connects to systemd, and reports whether it did so over the system bus. Root can do
// without the bus, which may be absent, restart, or have too many connections already.
func dial(ctx context.Context, private bool) (conn *godbus.Conn, bus bool, err error) {
	root := os.Geteuid() == 0
	if !root || !private {
		if conn, err = open(ctx, systemBus, busTime, (*godbus.Conn).Hello); err == nil || !root {
			return conn, true, err
		}
	}
	// No limit: PID 1 is slow while a hundred updates begin.
	conn, err = open(ctx, privateSocket, 0, func(*godbus.Conn) error { return nil })
	return conn, false, err
}

// busTime limits how long the bus may take to let a program in. In early boot it may hang.
var busTime = patience / 2

func open(ctx context.Context, address string, limit time.Duration, greet func(*godbus.Conn) error) (*godbus.Conn, error) {
	conn, err := godbus.Dial(address, godbus.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	if limit > 0 {
		hangs := time.AfterFunc(limit, func() { conn.Close() }) // which ends the calls below
		defer hangs.Stop()
	}
	if err = conn.Auth([]godbus.Auth{godbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err == nil {
		err = greet(conn)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// lost reports whether err is of the connection, and not an answer of systemd.
func lost(err error) bool {
	// net.ErrClosed: [Conn.drop] has closed it under a call.
	for _, end := range []error{godbus.ErrClosed, net.ErrClosed, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET,
		syscall.EPIPE, syscall.ECONNREFUSED, syscall.ENOENT} {
		if errors.Is(err, end) {
			return true
		}
	}
	e, _ := errors.AsType[godbus.Error](err)
	switch e.Name {
	case "org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.Disconnected",
		"org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner":
		return true
	}
	return false
}
