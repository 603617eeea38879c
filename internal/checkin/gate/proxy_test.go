package gate

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestPassesUntouched checks that other requests and their answers pass unchanged.
func TestPassesUntouched(t *testing.T) {
	b := newBench(t)
	b.up.instead(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["X-Strange"] = []string{"a", "b"}
		w.Header().Set("Location", "/elsewhere?x=%2f")
		w.Header().Set("Content-Encoding", "br")
		w.WriteHeader(http.StatusFound)
		io.WriteString(w, "\x00\xff not br")
	})
	a := b.do("DELETE", "/api/v1/a%2Fb//c?q=%zz&x=1;y=2", "a\x00b", "X-Client-Password: p", "Accept-Encoding: br", "User-Agent: ")
	if a.status != 302 || a.body != "\x00\xff not br" || a.header.Get("Content-Encoding") != "br" || a.header.Get("Location") != "/elsewhere?x=%2f" || len(a.header["X-Strange"]) != 2 {
		t.Errorf("the answer is %+v", a)
	}
	r, body := b.up.last()
	if r.Method != "DELETE" || r.RequestURI != "/api/v1/a%2Fb//c?q=%zz&x=1;y=2" || body != "a\x00b" || r.Host != strings.TrimPrefix(b.url, "http://") ||
		r.Header.Get("X-Client-Password") != "p" || r.Header.Get("Accept-Encoding") != "br" {
		t.Errorf("upstream got %s %s %q %v", r.Method, r.RequestURI, body, r.Header)
	}
}

// TestForwarded checks that only trusted proxies can set the client's address.
func TestForwarded(t *testing.T) {
	spoofed := []string{"True-Client-IP: 6.6.6.6", "X-Real-IP: 6.6.6.6", "X-Forwarded-For: 6.6.6.6, 203.0.113.9", "X-Forwarded-Host: evil.example",
		"X-Forwarded-Proto: https", "X-Forwarded-Prefix: /evil", "Forwarded: for=6.6.6.6"}
	for name, c := range map[string]struct {
		trusted           []string
		header            []string
		for_, host, proto string
	}{
		"stranger":             {header: spoofed, for_: "127.0.0.1", proto: "http"},
		"proxy":                {[]string{"127.0.0.0/8"}, spoofed, "203.0.113.9", "evil.example", "https"},
		"two proxies":          {[]string{"127.0.0.0/8", "203.0.113.0/24"}, spoofed, "6.6.6.6", "evil.example", "https"},
		"proxy's hosts":        {[]string{"127.0.0.0/8"}, []string{"X-Forwarded-Host: first.example, second.example"}, "127.0.0.1", "first.example", "http"},
		"proxy of X-Real-IP":   {[]string{"127.0.0.0/8"}, []string{"X-Real-IP: 2001:db8::1"}, "2001:db8::1", "", "http"},
		"proxy with nonsense":  {[]string{"127.0.0.0/8"}, []string{"X-Forwarded-For: 6.6.6.6, unknown"}, "127.0.0.1", "", "http"},
		"proxy says nothing":   {[]string{"127.0.0.0/8"}, nil, "127.0.0.1", "", "http"},
		"other proxy":          {[]string{"192.0.2.0/24"}, spoofed, "127.0.0.1", "", "http"},
		"proxy, strange proto": {[]string{"127.0.0.0/8"}, []string{"X-Forwarded-Proto: javascript"}, "127.0.0.1", "", "http"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, func(conf *Config) {
				for _, p := range c.trusted {
					conf.Trusted = append(conf.Trusted, netip.MustParsePrefix(p))
				}
			})
			b.do("GET", "/healthz", "", c.header...)
			if c.host == "" {
				c.host = strings.TrimPrefix(b.url, "http://")
			}
			r, _ := b.up.last()
			want := map[string]string{"True-Client-Ip": "", "X-Real-Ip": c.for_, "X-Forwarded-For": c.for_, "X-Forwarded-Host": c.host,
				"X-Forwarded-Proto": c.proto, "X-Forwarded-Prefix": "", "Forwarded": ""}
			for name, value := range want {
				if got := strings.Join(r.Header.Values(name), "|"); got != value {
					t.Errorf("%s is %q, want %q", name, got, value)
				}
			}
		})
	}
}

// TestStreams checks that a part of an answer arrives before upstream has ended it.
func TestStreams(t *testing.T) {
	b := newBench(t)
	more := make(chan bool)
	b.up.instead(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "one\n")
		w.(http.Flusher).Flush()
		<-more
		io.WriteString(w, "two\n")
	})
	resp, err := http.Get(b.url + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	if got, err := lines.ReadString('\n'); got != "one\n" {
		t.Errorf("%q, %v", got, err)
	}
	close(more)
	if got, err := lines.ReadString('\n'); got != "two\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestUpgrade checks that a websocket works in both directions.
func TestUpgrade(t *testing.T) {
	b := newBench(t)
	b.up.instead(func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\n")
		line, _ := rw.ReadString('\n')
		io.WriteString(c, "echo "+line)
	})
	c, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("%+v, %v", resp, err)
	}
	fmt.Fprintf(c, "hello\n")
	if got, err := in.ReadString('\n'); got != "echo hello\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestUpstreamDown checks that an outage of upstream and its end are logged once each.
func TestUpstreamDown(t *testing.T) {
	b := newBench(t)
	b.up.instead(func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	for range 3 {
		if a := b.checkIn(request("amd64", "v0.1.11")); a.status != 502 || !strings.Contains(a.body, "the MachineMon server does not answer") {
			t.Errorf("%+v", a)
		}
	}
	b.up.instead(nil)
	b.checkIn(request("amd64", "v0.1.11"))
	if got := b.lines(); strings.Contains(got, "hint") || strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "cannot reach the MachineMon server: ") || !strings.HasSuffix(got, "the MachineMon server answers again") {
		t.Errorf("it said\n%s", got)
	}
}

// TestUpstreamAway checks that the log names the key of an address at which nothing listens.
func TestUpstreamAway(t *testing.T) {
	b := newBench(t)
	b.up.Close()
	b.checkIn(request("amd64", "v0.1.11"))
	if got := b.lines(); !strings.HasSuffix(got, "connection refused (hint: upstream in /etc/machinemon-update/checkin-gate.toml must be its address)") {
		t.Errorf("it said\n%s", got)
	}
}

// TestUpstreamBreaksOff checks that a client sees when upstream breaks off an answer.
func TestUpstreamBreaksOff(t *testing.T) {
	b := newBench(t)
	b.publish()
	b.up.instead(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, `{"client_id":"c-1"`)
		w.(http.Flusher).Flush()
		time.Sleep(10 * time.Millisecond) // upstream is slow here; the test does not wait for anything
		panic(http.ErrAbortHandler)
	})
	resp, err := http.Post(b.url+"/api/v1/checkin", "application/json", strings.NewReader(request("amd64", "v0.1.11")))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil || string(data) != `{"client_id":"c-1"` {
		t.Errorf("the client got %q, %v", data, err)
	}
	b.up.instead(nil)
	if b.known("").Total != 0 {
		t.Error("it was recorded")
	}
}
