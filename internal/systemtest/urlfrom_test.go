//go:build systemd

package systemtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

const (
	clientPath   = "/usr/local/bin/machinemon-client"
	clientConfig = "/root/.config/machinemon/client.toml"
	monitor      = "monitor.example.com" // the name of both servers, which differ in the port
	password     = "correct-horse-battery"
)

// agent is a machine with a stand-in for MachineMon's client, installed as that installs
// itself, and with its shipped target.
type agent struct {
	*box
	certificate tls.Certificate
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	a := &agent{box: boot(t)}
	certificate, key := selfSigned(t, monitor)
	var err error
	a.certificate, err = tls.X509KeyPair(certificate, key)
	a.ok(err)
	a.writeFile("/etc/ssl/certs/ca-certificates.crt", string(certificate), 0o644)
	a.writeFile("/etc/hosts", "127.0.0.1 localhost "+monitor+"\n", 0o644)
	return a
}

// selfSigned returns a certificate of these names, and its key.
func selfSigned(t *testing.T, names ...string) (certificate, key []byte) {
	t.Helper()
	return signedUntil(t, time.Now().Add(time.Hour), names...)
}

func signedUntil(t *testing.T, end time.Time, names ...string) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: names, IsCA: true, BasicConstraintsValid: true,
		NotBefore: end.Add(-2 * time.Hour), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// install installs a program in the client's place.
func (a *agent) install(program []byte) {
	a.t.Helper()
	a.writeFile(clientPath, string(program), 0o755)
	a.writeFile("/etc/systemd/system/machinemon-client.service", strings.NewReplacer(testdPath, clientPath, "[Service]", "[Service]\nUser=root").Replace(testdUnit), 0o644) // User= sets HOME
	a.must("systemctl", "daemon-reload")
	a.must("systemctl", "start", "machinemon-client.service")
}

// installClient installs a client for the existing configuration, and waits for its first
// check-in.
func (a *agent) installClient(version string) {
	a.t.Helper()
	since := a.cursor()
	a.install(build(a.t, releases.Client{Version: version}))
	a.checksIn(since)
}

// checksIn waits for a check-in of the client.
func (a *agent) checksIn(since machine.Cursor) {
	a.t.Helper()
	a.await(since, func(e machine.Entry) bool { return strings.Contains(e["MESSAGE"], "check-in successful") })
}

// runs fails the test unless the unit runs this version of the client.
func (a *agent) runs(version string) {
	a.t.Helper()
	if got := a.must(clientPath, "--version"); !strings.Contains(got, "machinemon "+version+" ") {
		a.t.Errorf("installed is %s, want %s", got, version)
	}
	a.must("test", fmt.Sprintf("/proc/%s/exe", a.property("machinemon-client.service", "MainPID")), "-ef", clientPath)
}

// configure writes the client's configuration for the server on a port.
func (a *agent) configure(port int, more string) {
	a.t.Helper()
	a.writeFile(clientConfig, fmt.Sprintf("server_url = \"https://%s:%d/mon/\"\npassword = %q\n%s", monitor, port, password, more), 0o600)
}

// checkInAt is the path of the client's check-ins, with the URL that configure writes.
const checkInAt = "/mon//api/v1/checkin"

// accepts answers a check-in, without a client_id for the client to save.
func accepts(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	if r.Method != http.MethodPost || r.Header.Get("X-Client-Password") != password {
		http.Error(w, "unauthorized", http.StatusUnauthorized)
		return
	}
	io.WriteString(w, `{"next_checkin_seconds":120,"server_time":"2026-11-01T12:00:00Z"}`+"\n")
}

// asked returns the requests for releases.
func asked(s *releases.Server) []releases.Request {
	return slices.DeleteFunc(s.Requests(), func(r releases.Request) bool { return r.Path == checkInAt })
}

