package fetch

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(code)
		fmt.Fprint(w, "<html>\x1b[31mno</html>")
	}
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusFound)
	}
}

// raw writes these bytes as its answer, and then holds the connection or closes it.
func raw(answer string, hold bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, answer)
		if hold {
			conn.Read(make([]byte, 1)) // until the client disconnects
		}
	}
}

// trickle sends a byte at a time until the client disconnects.
func trickle(head string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, head)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := conn.Write([]byte("x")); err != nil {
				return
			}
		}
	}
}

// endless sends as much as it can.
func endless(w http.ResponseWriter, r *http.Request) {
	for chunk := make([]byte, 64<<10); ; {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

const head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"

func TestHostileServer(t *testing.T) {
	testkit.Slow(t)
	const (
		onManifest = "/client-manifest.json"
		onArchive  = "/agent.tar.gz"
	)
	with := func(path string, h http.HandlerFunc) func(t *testing.T) *bench {
		return func(t *testing.T) *bench {
			s := newSite(t)
			s[path] = h
			return newBench(t, serve(t, s))
		}
	}
	withTLS := func(conf *tls.Config) func(t *testing.T) *bench {
		return func(t *testing.T) *bench {
			return newBench(t, serveOn(t, httptest.NewUnstartedServer(newSite(t)), conf))
		}
	}
	// elsewhere redirects a path to another server with the same release.
	elsewhere := func(path string, from, to func(*testing.T, http.Handler) string) func(t *testing.T) *bench {
		return func(t *testing.T) *bench {
			s := newSite(t)
			s[path] = redirect(to(t, newSite(t)) + path)
			return newBench(t, from(t, s))
		}
	}
	naming := func(f func(p *manifest.Platform)) func(t *testing.T) *bench {
		return func(t *testing.T) *bench {
			return with(onManifest, bytesHandler(marshal(t, edit(release1(), f))))(t)
		}
	}
	short := func(l *download.Limits) {
		l.Headers, l.Manifest, l.Stall = 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
	}
	n := len(payload)
	length := func(n int) string { return fmt.Sprintf("Content-Length: %d\r\n\r\n", n) }

	for _, c := range []struct {
		name   string
		bench  func(t *testing.T) *bench
		limits func(l *download.Limits)
		result state.Result
		text   string
	}{
		{"manifest: https to http", elsewhere(onManifest, serveTLS, serve), nil, state.ResultRefused, "redirected from https to http://127"},
		{"archive: https to http", elsewhere(onArchive, serveTLS, serve), nil, state.ResultRefused, "redirected from https to http://127"},
		{"manifest: http elsewhere", elsewhere(onManifest, serve, serve), nil, state.ResultRefused, "which is not authenticated"},
		{"archive: http elsewhere", elsewhere(onArchive, serve, serve), nil, state.ResultRefused, "not on the manifest's origin"},
		{"archive: https elsewhere", elsewhere(onArchive, serveTLS, serveTLS), nil, state.ResultRefused, "not on the manifest's origin"},
		{"redirect with a password", with(onManifest, redirect("http://user:hunter2@127.0.0.1/")), nil, state.ResultRefused, "an address with a user name"},
		{"redirect to a file", with(onManifest, redirect("file:///etc/passwd")), nil, state.ResultRefused, "neither https nor http"},
		{"redirect loop", with(onManifest, redirect(onManifest)), nil, state.ResultNotDownloaded, "more than 5 times"},
		{"archive redirect loop", with(onArchive, redirect(onArchive)), nil, state.ResultNotDownloaded, "more than 5 times"},

		{"manifest: a byte at a time", with(onManifest, trickle(head+"\r\n")), short, state.ResultNotDownloaded, "longer than 300ms"},
		{"archive: a byte at a time", with(onArchive, trickle(head+length(n))), short, state.ResultNotDownloaded, "it stalled"},
		{"archive: nothing", with(onArchive, raw(head+length(n), true)), short, state.ResultNotDownloaded, "it stalled"},
		{"manifest: headers never end", with(onManifest, trickle(head)), short, state.ResultNotDownloaded, ""},
		{"archive: headers never end", with(onArchive, trickle(head)), short, state.ResultNotDownloaded, ""},
		{"no headers at all", with(onArchive, raw("", true)), short, state.ResultNotDownloaded, ""},
		{"huge headers", with(onArchive, raw(head+"X: "+strings.Repeat("x", 1<<20), true)), nil, state.ResultNotDownloaded, "exceeded"},

		{"Content-Length too long", with(onArchive, raw(head+length(n+1), true)), nil, state.ResultRefused, fmt.Sprintf("offers %d bytes instead of %d (hint: archive and digest must be of one release: ", n+1, n)},
		{"Content-Length too short", with(onArchive, raw(head+length(n-1), true)), nil, state.ResultRefused, fmt.Sprintf("offers %d bytes instead of %d", n-1, n)},
		{"Content-Length absurd", with(onArchive, raw(head+"Content-Length: 9223372036854775808\r\n\r\n", false)), nil, state.ResultNotDownloaded, "Content-Length"},
		{"no Content-Length, endless", with(onArchive, endless), nil, state.ResultRefused, fmt.Sprintf("longer than %d bytes", n)},
		{"no Content-Length, short", with(onArchive, raw(head+"\r\nabc", false)), nil, state.ResultRefused, "it ends after 3 bytes"},
		{"manifest endless", with(onManifest, endless), nil, state.ResultRefused, "larger than 1048576 bytes"},

		{"archive encoded", with(onArchive, raw(head+"Content-Encoding: gzip\r\n"+length(n), true)), nil, state.ResultRefused, "Content-Encoding"},
		{"manifest encoded", with(onManifest, raw(head+"Content-Encoding: gzip\r\n"+length(n), true)), nil, state.ResultRefused, "Content-Encoding"},
		{"unsolicited 206", with(onArchive, raw("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/9\r\n"+length(4)+"abcd", false)), nil, state.ResultNotDownloaded, "answered 206 Partial Content"},
		{"unsolicited 304", with(onManifest, status(304)), nil, state.ResultNotDownloaded, "answered 304 Not Modified"},
		{"304 for the archive", with(onArchive, status(304)), nil, state.ResultNotDownloaded, "answered 304 Not Modified"},

		{"404", with(onArchive, status(404)), nil, state.ResultNotDownloaded, "/agent.tar.gz: the server answered 404 Not Found (hint: the manifest says that it is there: "},
		{"403", with(onManifest, status(403)), nil, state.ResultNotDownloaded, "/client-manifest.json: the server answered 403 Forbidden"},
		{"429", with(onManifest, status(429)), nil, state.ResultNotDownloaded, "429 Too Many Requests"},
		{"500", with(onArchive, status(500)), nil, state.ResultNotDownloaded, "500 Internal Server Error"},
		{"hostile status line", with(onArchive, raw("HTTP/1.1 599 \x1b[31mred\r\n\r\n", false)), nil, state.ResultNotDownloaded, "answered 599"},
		{"cut in the archive", with(onArchive, raw(head+length(n)+"abc", false)), nil, state.ResultNotDownloaded, "the connection was cut"},
		{"cut in a chunk", with(onArchive, raw(head+"Transfer-Encoding: chunked\r\n\r\nff\r\nabc", false)), nil, state.ResultNotDownloaded, "the connection was cut"},
		{"cut in the manifest", with(onManifest, raw(head+length(n)+"abc", false)), nil, state.ResultNotDownloaded, "the connection was cut"},
		{"cut before the headers", with(onManifest, raw("", false)), nil, state.ResultNotDownloaded, "the connection was cut"},
		{"nobody there", func(t *testing.T) *bench { return newBench(t, "http://"+freePort(t)) }, nil, state.ResultNotDownloaded, "connection refused"},
		// Go uses no proxy for loopback addresses. This address is reserved (RFC 5737).
		{"proxy in the environment", func(t *testing.T) *bench { return newBench(t, "http://192.0.2.1") },
			func(l *download.Limits) { l.Dial = 100 * time.Millisecond }, state.ResultNotDownloaded, "dial tcp 192.0.2.1:80"},

		{"TLS 1.1", withTLS(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}), nil, state.ResultNotDownloaded, "protocol version"},
		{"self-signed", withTLS(&tls.Config{Certificates: []tls.Certificate{certificate(t, time.Now().Add(time.Minute), true)}}), nil, state.ResultNotDownloaded,
			"certificate signed by unknown authority (hint: source.ca_file names that of an authority of your own)"},
		{"no TLS", func(t *testing.T) *bench {
			return newBench(t, strings.Replace(serve(t, newSite(t)), "http:", "https:", 1))
		}, nil, state.ResultNotDownloaded,
			"gave HTTP response to HTTPS client (hint: is the port right? it answers without TLS)"},
		{"expired", withTLS(&tls.Config{Certificates: []tls.Certificate{certificate(t, time.Now().Add(-time.Minute), false)}}), nil, state.ResultNotDownloaded,
			"(hint: timedatectl shows whether this machine's clock is right; if it is, the server needs a new certificate)"},
		{"wrong host", func(t *testing.T) *bench {
			return newBench(t, strings.Replace(serveTLS(t, newSite(t)), "127.0.0.1", "localhost", 1))
		}, nil, state.ResultNotDownloaded, "not localhost (hint: the address must have a name that the server's certificate has)"},

		{"captive portal", with(onManifest, bytesHandler([]byte("<html>Please pay\x1b[31m</html>"))), nil, state.ResultRefused, "cannot download http://127"},
		{"other bytes", with(onArchive, bytesHandler([]byte(strings.Repeat("x", n)))), nil, state.ResultRefused, " (hint: archive and digest must be of one release: its publisher must publish both again, unless a proxy on the way answers instead)"},
		{"archive on another host", naming(func(p *manifest.Platform) { p.File = "https://198.51.100.7/agent.tar.gz" }), nil, state.ResultRefused, "cannot download https://198.51.100.7/agent.tar.gz: it is not on the manifest's origin"},
		{"too large for the disk", naming(func(p *manifest.Platform) { p.Size = 1 << 40 }), nil, state.ResultFailed, "are free"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := c.bench(t)
			if c.limits != nil {
				c.limits(&b.limits)
			}
			a := b.run(t, b.order(state.VerbApply, "v1"))
			b.mustFail(t, a, c.result, c.text)
			if strings.Contains(a.Reason, "hunter2") {
				t.Errorf("a password: %s", a.Reason)
			}
		})
	}
}

