package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// outcomeOf tries a probe once, as the loop does, and returns its error's text.
func outcomeOf(p prober, limit time.Duration) string {
	if err := try(context.Background(), p, peers{}, limit); err != nil {
		return err.Error()
	}
	return ""
}

func TestProbes(t *testing.T) {
	testkit.Slow(t)
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("all is well")) })
	mux.HandleFunc("/500", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) })
	mux.HandleFunc("/429", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(429) })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusFound) })
	mux.HandleFunc("/hangs", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/drips", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			w.Write([]byte("."))
			w.(http.Flusher).Flush()
		}
	})
	web := httptest.NewServer(mux)
	defer web.Close()
	tls := httptest.NewUnstartedServer(mux)
	tls.Config.ErrorLog = log.New(io.Discard, "", 0)
	tls.StartTLS()
	defer tls.Close()
	garbage := serve(t, "tcp", "127.0.0.1:0", func(c net.Conn) { c.Write([]byte("SSH-2.0-\x1b[31mred\n\n")) })
	resets := serve(t, "tcp", "127.0.0.1:0", func(c net.Conn) {})
	socket := filepath.Join(t.TempDir(), "s")
	serve(t, "unix", socket, func(c net.Conn) {})
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	// With this proxy every probe would pass.
	t.Setenv("HTTP_PROXY", web.URL)
	t.Setenv("http_proxy", web.URL)

	var rows []testkit.Row
	for _, c := range []struct {
		probe target.Probe
		want  string // a part of the error; "" if the probe passes
	}{
		{target.Probe{HTTP: web.URL + "/ok", ExpectStatus: 200}, ""},
		{target.Probe{HTTP: web.URL + "/ok", ExpectStatus: 200, ExpectBody: "well"}, ""},
		{target.Probe{HTTP: web.URL + "/ok", ExpectStatus: 200, ExpectBody: "secret"}, "does not contain the expected text"},
		{target.Probe{HTTP: web.URL + "/ok", ExpectStatus: 204}, "status 200 instead of 204"},
		{target.Probe{HTTP: web.URL + "/500", ExpectStatus: 200}, "status 500 instead of 200"},
		{target.Probe{HTTP: web.URL + "/429", ExpectStatus: 200}, "status 429 instead of 200"},
		{target.Probe{HTTP: web.URL + "/moved", ExpectStatus: 200}, "status 302 instead of 200"},
		{target.Probe{HTTP: web.URL + "/moved", ExpectStatus: 302}, ""},
		{target.Probe{HTTP: web.URL + "/hangs", ExpectStatus: 200}, "no answer within 0.3 s"},
		{target.Probe{HTTP: web.URL + "/drips", ExpectStatus: 200, ExpectBody: "!"}, ""}, // either limit may come first
		{target.Probe{HTTP: tls.URL + "/ok", ExpectStatus: 200}, "certificate"},
		{target.Probe{HTTP: "http://" + garbage + "/?token=hunter2", ExpectStatus: 200}, "malformed HTTP"},
		{target.Probe{HTTP: "http://" + resets + "/?token=hunter2", ExpectStatus: 200}, "EOF"},
		{target.Probe{HTTP: "http://" + closed.Addr().String() + "/?token=hunter2", ExpectStatus: 200}, "connection refused"},
		{target.Probe{TCP: garbage}, ""},
		{target.Probe{TCP: closed.Addr().String()}, "connection refused"},
		{target.Probe{TCP: "no.such.host.invalid:1"}, "no"},
		{target.Probe{Unix: socket}, ""},
		{target.Probe{Unix: socket + "x"}, "no such file or directory"},
		{target.Probe{Command: []string{"/bin/true"}}, ""},
	} {
		c.probe.Foreign = len(c.probe.Command) == 0 // TestPeers shows which programs may answer
		p := probersOf(t, target.Health{Probes: []target.Probe{c.probe}})[0]
		limit := 10 * time.Second
		if strings.Contains(c.want, "0.3 s") || strings.Contains(c.probe.HTTP, "/drips") {
			limit = 300 * ms
		}
		got := outcomeOf(p, limit)
		if strings.Contains(c.probe.HTTP, "/drips") {
			if got == "" {
				t.Error("an endless answer passed")
			}
			continue
		}
		rows = append(rows, rowOf(c.probe, c.want))
		if !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%s: %q, want %q", c.probe, got, c.want)
		}
		if strings.ContainsAny(got, "\x1b\n") || strings.Contains(got, "hunter2") {
			t.Errorf("%s: unfit for a report: %q", c.probe, got)
		}
	}
	testkit.Accepted(t, "Probes", rows)
}

