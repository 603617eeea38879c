package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

func TestProgress(t *testing.T) {
	if text := ProgressText(7, 1<<40); text != "downloading: 7 of 1099511627776 bytes" {
		t.Errorf("got %q", text)
	}
	for _, c := range []struct {
		text        string
		done, total int64
		ok          bool
	}{
		{ProgressText(0, 1), 0, 1, true},
		{ProgressText(1<<62, 1<<62), 1 << 62, 1 << 62, true},
		{text: ""},
		{text: "unpacking"},
		{text: "downloading: 5 bytes"},
		{text: "downloading: x of 10 bytes"},
		{text: "downloading: 5 of 0 bytes"},
		{text: "downloading: 5 of -10 bytes"},
		{text: "downloading: -5 of 10 bytes"},
		{text: "downloading: 11 of 10 bytes"},
		{text: "downloading: 5 of 99999999999999999999 bytes"},
		{text: "downloading: 5 of 10 bytes of something else"},
	} {
		done, total, ok := ParseProgress(c.text)
		if ok != c.ok || ok && (done != c.done || total != c.total) {
			t.Errorf("%q: %d of %d, %v; want %d of %d, %v", c.text, done, total, ok, c.done, c.total, c.ok)
		}
	}
}

func TestUnit(t *testing.T) {
	for _, c := range []struct {
		unit             Unit
		text             string
		settled, running bool
	}{
		{Unit{Active: "active", Sub: "running", MainPID: 7}, "active (running)", true, true},
		{Unit{Active: "active", Sub: "running", MainPID: 7, ExecCode: Exited, ExecValue: 1}, "active (running)", true, true}, // of the run before
		{Unit{Active: "active", Sub: "running"}, "active (running)", true, true},                                             // forked, without PIDFile=
		{Unit{Active: "active", Sub: "exited"}, "active (exited)", true, false},
		{Unit{Active: "active", Sub: "exited", Type: "oneshot", RemainAfterExit: true}, "active (exited)", true, true},
		{Unit{Active: "active", Sub: "exited", Type: "simple", RemainAfterExit: true}, "active (exited)", true, false},
		{Unit{Active: "failed", Sub: "failed", Type: "oneshot", RemainAfterExit: true, ExecCode: Exited, ExecValue: 1}, "failed (failed), its main process exited with status 1", true, false},
		{Unit{Active: "active", Sub: "running", MainPID: 7, Job: 3}, "active (running)", false, true},
		{Unit{Active: "inactive", Sub: "dead"}, "inactive (dead)", true, false},
		{Unit{Active: "inactive", Sub: "dead", ExecCode: Exited}, "inactive (dead), its main process exited with status 0", true, false},
		{Unit{Active: "failed", Sub: "failed", ExecCode: Exited, ExecValue: 203}, "failed (failed), its main process exited with status 203", true, false},
		{Unit{Active: "failed", Sub: "failed", ExecCode: Killed, ExecValue: 9}, "failed (failed), its main process was killed by signal 9", true, false},
		{Unit{Active: "activating", Sub: "auto-restart", ExecCode: Dumped, ExecValue: 11}, "activating (auto-restart), its main process was killed by signal 11", false, false},
		{Unit{Active: "activating", Sub: "start", MainPID: 7}, "activating (start)", false, false},
		{Unit{Active: "deactivating", Sub: "stop-sigterm", MainPID: 7}, "deactivating (stop-sigterm)", false, false},
		{Unit{Active: "reloading", Sub: "reload", MainPID: 7}, "reloading (reload)", false, false},
	} {
		if got := c.unit.String(); got != c.text {
			t.Errorf("got %q, want %q", got, c.text)
		}
		if c.unit.Settled() != c.settled || c.unit.Running() != c.running {
			t.Errorf("%s: settled %v, running %v", c.text, c.unit.Settled(), c.unit.Running())
		}
	}
}

