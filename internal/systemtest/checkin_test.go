//go:build systemd

package systemtest

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// mmServer starts a stand-in for machinemon-server at its default address.
func (b *box) mmServer() {
	b.t.Helper()
	l, err := b.Listen("tcp", "127.0.0.1:8080")
	b.ok(err)
	s := &http.Server{Handler: machineMon()}
	go s.Serve(l)
	b.t.Cleanup(func() { s.Close() })
}

func machineMon() *testkit.MachineMon {
	return &testkit.MachineMon{ClientPassword: "secret", AdminPassword: "admin", CheckIn: func(*http.Request, []byte) (int, string) {
		return http.StatusOK, answer("c-1")
	}}
}

// ask sends a request to the gate, as an agent or as the administrator.
func (b *box) ask(method, path, body string, admin bool) (status int, answer string) {
	b.t.Helper()
	return b.askAt("127.0.0.1:8079", "", method, path, body, admin)
}

// askAt sends a request to the program at this address: the gate, or a relay before it. It
// comes as from a client's address, unless that is "".
func (b *box) askAt(address, client, method, path, body string, admin bool) (status int, answer string) {
	b.t.Helper()
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return b.Dial(ctx, network, address)
	}}}
	q, err := http.NewRequestWithContext(b.t.Context(), method, "http://monitor.example.com"+path, strings.NewReader(body))
	b.ok(err)
	q.Header.Set("X-Client-Password", "secret")
	if client != "" {
		q.Header.Set("X-Forwarded-For", client)
	}
	if admin {
		q.SetBasicAuth("admin", "admin")
	}
	resp, err := web.Do(q)
	b.ok(err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	b.ok(err)
	return resp.StatusCode, string(data)
}