// rowOf returns the row of a probe in the shipped table, as a target file has it.
func rowOf(p target.Probe, refused string) testkit.Row {
	var keys []string
	for _, k := range []struct{ key, value string }{{"http", p.HTTP}, {"grpc", p.GRPC}, {"tcp", p.TCP}, {"unix", p.Unix},
		{"command", strings.Join(p.Command, " ")}, {"expect_body", p.ExpectBody}, {"ca_file", p.CAFile}, {"headers_file", p.HeadersFile}} {
		if k.value != "" {
			value := regexp.MustCompile(`(127\.0\.0\.1|localhost|example\.com|\[::1\]):\d+`).ReplaceAllString(k.value, "SERVER")
			if filepath.Dir(value) != "/" && k.key == "unix" {
				value = "/run/" + filepath.Base(value)
			}
			keys = append(keys, k.key+" = "+value)
		}
	}
	switch {
	case p.ExpectClass > 0:
		keys = append(keys, fmt.Sprintf("expect_status = %dxx", p.ExpectClass))
	case p.ExpectStatus > 0:
		keys = append(keys, fmt.Sprintf("expect_status = %d", p.ExpectStatus))
	}
	if p.InsecureSkipTLS {
		keys = append(keys, "insecure_skip_tls = true")
	}
	return testkit.Row{What: strings.Join(keys, ", "), Refused: refused}
}

// serve lets answer answer every connection, and then closes it.
func serve(t *testing.T, network, address string, answer func(net.Conn)) string {
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go testkit.Answer(l, func(c net.Conn) {
		c.SetReadDeadline(time.Now().Add(100 * ms)) // a tcp probe sends nothing
		c.Read(make([]byte, 4096))
		answer(c)
	})
	return l.Addr().String()
}

func sh(script string) []string { return []string{"/bin/sh", "-c", script} }

func TestCommand(t *testing.T) {
	testkit.Slow(t)
	t.Setenv("NOTIFY_SOCKET", "/run/systemd/notify")
	pidFile := filepath.Join(t.TempDir(), "pid")
	for _, c := range []struct {
		name, script, want string
		most               time.Duration
	}{
		{"passes", "exit 0", "", 2 * time.Second},
		{"fails", "echo oh no >&2; exit 3", "exited with status 3; it said: oh no", 2 * time.Second},
		{"fails silently", "exit 1", "exited with status 1", 2 * time.Second},
		{"is killed", "kill -SEGV $$", "was killed by SIGSEGV", 2 * time.Second},
		{"hangs and ignores SIGTERM", "trap '' TERM; sleep 60 & wait; sleep 60", "no answer within 0.5 s", 2 * time.Second},
		{"leaves a child that holds its output", "sleep 60 & echo $! >" + pidFile + "; exit 0", "", 2 * time.Second},
		{"leaves a child and fails", "sleep 60 & echo broken; exit 2", "exited with status 2; it said: broken", 2 * time.Second},
		{"writes without end", "yes", "no answer within 0.5 s", 2 * time.Second},
		{"sees a minimal environment", `[ -z "$NOTIFY_SOCKET$HOME" ] && [ "$PWD" = / ] && [ -n "$PATH" ]`, "", 2 * time.Second},
		{"has no ambient capability", "grep -q '^CapAmb:\t0*$' /proc/self/status", "", 2 * time.Second},
		{"colours its output", `printf 'a\033[31mb\nc\000d'; exit 1`, "exited with status 1; it said: a [31mb c d", 2 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			begin := time.Now()
			p := probersOf(t, target.Health{Probes: []target.Probe{{Command: sh(c.script)}}})[0]
			if got := outcomeOf(p, 500*ms); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if took := time.Since(begin); took > c.most {
				t.Errorf("took %s", took)
			}
		})
	}
	data, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); alive(child); time.Sleep(5 * ms) {
		if time.Since(begin) > 2*time.Second {
			t.Fatalf("the child %d that the command left behind still runs", child)
		}
	}
	if got := outcomeOf(probersOf(t, target.Health{Probes: []target.Probe{{Command: []string{"/nonexistent"}}}})[0], time.Second); got != "no such file or directory" {
		t.Errorf("missing command: %q", got)
	}
	_, err = command(t.Context(), sh("head -c 5000 /dev/zero | tr '\\0' x; exit 1"))
	if err == nil || len(err.Error()) > shownTail+50 {
		t.Errorf("a long output is quoted at length: %v", err)
	}
}

// TestLongAnswer: a command may say more than the gate keeps, whatever its bytes.
func TestLongAnswer(t *testing.T) {
	p := probersOf(t, target.Health{Probes: []target.Probe{{Command: sh("head -c 200000 /dev/zero | tr '\\0' '\\1'")}}})[0]
	if got := outcomeOf(p, 5*time.Second); got != "" {
		t.Error(got)
	}
	output, err := command(t.Context(), sh("head -c 200000 /dev/zero; echo end"))
	if err != nil || len(output) != keptOutput || !strings.HasSuffix(output, "end\n") {
		t.Errorf("%d bytes, %v", len(output), err)
	}
}

// TestOneLine: what a report quotes is one printable line that is not too long.
func TestOneLine(t *testing.T) {
	long := strings.Repeat("é", maxLine)
	for in, want := range map[string]string{
		"a\n b\t\x1b[31mc\u00a0d\u2028e": "a b [31mc d e",
		"a\xffb":                         "a?b",
		long:                             long[:maxLine] + "…",
		"x" + long:                       "x" + long[:maxLine-2] + "…", // no half of a letter
		long[:maxLine]:                   long[:maxLine],
	} {
		if got := oneLine(in); got != want {
			t.Errorf("%.20q: %q, want %q", in, got, want)
		}
	}
}