// source returns a MachineMon server over https that accepts check-ins and serves the
// releases in dir.
func (a *agent) source(port int) (server *releases.Server, dir string) {
	a.t.Helper()
	root := a.t.TempDir()
	dir = filepath.Join(root, "mon", "download")
	a.ok(os.MkdirAll(dir, 0o755))
	l, err := a.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	a.ok(err)
	server, err = releases.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{a.certificate}}), root)
	a.ok(err)
	server.Break(checkInAt, accepts)
	a.t.Cleanup(func() { server.Close() })
	return server, dir
}

// release publishes a client in dir.
func (a *agent) release(dir string, client releases.Client) {
	a.t.Helper()
	const name = "machinemon-client-linux-amd64"
	archive := filepath.Join(a.t.TempDir(), name+".tar.gz")
	a.ok(releases.Pack(archive, releases.File{Name: name, Content: build(a.t, client)}))
	a.ok(releases.Publish(a.t.Context(), lab.Installed("/usr/bin/machinemon-release"), dir, client.Version, archive))
}

// tick runs the unit that the timer starts.
func (a *agent) tick() {
	a.t.Helper()
	a.must("systemctl", "start", "machinemon-fetch@agent.service")
}

// asks runs the command, which must end with this status and print this text.
func (a *agent) asks(exit int, says string, argv ...string) {
	a.t.Helper()
	r := a.run(append([]string{"machinemon-update"}, argv...)...)
	if r.Code != exit || !strings.Contains(r.Stdout+r.Stderr, says) {
		a.t.Errorf("%q ended with %d, want %d and %q:\n%s%s", argv, r.Code, exit, says, r.Stdout, r.Stderr)
	}
}

// uses asserts what status shows about the source.
func (a *agent) uses(url, changed string) {
	a.t.Helper()
	var all struct {
		Targets []struct {
			Source  struct{ URL string }
			Changed string `json:"source_changed"`
		}
	}
	a.ok(json.Unmarshal([]byte(a.must("machinemon-update", "status", "--json", "agent")), &all))
	if len(all.Targets) != 1 || all.Targets[0].Source.URL != url || !strings.Contains(all.Targets[0].Changed, changed) || changed == "" && all.Targets[0].Changed != "" {
		a.t.Errorf("status shows %+v, want %q and %q", all.Targets, url, changed)
	}
}

// TestNoAgent: a machine has the agent's package and no agent. Nothing fails and nothing
// is done, and commands report the cause.
func TestNoAgent(t *testing.T) {
	once(t)
	t.Parallel()
	a := newAgent(t)
	a.must("systemctl", "is-active", "machinemon-fetch@agent.timer")
	a.tick()
	a.must("systemctl", "start", "machinemon-update.service")
	a.asks(8, "machinemon-client.service is not installed", "apply", "agent")
	a.asks(2, clientConfig+": does not exist (hint: configure the program of machinemon-client.service, or set source.url)", "check", "agent")
	a.asks(2, clientConfig+": does not exist", "enable", "agent")
	a.asks(0, clientConfig+": does not exist", "status", "agent")
	a.uses("", clientConfig+": does not exist")
	if failed := a.must("systemctl", "--failed", "--no-legend"); failed != "" {
		t.Errorf("failed: %s", failed)
	}
	// Now the program is installed without its file, which is a failure.
	a.install(build(t, releases.Daemon{Version: "1.0.0"}))
	a.awaitTestd("1.0.0")
	a.asks(2, clientConfig+": does not exist", "apply", "agent")
	a.tick()
}

