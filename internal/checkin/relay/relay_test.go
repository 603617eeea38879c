package relay

import (
	"bufio"
	"bytes"
	"compress/gzip"
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
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/checkin"
)

const password = "correct-horse-battery"

// plainAnswer is MachineMon's.
const plainAnswer = `{"client_id":"c-1","next_checkin_seconds":120,"server_time":"2026-11-01T12:00:00Z"}` + "\n"

// golden is a body as MachineMon and the gate have them: the gate's tests use it, too.
func golden(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile("../gate/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// bench is a relay between this process, as the agent, and a server.
type bench struct {
	*Relay
	t         *testing.T
	url       string
	mu        sync.Mutex
	said      []string
	got       []*http.Request // by the server
	bodies    []string
	drops     int
	dropError error
}

// newBench has the server answer with answer, or with what over says.
func newBench(t *testing.T, answer string, over http.HandlerFunc) *bench {
	t.Helper()
	b := &bench{t: t}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		b.mu.Lock()
		b.got, b.bodies = append(b.got, q), append(b.bodies, string(body))
		b.mu.Unlock()
		if over != nil {
			over(w, q)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, answer)
	}))
	server.Config.ErrorLog = quiet()
	t.Cleanup(server.Close)
	b.start(server.URL+"/monitor/", server)
	return b
}

func (b *bench) start(serverURL string, server *httptest.Server) {
	b.t.Helper()
	f := file{ServerURL: serverURL, Target: "agent"}
	c, err := f.check()
	if err != nil {
		b.t.Fatal(err)
	}
	if server != nil {
		c.Roots = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	}
	b.Relay = New(c, func(line string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.said = append(b.said, line)
	})
	b.agent = func(context.Context) (uint32, string, error) {
		return uint32(os.Getuid()), "machinemon-client.service", nil
	}
	b.status = func(context.Context) (checkin.Status, error) {
		return checkin.Status{Target: "agent", Installed: "v0.1.11", Reason: "„ok“"}, nil
	}
	b.drop = func() (bool, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.drops++
		return true, b.dropError
	}
	front := httptest.NewServer(b)
	front.Config.SetKeepAlivesEnabled(false)
	b.t.Cleanup(front.Close)
	b.url = front.URL
}

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// lines are what the relay said so far.
func (b *bench) lines() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.said, "\n")
}

func (b *bench) dropped() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.drops
}

type answer struct {
	status int
	header http.Header
	body   string
}

// send sends a request as Go's client does; header is "Name: value" lines.
func (b *bench) send(method, path, body string, header ...string) (answer, error) {
	b.t.Helper()
	q, err := http.NewRequest(method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		q.Header.Add(name, value)
	}
	c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(q)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(data)}, err
}

// checkIn sends a check-in as MachineMon's client does.
func (b *bench) checkIn(body string, header ...string) answer {
	b.t.Helper()
	a, err := b.send("POST", path, body, append([]string{"Content-Type: application/json", "X-Client-Password: " + password}, header...)...)
	if err != nil {
		b.t.Fatal(err)
	}
	if strings.Contains(b.lines(), password) {
		b.t.Errorf("the password is in the log: %s", b.lines())
	}
	return a
}

// The check-in arrives as it was sent, and the answer as well.
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
		delete(want, "Connection") // Go's server takes it out, or not
		if len(want) > 0 {
			t.Errorf("the server did not get %v", want)
		}
		if got, want := b.dropped(), strings.Count(answered, "update_version"); got != want {
			t.Errorf("%d directives, want %d", got, want)
		}
		if want := map[bool]string{true: "agent: directive: v0.1.12 is announced"}[answered == directive]; b.lines() != want {
			t.Errorf("it said %q, want %q", b.lines(), want)
		}
	}
}

// What is no check-in does not pass.
func TestOtherRequests(t *testing.T) {
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
	// Of what stands beside the path, nothing passes.
	a, err := b.send("POST", "/api/v1/%63heckin?password=x", "{}")
	if err != nil || a.status != 200 || len(b.got) != 1 || b.got[0].URL.String() != "/monitor/api/v1/checkin" {
		t.Errorf("%+v, %v; the server got %d", a, err, len(b.got))
	}
	// A check-in becomes no tunnel.
	a = b.checkIn("{}", "Connection: Upgrade", "Upgrade: h2c")
	if q := b.got[1]; a.status != 200 || q.Header.Get("Upgrade") != "" {
		t.Errorf("%+v; the server got %v", a, q.Header)
	}
}