// alive reports whether a process runs; a zombie does not.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && syscall.Kill(pid, 0) == nil && !strings.Contains(string(stat), ") Z ")
}

// TestShortage: what this machine lacks is no evidence against a program.
func TestShortage(t *testing.T) {
	at := func(address string, number syscall.Errno) error {
		a, err := net.ResolveTCPAddr("tcp", address)
		testkit.Must(t, err)
		return &net.OpError{Op: "dial", Net: "tcp", Addr: a, Err: os.NewSyscallError("connect", number)}
	}
	lookup := func(e net.DNSError) error { return &url.Error{Op: "Get", Err: &net.OpError{Op: "dial", Err: &e}} }
	for _, c := range []struct {
		err  error
		want bool
	}{
		{at("127.0.0.1:1", syscall.ENFILE), true},
		{at("127.0.0.1:1", syscall.EMFILE), true},
		{at("127.0.0.1:1", syscall.ENOMEM), true},
		{at("127.0.0.1:1", syscall.ENOBUFS), true},
		{at("127.0.0.1:1", syscall.EADDRNOTAVAIL), true},
		{at("[::1]:1", syscall.EADDRNOTAVAIL), false}, // this machine has no IPv6
		{at("192.0.2.1:1", syscall.EADDRNOTAVAIL), false},
		{at("127.0.0.1:1", syscall.ECONNREFUSED), false},
		{at("127.0.0.1:1", syscall.ECONNRESET), false},
		{at("127.0.0.1:1", syscall.EAGAIN), false}, // the program accepts no connection
		{lookup(net.DNSError{Err: "server misbehaving", Name: "x", IsTemporary: true}), true},
		{lookup(net.DNSError{Err: "i/o timeout", Name: "x", IsTimeout: true}), true},
		{lookup(net.DNSError{Err: "no such host", Name: "x", IsNotFound: true}), false},
		{context.DeadlineExceeded, false},
	} {
		_, got := errors.AsType[lacking](plain(c.err))
		if _, known := judged(plain(c.err)); got != c.want || known != c.want {
			t.Errorf("%v: %v, %v, want %v", c.err, got, known, c.want)
		}
	}
	run := commandsOf(t, target.Health{VersionCommand: sh("kill -KILL $$"), Probes: []target.Probe{{Command: sh("kill -SEGV $$")}}})
	_, err := run(t.Context(), "")
	if _, lacks := errors.AsType[lacking](err); !lacks || err.Error() != "was killed by SIGKILL" {
		t.Errorf("a command that somebody killed: %v", err)
	}
	_, err = run(t.Context(), target.Probe{Command: sh("kill -SEGV $$")}.Key())
	if _, lacks := errors.AsType[lacking](err); lacks || err == nil {
		t.Errorf("a command that crashed: %v", err)
	}
}

func TestVersionCommand(t *testing.T) {
	const (
		another = "(hint: if that is not its version, health.version_pattern selects another part of the output); it said: "
		none    = "it prints no version, and must print 1.9.1 (hint: correct health.version_command; health.version_pattern selects a part of its output)"
	)
	for _, c := range []struct{ script, pattern, version, want string }{
		{"echo node_exporter, version 1.9.1 '(branch: HEAD)'", "", "1.9.1", ""},
		{"echo v1.9.1", "", "1.9.1", ""},
		{"echo x 1.9.1", "", "v1.9.1", ""},
		{"echo 1.9.1 >&2; exit 2", "", "1.9.1", ""},
		{"echo 1.9.10", "", "1.9.1", "it says 1.9.10 instead of 1.9.1 " + another + "1.9.10"},
		{"echo 1.9.1-rc1", "", "1.9.1", "it says 1.9.1-rc1 instead of 1.9.1 " + another + "1.9.1-rc1"},
		{"echo 1.9.0 '(revision: 1.9.1)'; exit 1", "", "1.9.1", "it says 1.9.0 instead of 1.9.1 " + another + "1.9.0 (revision: 1.9.1)"},
		{"echo lib 3.0 app 1.9.1", "app (.*)", "1.9.1", ""},
		{"exit 4", "", "1.9.1", "exited with status 4 (hint: correct health.version_command)"},
		{"echo usage; exit 4", "", "1.9.1", "exited with status 4 (hint: correct health.version_command); it said: usage"},
		{"kill -SEGV $$", "", "1.9.1", "was killed by SIGSEGV"},
		{"true", "", "1.9.1", none},
		{"echo nothing", "", "1.9.1", none + "; it said: nothing"},
	} {
		h := target.Health{VersionCommand: sh(c.script), VersionPattern: c.pattern}
		if got := outcomeOf(versionProber(h, c.version, commandsOf(t, h)), 2*time.Second); got != c.want {
			t.Errorf("%s: %q, want %q", c.script, got, c.want)
		}
	}
}
