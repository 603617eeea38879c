package gate

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// rough is an upstream that writes arbitrary bytes.
type rough struct {
	net.Listener
	answer chan func(w io.Writer) // writes the answer to the next request
}

func newRough(t *testing.T) *rough {
	u := &rough{testkit.Listen(t), make(chan func(io.Writer), 100)}
	go testkit.AnswerHTTP(u, func(c net.Conn) { (<-u.answer)(c) })
	return u
}

func text(s string) func(io.Writer) {
	return func(w io.Writer) { io.WriteString(w, s) }
}

// endless returns a function that writes until the other end closes the connection.
func endless(start, more string) func(io.Writer) {
	return func(w io.Writer) {
		_, err := io.WriteString(w, start)
		for err == nil {
			_, err = io.WriteString(w, more)
		}
	}
}

var direct = &http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10}}

// checkInAt returns the answer to a check-in, at most 1 MiB, or the connection's error.
func checkInAt(url string) (status int, body string, err error) {
	resp, err := direct.Post(url+"/api/v1/checkin", "application/json", strings.NewReader(request("amd64", "v0.1.11")))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(data), err
}

// TestUpstreamGarbage checks that any answer of upstream gives that answer or a clear
// error, no growth of the gate's memory, and a working next check-in.
func TestUpstreamGarbage(t *testing.T) {
	testkit.Slow(t)
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	z.Write(make([]byte, 40<<20))
	z.Close()
	const down = "machinemon-checkin-gate: the MachineMon server does not answer\n"
	good := text(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(plainAnswer), plainAnswer))
	mib := strings.Repeat("x", 1<<20)

	u := newRough(t)
	g := gateBefore(t, "http://"+u.Addr().String())
	for name, c := range map[string]struct {
		answer func(io.Writer)
		status int
		body   string // "*": any
		cut    bool
	}{
		"nothing":             {text(""), 502, down, false},
		"another protocol":    {text("SSH-2.0-OpenSSH_9.2\r\n"), 502, down, false},
		"binary":              {text("\x15\x03\x01\x00\x02\x02\x16\xff\x00"), 502, down, false},
		"no status":           {text("HTTP/1.1 \r\n\r\n"), 502, down, false},
		"status 42":           {text("HTTP/1.1 042 Answer\r\nContent-Length: 0\r\n\r\n"), 502, down, false},
		"status 999":          {text("HTTP/1.1 999 Much\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhm"), 999, "hm", false},
		"protocol unasked":    {text("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), 502, down, false},
		"endless early hints": {endless("", "HTTP/1.1 103 Early Hints\r\n\r\n"), 0, "", true}, // the client accepts only a few of them
		"endless headers":     {endless("HTTP/1.1 200 OK\r\n", "X: x\r\n"), 502, down, false},
		"endless header":      {endless("HTTP/1.1 200 OK\r\nX: ", "xxxxxxxx"), 502, down, false},
		"header not UTF-8":    {text("HTTP/1.1 200 OK\r\nX: \xff\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"), 200, "*", false},
		"two lengths":         {text("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x"), 502, down, false},
		"shorter than said":   {text("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{}"), 200, "{}", true},
		"longer than said":    {text("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n[]{}{}"), 200, "[]", false},
		"no chunk":            {text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"), 502, down, false},
		"no more chunks":      {text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\nZZ\r\n"), 200, "{", true},
		"endless body":        {endless("HTTP/1.1 200 OK\r\n\r\n", mib), 200, mib, false},
		"no gzip":             {text("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"), 200, "{}", false},
		"gzip bomb":           {text(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", bomb.Len(), bomb.String())), 200, bomb.String(), false},
	} {
		t.Run(name, func(t *testing.T) {
			u.answer <- c.answer
			status, body, err := checkInAt(g.url)
			if status != c.status || body != c.body && c.body != "*" || (err != nil) != c.cut {
				t.Errorf("%d %.200q, %v; want %d %.200q", status, body, err, c.status, c.body)
			}
			u.answer <- good
			if status, body, err := checkInAt(g.url); status != 200 || !strings.Contains(body, `"update_version":"v0.1.12"`) || err != nil {
				t.Errorf("the next check-in: %d %s, %v", status, body, err)
			}
		})
	}
	if peak := g.memory("VmHWM"); peak > 64<<20 {
		t.Errorf("the gate took %d bytes", peak)
	}
	u.Close()
	if status, body, _ := checkInAt(g.url); status != 502 || body != down {
		t.Errorf("without upstream: %d %s", status, body)
	}
	g.end()
	t.Logf("it said:\n%s", g.said.String())
	if strings.Contains(g.said.String(), "panic") {
		t.Error(g.said.String())
	}
}

// TestUpstreamSlow checks that a check-in that upstream does not answer delays no others.
func TestUpstreamSlow(t *testing.T) {
	u := newRough(t)
	g := gateBefore(t, "http://"+u.Addr().String())
	release := make(chan bool)
	waiting := make(chan bool)
	good := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(plainAnswer), plainAnswer)
	slow := func(w io.Writer) {
		io.WriteString(w, good[:20])
		waiting <- true
		<-release
		io.WriteString(w, good[20:])
	}
	const many = 50
	done := make(chan error, many)
	for range many {
		u.answer <- slow
		go func() {
			_, body, err := checkInAt(g.url)
			if err == nil && !strings.Contains(body, "update_version") {
				err = fmt.Errorf("it got %s", body)
			}
			done <- err
		}()
		<-waiting
	}
	u.answer <- text(good)
	if status, body, err := checkInAt(g.url); status != 200 || err != nil {
		t.Errorf("%d %s, %v", status, body, err)
	}
	close(release)
	for range many {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
