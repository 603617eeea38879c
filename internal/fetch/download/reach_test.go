package download

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

func TestKind(t *testing.T) {
	for address, want := range map[string]kind{
		"127.0.0.1": thisHost, "127.255.255.254": thisHost, "::1": thisHost, "::ffff:127.0.0.1": thisHost, "0.0.0.0": thisHost, "0.1.2.3": thisHost, "::": thisHost,
		"::127.0.0.1": thisHost, "::ffff:0:127.0.0.1": thisHost, "64:ff9b::127.0.0.1": thisHost, "2002:7f00:1::1": thisHost,
		"64:ff9b:1:7f00:0:100::": thisHost, "64:ff9b:1:7f:0:1::": thisHost, "64:ff9b:1:0:7f:0:100::": thisHost, "64:ff9b:1::127.0.0.1": thisHost,
		"169.254.169.254": thisLink, "169.254.0.1": thisLink, "fe80::1": thisLink, "fe80::1%eth0": thisLink, "febf::1": thisLink,
		"::ffff:169.254.169.254": thisLink, "64:ff9b::a9fe:a9fe": thisLink, "2002:a9fe:a9fe::": thisLink,
		"fd00:ec2::254": metadata, "100.100.100.200": metadata, "64:ff9b::100.100.100.200": metadata,
		"224.0.0.1": noServer, "239.255.255.255": noServer, "255.255.255.255": noServer, "240.0.0.1": noServer, "ff02::1": noServer, "192.0.0.8": noServer,
		"10.0.0.1": ordinary, "172.16.0.1": ordinary, "192.168.1.1": ordinary, "100.64.0.1": ordinary, "fd12::1": ordinary, "64:ff9b::10.0.0.1": ordinary,
		"192.0.2.1": ordinary, "93.184.216.34": ordinary, "2606:4700::1111": ordinary, "64:ff9b:1::93.184.216.34": ordinary, "2002:5db8:d822::1": ordinary,
	} {
		if got := kindOf(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is %q, want %q", address, got, want)
		}
	}
	for address, want := range map[string]bool{
		"10.0.0.1": true, "172.31.0.1": true, "192.168.1.1": true, "100.127.0.1": true, "fd12::1": true, "::ffff:10.0.0.1": true, "64:ff9b::10.0.0.1": true,
		"172.32.0.1": false, "93.184.216.34": false, "2606:4700::1111": false,
	} {
		if got := private(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is private: %v, want %v", address, got, want)
		}
	}
}

func TestJudge(t *testing.T) {
	hosts := filepath.Join(t.TempDir(), "hosts")
	testkit.Put(t, hosts, "127.0.0.1 localhost # other\n\n# 127.0.0.1 comment.test\n127.0.1.1\tserver.test server\n169.254.7.7 cable.test\nnonsense server.test\n")
	for _, c := range []struct {
		source, at, ip string
		want           kind
	}{
		// The source itself.
		{"https://public.test/x", "public.test:443", "93.184.216.34", ordinary},
		{"https://public.test/x", "public.test:443", "10.0.0.1", ordinary},
		{"http://public.test/x", "public.test:80", "127.0.0.1", thisHost},
		{"https://public.test/x", "public.test:443", "169.254.169.254", thisLink},
		{"http://comment.test/x", "comment.test:80", "127.0.0.1", thisHost},
		{"http://SERVER.test:8080/x", "server.test:8080", "127.0.1.1", ordinary},
		{"http://server.test:8080/x", "server.test:8080", "169.254.1.1", thisLink},
		{"http://cable.test/x", "cable.test:80", "169.254.7.7", ordinary},
		{"http://cable.test/x", "cable.test:80", "169.254.7.8", thisLink},
		{"http://127.0.0.1:8080/x", "127.0.0.1:8080", "127.0.0.1", ordinary},
		{"http://[::1]:8080/x", "[::1]:8080", "::1", ordinary},
		{"http://[fe80::1%25eth0]/x", "[fe80::1%eth0]:80", "fe80::1%eth0", ordinary},
		{"http://0.0.0.0:8080/x", "0.0.0.0:8080", "0.0.0.0", ordinary},
		{"http://localhost/x", "localhost:80", "::1", ordinary},
		{"http://localhost/x", "localhost:80", "93.184.216.34", elsewhere},
		// What others name.
		{"https://public.test/x", "private.test:443", "192.168.1.1", ordinary},
		{"https://public.test/x", "public.test:631", "127.0.0.1", thisHost},
		{"https://public.test/x", "localhost:80", "127.0.0.1", thisHost},
		{"https://public.test/x", "server.test:80", "127.0.1.1", thisHost}, // listed, but not the source
		{"https://public.test/x", "[64:ff9b::a9fe:a9fe]:80", "64:ff9b::a9fe:a9fe", thisLink},
		{"https://10.0.0.1/x", "evil.test:80", "::", thisHost},
		{"http://127.0.0.1:8080/x", "127.0.0.1:9090", "127.0.0.1", ordinary},
		{"http://server.test:8080/x", "127.0.0.1:9090", "127.0.0.1", ordinary},
		{"http://127.0.0.1:8080/x", "evil.test:80", "0.0.0.0", thisHost},
		{"http://127.0.0.1:8080/x", "169.254.169.254:80", "169.254.169.254", thisLink},
		{"http://cable.test/x", "169.254.7.7:80", "169.254.7.7", thisLink},
		{"http://cable.test/x", "127.0.0.1:80", "127.0.0.1", thisHost},
	} {
		u, err := url.Parse(c.source)
		testkit.Must(t, err)
		got := ordinary
		if err := newReach(u, hosts).judge(c.at, netip.MustParseAddr(c.ip)); err != nil {
			got = err.(*barred).kind
		}
		if got != c.want {
			t.Errorf("source %s: %s at %s is %q, want %q", c.source, c.at, c.ip, got, c.want)
		}
	}
}

