//go:build systemd

package systemtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
)

// The tests below test the harness itself.

func TestMachineRunsCommands(t *testing.T) {
	t.Parallel()
	m := boot(t)
	if got := m.must("cat", "/proc/1/comm"); got != "systemd\n" {
		t.Errorf("PID 1 is %q", got)
	}
	if got := m.must("systemctl", "is-system-running"); got != "running\n" {
		t.Errorf("the machine is %q", got)
	}
	r := m.run("sh", "-c", "echo out; echo err >&2; exit 7")
	if want := (machine.Result{Stdout: "out\n", Stderr: "err\n", Code: 7}); r != want {
		t.Errorf("got %+v, want %+v", r, want)
	}
	if got := m.must("cat", "/proc/self/cgroup"); !strings.Contains(got, "0::/shell\n") {
		t.Errorf("commands run in cgroup %q", got)
	}

	p := m.start("sleep", "1000")
	if err := p.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if r := m.wait(p); r.Code != -1 {
		t.Errorf("an interrupted sleep: %+v", r)
	}
}

func TestMachineFiles(t *testing.T) {
	once(t)
	t.Parallel()
	m := boot(t)
	m.writeFile("/etc/a/b", "one", 0o640)
	m.writeFile("/run/c", "two", 0o600)
	if got := m.must("sh", "-c", "cat /etc/a/b /run/c; stat -c %a%U /etc/a/b /"); got != "onetwo640root\n755root\n" {
		t.Errorf("inside: %q", got)
	}
	m.must("sh", "-c", "echo -n three > /etc/a/b")
	m.powerOff()
	if got := m.readFile("/etc/a/b"); got != "three" {
		t.Errorf("on the disk: %q", got)
	}
	if _, err := m.Stat("/run/c"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("/run/c on the disk: %v", err)
	}
}

func TestMachineNetwork(t *testing.T) {
	once(t)
	t.Parallel()
	m := boot(t)
	l, err := m.Listen("tcp", "127.0.0.1:9000")
	m.ok(err)
	var status atomic.Int64
	status.Store(http.StatusOK)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(int(status.Load()))
		io.WriteString(w, "hello")
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })

	c, err := m.Dial(t.Context(), "tcp", "127.0.0.1:9000")
	m.ok(err)
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
	if b, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(b), "hello") {
		t.Errorf("got %q, %v", b, err)
	}
	// The test's own network is another one.
	if r, err := http.Get("http://127.0.0.1:9000/"); err == nil {
		r.Body.Close()
		t.Error("the server can be reached from outside")
	}

	p, err := m.Probe("127.0.0.1:9000", "/", 2*time.Millisecond)
	m.ok(err)
	m.must("sleep", "0.1")
	status.Store(http.StatusServiceUnavailable)
	m.must("sleep", "0.3")
	status.Store(http.StatusOK)
	m.must("sleep", "0.1")
	out := p.Stop()
	if out.Gaps != 1 || out.Longest < 300*time.Millisecond || out.Longest > 500*time.Millisecond || out.Total != out.Longest || out.Failed == 0 || out.Failed >= out.Probes {
		t.Errorf("the prober saw %+v", out)
	}
	t.Logf("%+v", out)
}

// two makes a chain of two units, joined as those of the update chain are.
func (b *box) two(first string) {
	b.writeFile("/etc/systemd/system/first.service", "[Unit]\nOnSuccess=good.service\nOnFailure=bad.service\n[Service]\nType=oneshot\nExecStart="+first+"\n", 0o644)
	for _, name := range []string{"good", "bad"} {
		b.writeFile("/etc/systemd/system/"+name+".service", "[Service]\nType=oneshot\nExecStart=/bin/echo it was "+name+"\n", 0o644)
	}
	b.must("systemctl", "daemon-reload")
}

func TestJournalOrder(t *testing.T) {
	t.Parallel()
	m := boot(t)
	m.two("/bin/true")
	since := m.cursor()
	m.must("systemctl", "start", "first.service")
	m.awaitEvent(since, "good.service started")
	m.assertOrder(since, "first.service starting", "first.service done", "first.service started", "good.service starting", "good.service started")
	if e := m.await(since, func(e machine.Entry) bool { return e["MESSAGE"] == "it was good" }); e["_SYSTEMD_UNIT"] != "good.service" {
		t.Errorf("the entry is %v", e)
	}

	m.two("/bin/false")
	since = m.cursor()
	if r := m.run("systemctl", "start", "first.service"); r.Code != 1 {
		t.Errorf("starting a failing unit exited %d", r.Code)
	}
	m.awaitEvent(since, "bad.service started")
	m.assertOrder(since, "first.service starting", "first.service failed", "first.service not-started", "bad.service starting", "bad.service started")

	events, err := m.UnitEvents(t.Context(), since)
	m.ok(err)
	if machine.InOrder(events, "bad.service starting", "first.service starting") == nil {
		t.Error("InOrder accepts the wrong order")
	}
}

func TestYankAndBootAgain(t *testing.T) {
	t.Parallel()
	m := boot(t)
	since := m.cursor()
	m.writeFile("/var/lib/kept", "x", 0o644)
	p := m.start("sh", "-c", "trap '' TERM; while :; do echo x >> /var/lib/growing; sleep 0.01; done")
	m.must("sleep", "0.1")
	start := time.Now()
	m.Yank()
	t.Logf("gone after %s", time.Since(start))
	if r := m.wait(p); r.Code != -1 {
		t.Errorf("the background command: %+v", r)
	}
	before := m.readFile("/var/lib/growing")
	start = time.Now()
	m.boot()
	t.Logf("back after %s", time.Since(start))
	if m.readFile("/var/lib/growing") != before || m.readFile("/var/lib/kept") != "x" {
		t.Error("the disk changed")
	}
	m.assertOrder(since, "local-fs.target started", "basic.target started", "multi-user.target started")
	if r := m.run("false"); r.Code != 1 {
		t.Errorf("after the second boot: %+v", r)
	}
}

// TestKilledRunLeavesNothing kills the process of a run by SIGKILL while its machine is
// up. The machine must die with it, and the next run must remove the files that are left.
func TestKilledRunLeavesNothing(t *testing.T) {
	once(t)
	t.Parallel()
	if os.Getenv("SYSTEMTEST_VICTIM") != "" {
		m := boot(t)
		fmt.Println("victim", m.Directory())
		select {}
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-release="+*release, "-debs="+*debs)
	cmd.Env = append(os.Environ(), "SYSTEMTEST_VICTIM=1")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var dir string
	lines := bufio.NewScanner(out)
	for dir == "" && lines.Scan() {
		dir, _ = strings.CutPrefix(lines.Text(), "victim ")
		if dir == lines.Text() {
			dir = ""
		}
	}
	if running := nspawns(t, dir); running == 0 {
		t.Fatalf("the victim runs nothing in %q", dir)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for start := time.Now(); nspawns(t, dir) > 0; {
		if time.Since(start) > 5*time.Second {
			t.Fatal("the machine outlives its run")
		}
		time.Sleep(5 * time.Millisecond) // this process gets no event for the death of another's child
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("still mounted: %v\n%s", err, mounts)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("the killed run has no directory: %v", err)
	}

	next, err := machine.NewLab(t.Context(), machine.Options{Release: *release, Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the next run left %s: %v", dir, err)
	}
}

// nspawns returns the number of processes that name dir in their command line.
func nspawns(t *testing.T, dir string) (n int) {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range lines {
		if b, err := os.ReadFile(name); err == nil && strings.Contains(string(b), dir) {
			n++
		}
	}
	return n
}