// TestStopped: the unit's times tell a stop from an end of the program itself.
func TestStopped(t *testing.T) {
	for name, c := range map[string]struct {
		unit Unit
		want bool
	}{
		"runs":                         {Unit{Began: 12, MainBegan: 11, MainPID: 7, Left: 5, MainEnded: 0}, false},
		"stopped":                      {Unit{Began: 12, MainBegan: 11, Left: 20, MainEnded: 21}, true},
		"ended by itself":              {Unit{Began: 12, MainBegan: 11, Left: 21, MainEnded: 20}, false},
		"never began":                  {Unit{}, false},
		"never active":                 {Unit{Began: 10, MainBegan: 11, MainEnded: 20, Left: 5}, false},
		"the next start failed":        {Unit{Began: 30, MainBegan: 11, Left: 20, MainEnded: 21}, false},
		"the next restart failed":      {Unit{Began: 12, MainBegan: 25, Left: 21, MainEnded: 26}, false},
		"stopped after a restart":      {Unit{Began: 12, MainBegan: 25, Left: 30, MainEnded: 31}, true},
		"stopped, and it starts again": {Unit{Began: 32, MainBegan: 31, Left: 20, MainEnded: 0, MainPID: 8}, false},
	} {
		if got := c.unit.Stopped(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestExits(t *testing.T) {
	declared := Unit{Forced: exits([]any{[]int32{75, 133}, []int32{10}}), Clean: exits([]any{[]int32{143}, []int32{}})}
	for _, c := range []struct {
		code, value int32
		want        bool
	}{
		{Exited, 75, true}, {Exited, 133, true}, {Exited, 143, true}, {Killed, 10, true}, {Dumped, 10, true},
		{Exited, 0, false}, {Exited, 10, false}, {Killed, 75, false}, {0, 75, false},
	} {
		if got := declared.Declares(c.code, c.value); got != c.want {
			t.Errorf("code %d, value %d: %v", c.code, c.value, got)
		}
	}
	for _, none := range []any{nil, "75", []any{}, []any{[]int32{}, []int32{}}} {
		if got := exits(none); !got.Empty() {
			t.Errorf("%v: %v", none, got)
		}
	}
}

func TestLimit(t *testing.T) {
	for _, c := range []struct {
		usec any
		want time.Duration
	}{
		{uint64(90_000_000), 90 * time.Second},
		{uint64(0), 0},
		{^uint64(0), longest}, // infinity
		{uint64(1) << 62, longest},
		{nil, 0},
		{"90s", 0},
	} {
		if got := limit(c.usec); got != c.want {
			t.Errorf("%v: %s, want %s", c.usec, got, c.want)
		}
	}
}

// TestLost: what is no answer of systemd is tried again; an answer is not.
func TestLost(t *testing.T) {
	answer := func(name string) error { return godbus.Error{Name: name, Body: []any{"message"}} }
	for _, c := range []struct {
		err  error
		want bool
	}{
		{godbus.ErrClosed, true},
		{fmt.Errorf("call: %w", godbus.ErrClosed), true},
		{&net.OpError{Op: "read", Net: "unix", Err: net.ErrClosed}, true},
		{io.EOF, true},
		{io.ErrUnexpectedEOF, true},
		{&net.OpError{Op: "read", Net: "unix", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, true},
		{&net.OpError{Op: "write", Net: "unix", Err: os.NewSyscallError("write", syscall.EPIPE)}, true},
		{&net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, true},
		{&net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.ENOENT)}, true},
		{answer("org.freedesktop.DBus.Error.NoReply"), true},
		{answer("org.freedesktop.DBus.Error.Disconnected"), true},
		{answer("org.freedesktop.DBus.Error.ServiceUnknown"), true},
		{answer("org.freedesktop.DBus.Error.NameHasNoOwner"), true},
		{&net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EACCES)}, false},
		{answer("org.freedesktop.DBus.Error.AccessDenied"), false},
		{answer("org.freedesktop.DBus.Error.InvalidArgs"), false},
		{answer("org.freedesktop.systemd1.NoSuchUnit"), false},
		{answer("org.freedesktop.systemd1.JobTypeNotApplicable"), false},
		{&JobError{"start", "x.service", "failed"}, false},
		{context.DeadlineExceeded, false},
		{context.Canceled, false},
		{errors.New("connection reset by peer"), false},
	} {
		if got := lost(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
	if !isName(fmt.Errorf("cannot stop x: %w", answer("org.freedesktop.systemd1.NoSuchUnit")), "org.freedesktop.systemd1.NoSuchUnit") {
		t.Error("a wrapped answer has lost its name")
	}
}

// TestDo: a call is made again while the bus is lost, and only then.
func TestDo(t *testing.T) {
	refused := errors.New("refused")
	for _, c := range []struct {
		answers []error
		want    error
	}{
		{[]error{nil}, nil},
		{[]error{io.EOF, godbus.ErrClosed, nil}, nil},
		{[]error{refused, nil}, refused},
		{[]error{io.EOF, refused, nil}, refused},
	} {
		conn := newConn()
		conn.cur = &link{stop: func() {}}
		made := 0
		err := conn.do(t.Context(), func(*link) error {
			made++
			// As a reconnection would: the link is new each time.
			conn.cur = &link{stop: func() {}}
			return c.answers[made-1]
		})
		wantMade := len(c.answers)
		if c.want != nil {
			wantMade--
		}
		if !errors.Is(err, c.want) || made != wantMade {
			t.Errorf("%v: %v after %d calls, want %v after %d", c.answers, err, made, c.want, wantMade)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	conn := newConn()
	conn.cur = &link{stop: func() {}}
	err := conn.do(ctx, func(*link) error { cancel(); return io.EOF })
	if err == nil || errors.Is(err, context.Canceled) || err.Error() != "systemd does not answer: EOF" {
		t.Errorf("given up: %v", err)
	}
}

func TestJobError(t *testing.T) {
	if got := (&JobError{"restart", "agent.service", "failed"}).Error(); got != `cannot restart agent.service: the job ended with "failed"` {
		t.Errorf("got %s", got)
	}
}