// redirecting returns the host and port of a server that redirects each request to an address.
func redirecting(t *testing.T, to string) string {
	t.Helper()
	s := httptest.NewServer(http.RedirectHandler(to, http.StatusFound))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// clientOf returns a client of a source.
func clientOf(t *testing.T, source, proxy string) *Client {
	t.Helper()
	c, err := NewClient(&target.Target{Source: target.Source{Proxy: proxy}}, source, DefaultLimits)
	testkit.Must(t, err)
	return &c
}

// outside returns a client whose source is a server outside of this machine. In truth it
// is the one at the address there.
func outside(t *testing.T, there string) *Client {
	t.Helper()
	c := clientOf(t, "http://releases.test/x", "")
	dial := c.transport.DialContext
	c.transport.DialContext = func(ctx context.Context, network, at string) (net.Conn, error) {
		if at == "releases.test:80" {
			return new(net.Dialer).DialContext(ctx, network, there)
		}
		return dial(ctx, network, at)
	}
	return c
}

// ports returns the port of a listener, which counts its connections, and one that is
// closed.
func ports(t *testing.T, answer func(net.Conn)) (open, closed string, connections *atomic.Int32) {
	t.Helper()
	connections = new(atomic.Int32)
	l := testkit.Listen(t)
	go testkit.Answer(l, func(c net.Conn) {
		connections.Add(1)
		answer(c)
	})
	_, open, err := net.SplitHostPort(l.Addr().String())
	testkit.Must(t, err)
	gone := testkit.Listen(t)
	_, closed, err = net.SplitHostPort(gone.Addr().String())
	testkit.Must(t, err)
	gone.Close()
	return open, closed, connections
}

// said returns the error of a request, without ports.
func said(t *testing.T, c *Client) (text string, result state.Result) {
	t.Helper()
	resp, err := c.Ask(t.Context(), http.MethodGet, c.URL, nil, func(*url.URL) error { return nil })
	if err == nil {
		resp.Body.Close()
		err = Whole(resp)
	}
	if err == nil {
		t.Error("it was downloaded")
		return "", ""
	}
	if resp != nil {
		err = c.Unusable(t.Context(), resp, err)
	}
	return regexp.MustCompile(`:\d+`).ReplaceAllString(err.Error(), ":PORT"), state.ResultOf(err)
}

// TestRedirectInside checks that no redirect leads from outside to this machine or its
// link, and that the error is the same for an open and a closed port.
func TestRedirectInside(t *testing.T) {
	open, closed, connections := ports(t, func(c net.Conn) {})
	for _, c := range []struct {
		host string
		kind kind
	}{
		{"127.0.0.1", thisHost}, {"localhost", thisHost}, {"0.0.0.0", thisHost}, {"[::ffff:127.0.0.1]", thisHost}, {"[::]", thisHost},
		{"LOCALHOST", thisHost},
		{"169.254.169.254", thisLink}, {"[fe80::1%25lo]", thisLink}, {"[64:ff9b::a9fe:a9fe]", thisLink}, {"224.0.0.1", noServer},
	} {
		var texts []string
		for _, port := range []string{open, closed} {
			began := time.Now()
			text, result := said(t, outside(t, redirecting(t, "http://"+c.host+":"+port+"/x?secret")))
			if !strings.HasSuffix(text, ", which is "+string(c.kind)) || strings.Contains(text, "secret") || result != state.ResultRefused {
				t.Errorf("%s: %s: %s", c.host, result, text)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("%s: it took %v", c.host, took)
			}
			texts = append(texts, text)
		}
		if texts[0] != texts[1] {
			t.Errorf("an open port: %s\na closed one: %s", texts[0], texts[1])
		}
	}
	if n := connections.Load(); n > 0 {
		t.Errorf("%d connections to this machine", n)
	}
	if text, result := said(t, outside(t, redirecting(t, "http://exämple.test/"))); !strings.HasSuffix(text, "an address whose host is not in ASCII") || result != state.ResultRefused {
		t.Errorf("%s: %s", result, text)
	}
}

// TestSourceInside checks that what DNS answers for the source does not lead to this machine.
func TestSourceInside(t *testing.T) {
	open, closed, connections := ports(t, func(c net.Conn) {})
	for _, port := range []string{open, closed} {
		c := clientOf(t, "http://localhost:"+port+"/x", "")
		c.reach.named, c.reach.here = nil, false // as if /etc/hosts did not list it
		text, result := said(t, c)
		if text != "cannot download http://localhost:PORT/x: the address of its host is an address of this machine (hint: if that is right, list it in /etc/hosts)" || result != state.ResultNotDownloaded {
			t.Errorf("%s: %s", result, text)
		}
	}
	if n := connections.Load(); n > 0 {
		t.Errorf("%d connections to this machine", n)
	}
}

// TestVeiled checks that the error of an allowed redirect to another server inside is the
// same whether a port there is open or not, and that the cause is known.
func TestVeiled(t *testing.T) {
	http404 := func(c net.Conn) { c.Write([]byte("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")) }
	ssh := func(c net.Conn) { c.Write([]byte("SSH-2.0-x\r\n\r\n")) }
	texts := map[string]bool{}
	for _, c := range []struct {
		name   string
		answer func(net.Conn)
		open   bool
		cause  string
	}{
		{"closed", nil, false, "connection refused"},
		{"not HTTP", ssh, true, "malformed HTTP"},
		{"refuses", http404, true, "answered 404 Not Found"},
		{"busy", func(c net.Conn) { c.Write([]byte("HTTP/1.1 429 Slow\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n")) }, true, "429"},
		{"cut", func(c net.Conn) {}, true, "the connection was cut"},
	} {
		open, port, _ := ports(t, func(conn net.Conn) {
			if _, err := conn.Read(make([]byte, 4096)); err == nil {
				c.answer(conn)
			}
		})
		if c.open {
			port = open
		}
		source := clientOf(t, "http://"+redirecting(t, "http://127.0.0.1:"+port+"/x?secret"), "")
		resp, err := source.Ask(t.Context(), http.MethodGet, source.URL, nil, func(*url.URL) error { return nil })
		if err == nil {
			resp.Body.Close()
			err = source.Unusable(t.Context(), resp, Whole(resp))
		}
		v, ok := errors.AsType[*Veiled](err)
		if !ok || !strings.Contains(v.Cause.Error(), c.cause) || strings.Contains(v.Cause.Error(), "secret") {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if l, ok := errors.AsType[*RateLimit](err); ok {
			t.Errorf("%s: it shows %v", c.name, l)
		}
		texts[string(state.ResultOf(err))+regexp.MustCompile(`:\d+`).ReplaceAllString(err.Error(), ":PORT")] = true
	}
	want := "not downloadedcannot download http://127.0.0.1:PORT: it was redirected to http://127.0.0.1:PORT/x, " +
		"on this machine or in a private network, and did not come from there (hint: the journal has the cause)"
	if len(texts) != 1 || !texts[want] {
		t.Errorf("texts: %v", texts)
	}
	// On the same server nothing is hidden.
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/x" {
			http.Redirect(w, r, "/y", http.StatusFound)
			return
		}
		http.NotFound(w, r)
	}))
	defer s.Close()
	if text, _ := said(t, clientOf(t, s.URL+"/x", "")); text != "cannot download http://127.0.0.1:PORT/y: the server answered 404 Not Found" {
		t.Error(text)
	}
}

