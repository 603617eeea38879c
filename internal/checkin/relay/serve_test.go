package relay

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestIdle checks that the relay ends after it was idle, and not during a request.
func TestIdle(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const idle = 300 * time.Millisecond
	release := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- serve(t.Context(), []net.Listener{l}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { <-release }), nil, idle)
	}()
	answered := make(chan error, 1)
	go func() {
		resp, err := http.Post("http://"+l.Addr().String(), "", nil)
		if err == nil && !resp.Close {
			t.Error("the connection is kept")
		}
		answered <- err
	}()
	select {
	case err := <-ended:
		t.Fatalf("it ended under a request: %v", err)
	case <-time.After(3 * idle):
	}
	close(release)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	last := time.Now()
	if err := <-ended; err != nil || time.Since(last) < idle*9/10 {
		t.Errorf("it ended after %s: %v", time.Since(last), err)
	}
}

// TestRestarts checks that no request is lost while relays replace each other.
func TestRestarts(t *testing.T) {
	testkit.Slow(t)
	echo := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { io.Copy(w, q.Body) })
	replaced := func(ctx context.Context, l net.Listener) error {
		return serve(ctx, []net.Listener{l}, echo, nil, time.Hour)
	}
	testkit.Restart(t, 20*time.Millisecond, replaced, 300, func(c *http.Client, url string) {
		resp, err := c.Post(url, "", strings.NewReader("hello"))
		if err != nil {
			t.Error(err)
			return
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(got) != "hello" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestUnconfigured(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go serve(ctx, []net.Listener{l}, unconfigured(), nil, time.Hour)
	resp, err := http.Post("http://"+l.Addr().String()+path, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 503 {
		t.Errorf("%+v", resp)
	}
}

// TestStatus checks that the command's output counts, and not its exit status.
func TestStatus(t *testing.T) {
	for script, want := range map[string]string{
		`[ "$*" = "status --check agent" ] && echo 'machinemon-update {"target":"agent","installed":"v1"}'`: "v1",
		`echo 'machinemon-update {"target":"agent","installed":"v1"}'; exit 1`:                              "v1",
		`echo 'machinemon-update {"target":"other","installed":"v1"}'`:                                      "cannot run machinemon-update status --check agent: it does not print a status",
		`echo`:                             "cannot run machinemon-update status --check agent: it does not print a status",
		`echo "cannot use it" >&2; exit 2`: "cannot run machinemon-update status --check agent: cannot use it",
		`exit 3`:                           "cannot run machinemon-update status --check agent: exit status 3",
		`[ -z "$SECRET" ] || exit 4; exec sleep 60`: "cannot run machinemon-update status --check agent: signal: killed",
	} {
		t.Setenv("SECRET", "x")
		command := filepath.Join(t.TempDir(), "machinemon-update")
		if err := os.WriteFile(command, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		s, err := statusOf(ctx, command, "agent")
		cancel()
		if got := s.Installed; err == nil && got != want || err != nil && err.Error() != want {
			t.Errorf("%s: %+v, %v", script, s, err)
		}
	}
	if _, err := statusOf(t.Context(), "/nowhere/machinemon-update", "agent"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("%v", err)
	}
}
