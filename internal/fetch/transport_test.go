package fetch

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

// proxy connects every request to one server for plain and one for encrypted connections,
// and records the requests.
type proxy struct {
	plain     http.Handler
	encrypted string // address of the server
	login     string // "" for none, else USER:PASSWORD that each request must have

	mu    sync.Mutex
	asked []string
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, r.Method+" "+r.RequestURI)
	p.mu.Unlock()
	if p.login != "" && r.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte(p.login)) {
		w.Header().Set("Proxy-Authenticate", `Basic realm="proxy"`)
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	r.Header.Del("Proxy-Authorization") // as proxies do
	if r.Method != http.MethodConnect {
		p.plain.ServeHTTP(w, r)
		return
	}
	server, err := net.Dial("tcp", p.encrypted)
	if err != nil {
		panic(err)
	}
	defer server.Close()
	client, early, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	defer client.Close()
	io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
	go io.Copy(server, early)
	io.Copy(client, server)
}

func TestProxy(t *testing.T) {
	dead := "http://" + freePort(t)
	for _, c := range []struct {
		name  string
		set   func(b *bench, o *state.Order, proxy, direct string)
		asked []string
		fails string
	}{
		{"http", func(b *bench, _ *state.Order, proxy, _ string) {
			b.target.Source.URL, b.target.Source.Proxy = "http://releases.test/client-manifest.json", proxy
		}, []string{"GET http://releases.test/client-manifest.json", "GET http://releases.test/agent.tar.gz"}, ""},
		{"https", func(b *bench, _ *state.Order, proxy, _ string) {
			b.target.Source.URL, b.target.Source.Proxy = "https://example.com/client-manifest.json", proxy
		}, []string{"CONNECT example.com:443", "CONNECT example.com:443"}, ""},
		{"what the operator names", func(b *bench, o *state.Order, proxy, _ string) {
			o.URL, b.target.Source.Proxy = "https://example.com/agent.tar.gz", proxy
		}, []string{"CONNECT example.com:443", "CONNECT example.com:443"}, ""},
		{"this machine, without", func(b *bench, _ *state.Order, proxy, direct string) {
			b.target.Source.URL, b.target.Source.Proxy = direct+"/client-manifest.json", proxy
		}, nil, ""},
		{"nobody there", func(b *bench, _ *state.Order, _, _ string) {
			b.target.Source.URL, b.target.Source.Proxy = "https://example.com/client-manifest.json", dead
		}, nil, "connection refused"},
		{"not valid", func(b *bench, _ *state.Order, _, _ string) { b.target.Source.Proxy = "http://%zz" }, nil, "source.proxy is not valid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			s["/agent.tar.gz"] = offered(payload, "")
			p := &proxy{plain: s, encrypted: strings.TrimPrefix(serveTLS(t, s), "https://")}
			b := newBench(t, "")
			o := b.order(state.VerbApply, "v1")
			c.set(b, &o, serve(t, p), serve(t, s))
			a := b.run(t, o)
			if c.fails != "" {
				b.mustFail(t, a, a.Result, c.fails)
			} else if a.Result != state.ResultHandedOn {
				t.Errorf("%+v", a)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if !slices.Equal(p.asked, c.asked) {
				t.Errorf("the proxy was asked for %q, want %q", p.asked, c.asked)
			}
		})
	}
}

// TestCAFile checks that the file's certificates replace the system's.
func TestCAFile(t *testing.T) {
	own := certificate(t, time.Now().Add(time.Minute), true)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]}), 0o644); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("hunter2"), 0o644); err != nil {
		t.Fatal(err)
	}
	its := func(s http.Handler) string {
		return serveOn(t, httptest.NewUnstartedServer(s), &tls.Config{Certificates: []tls.Certificate{own}})
	}
	for _, c := range []struct {
		name   string
		serve  func(s http.Handler) string
		file   string
		named  bool
		result state.Result
		text   string
	}{
		{"its own", its, file, false, state.ResultHandedOn, ""},
		{"the system's", func(s http.Handler) string { return serveTLS(t, s) }, file, false, state.ResultNotDownloaded, "certificate"},
		{"what the operator names", its, file, true, state.ResultNotDownloaded, "certificate"},
		{"the same, the system's", func(s http.Handler) string { return serveTLS(t, s) }, file, true, state.ResultHandedOn, ""},
		{"no file", its, file + "x", false, state.ResultMisconfigured, "cannot fetch agent: source.ca_file: no such file"},
		{"no certificate", its, empty, false, state.ResultMisconfigured, "cannot fetch agent: source.ca_file: it has no certificate in PEM"},
		{"no regular file", its, filepath.Dir(file), false, state.ResultMisconfigured, "source.ca_file: it is not a regular file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			s["/agent.tar.gz"] = offered(payload, "")
			url := c.serve(s)
			b := newBench(t, url)
			b.target.Source.CAFile = c.file
			o := b.order(state.VerbApply, "v1")
			if c.named {
				o.URL = url + "/agent.tar.gz"
			}
			if a := b.run(t, o); c.result != state.ResultHandedOn {
				b.mustFail(t, a, c.result, c.text)
			} else if a.Result != c.result {
				t.Errorf("%+v", a)
			}
		})
	}
}
