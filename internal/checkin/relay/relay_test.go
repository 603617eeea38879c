package relay

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestGolden checks that a check-in and its answer pass unchanged, except for the headers.
func TestGolden(t *testing.T) {
	sent, directive := golden(t, "request.json"), golden(t, "directive.json")
	for _, answered := range []string{plainAnswer, directive} {
		b := newBench(t, answered, nil)
		a := b.checkIn(sent, "User-Agent: Go-http-client/1.1", "X-Machinemon-Update: forged", "X-Machinemon-Update: twice", "X-Forwarded-For: 192.0.2.1")
		if a.status != 200 || a.body != answered || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("the agent got %+v", a)
		}
		q := b.got[0]
		if b.bodies[0] != sent || q.Method != "POST" || q.URL.String() != "/monitor/api/v1/checkin" || q.Host != b.config.CheckIn.Host || q.ContentLength != int64(len(sent)) {
			t.Errorf("the server got %s %s for %s: %s", q.Method, q.URL, q.Host, b.bodies[0])
		}
		want := map[string]string{"Content-Type": "application/json", "X-Client-Password": password, "User-Agent": "Go-http-client/1.1",
			"X-Machinemon-Update": `machinemon-update {"target":"agent","installed":"v0.1.11","reason":"\u201eok\u201c"}`,
			"Accept-Encoding":     "gzip", "Content-Length": fmt.Sprint(len(sent)), "Connection": "close"}
		for name, values := range q.Header {
			if len(values) != 1 || values[0] != want[name] && name != "Connection" {
				t.Errorf("the server got %s: %q, want %q", name, values, want[name])
			}
			delete(want, name)
		}
		delete(want, "Connection") // Go's server may or may not remove it
		if len(want) > 0 {
			t.Errorf("the server did not get %v", want)
		}
		if got, want := b.dropped(), strings.Count(answered, "update_version"); got != want {
			t.Errorf("%d directives, want %d", got, want)
		}
		if announced := b.lines() == "agent: directive: v0.1.12 is announced"; announced != (answered == directive) || !announced && b.lines() != "" {
			t.Errorf("for %s it said %q", answered, b.lines())
		}
	}
}

// TestOtherRequests checks that only check-ins pass.
func TestOtherRequests(t *testing.T) {
	testkit.Slow(t)
	b := newBench(t, plainAnswer, nil)
	for _, q := range [][2]string{
		{"GET", path}, {"PUT", path}, {"HEAD", path}, {"OPTIONS", path}, {"POST", "/"}, {"POST", path + "/"}, {"POST", path + "/../admin/clients"},
		{"POST", "/api/v1/checkin2"}, {"GET", "/download/install.sh"}, {"DELETE", "/api/v1/admin/clients/c-1"}, {"POST", "/API/v1/checkin"}, {"POST", "//api/v1/checkin"},
	} {
		a, err := b.send(q[0], q[1], "", "X-Client-Password: "+password)
		if err != nil || a.status != 404 {
			t.Errorf("%s: %+v, %v", q, a, err)
		}
	}
	// The query and the spelling of the path do not pass.
	a, err := b.send("POST", "/api/v1/%63heckin?password=x", "{}")
	if err != nil || a.status != 200 || len(b.got) != 1 || b.got[0].URL.String() != "/monitor/api/v1/checkin" {
		t.Errorf("%+v, %v; the server got %d", a, err, len(b.got))
	}
	// A check-in cannot switch to another protocol.
	a = b.checkIn("{}", "Connection: Upgrade", "Upgrade: h2c")
	if q := b.got[1]; a.status != 200 || q.Header.Get("Upgrade") != "" {
		t.Errorf("%+v; the server got %v", a, q.Header)
	}
}

// TestWrongUser checks that only the agent's user may check in; refusals are logged
// once.
func TestWrongUser(t *testing.T) {
	b := newBench(t, plainAnswer, nil)
	b.allowedUID = func(context.Context) (uint32, string, error) { return 61234, "machinemon-client.service", nil }
	for range 3 {
		if a := b.checkIn("{}"); a.status != 403 || a.body != "machinemon-checkin-relay: only the user of machinemon-client.service may check in here\n" {
			t.Errorf("%+v", a)
		}
	}
	if want := fmt.Sprintf("refused a check-in: it comes from UID %d, but machinemon-client.service runs as UID 61234", os.Getuid()); b.lines() != want {
		t.Errorf("it said %s", b.lines())
	}
	b.known.at = time.Now().Add(-known)
	b.allowedUID = func(context.Context) (uint32, string, error) { return 0, "", errors.New("no bus") }
	if a := b.checkIn("{}"); a.status != 503 || !strings.HasSuffix(b.lines(), "\ncannot find the user that may check in: no bus") {
		t.Errorf("%+v, it said %s", a, b.lines())
	}
	if len(b.got) > 0 || b.dropped() > 0 {
		t.Errorf("the server got %d", len(b.got))
	}
}

