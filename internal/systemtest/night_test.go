//go:build systemd

package systemtest

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// hookAt is where the machine has a server of webhooks.
const (
	hookAt    = "127.0.0.1:9094"
	hookToken = "webhookSECRETh"
)

// hook is a request that the server of webhooks got.
type hook struct {
	Event, Target, Version, From, Reason, Subject string
	Said                                          []string
	token                                         string
}

// hooks serves webhooks in the machine, and sends what it gets. It answers with the status that
// answer returns.
func (b *box) hooks(answer func() int) <-chan hook {
	b.t.Helper()
	l, err := b.Listen("tcp", hookAt)
	b.ok(err)
	got := make(chan hook, 20)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var h hook
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(body, &h)
		}
		if err != nil {
			b.t.Errorf("the webhook gets %q: %v", body, err)
		}
		h.token = r.Header.Get("Authorization")
		status := answer()
		w.WriteHeader(status)
		if status == http.StatusOK {
			got <- h
		}
	})}
	go func() {
		if err := server.Serve(l); err != http.ErrServerClosed {
			panic(err)
		}
	}()
	b.t.Cleanup(func() { server.Close() })
	return got
}

// await waits until the sender of notices has come.
func await[T any](b *box, c <-chan T) (got T) {
	b.t.Helper()
	select {
	case got = <-c:
	case <-time.After(time.Minute):
		b.t.Fatalf("no webhook came:\n%s", b.journal("--lines=100", "--unit=machinemon-notify@testd.service", "--unit=machinemon-inform@testd.service", "--unit=machinemon-rollback@testd.service"))
	}
	return got
}

// fakeSendmail keeps each mail, and says as which user and how it runs: a real one is setgid.
const fakeSendmail = `#!/bin/sh
exec >>/var/mail/fake
echo "ARGS $*, USER $(id -un), GROUPS $(id -Gn), $(grep NoNewPrivs /proc/self/status | tr -s '[:space:]' ' ')"
cat
`