// TestSourceOfAgent shows that updates use the source in the agent's configuration, as root last read it.
func TestSourceOfAgent(t *testing.T) {
	once(t)
	t.Parallel()
	a := newAgent(t)
	a.configure(9001, "[[process]]\nfriendly_name = \"nginx\"\n")
	const one, two = "https://" + monitor + ":9001/mon/download/client-manifest.json", "https://" + monitor + ":9002/mon/download/client-manifest.json"
	first, firstDir := a.source(9001)
	a.installClient("1.0.0")
	a.release(firstDir, releases.Client{Version: "1.1.0"})

	// No command has confirmed this source yet.
	a.tick()
	a.asks(0, "no source is known yet (hint: sudo machinemon-update check agent finds it)", "history", "agent")
	a.uses("", "no source is used yet: "+clientConfig+" now says "+one)
	if r := asked(first); len(r) > 0 {
		t.Errorf("asked: %+v", r)
	}

	a.asks(0, "scheduled runs install", "enable", "agent")
	a.must("systemctl", "stop", "machinemon-fetch@agent.timer") // only the runs below may start
	a.uses(one, "")
	since := a.cursor()
	a.tick()
	a.awaitEvent(since, "machinemon-commit@agent.service started")
	a.runs("1.1.0")
	// Every user may run check, and learns nothing about the file.
	if r := a.run("runuser", "-u", "nobody", "--", "machinemon-update", "check", "agent"); r.Code != 0 || r.Stdout != "agent: already current (1.1.0)\n" {
		t.Errorf("nobody's check: %+v", r)
	}

	// The agent moves to another server; updates follow after a command by root.
	second, secondDir := a.source(9002)
	a.release(secondDir, releases.Client{Version: "1.3.0"})
	a.release(firstDir, releases.Client{Version: "1.2.0"})
	a.configure(9002, "")
	a.uses(one, "scheduled runs use "+one+": "+clientConfig+" now says "+two)
	if out := a.must("runuser", "-u", "nobody", "--", "machinemon-update", "status", "agent"); strings.Contains(out, "9002") {
		t.Errorf("nobody is told: %s", out)
	}
	since = a.cursor()
	a.tick()
	a.awaitEvent(since, "machinemon-commit@agent.service started")
	a.runs("1.2.0")
	if r := asked(second); len(r) > 0 {
		t.Errorf("asked: %+v", r)
	}
	a.asks(0, "committed 1.3.0 (was 1.2.0)", "apply", "agent")
	a.uses(two, "")
	a.runs("1.3.0")

	// A configuration that cannot be trusted does not change the source.
	requests := len(asked(second))
	a.configure(9001, "insecure_skip_tls = true\n")
	a.asks(2, clientConfig+": insecure_skip_tls: checksum trust needs a server that proves its identity", "apply", "agent")
	a.configure(9001, "")
	a.must("chmod", "g+w", clientConfig)
	a.asks(2, clientConfig+" is writable by its group", "enable", "agent")
	a.must("chmod", "o+w", "/root/.config")
	a.asks(2, "/root/.config is writable by everyone", "apply", "agent")
	a.must("chmod", "o-w", "/root/.config")
	a.must("sh", "-c", "mv "+clientConfig+" /root/real.toml && ln -s /root/real.toml "+clientConfig)
	a.asks(2, clientConfig+": must be a regular file, not a symlink", "check", "agent")
	a.must("rm", clientConfig)
	a.writeFile(clientConfig, "password = "+password+"\n", 0o600)
	a.asks(2, clientConfig+":1: is not valid TOML", "apply", "agent")
	a.uses(two, "is not valid TOML")
	if n := len(asked(second)); n != requests {
		t.Errorf("asked: %+v", asked(second)[requests:])
	}
	a.tick()
	if n := len(asked(second)); n == requests {
		t.Error("the scheduled run did not ask")
	}
	a.asks(0, "already current", "history", "agent")

	// The password was not copied anywhere.
	for _, where := range []string{"grep -rl " + password + " /var/lib/machinemon-update /run /etc /tmp", "journalctl --boot=all --output=export | grep " + password} {
		if r := a.run("sh", "-c", where); r.Stdout != "" || r.Code != 1 {
			t.Errorf("%s: %+v", where, r)
		}
	}
	if failed := a.must("systemctl", "--failed", "--no-legend"); failed != "" {
		t.Errorf("failed: %s", failed)
	}
}