// TestAnswers checks that answers pass unchanged, and which ones drop a directive.
func TestAnswers(t *testing.T) {
	testkit.Slow(t)
	big := `{"client_id":"c-1","x":"` + strings.Repeat("x", 200<<10) + `"}`
	for _, c := range []struct {
		name, answer string
		status       int
		drops        int
		said         string
	}{
		{name: "another version", answer: `{"update_version":"v0.1.12","update_url":"http://evil.example/x","update_sha256":"; reboot"}`, drops: 1, said: "agent: directive: v0.1.12 is announced"},
		{name: "an older one", answer: `{"update_version":"v0.1.1"}`, drops: 1, said: "agent: directive: v0.1.1 is announced"},
		{name: "the installed one", answer: `{"update_version":"v0.1.11"}`},
		{name: "the same, without v", answer: `{"update_version":"0.1.11"}`},
		{name: "none", answer: `{"update_version":""}`},
		{name: "a path", answer: `{"update_version":"../../etc/passwd"}`, said: "cannot use the check-in response: update_version: must be 1 to 64 of"},
		{name: "an escape", answer: `{"update_version":"v1\u001b[31m"}`, said: "cannot use the check-in response: update_version: must be"},
		{name: "a list", answer: `{"update_version":["v0.1.12"]}`, said: "cannot use the check-in response: update_version: must be a string"},
		{name: "HTML", answer: "<html>" + password, said: "cannot use the check-in response: it is not a JSON object"},
		{name: "empty", answer: "", said: "cannot use the check-in response: it is not a JSON object"},
		{name: "large", answer: big, said: "cannot use the check-in response: it is larger than 64 KiB"},
		{name: "an error", answer: `{"update_version":"v0.1.12"}`, status: 500},
		{name: "a bad password", answer: `{"error":"invalid password","update_version":"v0.1.12"}`, status: 401},
		{name: "a redirect", answer: `{"update_version":"v0.1.12"}`, status: 308},
		{name: "not quite", answer: `{"update_version":"v0.1.12"}`, status: 202},
	} {
		for _, encoding := range []string{"", "gzip"} {
			b := newBench(t, "", func(w http.ResponseWriter, q *http.Request) {
				if encoding != "" {
					w.Header().Set("Content-Encoding", encoding)
				}
				w.Header().Set("Location", "https://elsewhere.example/")
				w.WriteHeader(max(c.status, 200))
				out, end := io.Writer(w), func() error { return nil }
				if encoding != "" {
					z := gzip.NewWriter(w)
					out, end = z, z.Close
				}
				io.WriteString(out, c.answer)
				end()
			})
			a := b.checkIn("{}")
			if a.status != max(c.status, 200) || a.body != c.answer || a.header.Get("Location") == "" {
				t.Errorf("%s %s: the agent got %d, %d bytes", c.name, encoding, a.status, len(a.body))
			}
			if b.dropped() != c.drops || !strings.HasPrefix(b.lines(), c.said) || c.said == "" && b.lines() != "" {
				t.Errorf("%s %s: %d directives, it said %q", c.name, encoding, b.dropped(), b.lines())
			}
		}
	}
}

// TestNoStatus checks that a check-in passes without a status or an agent's own header.
func TestNoStatus(t *testing.T) {
	b := newBench(t, golden(t, "directive.json"), nil)
	b.status = func(context.Context) (checkin.Status, error) { return checkin.Status{}, errors.New("it hangs") }
	for range 2 {
		if a := b.checkIn("{}", "X-Machinemon-Update: machinemon-update {\"target\":\"x\"}"); a.status != 200 {
			t.Errorf("%+v", a)
		}
	}
	for _, q := range b.got {
		if v, there := q.Header["X-Machinemon-Update"]; there {
			t.Errorf("the server got %q", v)
		}
	}
	if b.dropped() != 1 || b.lines() != "cannot add the status of agent to check-ins: it hangs\nagent: directive: v0.1.12 is announced" {
		t.Errorf("%d directives, it said %s", b.dropped(), b.lines())
	}
}

func TestLimits(t *testing.T) {
	b := newBench(t, plainAnswer, nil)
	for size, want := range map[int]int{maxRequest: 200, maxRequest + 1: 413} {
		if a := b.checkIn(strings.Repeat("x", size)); a.status != want {
			t.Errorf("%d bytes: %+v", size, a)
		}
	}
	// The limit holds without Content-Length. An incomplete check-in is not passed on.
	for body, want := range map[string]string{
		"100001\r\n" + strings.Repeat("x", maxRequest+1) + "\r\n0\r\n\r\n": "413 ",
		"5\r\n{\"cli": "400 ",
	} {
		c, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%s", path, body)
		c.(*net.TCPConn).CloseWrite()
		got, _ := io.ReadAll(c)
		c.Close()
		// The kernel may not show the user of a half-closed connection: 403.
		if !bytes.HasPrefix(got, []byte("HTTP/1.1 "+want)) && !bytes.HasPrefix(got, []byte("HTTP/1.1 403 ")) {
			t.Errorf("got %.200s", got)
		}
	}
	if len(b.got) != 1 {
		t.Errorf("the server got %d", len(b.got))
	}
}
