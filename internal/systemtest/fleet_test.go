//go:build systemd

package systemtest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// fleet is a MachineMon server behind the gate on one machine, and agents on others that
// reach it by cable through the relay.
type fleet struct {
	*box                // the server's machine
	golden      string  // a check-in of MachineMon's client
	certificate []byte  // the gate's certificate
	agents      []*edge // their host names and client IDs: a1 is c-1
	server      *testkit.MachineMon
	base        string       // the path of the monitor's address
	signed      *publisher   // of the releases; nil: they are not signed
	arrived     atomic.Int64 // check-ins at the server

	mu    sync.Mutex
	heard []heard
}

// heard is a check-in that reached the MachineMon server.
type heard struct {
	host, version string
	status        checkin.Status
}

// edge is an agent's machine.
type edge struct {
	*box
	name, id, user string
}

const (
	relayAt  = "127.0.0.1:478"
	download = "/var/lib/machinemon-update/download"
)

func newFleet(t *testing.T) *fleet {
	t.Helper()
	golden, err := os.ReadFile("../checkin/gate/testdata/request.json")
	if err != nil {
		t.Fatal(err)
	}
	// Of the golden check-in's checks the stand-in can only run the first.
	checks := strings.Index(string(golden), `,{"friendly_name":"updates"`)
	f := &fleet{box: boot(t), golden: strings.Replace(string(golden)[:checks], `\"df\"`, `\"echo ok\"`, 1) + "]}"}
	var key []byte
	f.certificate, key = selfSigned(t, monitor)
	f.writeFile("/etc/ssl/gate.pem", string(f.certificate), 0o644)
	f.writeFile("/etc/ssl/gate.key", string(key), 0o644)
	f.writeFile("/etc/machinemon-update/checkin-gate.toml", "tls_certificate = \"/etc/ssl/gate.pem\"\ntls_key = \"/etc/ssl/gate.key\"\n", 0o644)
	f.writeFile("/etc/systemd/system/machinemon-checkin-gate.socket.d/port.conf", "[Socket]\nListenStream=\nListenStream=443\n", 0o644)
	l, err := f.Listen("tcp", "127.0.0.1:8080")
	f.ok(err)
	f.server = &testkit.MachineMon{ClientPassword: password, AdminPassword: "admin", CheckIn: f.checkIn}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/api/v1/checkin" {
			f.arrived.Add(1)
		}
		f.server.ServeHTTP(w, q)
	})}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	f.must("systemctl", "daemon-reload")
	f.must("systemctl", "enable", "--now", "machinemon-checkin-gate.socket", "machinemon-checkin-gate-local.socket")
	return f
}

// checkIn answers a check-in. One that differs from that of MachineMon's client does not
// get status 200.
func (f *fleet) checkIn(q *http.Request, body []byte) (status int, text string) {
	var in struct{ Hostname, Client_Version, Client_ID string }
	json.Unmarshal(body, &in)
	a := f.edge(in.Hostname)
	if a == nil || in.Client_ID != a.id && in.Client_ID != "" || string(body) != f.request(in.Hostname, in.Client_Version, in.Client_ID) ||
		q.Header.Get("Content-Type") != "application/json" {
		f.t.Errorf("this is no check-in: %s", body)
		return http.StatusBadRequest, "{}"
	}
	h := heard{host: in.Hostname, version: in.Client_Version}
	h.status, _ = checkin.ParseHeader(q.Header.Get("X-Machinemon-Update"))
	f.mu.Lock()
	f.heard = append(f.heard, h)
	f.mu.Unlock()
	return http.StatusOK, answer(a.id)
}

// answer returns MachineMon's golden answer for this client.
func answer(id string) string {
	return `{"client_id":"` + id + `","next_checkin_seconds":120,"server_time":"2026-11-01T12:00:00Z"}` + "\n"
}

// request returns the golden check-in for this client.
func (f *fleet) request(host, version, id string) string {
	return strings.NewReplacer(`"web-1"`, `"`+host+`"`, `"v0.1.11"`, `"`+version+`"`, `"c-1"`, `"`+id+`"`).Replace(f.golden)
}

func (f *fleet) edge(host string) *edge {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.agents {
		if a.name == host {
			return a
		}
	}
	return nil
}

// plug adds an agent's machine with a client of this version, which has no configuration
// yet, and connects it to the server.
func (f *fleet) plug(user, version string) (a *edge, home string) {
	f.t.Helper()
	return f.plugIn(boot(f.t), user, version)
}

// plugIn is plug for a machine that has booted.
func (f *fleet) plugIn(b *box, user, version string) (a *edge, home string) {
	f.t.Helper()
	n := len(f.agents) + 1
	a = &edge{box: b, name: fmt.Sprintf("a%d", n), id: fmt.Sprintf("c-%d", n), user: user}
	f.ok(f.Connect(f.t.Context(), a.name, fmt.Sprintf("10.9.%d.1/24", n), a.Machine, "server", fmt.Sprintf("10.9.%d.2/24", n)))
	f.mu.Lock()
	f.agents = append(f.agents, a)
	f.mu.Unlock()

	a.must("hostname", a.name)
	home = "/root"
	if user != "root" {
		a.must("useradd", "--create-home", user)
		home = "/home/" + user
	}
	a.writeFile("/etc/hosts", fmt.Sprintf("127.0.0.1 localhost\n10.9.%d.1 %s\n", n, monitor), 0o644)
	a.writeFile("/etc/machinemon-update/monitor-ca.pem", string(f.certificate), 0o644)
	a.writeFile(clientPath, string(build(f.t, releases.Client{Version: version})), 0o755)
	return a, home
}