// Nobody but the agent's own user checks in here, and whoever tries is told of once.
func TestWrongUser(t *testing.T) {
	b := newBench(t, plainAnswer, nil)
	b.agent = func(context.Context) (uint32, string, error) { return 61234, "machinemon-client.service", nil }
	for range 3 {
		if a := b.checkIn("{}"); a.status != 403 || a.body != "machinemon-checkin-relay: only the user of machinemon-client.service may check in here\n" {
			t.Errorf("%+v", a)
		}
	}
	if want := fmt.Sprintf("refused a check-in: it comes from UID %d, and machinemon-client.service runs as UID 61234", os.Getuid()); b.lines() != want {
		t.Errorf("it said %s", b.lines())
	}
	b.agent = func(context.Context) (uint32, string, error) { return 0, "", errors.New("no bus") }
	if a := b.checkIn("{}"); a.status != 503 || !strings.HasSuffix(b.lines(), "\ncannot tell who may check in: no bus") {
		t.Errorf("%+v, it said %s", a, b.lines())
	}
	if len(b.got) > 0 || b.dropped() > 0 {
		t.Errorf("the server got %d", len(b.got))
	}
}

// Whatever the server answers reaches the agent, and nothing but an announcement
// does more.
func TestAnswers(t *testing.T) {
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

// A directive that cannot be dropped is told of, and costs no check-in.
func TestNoDirective(t *testing.T) {
	b := newBench(t, golden(t, "directive.json"), nil)
	b.dropError = errors.New("cannot drop it")
	for range 2 {
		if a := b.checkIn("{}"); a.status != 200 {
			t.Errorf("%+v", a)
		}
	}
	if b.lines() != "v0.1.12 is announced: cannot drop it" {
		t.Errorf("it said %s", b.lines())
	}
}

// Without a status the check-in passes, and without what the agent says is one.
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
	if b.dropped() != 2 || b.lines() != "check-ins pass without the status of agent: it hangs\nagent: directive: v0.1.12 is announced" {
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
	// Without a length, too; and one that is cut never leaves the machine.
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
		// Who has half closed is no sender of whom the kernel would vouch.
		if !bytes.HasPrefix(got, []byte("HTTP/1.1 "+want)) && !bytes.HasPrefix(got, []byte("HTTP/1.1 403 ")) {
			t.Errorf("got %.200s", got)
		}
	}
	if len(b.got) != 1 {
		t.Errorf("the server got %d", len(b.got))
	}
}

// A server that is down, stalls or talks nonsense: a clear answer, a line that names
// it, and no word of its own in that.
func TestBadServers(t *testing.T) {
	raw := func(t *testing.T, answer string) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					q, err := http.ReadRequest(bufio.NewReader(c))
					if err != nil {
						return
					}
					io.Copy(io.Discard, q.Body)
					io.WriteString(c, strings.ReplaceAll(answer, "%", password))
					if answer == "" {
						io.Copy(io.Discard, c) // until the relay has enough
					}
				}()
			}
		}()
		return "http://" + l.Addr().String()
	}
	for name, c := range map[string]struct{ answer, said string }{
		"echo":       {"X-Client-Password: %\r\n\r\n", "its answer is no HTTP"},
		"bad header": {"HTTP/1.1 200 OK\r\nnonsense %\r\n\r\n", "its answer is no HTTP"},
		"bad length": {"HTTP/1.1 200 OK\r\nContent-Length: %\r\n\r\n", "its answer is no HTTP"},
		"upgrade":    {"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %\r\n\r\n", "its answer is no HTTP"},
		"stalls":     {"", "it takes too long"},
		"cut":        {"HTTP/1.1 200", "it closed the connection"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &bench{t: t}
			b.start(raw(t, c.answer), nil)
			b.limit = 500 * time.Millisecond
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
		b.limit = 500 * time.Millisecond
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
			t.Skip(err) // another has taken the port
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

// TLS proves who the server is, by the roots in ca_file, unless the operator says
// that it need not.
func TestTLS(t *testing.T) {
	b := newBench(t, plainAnswer, nil)
	at := *b.config.CheckIn
	if a := b.checkIn("{}"); a.status != 200 {
		t.Errorf("by ca_file: %+v", a)
	}
	for insecure, want := range map[bool]int{false: 502, true: 200} {
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
	// A server without TLS, such as another relay.
	b.start(strings.Replace(b.url, "http:", "https:", 1), nil)
	b.said = nil
	if a := b.checkIn("{}"); a.status != 502 || !strings.HasSuffix(b.lines(), ": it does not speak TLS (hint: is it http:// in server_url?)") {
		t.Errorf("https to http: %+v, it said %q", a, b.lines())
	}
}
