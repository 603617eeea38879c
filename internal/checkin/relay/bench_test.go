package relay

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/checkin"
)

const password = "correct-horse-battery"

// plainAnswer is MachineMon's answer without a directive.
const plainAnswer = `{"client_id":"c-1","next_checkin_seconds":120,"server_time":"2026-11-01T12:00:00Z"}` + "\n"

// golden returns a request or an answer, from the testdata of the gate.
func golden(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile("../gate/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// bench is a relay between the test, as the agent, and a server.
type bench struct {
	*Relay
	t      *testing.T
	url    string
	mu     sync.Mutex
	said   []string
	got    []*http.Request // that the server got
	bodies []string
}

// newBench starts a server that answers with answer or, if it is not nil, with over.
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
	b.allowedUID = func(context.Context) (uint32, string, error) {
		return uint32(os.Getuid()), "machinemon-client.service", nil
	}
	b.status = func(context.Context) (checkin.Status, error) {
		return checkin.Status{Target: "agent", Installed: "v0.1.11", Reason: "„ok“"}, nil
	}
	front := httptest.NewUnstartedServer(b)
	front.Listener = b.sort(front.Listener)
	front.Config.ConnContext = withPeer
	front.Config.SetKeepAlivesEnabled(false)
	front.Start()
	b.t.Cleanup(front.Close)
	b.url = front.URL
}

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// lines returns the relay's log so far.
func (b *bench) lines() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.said, "\n")
}

// dropped returns 1 if the relay would end now and have a directive dropped.
func (b *bench) dropped() int { return len(b.announced) }

type answer struct {
	status int
	header http.Header
	body   string
}

// send sends a request as Go's client does; header has lines "Name: value".
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
