// Package systemd makes the D-Bus calls that the toolkit needs, through go-systemd. It
// survives `systemctl daemon-reexec`, which closes every connection: a call whose
// connection is lost is made again on a new connection.
//
// Programs that run as root talk to PID 1 through its private socket, which exists
// before the system bus does (early boot) and needs no policy. Other programs use the
// system bus.
//
// It owns nothing on disk.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
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
	updated func(*dbus.PropertiesUpdate) // is called for each change of a unit; may be nil

	mu  sync.Mutex
	cur *link
}

// link is one connection, until it is lost.
type link struct {
	sd   *dbus.Conn
	raw  []*godbus.Conn
	stop context.CancelFunc
}

// Running reports whether systemd is the init of this machine. It is not in a chroot.
func Running() bool {
	_, err := os.Lstat("/run/systemd/system") // sd_booted(3)
	return err == nil
}

// Connect makes a connection. [Conn.Changes] reports changes of the watched units.
func Connect(ctx context.Context, watch ...string) (*Conn, error) {
	c := &Conn{watched: watch, ticks: make(chan struct{}, 1)}
	return c, c.do(ctx, func(*link) error { return nil })
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
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		l, err := c.link()
		if err == nil {
			err = call(l)
		}
		if err == nil || !lost(err) {
			return err
		}
		c.drop(l)
		select {
		case <-ctx.Done():
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

func (c *Conn) link() (*link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cur != nil {
		return c.cur, nil
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &link{stop: stop}
	var err error
	l.sd, err = dbus.NewConnection(func() (*godbus.Conn, error) {
		conn, err := dial(ctx)
		if err == nil {
			l.raw = append(l.raw, conn)
		}
		return conn, err
	})
	if err == nil && len(c.watched) > 0 {
		err = c.follow(ctx, l)
	}
	if err != nil {
		stop()
		return nil, err
	}
	c.cur = l
	return l, nil
}

func (c *Conn) follow(ctx context.Context, l *link) error {
	// go-systemd drops updates when the channel is full. The goroutine below empties it
	// at once, so a burst of this size does not occur.
	updates, dropped := make(chan *dbus.PropertiesUpdate, 4096), make(chan error, 1)
	l.sd.SetPropertiesSubscriber(updates, dropped)
	if err := l.sd.Subscribe(); err != nil {
		return err
	}
	go func() {
		for {
			select {
			case u := <-updates:
				if c.updated != nil {
					c.updated(u)
				}
				if slices.Contains(c.watched, u.UnitName) {
					c.tick()
				}
			case <-dropped:
				c.tick()
			case <-l.lost():
				c.tick()
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	c.tick()
	return nil
}

func (c *Conn) drop(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l != nil && c.cur == l {
		l.stop()
		c.cur = nil
	}
}

// lost is closed when the connection that carries the signals ends.
func (l *link) lost() <-chan struct{} { return l.raw[len(l.raw)-1].Context().Done() }

// call makes a call to systemd's manager for which go-systemd has no method. The first of
// its two connections is the one for calls.
func (l *link) call(ctx context.Context, method string, args ...any) *godbus.Call {
	manager := l.raw[0].Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
	return manager.CallWithContext(ctx, "org.freedesktop.systemd1.Manager."+method, 0, args...)
}

func dial(ctx context.Context) (*godbus.Conn, error) {
	private := os.Geteuid() == 0
	var conn *godbus.Conn
	var err error
	if private {
		conn, err = godbus.Dial("unix:path=/run/systemd/private", godbus.WithContext(ctx))
	} else {
		conn, err = godbus.SystemBusPrivate(godbus.WithContext(ctx))
	}
	if err != nil {
		return nil, err
	}
	err = conn.Auth([]godbus.Auth{godbus.AuthExternal(strconv.Itoa(os.Getuid()))})
	if err == nil && !private {
		err = conn.Hello()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// lost reports whether err is of the connection, and not an answer of systemd.
func lost(err error) bool {
	for _, end := range []error{godbus.ErrClosed, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET,
		syscall.EPIPE, syscall.ECONNREFUSED, syscall.ENOENT, syscall.ENOTCONN} {
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
