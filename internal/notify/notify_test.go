package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

const agent = `
unit = "agent.service"
[[install]]
from = "agent"
to = "/usr/local/bin/agent"
`

// bench is a machine with one target.
type bench struct {
	*Sender
	t     *testing.T
	root  string
	lines strings.Builder
	again time.Duration // what Again was called with
}

func newBench(t *testing.T, notify string) *bench {
	t.Helper()
	root := t.TempDir()
	b := &bench{t: t, root: root}
	b.Sender = &Sender{Tree: state.Tree{Var: root + "/var", Run: root + "/run"}, Targets: target.Dirs{Root: root, Vendor: "/vendor", Admin: "/etc/targets.d"},
		Log: log.Plain(&b.lines), Credentials: root + "/credentials", Mailer: root + "/sendmail",
		Again: func(_ context.Context, _ string, after time.Duration) error { b.again = after; return nil },
		as:    func(string) (*asUser, error) { return nil, nil }}
	b.put("etc/targets.d/agent.toml", agent+notify, 0o644)
	b.put("var/notify/x", "", 0o644)
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bench) put(name, text string, mode os.FileMode) string {
	b.t.Helper()
	file := filepath.Join(b.root, name)
	must(b.t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(b.t, os.WriteFile(file, []byte(text), mode))
	must(b.t, os.Chmod(file, mode))
	return file
}

var rolledBack = state.Notice{Event: target.EventRolledBack, Target: "agent", Host: "web1", Time: time.Now().UTC().Truncate(time.Second),
	Attempt: "20261129t030000000-00000000", From: "1.2.0", Version: "1.3.0", Result: state.ResultRolledBack,
	Reason: "GET /healthz: 503 <https://evil>", After: "1.2.0 runs again", Said: []string{"cannot open the database"}}

func (b *bench) add(way string, n state.Notice) {
	b.t.Helper()
	must(b.t, b.Tree.AddNotice(way, n))
}

func (b *bench) waiting(way string, want int) {
	b.t.Helper()
	all, err := b.Tree.WaitingNotices("agent", way)
	must(b.t, err)
	if len(all) != want {
		b.t.Errorf("%d notices wait for %s, want %d", len(all), way, want)
	}
}

// posted is a request that a server got.
type posted struct {
	path   string
	header http.Header
	body   string
}

// TestFormats posts a notice in each format, with its token.
func TestFormats(t *testing.T) {
	text := func(p posted) string { return p.body }
	field := func(key string) func(posted) string {
		return func(p posted) string {
			var doc map[string]any
			if err := json.Unmarshal([]byte(p.body), &doc); err != nil {
				return err.Error()
			}
			return fmt.Sprint(doc[key])
		}
	}
	header := func(key string) func(posted) string { return func(p posted) string { return p.header.Get(key) } }
	path := func(p posted) string { return p.path }
	const title = "agent on web1: 1.3.0 was rolled back"
	for _, c := range []struct {
		format, path string
		want         map[string]func(posted) string
	}{
		{"json", "/hook", map[string]func(posted) string{title: field("subject"), "rolled back": field("event"), "1.2.0": field("from"), "web1": field("host"),
			"20261129t030000000-00000000": field("attempt"), "<nil>": field("format"), "Bearer secret/ /token": header("Authorization"), "application/json": header("Content-Type")}},
		{"ntfy", "/updates", map[string]func(posted) string{title: header("Title"), "4": header("Priority"), "warning": header("Tags"), "Bearer secret/ /token": header("Authorization")}},
		{"slack", "/services/{token}", map[string]func(posted) string{"/services/secret/%20/token": path, "": header("Authorization"), "&lt;https://evil&gt;": field("text")}},
		{"gotify", "/message", map[string]func(posted) string{title: field("title"), "8": field("priority"), "secret/ /token": header("X-Gotify-Key"), "": header("Authorization")}},
		{"alertmanager", "/api/v2/alerts", map[string]func(posted) string{`"alertname":"MachinemonUpdate"`: text, `"summary":"` + title: text, `"target":"agent"`: text, "Bearer secret/ /token": header("Authorization")}},
	} {
		t.Run(c.format, func(t *testing.T) {
			var got posted
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil || r.Method != http.MethodPost {
					t.Errorf("%s: %v", r.Method, err)
				}
				got = posted{r.URL.EscapedPath(), r.Header, string(body)}
			}))
			defer server.Close()
			token := "/etc/notify-token"
			b := newBench(t, fmt.Sprintf("[notify]\nwebhook = %q\nformat = %q\ntoken_file = %q\n", server.URL+c.path, c.format, token))
			b.put("etc/notify-token", "not read by the sender itself", 0o600)
			b.put("credentials/"+target.Credential(token), "secret/ /token\n", 0o400)
			b.add(target.WayWebhook, rolledBack)
			must(t, b.Post(t.Context(), "agent"))
			b.waiting(target.WayWebhook, 0)
			for want, of := range c.want {
				if said := of(got); said != want && (want == "" || !strings.Contains(said, want)) {
					t.Errorf("want %q, got %q", want, said)
				}
			}
			if !strings.Contains(strings.ReplaceAll(got.body, "\\n", "\n"), "cannot open the database") && c.format != "json" || strings.Contains(got.body+b.lines.String(), "secret") {
				t.Errorf("posted %s, said %s", got.body, b.lines.String())
			}
		})
	}
}

