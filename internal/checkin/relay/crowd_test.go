package relay

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestStranger is not a test but a local user's program, which TestStrangers starts as
// nobody. It keeps 600 connections to an address busy until its standard input ends.
func TestStranger(t *testing.T) {
	at := os.Getenv("CROWD")
	if at == "" {
		t.Skip("not started by TestStrangers")
	}
	var refused atomic.Int64
	for i := range 600 {
		go func() {
			for {
				c, err := net.Dial("tcp", at)
				if err != nil {
					continue
				}
				if i%2 == 0 { // half of them send a check-in, the others a part of one
					io.WriteString(c, "POST "+path+" HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
				} else {
					io.WriteString(c, "POST "+path+" HTTP/1.1\r\n")
				}
				if got, _ := io.ReadAll(c); strings.HasPrefix(string(got), "HTTP/1.1 403 ") {
					if refused.Add(1) == 600 {
						fmt.Println("there")
					}
				}
				c.Close()
			}
		}()
	}
	io.Copy(io.Discard, os.Stdin)
}

// TestStrangers checks that the agent's check-ins are all answered while another user of
// this machine holds 600 connections, and that systemd is asked for the agent's only.
func TestStrangers(t *testing.T) {
	testkit.Slow(t)
	testkit.NeedRoot(t, "it runs a program as another user")
	b := newBench(t, plainAnswer, nil)
	var asked, atOnce, most atomic.Int64
	b.allowedUID = func(context.Context) (uint32, string, error) {
		asked.Add(1)
		if n := atOnce.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer atOnce.Add(-1)
		// The bus refuses more connections of one user than this.
		if atOnce.Load() > 200 {
			return 0, "", fmt.Errorf("the maximum number of active connections for UID has been reached")
		}
		time.Sleep(5 * time.Millisecond) // as long as the bus takes
		return uint32(os.Getuid()), "machinemon-client.service", nil
	}
	l := testkit.Listen(t)
	ctx, end := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		_, err := Serve(ctx, []net.Listener{l}, b.Relay)
		served <- err
	}()
	b.url = "http://" + l.Addr().String()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := dir + "/stranger"
	if out, err := exec.Command("install", "-m", "755", os.Args[0], program).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Chmod(dir+"/..", 0o755); err != nil {
		t.Fatal(err)
	}
	crowd := exec.Command("setpriv", "--reuid=65534", "--clear-groups", program, "-test.run=^TestStranger$")
	crowd.Env = append(os.Environ(), "CROWD="+l.Addr().String())
	in, err := crowd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := crowd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := crowd.Start(); err != nil {
		t.Fatal(err)
	}
	word := make([]byte, 6)
	if _, err := io.ReadFull(out, word); err != nil || string(word) != "there\n" {
		t.Fatalf("%q, %v", word, err)
	}
	before := asked.Load()
	const times = 20
	slowest := time.Duration(0)
	for i := range times {
		begun := time.Now()
		if a, err := b.send("POST", path, "{}"); err != nil || a.status != 200 {
			t.Errorf("check-in %d: %+v, %v", i, a, err)
		}
		slowest = max(slowest, time.Since(begun))
	}
	n := asked.Load() - before
	t.Logf("the slowest check-in took %s; systemd was asked %d times for %d check-ins, at most %d at once", slowest, n, times, most.Load())
	if n > 2*times || most.Load() > 1 {
		t.Errorf("systemd was asked %d times, %d at once", n, most.Load())
	}
	if lines := strings.Count(b.lines(), "\n") + 1; lines > 1 {
		t.Errorf("it said %d lines: %s", lines, b.lines())
	}
	in.Close()
	crowd.Wait()
	end()
	if err := <-served; err != nil && !strings.Contains(err.Error(), "closed") {
		t.Error(err)
	}
}

// TestAnnounced checks that the relay ends when an update is announced, after it has
// answered, and says so.
func TestAnnounced(t *testing.T) {
	b := newBench(t, golden(t, "directive.json"), nil)
	l := testkit.Listen(t)
	b.url = "http://" + l.Addr().String()
	type end struct {
		announced bool
		err       error
	}
	ended := make(chan end, 1)
	go func() {
		announced, err := Serve(t.Context(), []net.Listener{l}, b.Relay)
		ended <- end{announced, err}
	}()
	begun := time.Now()
	if a := b.checkIn("{}"); a.status != http.StatusOK || !strings.Contains(a.body, "update_version") {
		t.Errorf("%+v", a)
	}
	if e := <-ended; !e.announced || e.err != nil || time.Since(begun) > idle/2 {
		t.Errorf("%+v after %s", e, time.Since(begun))
	}
}

// TestDeliver checks that root drops one directive, and only after an announcement.
func TestDeliver(t *testing.T) {
	tree := state.Tree{Run: t.TempDir(), Var: t.TempDir()}
	config := t.TempDir() + "/relay.toml"
	if err := os.WriteFile(config, []byte("server_url = \"http://h\"\ntarget = \"other\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	deliver := func(code, status string) error {
		return Deliver(config, tree, func(name string) string { return map[string]string{"EXIT_CODE": code, "EXIT_STATUS": status}[name] })
	}
	if err := deliver("exited", strconv.Itoa(Announced)); err == nil || !strings.HasSuffix(err.Error(), "(hint: is machinemon-update installed?)") {
		t.Errorf("without the toolkit: %v", err)
	}
	if err := os.Mkdir(tree.Run+"/directive", 0o755); err != nil {
		t.Fatal(err)
	}
	entries := func() int {
		list, err := os.ReadDir(tree.Run + "/directive/other")
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return len(list)
	}
	for _, c := range [][2]string{{"exited", "0"}, {"exited", "1"}, {"killed", "10"}, {"", ""}} {
		if err := deliver(c[0], c[1]); err != nil || entries() != 0 {
			t.Errorf("%q: %v, %d directives", c, err, entries())
		}
	}
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if err := deliver("exited", "10"); err != nil {
				t.Error(err)
			}
		})
	}
	if all.Wait(); entries() != 1 {
		t.Errorf("%d directives", entries())
	}
}
