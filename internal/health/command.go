package health

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// The commands of a target are programs of the release. machinemon-command@T.service runs
// them for the gate, as a user of their own, so that they reach neither the gate's
// processes nor its report. What they leave behind ends with the connection.

// commandRequest asks for a command of the target file.
type commandRequest struct {
	Key string `json:"key"` // of the probe; "" for version_command
}

// commandAnswer says how a command ended.
type commandAnswer struct {
	Output  string `json:"output"` // its end
	Failure string `json:"failure,omitempty"`
	Lacking bool   `json:"lacking,omitempty"` // the failure is a [lacking]
}

// runner runs a command of the target, and returns the end of its output. The error says
// how it failed.
type runner func(ctx context.Context, key string) (output string, err error)

// versionProber asks the installed program for its version.
func versionProber(h target.Health, version string, run runner) prober {
	return prober{
		name:  "version_command " + h.VersionCommand[0],
		limit: commandLimit,
		once:  true,
		try: func(ctx context.Context, _ peers) error {
			output, err := run(ctx, "")
			printed := h.Printed(output)
			problem := printed.Problem(version)
			_, unasked := judged(err)
			switch {
			case problem == "":
				return nil // some programs print their version and exit with status 1
			case printed.Told(version):
				return errors.New("it " + problem + quoted(output))
			case err == nil:
				return mistaken{errors.New("it " + problem + quoted(output))}
			case ctx.Err() != nil, unasked, strings.HasPrefix(err.Error(), killedBy):
				return err
			}
			return mistaken{errors.New(state.WithHint(err.Error(), "correct health.version_command"))}
		},
	}
}

// commandOf returns the command with a key, and how long it may take.
func commandOf(h target.Health, key string) ([]string, time.Duration) {
	if key == "" {
		return h.VersionCommand, commandLimit
	}
	i := slices.IndexFunc(h.Probes, func(p target.Probe) bool { return p.Key() == key })
	if i < 0 {
		return nil, 0
	}
	return h.Probes[i].Command, limitOf(h.Probes[i])
}

// commander is the gate's side: connections to the unit that runs the commands. Each is
// used by one command at a time.
type commander struct {
	socket string
	mu     sync.Mutex
	idle   []*commandConn
}

type commandConn struct {
	net.Conn
	answers *bufio.Scanner // a line each
}

// answerMost limits, in bytes, an answer: JSON takes at most six for each of the output's.
const answerMost = 6*keptOutput + 64<<10

func (c *commander) take(ctx context.Context) (*commandConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.idle); n > 0 {
		conn := c.idle[n-1]
		c.idle = c.idle[:n-1]
		return conn, nil
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, err
	}
	answers := bufio.NewScanner(conn)
	answers.Buffer(nil, answerMost)
	return &commandConn{conn, answers}, nil
}

// warm makes systemd start the unit. If it cannot, the first command reports that.
func (c *commander) warm(ctx context.Context) {
	conn, err := c.take(ctx)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = append(c.idle, conn)
}

// ask sends a request, and waits for the answer.
func (c *commandConn) ask(r commandRequest) (a commandAnswer, err error) {
	if err = json.NewEncoder(c).Encode(r); err != nil {
		return a, err
	}
	if !c.answers.Scan() {
		return a, cmp.Or(c.answers.Err(), io.ErrUnexpectedEOF)
	}
	return a, json.Unmarshal(c.answers.Bytes(), &a)
}

// run is a [runner]. An error that is not the command's own is a [notAsked].
func (c *commander) run(ctx context.Context, key string) (string, error) {
	conn, err := c.take(ctx)
	if err != nil {
		return "", notAsked{fmt.Errorf("cannot ask for the command: %w", plain(err))}
	}
	// The unit ends a command whose connection closes.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	a, err := conn.ask(commandRequest{key})
	if !stop() {
		return "", ctx.Err()
	}
	if err != nil {
		conn.Close()
		return "", notAsked{fmt.Errorf("the command's unit gave no answer: %w", plain(err))}
	}
	c.mu.Lock()
	c.idle = append(c.idle, conn)
	c.mu.Unlock()
	if a.Failure != "" {
		err = errors.New(oneLine(a.Failure))
	}
	if a.Lacking {
		err = lacking{err}
	}
	return a.Output, err
}

// Close closes the connections, which ends the unit.
func (c *commander) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.idle {
		conn.Close()
	}
	c.idle = nil
}

// lonely is how long the unit waits for its first connection, which has started it.
const lonely = 10 * time.Second

// ServeCommands runs the commands of the target for clients of l, until the last one has
// gone.
func ServeCommands(ctx context.Context, l net.Listener, t *target.Target) error {
	var mu sync.Mutex
	clients := 0
	timer := time.AfterFunc(lonely, func() { l.Close() })
	var all sync.WaitGroup
	defer all.Wait()
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		timer.Stop()
		mu.Lock()
		clients++
		mu.Unlock()
		all.Go(func() {
			serveCommands(ctx, conn, t.Health)
			mu.Lock()
			defer mu.Unlock()
			if clients--; clients == 0 {
				l.Close() // systemd starts the unit again for a client that waits
			}
		})
	}
}

// serveCommands answers one client. Its commands end when it closes the connection.
func serveCommands(ctx context.Context, conn net.Conn, h target.Health) {
	defer conn.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	requests := make(chan commandRequest)
	go func() {
		defer stop()
		in := json.NewDecoder(conn)
		for {
			var r commandRequest
			if in.Decode(&r) != nil { // the client is gone, or no client of this unit
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	out := json.NewEncoder(conn)
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-requests:
			if out.Encode(answerTo(ctx, h, r)) != nil {
				return
			}
		}
	}
}

func answerTo(ctx context.Context, h target.Health, r commandRequest) commandAnswer {
	argv, limit := commandOf(h, r.Key)
	if len(argv) == 0 {
		return commandAnswer{Failure: "the target file has no such command any more"}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	output, err := command(ctx, argv)
	a := commandAnswer{Output: output}
	if err != nil {
		a.Failure = err.Error()
		_, a.Lacking = errors.AsType[lacking](err)
	}
	return a
}