func TestRedirects(t *testing.T) {
	t.Run("to another path and back beside", func(t *testing.T) {
		s := newSite(t)
		s["/v2/client-manifest.json"], s["/v2/agent.tar.gz"] = s["/client-manifest.json"], s["/agent.tar.gz"]
		s["/client-manifest.json"] = redirect("/v2/client-manifest.json")
		delete(s, "/agent.tar.gz")
		b := newBench(t, serve(t, s))
		if a := b.run(t, b.order(state.VerbApply, "v1")); a.Result != state.ResultHandedOn {
			t.Errorf("%+v", a)
		}
	})
	t.Run("http to https elsewhere", func(t *testing.T) {
		s := newSite(t)
		s["/client-manifest.json"] = redirect(serveTLS(t, newSite(t)) + "/client-manifest.json")
		b := newBench(t, serve(t, s))
		if a := b.run(t, b.order(state.VerbApply, "v1")); a.Result != state.ResultHandedOn {
			t.Errorf("%+v", a)
		}
	})
	t.Run("http elsewhere, accepted", func(t *testing.T) {
		s := newSite(t)
		s["/client-manifest.json"] = redirect(serve(t, newSite(t)) + "/client-manifest.json")
		b := newBench(t, serve(t, s))
		b.target.Trust.AllowUnauthenticated = true
		if a := b.run(t, b.order(state.VerbApply, "v1")); a.Result != state.ResultHandedOn {
			t.Errorf("%+v", a)
		}
	})
	t.Run("queries are not told", func(t *testing.T) {
		s := newSite(t)
		var referer string
		s["/client-manifest.json"] = redirect("/next?token=hunter2")
		s["/next"] = func(w http.ResponseWriter, r *http.Request) {
			referer = r.Referer()
			w.WriteHeader(http.StatusForbidden)
		}
		b := newBench(t, serve(t, s))
		b.target.Source.URL += "?token=hunter2"
		a := b.run(t, b.order(state.VerbApply, "v1"))
		if a.Result != state.ResultNotDownloaded || strings.Contains(a.Reason, "hunter2") || referer != "" {
			t.Errorf("%+v, referer %q", a, referer)
		}
		s["/client-manifest.json"] = redirect("http://[mirror/next?token=hunter2")
		a = newBench(t, serve(t, s)).run(t, b.order(state.VerbApply, "v1"))
		if a.Result != state.ResultNotDownloaded || strings.Contains(a.Reason, "hunter2") || !strings.Contains(a.Reason, "redirected to an address that is not valid") {
			t.Errorf("an invalid address: %+v", a)
		}
	})
}

