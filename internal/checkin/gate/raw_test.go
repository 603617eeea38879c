package gate

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestRawRequests sends bytes that proxies and servers are known to read in different
// ways. Upstream must get one request at most, with the gate's word about the client, and
// nothing of it may look like a fault of upstream in the journal.
func TestRawRequests(t *testing.T) {
	const checkIn = "POST /api/v1/checkin HTTP/1.1\r\nHost: h\r\nX-Client-Password: " + client + "\r\n"
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
	for name, c := range map[string]struct {
		sent     string
		status   int // of the first answer
		upstream int // requests
	}{
		"length and chunks": {checkIn + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n" + smuggled, 400, 1},
		"strange encoding":  {checkIn + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, 0},
		"two encodings":     {checkIn + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 501, 0},
		"vertical tab":      {checkIn + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400, 0},
		"two lengths":       {checkIn + "Content-Length: 0\r\nContent-Length: 38\r\n\r\n" + smuggled, 400, 0},
		"signed length":     {checkIn + "Content-Length: +38\r\n\r\n" + smuggled, 400, 0},
		"space and colon":   {checkIn + "Content-Length : 38\r\n\r\n" + smuggled, 400, 0},
		"no host":           {"GET /healthz HTTP/1.1\r\n\r\n", 400, 0},
		"two hosts":         {"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, 0},
		"host with a slash": {"GET /healthz HTTP/1.1\r\nHost: a/b\r\nConnection: close\r\n\r\n", 400, 0},
		"another's address": {"GET http://evil.example/healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 200, 1},
		"host not of DNS":   {"GET http://%ff/healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 200, 1},
		"a tunnel":          {"CONNECT 192.0.2.1:22 HTTP/1.1\r\nHost: 192.0.2.1:22\r\nConnection: close\r\n\r\n", 405, 1},
		"hop by hop":        {"GET /healthz HTTP/1.1\r\nHost: h\r\nX-Real-IP: 6.6.6.6\r\nConnection: close, X-Real-IP, X-Forwarded-For\r\n\r\n", 200, 1},
		"encoded path":      {strings.Replace(checkIn, "v1/checkin", "v1%2fcheckin", 1) + "Content-Length: 2\r\nConnection: close\r\n\r\n{}", 405, 1},
		"asterisk":          {"OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 200, 0},
		"no slash":          {"GET healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 400, 0},
		"unfinished chunks": {checkIn + "Transfer-Encoding: chunked\r\n\r\n5\r\nab\r\n0\r\n\r\n", 400, -1},
		"encoded installer": {"GET /download%2finstall.sh HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 200, 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			fmt.Fprint(conn, c.sent)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
			if resp.StatusCode != c.status {
				t.Errorf("it answered %d %q", resp.StatusCode, body)
			}
			if n := b.up.count(); n != c.upstream && c.upstream >= 0 {
				t.Errorf("upstream got %d requests", n)
			}
			for range b.up.count() {
				if r, _ := b.up.last(); r.URL.Path == "/smuggled" || r.Header.Get("X-Real-Ip") != "127.0.0.1" || r.Header.Get("X-Forwarded-For") != "127.0.0.1" {
					t.Errorf("upstream got %s with %v", r.URL.Path, r.Header)
				}
			}
			if got := b.lines(); got != "" {
				t.Errorf("it said\n%s", got)
			}
		})
	}
}

// TestInstallerWhole checks that upstream gets no request for a part of its installer, or
// for one in an encoding that the gate cannot read: the gate must change it.
func TestInstallerWhole(t *testing.T) {
	b := newBench(t, func(c *Config) { c.External = "https://gate.example" })
	a := b.do("GET", "/download/install.sh", "", "Accept-Encoding: deflate", "Range: bytes=40-", "If-Range: \"x\"", "X-Other: x")
	if a.status != 200 || !strings.Contains(a.body, "BASE_URL=\"https://gate.example\"\n") {
		t.Errorf("%+v", a)
	}
	r, _ := b.up.last()
	if r.Header.Get("Accept-Encoding") != "" || r.Header.Get("Range") != "" || r.Header.Get("If-Range") != "" || r.Header.Get("X-Other") != "x" {
		t.Errorf("upstream got %v", r.Header)
	}
}

// TestCheckInInOnePiece checks that upstream gets a small check-in, headers and body, with
// one read, and one that its client does not finish not at all.
func TestCheckInInOnePiece(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan string, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(got)
				return
			}
			piece := make([]byte, 64<<10)
			n, _ := c.Read(piece) // if it fails, the piece is empty
			got <- string(piece[:n])
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 18\r\nConnection: close\r\n\r\n{\"client_id\":\"c-1\"}")
			c.Close()
		}
	}()
	b := newBench(t, func(c *Config) { c.Upstream = &url.URL{Scheme: "http", Host: l.Addr().String()} })
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprint(conn, "POST /api/v1/checkin HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n{\"a\":")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if said, err := io.ReadAll(resp.Body); resp.StatusCode != 400 || err != nil || string(said) != incomplete+"\n" {
		t.Errorf("it answered %d %q, %v to a half", resp.StatusCode, said, err)
	}
	const body = `{"hostname":"web-1","os":"linux","arch":"amd64","client_version":"v0.1.11"}`
	if a := b.do("POST", "/api/v1/checkin", body); a.status != 200 {
		t.Errorf("%+v", a)
	}
	l.Close()
	var all []string
	for piece := range got {
		all = append(all, piece)
	}
	if len(all) != 1 || !strings.HasSuffix(all[0], "\r\n\r\n"+body) {
		t.Errorf("upstream read %q", all)
	}
}