// TestProxyInside checks the rule for requests that a proxy on this machine carries out.
func TestProxyInside(t *testing.T) {
	var asked atomic.Int32
	var to string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) > 1 {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		http.Redirect(w, r, to, http.StatusFound)
	}))
	defer proxy.Close()
	for _, c := range []struct {
		to, text string
		asked    int32
	}{
		{proxy.URL + "/x", "which is an address of this machine", 1},
		{"http://localhost:1/x", "which is an address of this machine", 1},
		{"http://[::1]:1/x", "which is an address of this machine", 1},
		{"http://169.254.169.254/x", "which is a link-local address", 1},
		{"http://[::ffff:169.254.169.254]/x", "which is a link-local address", 1},
		{"http://name.test/x", "the server answered 418 I'm a teapot", 2},
		{"http://10.0.0.1/x", "did not come from there (hint: the journal has the cause)", 2},
	} {
		to = c.to
		asked.Store(0)
		if text, _ := said(t, clientOf(t, "http://releases.test/x", proxy.URL)); !strings.HasSuffix(text, c.text) || asked.Load() != c.asked {
			t.Errorf("%s: %d requests to the proxy: %s", c.to, asked.Load(), text)
		}
	}
}

// TestNoProxy checks what is reached without the proxy, and that the rule about addresses
// holds for it.
func TestNoProxy(t *testing.T) {
	proxied := make(chan string, 10)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxied <- r.RequestURI
		w.WriteHeader(http.StatusTeapot)
	}))
	defer proxy.Close()
	at := strings.TrimPrefix(proxy.URL, "http://")
	for _, c := range []struct {
		source string
		direct []string
		want   string // the URI that the proxy is asked for, "" for none
	}{
		{"http://releases.test/x", nil, "http://releases.test/x"},
		{"http://releases.test/x", []string{"releases.test"}, ""},
		{"http://www.releases.test/x", []string{"releases.test"}, ""},
		{"http://releases.test/x", []string{".releases.test"}, "http://releases.test/x"},
		{"http://RELEASES.test:80/x", []string{"releases.test:80"}, ""},
		{"http://releases.test:8080/x", []string{"releases.test:80"}, "http://releases.test:8080/x"},
		{"http://192.0.2.7/x", []string{"192.0.2.0/24"}, ""},
		{"http://192.0.3.7/x", []string{"192.0.2.0/24"}, "http://192.0.3.7/x"},
	} {
		client, err := NewClient(&target.Target{Source: target.Source{Proxy: proxy.URL, NoProxy: c.direct}}, c.source, DefaultLimits)
		testkit.Must(t, err)
		reached := false
		dial := client.transport.DialContext
		client.transport.DialContext = func(ctx context.Context, network, to string) (net.Conn, error) {
			if to != at {
				reached = true
				return nil, errors.New("reached directly")
			}
			return dial(ctx, network, to)
		}
		text, _ := said(t, &client)
		got := ""
		select {
		case got = <-proxied:
		default:
		}
		if got != c.want || reached != (c.want == "") {
			t.Errorf("%s without %q: asked for %q: %s", c.source, c.direct, got, text)
		}
	}
	// A redirect to a host that is reached directly is judged by its address. The proxy's
	// own address is not, so it is not reached directly.
	_, port, err := net.SplitHostPort(at)
	testkit.Must(t, err)
	var to string
	leading := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host == "releases.test" {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		proxied <- r.RequestURI
		w.WriteHeader(http.StatusTeapot)
	}))
	defer leading.Close()
	_, own, err := net.SplitHostPort(strings.TrimPrefix(leading.URL, "http://"))
	testkit.Must(t, err)
	for _, c := range []struct{ to, text, proxied string }{
		{"http://inner.test:" + port + "/x", "which is an address of this machine", ""},
		{"http://proxy.test:" + own + "/x", "the server answered 418 I'm a teapot", "http://proxy.test:" + own + "/x"},
	} {
		to = c.to
		client, err := NewClient(&target.Target{Source: target.Source{Proxy: "http://proxy.test:" + own, NoProxy: []string{"inner.test", "proxy.test"}}}, "http://releases.test/x", DefaultLimits)
		testkit.Must(t, err)
		dial := client.transport.DialContext
		client.transport.DialContext = func(ctx context.Context, network, at string) (net.Conn, error) {
			if at == "proxy.test:"+own {
				return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+own)
			}
			return dial(ctx, network, strings.Replace(at, "inner.test", "localhost", 1)) // as DNS may answer
		}
		text, _ := said(t, &client)
		got := ""
		select {
		case got = <-proxied:
		default:
		}
		if !strings.HasSuffix(text, c.text) || got != c.proxied {
			t.Errorf("%s: the proxy was asked for %q: %s", c.to, got, text)
		}
	}
}