func TestInsecureSkipTLS(t *testing.T) {
	url := serveOn(t, httptest.NewUnstartedServer(newSite(t)), &tls.Config{Certificates: []tls.Certificate{certificate(t, time.Now().Add(time.Minute), true)}})
	b := newBench(t, url)
	b.target.Source.InsecureSkipTLS = true
	if a := b.run(t, b.order(state.VerbApply, "v1")); a.Result != state.ResultHandedOn {
		t.Errorf("%+v", a)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestNoGate checks that the operator of a machine whose source is a MachineMon server
// without a gate is told so, in each mode of trust and with a wrong path, too.
func TestNoGate(t *testing.T) {
	for path, c := range map[string]struct {
		result state.Result
		says   string
	}{
		"/download":         {state.ResultNotDownloaded, "the server answered 400 Bad Request " + hint},
		"/monitor/download": {state.ResultRefused, "it is not JSON, but a web page " + hint},
	} {
		server := serve(t, &testkit.MachineMon{})
		b := newBench(t, server+path)
		b.mustFail(t, b.run(t, b.order(state.VerbApply, "v1")), c.result, c.says)
		b, _, _ = signed(t)
		b.target.Source.URL = server + path + "/client-manifest.json"
		b.mustFail(t, b.run(t, b.order(state.VerbApply, "v1")), c.result, "2.root.json: "+c.says)
	}
}

const hint = "(hint: source.url must be the address of a manifest, a JSON file, and not of a directory or page; a MachineMon server has none, unless machinemon-checkin-gate is in front of it)"
