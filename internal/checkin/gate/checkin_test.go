package gate

import (
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestGolden checks the bodies of a real check-in, unchanged and with a directive.
func TestGolden(t *testing.T) {
	b := newBench(t)
	sent := golden(t, "request.json")
	if a := b.checkIn(sent); a.status != 200 || a.body != plainAnswer {
		t.Errorf("without a manifest: %+v", a)
	}
	b.publish()
	a := b.checkIn(sent, "Host-Is-Not: here")
	want := strings.Replace(golden(t, "directive.json"), "https://monitor.example.com", b.url, 1)
	if a.status != 200 || a.body != want || a.header.Get("Content-Length") != fmt.Sprint(len(want)) {
		t.Errorf("with a manifest: %+v, want %s", a, want)
	}
	if _, got := b.up.last(); got != sent {
		t.Errorf("upstream got %s", got)
	}
	o := b.known("")
	if len(o.Clients) != 1 {
		t.Fatalf("known are %+v", o.Clients)
	}
	c := o.Clients[0]
	if c.ClientID != "c-1" || c.Hostname != "web-1" || c.Platform != "linux-amd64" || c.Version != "v0.1.11" || !c.Available || c.Target != "agent" ||
		c.Result != "rolled back" || c.About != "v0.1.12" || c.Rejected != "v0.1.12" || c.Reason != "exit status 1 <script>" || c.Held ||
		c.Attempted == nil || c.Attempted.Format("2006-01-02T15:04Z") != "2026-11-01T12:00Z" || c.Seen.IsZero() {
		t.Errorf("known is %+v", c)
	}
}

// TestDirective checks which clients get a directive; others get the answer unchanged.
func TestDirective(t *testing.T) {
	testkit.Slow(t)
	sized := func(n int) string { return `{"client_id":"c-1","x":"` + strings.Repeat("x", n-26) + `"}` }
	for name, c := range map[string]struct {
		request, answer string // default: amd64 and v0.1.11, the plain answer
		change          func(*manifest.Manifest)
		off             bool
		status          int    // of the answer; 0 means 200
		want            string // the digit that update_sha256 repeats; "" for an unchanged answer
	}{
		"amd64":           {want: "0"},
		"arm64":           {request: request("arm64", "v0.1.11"), want: "1"},
		"arm":             {request: request("arm", "v0.1.11"), want: "2"},
		"armv7":           {request: request("armv7", "v0.1.11"), want: "3"},
		"newer":           {request: request("amd64", "v0.2.0"), want: "0"},
		"current":         {request: request("amd64", "v0.1.12")},
		"current, no v":   {request: request("amd64", "0.1.12")},
		"no version":      {request: request("amd64", "")},
		"strange version": {request: request("amd64", "v0 1")},
		"other platform":  {request: request("riscv64", "v0.1.11")},
		"disabled":        {change: func(m *manifest.Manifest) { m.Disabled = true }},
		"rollout 0":       {change: func(m *manifest.Manifest) { m.Rollout = &manifest.Rollout{Percent: 0} }},
		// Without an ID for rollouts, the client's machine decides.
		"rollout 1":         {change: func(m *manifest.Manifest) { m.Rollout = &manifest.Rollout{Percent: 1} }, want: "0"},
		"off":               {off: true},
		"64 KiB":            {answer: sized(64 << 10), want: "0"},
		"more":              {answer: sized(64<<10 + 1)},
		"HTML":              {answer: "<html>"},
		"array":             {answer: `["client_id"]`},
		"string":            {answer: `"client_id"`},
		"empty":             {answer: ""},
		"cut":               {answer: `{"client_id":"c-1"`},
		"trailing":          {answer: `{"client_id":"c-1"}{}`},
		"not UTF-8":         {answer: "{\"client_id\":\"\xff\"}"},
		"deep":              {answer: `{"x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`},
		"request cut":       {request: `{"client_id":"c-1"`, status: 400, answer: badRequest},
		"request not UTF-8": {request: strings.Replace(request("amd64", "v0.1.11"), "web-1", "\xff", 1)},
		"request a list":    {request: "[]", status: 400, answer: badRequest},
		"request of 2 MiB":  {request: strings.Replace(request("amd64", "v0.1.11"), "web-1", strings.Repeat("x", 2<<20), 1)},
		"request of 1 MiB":  {request: strings.Replace(request("amd64", "v0.1.11"), "web-1", strings.Repeat("x", 1000<<10), 1), want: "0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.publish(func(m *manifest.Manifest) {
				if c.change != nil {
					c.change(m)
				}
			})
			sent, answer := c.request, c.answer
			if sent == "" {
				sent = request("amd64", "v0.1.11")
			}
			if answer == "" && name != "empty" {
				answer = plainAnswer
			}
			if c.off {
				if _, err := b.decide(off, "test"); err != nil {
					t.Fatal(err)
				}
			}
			b.up.answers(answer)
			for _, encoding := range []string{"identity", "gzip"} {
				a := b.checkIn(sent, "Accept-Encoding: "+encoding)
				if _, got := b.up.last(); got != sent {
					t.Errorf("upstream got %d bytes of %d", len(got), len(sent))
				}
				body := a.body
				if a.header.Get("Content-Encoding") == "gzip" {
					if c.want != "" {
						t.Error("what was changed is compressed")
					}
					z, err := gzip.NewReader(strings.NewReader(body))
					if err != nil {
						t.Fatal(err)
					}
					inflated, err := io.ReadAll(z)
					if err != nil {
						t.Fatal(err)
					}
					body = string(inflated)
				}
				if c.want == "" {
					if body != answer || a.status != cmp.Or(c.status, 200) {
						t.Errorf("%s: the answer is %d %.200s, want %.200s", encoding, a.status, body, answer)
					}
					continue
				}
				var fields map[string]any
				if err := json.Unmarshal([]byte(body), &fields); err != nil || fields["update_version"] != "v0.1.12" ||
					fields["update_sha256"] != strings.Repeat(c.want, 64) || fields["client_id"] != "c-1" {
					t.Errorf("%s: the answer is %.300s, %v", encoding, body, err)
				}
			}
		})
	}
}