// TestPostFails: what cannot be posted waits, for three days at most, and nothing that was
// said has the token.
func TestPostFails(t *testing.T) {
	hits := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits++
		if r.URL.Path == "/redirect/secret" {
			http.Redirect(w, r, "/other", http.StatusTemporaryRedirect)
			return
		}
		http.Error(w, "bad secret", http.StatusForbidden)
	}))
	defer server.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	for address, want := range map[string]string{
		server.URL + "/{token}":          "status 403",
		server.URL + "/redirect/{token}": "status 307",
		gone.URL + "/{token}":            "connection refused",
	} {
		b := newBench(t, fmt.Sprintf("[notify]\nwebhook = %q\ntoken_file = '/etc/t'\n", address))
		b.put("credentials/"+target.Credential("/etc/t"), "secret", 0o400)
		b.add(target.WayWebhook, rolledBack)
		n := rolledBack
		n.Attempt = "20261129t040000000-00000000"
		b.add(target.WayWebhook, n)
		hits = 0
		err := b.Post(t.Context(), "agent")
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") || hits > 1 {
			t.Errorf("%s: %v, %d requests", address, err, hits)
		}
		b.waiting(target.WayWebhook, 2)
		if err := b.Hand(t.Context(), "agent"); err == nil || b.again != time.Minute {
			t.Errorf("it is tried again after %s: %v", b.again, err)
		}
	}
	b := newBench(t, fmt.Sprintf("[notify]\nwebhook = %q\n", gone.URL))
	for age, again := range map[time.Duration]time.Duration{10 * time.Minute: 10 * time.Minute, 5 * time.Hour: time.Hour} {
		n := rolledBack
		n.Time = time.Now().Add(-age)
		b.add(target.WayWebhook, n)
		if err := b.Hand(t.Context(), "agent"); err == nil || b.again.Round(time.Minute) != again {
			t.Errorf("a notice of %s is tried again after %s, want %s: %v", age, b.again, again, err)
		}
	}
	n := rolledBack
	n.Time = time.Now().Add(-oldest - time.Hour)
	b.add(target.WayWebhook, n)
	must(t, b.Post(t.Context(), "agent"))
	b.waiting(target.WayWebhook, 0)
	if !strings.Contains(b.lines.String(), "given up after 72h") {
		t.Errorf("the log has %s", b.lines.String())
	}
}

