package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

const (
	admin   = "admin"
	correct = "correct horse"
	client  = "client password"
)

// upstream is the MachineMon server behind a gate. It remembers what it was asked.
type upstream struct {
	*httptest.Server
	*testkit.MachineMon
	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
	answer   string // to a check-in
	over     http.HandlerFunc
}

// on and off are states of the switch.
const on, off = true, false

// badRequest is upstream's answer to a check-in that it cannot read.
const badRequest = `{"error":"invalid request body"}` + "\n"

const plainAnswer = `{"client_id":"c-1","next_checkin_seconds":120,"server_time":"2026-11-01T12:00:00Z"}` + "\n"

func newUpstream(t *testing.T) *upstream {
	u := &upstream{answer: plainAnswer}
	u.MachineMon = &testkit.MachineMon{ClientPassword: client, AdminPassword: correct, CheckIn: func(*http.Request, []byte) (int, string) {
		u.mu.Lock()
		defer u.mu.Unlock()
		return http.StatusOK, u.answer
	}}
	u.Server = httptest.NewServer(http.HandlerFunc(u.serve))
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	u.mu.Lock()
	u.requests, u.bodies = append(u.requests, r), append(u.bodies, string(body))
	over := u.over
	u.mu.Unlock()
	if over != nil {
		over(w, r)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	u.MachineMon.ServeHTTP(w, r)
}

func (u *upstream) instead(h http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.over = h
}

func (u *upstream) answers(s string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer = s
}

// last returns the last request.
func (u *upstream) last() (*http.Request, string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.requests[len(u.requests)-1], u.bodies[len(u.bodies)-1]
}

func (u *upstream) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.requests)
}

// bench is a gate in front of an upstream.
type bench struct {
	*Gate
	t    *testing.T
	data *database
	up   *upstream
	url  string
	mu   sync.Mutex
	said []string
}

func newBench(t *testing.T, change ...func(*Config)) *bench {
	t.Helper()
	up := newUpstream(t)
	at, err := url.Parse(up.URL)
	if err != nil {
		t.Fatal(err)
	}
	data := newDatabase(t)
	c := &Config{Upstream: at, DownloadDir: filepath.Join(t.TempDir(), "download"), Manifest: "client-manifest.json", Database: data.name}
	if err := os.Mkdir(c.DownloadDir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(c)
	}
	b := &bench{t: t, up: up, data: data}
	b.Gate = New(c, func(line string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.said = append(b.said, line)
	})
	b.openDatabase(t.Context())
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case r := <-b.reports:
				b.write(context.Background(), r)
			case <-stop:
				return
			}
		}
	}()
	front := httptest.NewUnstartedServer(b.Handler())
	checkin.TrackConnections(front.Config, 0, b.shares)
	front.Start()
	b.url = front.URL
	t.Cleanup(func() {
		front.Close()
		close(stop)
		<-done
		if s := b.store.Load(); s != nil {
			s.Close()
		}
	})
	return b
}

func (b *bench) lines() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.said, "\n")
}

// publish writes a manifest for all of MachineMon's platforms.
func (b *bench) publish(change ...func(*manifest.Manifest)) {
	b.t.Helper()
	m := &manifest.Manifest{Schema: 1, Version: "v0.1.12", Platforms: map[string]manifest.Platform{}}
	for i, arch := range []string{"amd64", "arm64", "armv6", "armv7"} {
		m.Platforms["linux-"+arch] = manifest.Platform{File: "machinemon-client-linux-" + arch + ".tar.gz",
			SHA256: strings.Repeat(fmt.Sprint(i), 64), Size: int64(3489273 + i)}
	}
	for _, f := range change {
		f(m)
	}
	data, err := m.Marshal()
	if err != nil {
		b.t.Fatal(err)
	}
	b.put("client-manifest.json", string(data))
}

// put writes a file in the way that publishers do, by rename.
func (b *bench) put(name, content string) {
	b.t.Helper()
	path := filepath.Join(b.config.DownloadDir, name)
	if err := os.WriteFile(path+"~", []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		b.t.Fatal(err)
	}
}

// golden returns a request or an answer from testdata.
func golden(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

type answer struct {
	status int
	header http.Header
	body   string
}

// do sends a request; header has lines "Name: value".
func (b *bench) do(method, path, body string, header ...string) answer {
	b.t.Helper()
	q, err := http.NewRequest(method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		q.Header.Set(name, value)
	}
	if q.Header.Get("Authorization") == "admin" {
		q.SetBasicAuth(admin, correct)
	}
	c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer c.CloseIdleConnections()
	resp, err := c.Do(q)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(data)}
}

// checkIn sends a check-in, and waits until its report is written or dropped.
func (b *bench) checkIn(body string, header ...string) answer {
	b.t.Helper()
	a := b.do("POST", "/api/v1/checkin", body, append([]string{"Content-Type: application/json", "X-Client-Password: " + client}, header...)...)
	b.written.Wait()
	return a
}

// request returns the body of a check-in.
func request(arch, version string) string {
	return fmt.Sprintf(`{"hostname":"web-1","os":"linux","arch":%q,"client_version":%q,"client_id":"c-1","session_id":"s-1","checks":[]}`, arch, version)
}

// known returns the API's overview of the clients.
func (b *bench) known(query string) overview {
	b.t.Helper()
	a := b.do("GET", "/api/v1/admin/updates"+query, "", "Authorization: admin")
	var o overview
	if err := json.Unmarshal([]byte(a.body), &o); err != nil || a.status != 200 {
		b.t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	return o
}