// TestUpstreamsDirective checks that only upstream's own directive is removed.
func TestUpstreamsDirective(t *testing.T) {
	b := newBench(t)
	b.up.answers(`{"client_id" : "c-1", "update_version":"evil", "n": 1e3,"Update_URL":"http://evil.example/","x":{"update_version":"stays"}, "n":"<&>"}`)
	const want = `{"client_id":"c-1","n":1e3,"x":{"update_version":"stays"},"n":"<&>"}` + "\n"
	if a := b.checkIn(request("amd64", "v0.1.11")); a.body != want {
		t.Errorf("the answer is %s, want %s", a.body, want)
	}
	b.up.answers(`{"update_version":"evil"}`)
	if a := b.checkIn(request("amd64", "v0.1.11")); a.body != "{}\n" {
		t.Errorf("the answer is %s", a.body)
	}
}

// TestDirectiveURL checks that update_url is below the URL that the client uses.
func TestDirectiveURL(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Manifest = "agent/client-manifest.json" })
	if err := os.Mkdir(b.config.DownloadDir+"/agent", 0o755); err != nil {
		t.Fatal(err)
	}
	b.publish()
	if err := os.Rename(b.config.DownloadDir+"/client-manifest.json", b.config.DownloadDir+"/agent/client-manifest.json"); err != nil {
		t.Fatal(err)
	}
	if a := b.checkIn(request("amd64", "v1")); !strings.Contains(a.body, `"update_url":"`+b.url+`/download/agent/machinemon-client-linux-amd64.tar.gz"`) {
		t.Errorf("the answer is %s", a.body)
	}
}

// TestRefusedCheckIn checks that answers other than 200 change and record nothing.
func TestRefusedCheckIn(t *testing.T) {
	b := newBench(t)
	b.publish()
	for _, status := range []int{201, 204, 302, 401, 429, 500} {
		b.up.instead(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			if status != 204 {
				io.WriteString(w, plainAnswer)
			}
		})
		if a := b.checkIn(request("amd64", "v0.1.11")); a.status != status || strings.Contains(a.body, "update_") {
			t.Errorf("%d: %+v", status, a)
		}
	}
	b.up.instead(nil)
	if a := b.checkIn(request("amd64", "v0.1.11"), "X-Client-Password: wrong"); a.status != 401 || a.body != "{\"error\":\"invalid password\"}\n" {
		t.Errorf("%+v", a)
	}
	if o := b.known(""); o.Total != 0 {
		t.Errorf("known are %+v", o.Clients)
	}
}

// TestRecorded checks the client's ID, and that recorded texts are bounded and
// printable.
func TestRecorded(t *testing.T) {
	b := newBench(t)
	long := strings.Repeat("ü", 500)
	b.checkIn(`{"client_id":"","hostname":"` + long + `\u001b[31m","os":"linux","arch":"../../etc","client_version":"<b>"}`)
	b.up.answers(`{"next_checkin_seconds":120}`)
	b.checkIn(`{"client_id":"mine","hostname":"h"}`)
	for _, id := range []string{"", `a\nb`, strings.Repeat("x", 129)} {
		b.checkIn(`{"client_id":"` + id + `","hostname":"h"}`)
	}
	o := b.known("?sort=host")
	if o.Total != 2 || o.Clients[0].ClientID != "mine" || o.Clients[1].ClientID != "c-1" {
		t.Fatalf("known are %+v", o.Clients)
	}
	if c := o.Clients[1]; c.Version != "" || c.Platform != "linux-" || len(c.Hostname) > 255 || strings.ContainsRune(c.Hostname, 0x1b) {
		t.Errorf("known is %+v", c)
	}
}