// TestToken: each mistake in the token file has an error of its own, and nothing is posted.
func TestToken(t *testing.T) {
	for content, want := range map[string]string{target.NoFile: "/etc/t does not exist", "": "one printable line", "a\nb": "one printable line", "absent": "was not handed over"} {
		b := newBench(t, "[notify]\nwebhook = 'https://127.0.0.1:1/'\ntoken_file = '/etc/t'\n")
		if content != "absent" {
			b.put("credentials/"+target.Credential("/etc/t"), content, 0o400)
		}
		b.add(target.WayWebhook, rolledBack)
		if err := b.Post(t.Context(), "agent"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// TestMail: the mail program gets one mail that a reader understands.
func TestMail(t *testing.T) {
	b := newBench(t, "[notify]\nmail = ['ops@example.com', 'root']\n")
	b.put("sendmail", "#!/bin/sh\necho \"$@\" >"+b.root+"/args\ncat >"+b.root+"/mail\n", 0o755)
	n := rolledBack
	n.Version = "1.3.0-größer"
	n.Reason = strings.Repeat("a long line ", 40)
	b.add(target.WayMail, n)
	must(t, b.Hand(t.Context(), "agent"))
	b.waiting(target.WayMail, 0)
	args, err := os.ReadFile(b.root + "/args")
	must(t, err)
	if string(args) != "-i ops@example.com root\n" {
		t.Errorf("the arguments are %q", args)
	}
	f, err := os.Open(b.root + "/mail")
	must(t, err)
	defer f.Close()
	m, err := mail.ReadMessage(f)
	must(t, err)
	title, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	must(t, err)
	content, err := io.ReadAll(m.Body)
	must(t, err)
	if title != "agent on web1: 1.3.0-größer was rolled back" || m.Header.Get("To") != "ops@example.com, root" || !strings.Contains(string(content), "runs again") {
		t.Errorf("%q to %q: %s", title, m.Header.Get("To"), content)
	}
	for line := range strings.Lines(string(content)) {
		if len(line) > 79 {
			t.Errorf("a line of %d bytes: %s", len(line), line)
		}
	}
}

// TestCommand: the command gets the event as variables and as JSON; its failure is an error.
func TestCommand(t *testing.T) {
	b := newBench(t, "")
	script := b.put("hook", "#!/bin/sh\nenv >$1/env\ncat >$1/json\nexit $2\n", 0o755)
	run := func(status string) error {
		return b.command(t.Context(), &target.Notify{Command: []string{script, b.root, status}}, rolledBack)
	}
	if err := run("7"); err == nil || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("the error is %v", err)
	}
	absent := &target.Notify{Command: []string{b.root + "/absent"}}
	if err := b.command(t.Context(), absent, rolledBack); err == nil || err.Error() != b.root+"/absent: no such file or directory" {
		t.Errorf("the error is %v", err)
	}
	must(t, run("0"))
	env, err := os.ReadFile(b.root + "/env")
	must(t, err)
	for _, want := range []string{"MACHINEMON_EVENT=rolled back\n", "MACHINEMON_TARGET=agent\n", "MACHINEMON_VERSION=1.3.0\n", "MACHINEMON_RESULT=rolled back\n"} {
		if !strings.Contains(string(env), want) {
			t.Errorf("the environment lacks %q: %s", want, env)
		}
	}
	text, err := os.ReadFile(b.root + "/json")
	must(t, err)
	var doc struct{ Event, Reason, Subject string }
	must(t, json.Unmarshal(text, &doc))
	if doc.Event != target.EventRolledBack || doc.Reason != rolledBack.Reason || doc.Subject == "" {
		t.Errorf("the input is %s", text)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := b.run(ctx, "agent", []string{"/bin/sleep", "60"}, nil); err == nil || !strings.Contains(err.Error(), "did not end") {
		t.Errorf("a command that hangs: %v", err)
	}
}

// TestStranger: text of a stranger neither ends a header nor controls a terminal.
func TestStranger(t *testing.T) {
	b := newBench(t, "[notify]\nmail = ['root']\n")
	b.put("sendmail", "#!/bin/sh\ncat >"+b.root+"/mail\n", 0o755)
	n := rolledBack
	n.Version, n.Reason = "1\nBcc: evil@example.com\n\n", "\x1b[2J"+strings.Repeat("x", 1<<14)
	n.Said = append(make([]string, 500), "\x1b]0;x\a")
	b.add(target.WayMail, n)
	must(t, b.Hand(t.Context(), "agent"))
	text, err := os.ReadFile(b.root + "/mail")
	must(t, err)
	m, err := mail.ReadMessage(strings.NewReader(string(text)))
	must(t, err)
	if m.Header.Get("Bcc") != "" || len(text) > 16<<10 || strings.ContainsAny(string(text), "\x1b\a") || strings.Contains(string(text), "=1B") {
		t.Errorf("the mail is %q", text)
	}
}

// TestOtherWay: what waits for a way that is no longer configured is dropped.
func TestOtherWay(t *testing.T) {
	b := newBench(t, "[notify]\nmail = ['root']\n")
	b.add(target.WayCommand, rolledBack)
	must(t, b.Hand(t.Context(), "agent"))
	b.waiting(target.WayCommand, 0)
}
