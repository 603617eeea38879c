//go:build systemd

package systemtest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// pinAgent makes a machine trust only what the publisher signed.
func (a *edge) pinAgent(p *publisher) {
	a.t.Helper()
	root, err := os.ReadFile(filepath.Join(p.repo, "1.root.json"))
	a.ok(err)
	a.writeFile("/etc/machinemon-update/targets.d/agent.toml.d/trust.toml", "[trust]\nmode = \"tuf\"\n", 0o644)
	a.writeFile("/root/root.json", string(root), 0o600)
	a.must("machinemon-update", "trust", "agent", "/root/root.json", "--sha256", digest(string(root)))
}

// sign publishes a signed release of the client, and copies the publisher's files to the
// gate's directory, the timestamp last.
func (f *fleet) sign(c releases.Client) {
	f.t.Helper()
	p := f.signed
	p.release("publish", p.repo, "--version", c.Version, "--keys", p.keys, "--passphrase-fd", "3", f.pack(c))
	names, err := filepath.Glob(filepath.Join(p.repo, "[0-9a-z]*"))
	f.ok(err)
	for _, name := range append(names, filepath.Join(p.repo, "timestamp.json")) {
		content, err := os.ReadFile(name)
		f.ok(err)
		f.writeFile(filepath.Join(download, filepath.Base(name)), string(content), 0o644)
	}
}

// get requests a file of the gate.
func (f *fleet) get(path string) (status int, body string) {
	f.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(f.certificate)
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return f.Dial(ctx, network, "127.0.0.1:443")
		}}}
	resp, err := client.Get("https://" + monitor + path)
	f.ok(err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	f.ok(err)
	return resp.StatusCode, string(data)
}

// curl stands in for curl -sSL URL [-o FILE], which the machines do not have.
const curl = `#!/bin/sh
out=/run/curl.out
[ "$3" = -o ] && out=$4
/usr/lib/apt/apt-helper -qq -o Acquire::https::CAInfo=/etc/machinemon-update/monitor-ca.pem download-file "$2" "$out" >/dev/null || exit 22
[ "$3" = -o ] || cat "$out"
`

// TestSignedFleet: an agent follows signed releases through the gate, which is in front of
// a MachineMon server with a base path. What MachineMon's own installer gets from the gate
// is the same release, and is recognised as it.
func TestSignedFleet(t *testing.T) {
	once(t)
	t.Parallel()
	f := newFleet(t)
	const old, first, second, third, unseen, last = "v0.1.11", "v0.1.12", "v0.1.13", "v0.1.14", "v0.1.15", "v0.1.16"
	f.base, f.signed = "/monitor", newPublisher(t)
	f.server.ExternalURL = "http://10.9.1.1:8080" // MachineMon's own address, past the gate
	f.writeFile("/etc/machinemon-update/checkin-gate.toml", f.readFile("/etc/machinemon-update/checkin-gate.toml")+
		"external_url = \"https://"+monitor+f.base+"\"\n", 0o644)
	outdated, err := os.ReadFile(f.pack(releases.Client{Version: old}))
	f.ok(err)
	f.server.Host("machinemon-client-linux-amd64.tar.gz", outdated)
	f.sign(releases.Client{Version: old})
	a := f.join("root", old)
	a.must("systemctl", "start", "machinemon-client.service")
	f.await(a, old, func(h heard) bool { return h.version == old && h.status.Installed == old })

	f.step("what only the gate can have", func() {
		if status, got := f.get(f.base + "/download/2.root.json"); status != 404 {
			f.t.Errorf("the next root: %d %s", status, got)
		}
	})
	f.step("a signed release", func() {
		f.sign(releases.Client{Version: first})
		f.await(a, first, updated(first))
		f.shows(a, first, done, first, "")
		if got := a.must("machinemon-update", "status", "agent"); !strings.Contains(got, " signed ") {
			f.t.Errorf("status shows %s", got)
		}
		if floor := a.readFile("/var/lib/machinemon-update/swap/agent/floor.json"); !strings.Contains(floor, `"sequence": 2`) {
			f.t.Errorf("the floor is %s", floor)
		}
	})
	f.step("MachineMon's installer", func() {
		a.must("machinemon-update", "disable", "agent")
		a.must("systemctl", "stop", "machinemon-checkin-relay.socket") // no directive starts a check beside the one below
		f.sign(releases.Client{Version: second})
		a.writeFile("/usr/local/bin/curl", curl, 0o755)
		f.must("/usr/lib/machinemon-update/checkin-gate", "directives", "off")
		a.must("sh", "-c", "curl -sSL https://"+monitor+f.base+"/download/install.sh >/run/install.sh")
		if r := a.run("sh", "/run/install.sh", "--upgrade"); r.Code == 0 {
			f.t.Errorf("while updates are stopped: %+v", r)
		}
		(&agent{box: a.box}).runs(first)
		f.must("/usr/lib/machinemon-update/checkin-gate", "directives", "on")
		a.must("sh", "/run/install.sh", "--upgrade")
		(&agent{box: a.box}).runs(second)
		(&agent{box: a.box}).asks(0, "agent: already current", "check", "agent")
		for _, argv := range [][]string{{"machinemon-update", "status", "agent"}, {"machinemon-update", "check", "agent"}} {
			if got := a.must(argv...); strings.Contains(got, "by hand") || !strings.Contains(got, second) {
				f.t.Errorf("%q shows %s", argv, got)
			}
		}
	})
	f.step("the next release, by a directive", func() {
		a.must("machinemon-update", "enable", "agent")
		a.must("systemctl", "start", "machinemon-checkin-relay.socket")
		f.sign(releases.Client{Version: third})
		f.await(a, third, updated(third))
		f.shows(a, third, done, third, "")
	})
	f.step("a release that no check has seen", func() {
		a.must("machinemon-update", "disable", "agent")
		a.must("systemctl", "stop", "machinemon-checkin-relay.socket") // no directive starts a check
		f.sign(releases.Client{Version: unseen})
		a.must("sh", "-c", "curl -sSL https://"+monitor+f.base+"/download/install.sh >/run/install.sh && sh /run/install.sh --upgrade")
		f.sign(releases.Client{Version: last})
		(&agent{box: a.box}).runs(unseen)
		(&agent{box: a.box}).asks(3, last, "check", "agent")
		a.must("machinemon-update", "enable", "agent")
		a.must("systemctl", "start", "machinemon-checkin-relay.socket")
		f.await(a, last, updated(last))
	})
	f.step("no gate", func() {
		e := &edge{box: f.box}
		f.must("systemctl", "stop", "machinemon-fetch@agent.timer", "machinemon-fetch@agent.service") // it may be checking now
		f.writeFile("/etc/machinemon-update/targets.d/agent.toml", "[source]\nurl = \"http://127.0.0.1:8080/download/client-manifest.json\"\n", 0o644)
		for _, signs := range []bool{false, true} {
			if signs {
				e.pinAgent(f.signed)
			}
			(&agent{box: f.box}).asks(7, "the server answered 400 Bad Request (hint: source.url must be the address of a manifest, a JSON file, and not of a directory or page; a MachineMon server has none, unless machinemon-checkin-gate is in front of it)", "check", "agent")
		}
	})
}