// TestStatusHeader checks that the status in a relay's header takes precedence over a
// check's, and that an invalid header is ignored.
func TestStatusHeader(t *testing.T) {
	b := newBench(t)
	sent := golden(t, "request.json")
	line := checkin.Status{Target: "agent", Result: "committed", Version: "v0.1.13", Reason: "„ok“"}.Header()
	for header, want := range map[string]string{line: "committed v0.1.13 „ok“", "machinemon-update {}": "rolled back v0.1.12 exit status 1 <script>"} {
		if a := b.checkIn(sent, checkin.StatusHeader+": "+header); a.status != 200 || a.body != plainAnswer {
			t.Errorf("%+v", a)
		}
		if c := b.known("").Clients[0]; c.Result+" "+c.About+" "+c.Reason != want || c.Target != "agent" {
			t.Errorf("%s: known is %+v", header, c)
		}
	}
}

// TestManifestChanges checks that a changed manifest is read, and a bad one logged
// once.
func TestManifestChanges(t *testing.T) {
	b := newBench(t)
	has := func(want string) {
		t.Helper()
		a := b.checkIn(request("amd64", "v0.1.11"))
		if got := strings.Contains(a.body, `"update_version":"`+want+`"`); a.status != 200 || got != (want != "") {
			t.Errorf("the answer is %d %s, want %q", a.status, a.body, want)
		}
	}
	has("")
	b.publish()
	has("v0.1.12")
	b.put("client-manifest.json", `{"version":"v9"`)
	has("")
	has("")
	has("")
	b.publish(func(m *manifest.Manifest) { m.Version = "v0.1.13" })
	has("v0.1.13")
	// In its place, without a change of its size and time.
	path := filepath.Join(b.config.DownloadDir, "client-manifest.json")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, []byte(strings.ReplaceAll(string(old), "v0.1.13", "v0.1.14")), 0o644)
	}
	if err == nil {
		err = os.Chtimes(path, info.ModTime(), info.ModTime())
	}
	if err != nil {
		t.Fatal(err)
	}
	has("v0.1.14")
	const want = "cannot use the manifest: it is not complete JSON: it ends too early: no client gets a directive\nthe manifest can be used again"
	if got := b.lines(); got != want {
		t.Errorf("it said\n%s, want\n%s", got, want)
	}
}

// TestEscapedStatus checks that a status line is found however JSON writes its letters.
func TestEscapedStatus(t *testing.T) {
	for raw, want := range map[string]bool{
		`{"output":"ok\nmachinemon-update {\"target\":\"agent\"}\n"}`:                   true,
		`{"output":"machinemon\u002dupdate {\"target\":\"agent\"}"}`:                    true,
		`"{\"output\":\"\\u006dachinemon-update {\\\"target\\\":\\\"agent\\\"}\"}"`:     true,
		`"{\"\u006futput\":\"m\u0061chinemon-update {\\\"target\\\":\\\"agent\\\"}\"}"`: true,
		`"{\"output\":\"ok\"}"`: false,
		`{"output":"\u006fk"}`:  false,
	} {
		if s, ok := status(json.RawMessage(raw)); ok != want || ok && s.Target != "agent" {
			t.Errorf("%s: %+v, %t", raw, s, ok)
		}
	}
}

// TestNoDatabase checks that without a database check-ins pass, without directives.
func TestNoDatabase(t *testing.T) {
	data := newDatabase(t)
	data.ruin()
	b := newBench(t, func(c *Config) { c.Database = data.name })
	b.publish()
	for range 3 {
		if a := b.checkIn(request("amd64", "v0.1.11")); a.status != 200 || a.body != plainAnswer {
			t.Errorf("%+v", a)
		}
	}
	b.openDatabase(t.Context())
	if got := b.lines(); !strings.HasPrefix(got, "cannot use the database: ") || strings.Count(got, "\n") > 0 {
		t.Errorf("it said\n%s", got)
	}
	if a := b.do("GET", "/updates", "", "Authorization: admin"); a.status != 503 || !strings.Contains(a.body, "the database cannot be used") {
		t.Errorf("the page: %+v", a)
	}
	// The database is repaired while the gate runs.
	data.mend()
	b.openDatabase(t.Context())
	if a := b.checkIn(request("amd64", "v0.1.11")); !strings.Contains(a.body, "update_version") || b.known("").Total != 1 {
		t.Errorf("%+v", a)
	}
}

// TestDatabaseLost checks that losing the database while the gate runs costs reports only.
func TestDatabaseLost(t *testing.T) {
	b := newBench(t)
	b.publish()
	b.store.Load().Close()
	for range 3 {
		if a := b.checkIn(request("amd64", "v0.1.11")); a.status != 200 || !strings.Contains(a.body, "update_version") {
			t.Errorf("%+v", a)
		}
	}
	if got := b.lines(); !strings.HasPrefix(got, "cannot use the database: ") || strings.Count(got, "\n") > 0 || b.count.dropped.Load() != 3 {
		t.Errorf("it said\n%s", got)
	}
}
