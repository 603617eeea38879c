package health

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// listenFor listens at the socket of a target's commands.
func listenFor(t *testing.T, socket string) net.Listener {
	l, err := net.Listen("unix", socket)
	testkit.Must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// commandsOf returns a runner whose other end runs the commands of h.
func commandsOf(t *testing.T, h target.Health) runner {
	c := commander{socket: filepath.Join(t.TempDir(), "s")}
	l := listenFor(t, c.socket)
	done := make(chan error, 1)
	go func() { done <- ServeCommands(context.Background(), l, &target.Target{Health: h}) }()
	t.Cleanup(func() {
		c.Close()
		l.Close()
		testkit.Must(t, <-done)
	})
	return c.run
}

func probersOf(t *testing.T, h target.Health) []prober { return probers(h, commandsOf(t, h)) }

// TestCommandOf shows that a client can only ask for commands of the target file.
func TestCommandOf(t *testing.T) {
	h := target.Health{VersionCommand: sh("echo 1.2.3"), Probes: []target.Probe{{TCP: "127.0.0.1:1"}, {Command: sh("echo probed")}}}
	run := commandsOf(t, h)
	for key, want := range map[string]string{"": "1.2.3\n", h.Probes[1].Key(): "probed\n"} {
		if out, err := run(t.Context(), key); out != want || err != nil {
			t.Errorf("key %q: %q, %v", key, out, err)
		}
	}
	for _, key := range []string{h.Probes[0].Key(), "other"} {
		if out, err := run(t.Context(), key); out != "" || err == nil || !strings.Contains(err.Error(), "no such command") {
			t.Errorf("key %q: %q, %v", key, out, err)
		}
	}
}

// TestTake shows that two commands never share a connection, whose answers they could
// take for each other's.
func TestTake(t *testing.T) {
	c := commander{socket: filepath.Join(t.TempDir(), "s")}
	listenFor(t, c.socket)
	c.warm(t.Context())
	defer c.Close()
	one, err := c.take(t.Context())
	testkit.Must(t, err)
	defer one.Close()
	other, err := c.take(t.Context())
	testkit.Must(t, err)
	defer other.Close()
	if one == other || len(c.idle) > 0 {
		t.Errorf("the same connection twice: %v, %d idle", one == other, len(c.idle))
	}
}

// TestServeCommandsEnds shows that the unit ends with its last client, and with it a
// command that still runs.
func TestServeCommandsEnds(t *testing.T) {
	dir := t.TempDir()
	l := listenFor(t, filepath.Join(dir, "s"))
	done := make(chan error, 1)
	testkit.Must(t, unix.Mkfifo(dir+"/began", 0o600))
	h := target.Health{VersionCommand: sh("echo > " + dir + "/began; exec sleep 60")}
	go func() { done <- ServeCommands(context.Background(), l, &target.Target{Health: h}) }()
	c := commander{socket: filepath.Join(dir, "s")}
	ctx, cancel := context.WithCancel(t.Context())
	began := make(chan error, 1)
	go func() {
		_, err := os.ReadFile(dir + "/began")
		cancel()
		began <- err
	}()
	if _, err := c.run(ctx, ""); err != context.Canceled {
		t.Errorf("the command: %v", err)
	}
	select {
	case err := <-done:
		testkit.Must(t, err)
	case <-time.After(commandLimit / 2):
		t.Error("the unit still runs")
	}
	testkit.Must(t, <-began)
	c.Close()
}

// TestServeCommandsOfSeveral shows that the unit serves until the last of its clients is gone.
func TestServeCommandsOfSeveral(t *testing.T) {
	c := commander{socket: filepath.Join(t.TempDir(), "s")}
	l := listenFor(t, c.socket)
	done := make(chan error, 1)
	go func() {
		done <- ServeCommands(context.Background(), l, &target.Target{Health: target.Health{VersionCommand: sh("echo 1.2.3")}})
	}()
	var clients []*commandConn
	for range 3 {
		conn, err := c.take(t.Context())
		testkit.Must(t, err)
		if a, err := conn.ask(commandRequest{}); err != nil || a.Output != "1.2.3\n" {
			t.Errorf("%+v, %v", a, err)
		}
		clients = append(clients, conn)
	}
	for i, conn := range clients {
		if a, err := conn.ask(commandRequest{}); err != nil || a.Output != "1.2.3\n" {
			t.Errorf("after %d clients have gone: %+v, %v", i, a, err)
		}
		testkit.Must(t, conn.Close())
	}
	testkit.Within(t, func() { testkit.Must(t, <-done) })
}

// conns is a listener of the connections that are sent to it.
type conns chan net.Conn

func (l conns) Addr() net.Addr { return nil }
func (l conns) Close() error   { close(l); return nil }
func (l conns) Accept() (net.Conn, error) {
	c, ok := <-l
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

// TestServeCommandsStays: the unit ends if no client comes, and serves new clients for as long as
// it has one.
func TestServeCommandsStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		testkit.Must(t, ServeCommands(t.Context(), make(conns), &target.Target{}))
		if waited := time.Since(begin); waited != lonely {
			t.Errorf("it waited %s for a client", waited)
		}
		l, done := make(conns), make(chan error, 1)
		go func() { done <- ServeCommands(t.Context(), l, &target.Target{}) }()
		first, served := net.Pipe()
		l <- served
		time.Sleep(2 * lonely)
		second, served := net.Pipe()
		l <- served
		synctest.Wait()
		testkit.Must(t, first.Close())
		time.Sleep(2 * lonely)
		select {
		case err := <-done:
			t.Errorf("it ended, and has a client: %v", err)
		default:
		}
		testkit.Must(t, second.Close())
		testkit.Must(t, <-done)
	})
}

// TestNoCommandUnit shows that a missing unit is no evidence against the program.
func TestNoCommandUnit(t *testing.T) {
	c := commander{socket: filepath.Join(t.TempDir(), "s")}
	_, err := c.run(t.Context(), "")
	if _, ok := err.(notAsked); !ok || !strings.Contains(err.Error(), "cannot ask for the command") {
		t.Errorf("got %v", err)
	}
	l := listenFor(t, c.socket)
	go testkit.Answer(l, func(conn net.Conn) {
		conn.Write([]byte(strings.Repeat("x", answerMost+1) + "\n"))
		conn.Read(make([]byte, 1<<10))
	})
	if _, err = c.run(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "gave no answer") {
		t.Errorf("got %v", err)
	}
}
