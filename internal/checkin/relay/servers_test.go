package relay

import (
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestBadServers checks that a server that is down, stalls or violates HTTP gives a
// clear answer and a line that names the server, without any of the server's text.
func TestBadServers(t *testing.T) {
	testkit.Slow(t)
	raw := func(t *testing.T, answer string) string {
		l := testkit.Listen(t)
		go testkit.AnswerHTTP(l, func(c net.Conn) {
			io.WriteString(c, strings.ReplaceAll(answer, "%", password))
			if answer == "" {
				io.Copy(io.Discard, c) // until the relay has enough
			}
		})
		return "http://" + l.Addr().String()
	}
	for name, c := range map[string]struct{ answer, said string }{
		"echo":       {"X-Client-Password: %\r\n\r\n", "its answer is not HTTP"},
		"bad header": {"HTTP/1.1 200 OK\r\nnonsense %\r\n\r\n", "its answer is not HTTP"},
		"bad length": {"HTTP/1.1 200 OK\r\nContent-Length: %\r\n\r\n", "its answer is not HTTP"},
		"upgrade":    {"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %\r\n\r\n", "its answer is not HTTP"},
		"stalls":     {"", "it takes too long"},
		"cut":        {"HTTP/1.1 200", "it closed the connection"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &bench{t: t}
			b.start(raw(t, c.answer), nil)
			b.timeout = 500 * time.Millisecond
			for range 2 {
				if a := b.checkIn("{}"); a.status != 502 || a.body != "machinemon-checkin-relay: the server does not answer (hint: journalctl -u machinemon-checkin-relay)\n" {
					t.Errorf("%+v", a)
				}
			}
			if want := "cannot pass the check-in on to " + b.config.CheckIn.Host + ": " + c.said; b.lines() != want {
				t.Errorf("it said %q, want %q", b.lines(), want)
			}
		})
	}
	t.Run("body stalls", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, "", func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, `{"update_version":"v0.1.12"`)
			w.(http.Flusher).Flush()
			<-q.Context().Done()
		})
		b.timeout = 500 * time.Millisecond
		if a, err := b.send("POST", path, "{}"); err == nil {
			t.Errorf("the agent takes it for whole: %+v", a)
		}
		if b.dropped() > 0 {
			t.Error("a part of an answer was believed")
		}
	})
	t.Run("down, and up again", func(t *testing.T) {
		t.Parallel()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		b := &bench{t: t}
		b.start("http://"+l.Addr().String(), nil)
		down := func() {
			t.Helper()
			if a := b.checkIn("{}"); a.status != 502 {
				t.Errorf("%+v", a)
			}
		}
		down()
		down()
		if got := b.lines(); strings.Count(got, "\n") > 0 || !strings.HasSuffix(got, ": connect: connection refused") {
			t.Errorf("it said %q", got)
		}
		if l, err = net.Listen("tcp", l.Addr().String()); err != nil {
			t.Skip(err) // another process has taken the port
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, plainAnswer) })}
		go s.Serve(l)
		if a := b.checkIn("{}"); a.status != 200 || a.body != plainAnswer {
			t.Errorf("%+v", a)
		}
		s.Close()
		down()
		if strings.Count(b.lines(), "connection refused") != 2 {
			t.Errorf("it said %q", b.lines())
		}
	})
}

// TestTLS checks that ca_file verifies the server, unless insecure_skip_tls is set.
func TestTLS(t *testing.T) {
	testkit.Slow(t)
	b := newBench(t, plainAnswer, nil)
	at := *b.config.CheckIn
	if a := b.checkIn("{}"); a.status != 200 {
		t.Errorf("by ca_file: %+v", a)
	}
	for want, insecure := range map[int]bool{502: false, 200: true} {
		b.start((&url.URL{Scheme: "https", Host: at.Host}).String(), nil)
		b.config.InsecureSkipTLS, b.said = insecure, nil
		b.proxy = b.newProxy()
		if a := b.checkIn("{}"); a.status != want {
			t.Errorf("insecure_skip_tls = %v: %+v", insecure, a)
		}
		if said := strings.Contains(b.lines(), "tls: failed to verify certificate"); said == insecure {
			t.Errorf("it said %q", b.lines())
		}
	}
	// This is a server without TLS, such as another relay.
	b.start(strings.Replace(b.url, "http:", "https:", 1), nil)
	b.said = nil
	if a := b.checkIn("{}"); a.status != 502 || !strings.HasSuffix(b.lines(), ": it does not speak TLS (hint: is the port in server_url right?)") {
		t.Errorf("https to http: %+v, it said %q", a, b.lines())
	}
}