// TestCheckinGate: an agent checks in through the gate and gets a directive; the page and
// the API show the agent, and the administrator's switch stops directives.
func TestCheckinGate(t *testing.T) {
	t.Parallel()
	b := boot(t)
	b.mmServer()
	const units = "machinemon-checkin-gate.socket machinemon-checkin-gate-local.socket"
	for unit := range strings.FieldsSeq(units) {
		if r := b.run("systemctl", "is-enabled", unit); r.Stdout != "disabled\n" {
			t.Errorf("%s is %+v after the installation", unit, r)
		}
		if r := b.run("systemctl", "is-active", unit); r.Stdout != "inactive\n" {
			t.Errorf("%s is %+v after the installation", unit, r)
		}
	}
	digest := strings.Repeat("a", 64)
	b.writeFile("/var/lib/machinemon-update/download/client-manifest.json", `{"schema":1,"version":"v0.1.12","platforms":{"linux-amd64":{"file":"a.tar.gz","sha256":"`+digest+`","size":7}}}`, 0o644)
	b.must(append([]string{"systemctl", "enable", "--now"}, strings.Fields(units)...)...)

	said := `machinemon-update {\\\"target\\\":\\\"agent\\\",\\\"result\\\":\\\"rolled back\\\",\\\"version\\\":\\\"v0.1.12\\\",\\\"reason\\\":\\\"it died\\\"}\\n`
	request := `{"hostname":"web-1","os":"linux","arch":"amd64","client_version":"v0.1.11","client_id":"","checks":[{"friendly_name":"updates","check_type":"script","healthy":false,"state":"{\"exit_code\":1,\"output\":\"` + said + `\"}"}]}`
	const plain = `{"client_id":"c-1","next_checkin_seconds":120,"server_time":"2026-11-01T12:00:00Z"}` + "\n"
	checksIn := func(want string) {
		t.Helper()
		if status, got := b.ask("POST", "/api/v1/checkin", request, false); status != 200 || got != want {
			t.Errorf("the check-in: %d %s, want %s", status, got, want)
		}
	}
	directive := strings.TrimSuffix(plain, "}\n") + `,"update_version":"v0.1.12","update_url":"http://monitor.example.com/download/a.tar.gz","update_sha256":"` + digest + `","update_size":7}` + "\n"
	checksIn(directive)
	if status, got := b.ask("GET", "/healthz", "", false); status != 200 || got != `{"status":"ok"}` {
		t.Errorf("%d %s", status, got)
	}
	if status, _ := b.ask("GET", "/updates", "", false); status != 401 {
		t.Errorf("the page for everybody: %d", status)
	}
	// A restart completes pending writes to the database.
	b.must("systemctl", "restart", "machinemon-checkin-gate.service")
	for path, want := range map[string]string{"/updates": `<bdi>rolled back</bdi>`, "/api/v1/admin/updates": `"last_result": "rolled back"`} {
		if status, got := b.ask("GET", path, "", true); status != 200 || !strings.Contains(got, want) || !strings.Contains(got, "web-1") {
			t.Errorf("%s: %d %s", path, status, got)
		}
	}

	b.step("the administrator's switch", func() {
		if status, got := b.ask("PUT", "/api/v1/admin/updates/settings", `{"directives": false}`, true); status != 200 {
			b.t.Errorf("%d %s", status, got)
		}
		checksIn(plain)
		if _, got := b.ask("GET", "/download/client-manifest.json", "", false); !strings.Contains(got, `"disabled": true`) {
			b.t.Errorf("the manifest is %s", got)
		}
	})
	b.step("root's switch", func() {
		const command = "/usr/lib/machinemon-update/checkin-gate"
		if got := b.must(command, "directives"); !strings.Contains(got, "directives are off since ") || !strings.Contains(got, ", by admin from 127.0.0.1\n") {
			b.t.Error(got)
		}
		if got := b.must(command, "directives", "on"); !strings.Contains(got, "directives are on since ") || !strings.Contains(got, ", by root on this machine\n") {
			b.t.Error(got)
		}
		checksIn(directive)
		if r := b.run("setpriv", "--reuid=nobody", "--clear-groups", command, "directives"); r.Code != 1 || !strings.Contains(r.Stderr, "permission denied (hint: ask as root") {
			b.t.Errorf("another user than root asks: %+v", r)
		}
		// A collector that may read metrics may not turn the switch.
		b.must("chmod", "666", "/run/machinemon-checkin-gate.socket")
		if r := b.run("setpriv", "--reuid=nobody", "--clear-groups", command, "directives", "off"); r.Code != 1 || !strings.Contains(r.Stderr, "only root may") {
			b.t.Errorf("nobody's: %+v", r)
		}
	})
	b.step("a configuration that cannot be used", func() {
		const service, config = "machinemon-checkin-gate.service", "/etc/machinemon-update/checkin-gate.toml"
		good := b.readFile(config)
		b.writeFile(config, "upstrem = \"x\"\n", 0o644)
		b.run("systemctl", "restart", service)
		// This is more often than systemd's default limit of starts allows.
		b.awaitProperty(service, "NRestarts", func(s string) bool { n, _ := strconv.Atoi(s); return n > 6 })
		b.writeFile(config, good, 0o644)
		checksIn(directive)
	})
	b.step("MachineMon with a certificate of its own", func() {
		certificate, key := selfSigned(b.t, monitor)
		pair, err := tls.X509KeyPair(certificate, key)
		b.ok(err)
		l, err := b.Listen("tcp", "127.0.0.1:8443")
		b.ok(err)
		s := &http.Server{Handler: machineMon()}
		go s.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}}))
		t.Cleanup(func() { s.Close() })
		b.writeFile("/etc/hosts", "127.0.0.1 localhost "+monitor+"\n", 0o644)
		b.writeFile("/root/.local/share/machinemon/certs/selfsigned.crt", string(certificate), 0o600)
		// The next two are the manual's.
		b.writeFile("/etc/systemd/system/machinemon-checkin-gate.service.d/upstream.conf",
			"[Service]\nLoadCredential=upstream.pem:/root/.local/share/machinemon/certs/selfsigned.crt\n", 0o644)
		b.writeFile("/etc/machinemon-update/checkin-gate.toml", "upstream = \"https://"+monitor+":8443\"\n"+
			"upstream_ca_file = \"/run/credentials/machinemon-checkin-gate.service/upstream.pem\"\n", 0o644)
		b.must("systemctl", "daemon-reload")
		b.must("systemctl", "restart", "machinemon-checkin-gate.service")
		checksIn(directive)
	})
	b.step("another port, while the gate runs", func() {
		since := b.cursor()
		b.writeFile("/etc/systemd/system/machinemon-checkin-gate.socket.d/port.conf", "[Socket]\nListenStream=\nListenStream=127.0.0.1:443\n", 0o644)
		b.must("systemctl", "daemon-reload")
		b.run("systemctl", "restart", "machinemon-checkin-gate.service") // which finds no socket
		var hint string
		b.await(since, func(e machine.Entry) bool {
			_, hint, _ = strings.Cut(e["MESSAGE"], "cannot serve without a socket (hint: ")
			return hint != ""
		})
		b.must("sh", "-c", strings.TrimSuffix(hint, ")"))
		if status, got := b.askAt("127.0.0.1:443", "", "GET", "/healthz", "", false); status != 200 {
			b.t.Errorf("%d %s", status, got)
		}
	})
	b.step("gone", func() {
		b.aptGet("purge", "machinemon-checkin")
		if r := b.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "machinemon-checkin*"); r.Stdout != "" {
			b.t.Errorf("active are %s", r.Stdout)
		}
		left := b.find("-name", "*checkin*", "!", "-path", "/var/lib/dpkg/*", "!", "-path", fmt.Sprintf("%s*", debsInside))
		if len(left) > 0 || strings.Contains(b.accounts(), "machinemon-checkin") {
			b.t.Errorf("left behind: %q", left)
		}
		b.must("test", "-f", "/var/lib/machinemon-update/download/client-manifest.json")
	})
}