// TestNight: an update is rolled back at night. Mail, webhook, command and metrics say so,
// without delaying the verdict; what cannot be told at once survives a power cut; and nothing has the token.
func TestNight(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget+`[notify]
mail = ["ops@example.com"]
command = ["/usr/local/bin/told", "an argument"]
webhook = "http://`+hookAt+`/hook"
token_file = "/etc/machinemon-update/hook-token"
`)
	c.writeFile("/etc/machinemon-update/hook-token", hookToken+"\n", 0o600)
	c.writeFile("/usr/sbin/sendmail", fakeSendmail, 0o755)
	c.writeFile("/usr/local/bin/told", "#!/bin/sh\nexec >>/var/mail/told\nid -un; echo \"$1: $MACHINEMON_SUBJECT\"; cat\n", 0o755)
	c.must("install", "-d", "-m", "1777", "/var/mail")
	c.must("systemctl", "daemon-reload")

	released, asked := make(chan struct{}), make(chan struct{}, 20)
	c.hooks(func() int {
		asked <- struct{}{}
		<-released
		return http.StatusServiceUnavailable
	})
	c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "exit1-at-once"})
	c.apply(4, "rolled back 1.1.0")
	await(c.box, asked) // the server has not answered yet
	prom := c.readFile("/var/lib/machinemon-update/metrics/machinemon-update-testd.prom")
	for _, want := range []string{`last_attempt_result{target="testd",result="rolled back"} 1`, `rejected_releases{target="testd"} 1`, `trial_open{target="testd"} 0`} {
		if !strings.Contains(prom, "\nmachinemon_update_"+want+"\n") {
			t.Errorf("the metrics lack %s:\n%s", want, prom)
		}
	}
	c.must("runuser", "-u", "nobody", "--", "cat", "/var/lib/machinemon-update/metrics/machinemon-update-testd.prom")
	close(released)
	c.ok(machine.WaitFor(t.Context(), "the sender has ended", func() bool {
		return c.property("machinemon-notify@testd.service", "ActiveState") == "failed"
	}))
	mail, told := c.readFile("/var/mail/fake"), c.readFile("/var/mail/told")
	t.Logf("the mail:\n%s\nthe command got:\n%s\nthe metrics:\n%s", mail, told, prom)
	for _, want := range []string{"ARGS -i ops@example.com, USER mm-notify-testd, GROUPS mm-notify-testd, NoNewPrivs: 0", "\nTo: ops@example.com\n", "1.1.0 was rolled back", "1.0.0 runs again"} {
		if !strings.Contains(mail, want) {
			t.Errorf("the mail lacks %q", want)
		}
	}
	for _, want := range []string{"mm-notify-testd\nan argument: testd on ", `"event":"rolled back"`} {
		if !strings.Contains(told, want) {
			t.Errorf("the command did not get %q", want)
		}
	}
	if got := c.property("machinemon-notify@testd.timer", "ActiveState"); got != "active" {
		t.Errorf("the timer of the next try is %s", got)
	}

	// Root alone finds what was kept of the trial.
	last := c.status().Last
	id := last.ID
	kept := c.must("machinemon-update", "history", "testd", id)
	t.Logf("what was kept:\n%s", kept)
	for _, want := range []string{"rolled back", last.Reason, "Before the swap\n  passed ", "In the trial: bad", "After the rollback\n  passed ", "ActiveState=active",
		digest(c.readFile(testdPath)), "testd.service: testd: this release exits at once", "machinemon-swap@testd.service: testd: attempt " + id} {
		if !strings.Contains(kept, want) {
			t.Errorf("%q was not kept", want)
		}
	}
	if r := c.run("runuser", "-u", "nobody", "--", "machinemon-update", "history", "testd", id); r.Code != 0 || strings.Contains(r.Stdout, "Time line") || !strings.Contains(r.Stderr, "only root may see") {
		t.Errorf("another user gets %+v", r)
	}

	// The power fails before the webhook is told.
	c.Yank()
	c.bootAndServe()
	hooks := c.hooks(func() int { return http.StatusOK })
	c.must("systemctl", "start", "machinemon-inform@testd.service") // at boot it may have come before the server
	h := await(c.box, hooks)
	t.Logf("the webhook got %+v", h)
	if h.Event != "rolled back" || h.Target != "testd" || h.Version != "1.1.0" || h.From != "1.0.0" || h.Reason == "" || h.token != "Bearer "+hookToken {
		t.Errorf("the webhook got %+v", h)
	}
	if again := c.readFile("/var/mail/fake"); again != mail {
		t.Errorf("the mail was sent again:\n%s", again)
	}

	c.stopShipped()
	c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
	c.apply(0, "committed 1.2.0")
	if h := await(c.box, hooks); h.Event != "recovered" || h.Version != "1.2.0" {
		t.Errorf("the webhook got %+v", h)
	}
	if said := c.must("machinemon-update", "notify", "--test", "testd"); said != "testd: told by webhook and mail and command\n" {
		t.Errorf("the test says %q", said)
	}
	if h := await(c.box, hooks); h.Event != "test" {
		t.Errorf("the webhook got %+v", h)
	}
	c.must("rm", "/usr/sbin/sendmail")
	c.writeFile("/usr/local/bin/told", "#!/bin/sh\nexit 3\n", 0o755)
	const why = "cannot tell of testd by mail: there is no /usr/sbin/sendmail, and by command: /usr/local/bin/told: exit status 3; it is tried again (hint: install a mail server, such as nullmailer or postfix)\n"
	if r := c.run("machinemon-update", "notify", "--test", "testd"); r.Code != 1 || !strings.Contains(r.Stderr, why) {
		t.Errorf("a test that fails says %+v", r)
	}
	if said := c.must("sh", "-c", "journalctl --no-pager -o export | grep -a "+hookToken+" || true; grep -ras "+hookToken+" /var/lib/machinemon-update /run/machinemon-update || true"); said != "" {
		t.Errorf("the token is in the journal or on the disk:\n%s", said)
	}
}
