package gate

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestServe is not a test but the process under load, which other tests start with PART
// set. It ends at the end of its standard input.
func TestServe(t *testing.T) {
	part := os.Getenv("PART")
	if part == "" {
		t.Skip("not started by a test of load")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	serve := func() error { return http.Serve(l, http.HandlerFunc(null)) }
	if part == "proxy" {
		up, err := url.Parse(os.Getenv("UPSTREAM"))
		if err != nil {
			t.Fatal(err)
		}
		serve = func() error {
			return http.Serve(l, &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(up) }, BufferPool: &buffers{},
				Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}})
		}
	}
	if part == "files" {
		serve = func() error { return http.Serve(l, tagged(http.FileServer(http.Dir(os.Getenv("DIR"))))) }
	}
	if part == "gate" {
		up, err := url.Parse(os.Getenv("UPSTREAM"))
		if err != nil {
			t.Fatal(err)
		}
		dir := os.Getenv("DIR")
		g := New(&Config{Upstream: up, DownloadDir: dir, Manifest: "client-manifest.json", Database: os.Getenv("DATABASE")},
			func(line string) { fmt.Fprintln(os.Stderr, line) })
		serve = func() error { return g.Serve(ctx, []net.Listener{l}, nil) }
	}
	done := make(chan error, 1)
	go func() { done <- serve() }()
	fmt.Println("listening on", l.Addr())
	io.Copy(io.Discard, os.Stdin)
	stop()
	if part == "gate" {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// tagged gives a static server's answers an ETag, as nginx makes it.
func tagged(files http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if info, err := os.Stat(filepath.Join(os.Getenv("DIR"), filepath.FromSlash(r.URL.Path))); err == nil {
			w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, info.ModTime().Unix(), info.Size()))
		}
		files.ServeHTTP(w, r)
	})
}

// null is an upstream that answers with as little work as possible. Only administrators may
// read its settings. To a check-in it answers with the client's ID.
func null(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/api/v1/admin/settings" && r.Header.Get("Authorization") == "" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	body, _ := io.ReadAll(r.Body)
	_, after, found := bytes.Cut(body, []byte(`"client_id":"`))
	id, _, _ := bytes.Cut(after, []byte(`"`))
	w.Header().Set("Content-Type", "application/json")
	if !found {
		io.WriteString(w, plainAnswer)
		return
	}
	fmt.Fprintf(w, `{"client_id":"%s","next_checkin_seconds":120,"server_time":"2026-11-01T12:00:00Z"}`+"\n", id)
}

// process is a running TestServe.
type process struct {
	tb  testing.TB
	cmd *exec.Cmd
	url string
	// said is its output, to be read after it has ended.
	said bytes.Buffer
	end  func()
}

func start(tb testing.TB, part string, env ...string) *process {
	tb.Helper()
	p := &process{tb: tb, cmd: exec.Command(os.Args[0], "-test.run=^TestServe$")}
	p.cmd.Env = append(os.Environ(), append(env, "PART="+part, "GOMEMLIMIT=256MiB")...)
	p.cmd.Stderr = &p.said
	in, err := p.cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	p.end = sync.OnceFunc(func() {
		in.Close()
		if err := p.cmd.Wait(); err != nil {
			tb.Errorf("%v: %s", err, p.said.String())
		}
	})
	tb.Cleanup(p.end)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		tb.Fatal(err)
	}
	p.url = "http://" + strings.TrimSpace(strings.TrimPrefix(line, "listening on "))
	go io.Copy(io.Discard, out)
	return p
}

// gateBefore starts a gate in front of this upstream, with a release for amd64.
func gateBefore(tb testing.TB, upstream string) *process {
	tb.Helper()
	return start(tb, "gate", "UPSTREAM="+upstream, "DIR="+downloadDir(tb), "DATABASE="+newDatabase(tb).name)
}

// downloadDir returns a directory with the manifest of a release for amd64.
func downloadDir(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	putRelease(tb, dir, "")
	return dir
}

// putRelease writes the manifest of a release for amd64, with these other members.
func putRelease(tb testing.TB, dir, more string) {
	tb.Helper()
	m := `{"schema":1,"version":"v0.1.12",` + more + `"platforms":{"linux-amd64":{"file":"a.tar.gz","sha256":"` + strings.Repeat("a", 64) + `","size":7}}}`
	if err := os.WriteFile(filepath.Join(dir, "client-manifest.json"), []byte(m), 0o644); err != nil {
		tb.Fatal(err)
	}
}

// memory returns a value of the process's status (proc_pid_status(5)), in bytes.
func (p *process) memory(key string) int64 {
	p.tb.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.tb.Fatal(err)
	}
	var kB int64
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			fmt.Sscan(rest, &kB)
		}
	}
	if kB == 0 {
		p.tb.Fatalf("no %s in %s", key, data)
	}
	return kB << 10
}

// cpu returns the CPU time of the process.
func (p *process) cpu() time.Duration {
	p.tb.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		p.tb.Fatal(err)
	}
	_, own, _ := cpuOf(p.tb, data)
	return own
}

// cpuOf returns a process's parent, its CPU time, and that of its children that have ended,
// from /proc/PID/stat (proc_pid_stat(5)), which counts in ticks of 10 ms.
func cpuOf(tb testing.TB, stat []byte) (parent int, own, ended time.Duration) {
	tb.Helper()
	f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')'):])
	var n [5]int
	for i, at := range []int{2, 12, 13, 14, 15} {
		if _, err := fmt.Sscan(string(f[at]), &n[i]); err != nil {
			tb.Fatal(err)
		}
	}
	const tick = 10 * time.Millisecond
	return n[0], time.Duration(n[1]+n[2]) * tick, time.Duration(n[3]+n[4]) * tick
}

// serverCPU returns the CPU time of PostgreSQL's processes, or 0 without PostgreSQL.
func serverCPU(tb testing.TB) (sum time.Duration) {
	tb.Helper()
	if kind != "PostgreSQL" {
		return 0
	}
	pid := thePostgres(tb).process.Process.Pid
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		tb.Fatal(err)
	}
	for _, file := range all {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // the process has ended
		} else if err != nil {
			tb.Fatal(err)
		}
		parent, own, ended := cpuOf(tb, data)
		if file == fmt.Sprintf("/proc/%d/stat", pid) {
			sum += own + ended
		} else if parent == pid {
			sum += own
		}
	}
	return sum
}

// TestIdleConnections checks that idle connections cost little memory and delay no
// others.
func TestIdleConnections(t *testing.T) {
	testkit.Slow(t)
	const many, each = 10_000, 40 << 10
	g := gateBefore(t, start(t, "upstream").url)
	checkIn := func() {
		t.Helper()
		resp, err := http.Post(g.url+"/api/v1/checkin", "application/json", strings.NewReader(request("amd64", "v0.1.11")))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(got), "update_version") {
			t.Errorf("%s, %v", got, err)
		}
	}
	checkIn()
	before := g.memory("VmRSS")
	for i := range many {
		c, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i%2 == 0 { // half of them have sent a part of a request
			io.WriteString(c, "POST /api/v1/checkin HTTP/1.1\r\nHost: h\r\n")
		}
	}
	checkIn()
	grown := g.memory("VmRSS") - before
	t.Logf("%d connections: %d bytes each", many, grown/many)
	if grown > many*each {
		t.Errorf("%d connections made the gate grow by %d bytes", many, grown)
	}
}