// join adds an agent's machine with a client of this version, which does not run yet, and
// with the relay and the target set up as the manual says.
func (f *fleet) join(user, version string) *edge {
	f.t.Helper()
	a, home := f.plug(user, version)
	a.writeFile("/etc/systemd/system/machinemon-client.service", "[Service]\nType=simple\nExecStart="+clientPath+"\nRestart=always\nRestartSec=10\nUser="+user+"\n", 0o644)
	a.configureFor("http://"+relayAt, home)
	a.writeFile("/etc/machinemon-update/checkin-relay.toml", "server_url = \"https://"+monitor+f.base+"/\"\nca_file = \"/etc/machinemon-update/monitor-ca.pem\"\n", 0o644)
	a.writeFile("/etc/machinemon-update/targets.d/agent.toml.d/relay.toml", `[source]
ca_file = "/etc/machinemon-update/monitor-ca.pem"
[source.url_from]
file = "/etc/machinemon-update/checkin-relay.toml"
key = "server_url"
append = "/download/client-manifest.json"
[health]
settle_seconds = 1
`, 0o644)
	if f.signed != nil {
		a.pinAgent(f.signed)
	}
	(&chain{box: a.box}).shortPause() // also reloads systemd
	a.must("machinemon-update", "enable", "agent")
	a.stopShipped() // only directives may start a check
	a.must("systemctl", "enable", "--quiet", "--now", "machinemon-checkin-relay.socket")
	return a
}

// configureFor writes the configuration of the edge's client.
func (a *edge) configureFor(server, home string) {
	a.t.Helper()
	a.writeFile(home+"/.config/machinemon/client.toml", fmt.Sprintf(
		"server_url = %q\npassword = %q\ncheck_in_interval = 1\n[[check]]\ntype = \"script\"\nfriendly_name = \"disk\"\nscript_path = \"echo ok\"\n", server, password), 0o600)
	a.must("chown", "-R", a.user+":", home+"/.config")
}

// publish publishes a release of the client in the directory that the gate serves. options
// are further ones of the command.
func (f *fleet) publish(c releases.Client, options ...string) {
	f.t.Helper()
	archive := f.pack(c)
	content, err := os.ReadFile(archive)
	f.ok(err)
	f.writeFile("/srv/"+filepath.Base(archive), string(content), 0o644)
	f.must(append([]string{"machinemon-release", "publish", download, "--product", "machinemon-client", "--version", c.Version, "--deltas=0", "/srv/" + filepath.Base(archive)}, options...)...)
}

// pack returns the path of the archive of a client.
func (f *fleet) pack(c releases.Client) string {
	f.t.Helper()
	const name = "machinemon-client-linux-amd64"
	archive := filepath.Join(f.t.TempDir(), name+".tar.gz")
	f.ok(releases.Pack(archive, releases.File{Name: name, Content: build(f.t, c)}))
	return archive
}

// await waits for such a check-in of an agent that arrives after the call.
func (f *fleet) await(a *edge, what string, is func(heard) bool) {
	f.t.Helper()
	from := f.checkIns()
	f.ok(machine.WaitFor(f.t.Context(), a.name+" checks in with "+what, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, h := range f.heard[from:] {
			if h.host == a.name && is(h) {
				return true
			}
		}
		return false
	}))
}

func (f *fleet) checkIns() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.heard)
}

// seen is an agent as the gate's API reports it.
type seen struct {
	Hostname, Platform, Version, Reason, Rejected string
	Result                                        string `json:"last_result"`
	About                                         string `json:"last_version"`
}

// shows waits until the gate's API and page show an agent so. results may hold several
// results, as in "committed|already current". It must wait because the gate writes a
// report after it has answered the check-in.
func (f *fleet) shows(a *edge, version, results, about, reason string) {
	f.t.Helper()
	var last, result string
	err := machine.WaitFor(f.t.Context(), "the gate shows "+version+", "+results, func() bool {
		var o struct{ Clients []seen }
		f.ok(json.Unmarshal([]byte(f.admin("GET", "/api/v1/admin/updates", "")), &o))
		last = fmt.Sprintf("%+v", o)
		for _, c := range o.Clients {
			if c.Hostname == a.name && c.Platform == "linux-amd64" && c.Version == version && c.About == about && strings.Contains(c.Reason, reason) {
				result = c.Result
				return result != "" && strings.Contains(results, result)
			}
		}
		return false
	})
	if err != nil {
		f.t.Fatalf("%v: it shows %s", err, last)
	}
	page := f.admin("GET", "/updates", "")
	for _, want := range []string{a.name, version, `<bdi>` + result + `</bdi>`, reason} {
		if !strings.Contains(page, want) {
			f.t.Errorf("the page does not show %s: %s", want, page)
		}
	}
}

// admin sends a request to the gate as an administrator, over TLS, and expects status 200.
func (f *fleet) admin(method, path, body string) string {
	f.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(f.certificate)
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return f.Dial(ctx, network, "127.0.0.1:443")
		}}}
	q, err := http.NewRequestWithContext(f.t.Context(), method, "https://"+monitor+path, strings.NewReader(body))
	f.ok(err)
	q.SetBasicAuth("admin", "admin")
	resp, err := client.Do(q)
	f.ok(err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	f.ok(err)
	if resp.StatusCode != http.StatusOK {
		f.t.Errorf("%s %s: %s %s", method, path, resp.Status, data)
	}
	return string(data)
}

// post sends a check-in to an agent's relay as root of that machine.
func (f *fleet) post(a *edge, version string) (status int, got string, err error) {
	client := &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: a.Dial}}
	q, err := http.NewRequest(http.MethodPost, "http://"+relayAt+"/api/v1/checkin", strings.NewReader(f.request(a.name, version, a.id)))
	if err != nil {
		return 0, "", err
	}
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("X-Client-Password", password)
	resp, err := client.Do(q)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}
