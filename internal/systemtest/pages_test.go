//go:build systemd

package systemtest

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

const (
	repository  = "machinemon.github.io" // of the packages
	publisherAt = "releases.example.com"
	downloadsAt = "example.com"
	othersAt    = "127.0.0.2" // the address of these names
)

// serveNames serves the directory repo as the packages' repository, and the files in the
// machine's /var/www as the other names, by https.
func (b *box) serveNames(repo string) {
	b.t.Helper()
	certificate, key := selfSigned(b.t, repository, publisherAt, downloadsAt)
	pair, err := tls.X509KeyPair(certificate, key)
	b.ok(err)
	l, err := b.Listen("tcp", othersAt+":443")
	b.ok(err)
	files := http.FileServer(http.Dir(repo))
	s := releases.ServeBy(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}}), http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Host == repository {
			http.StripPrefix("/machinemon-update", files).ServeHTTP(w, q)
			return
		}
		content, err := b.Machine.ReadFile(path.Join("/var/www", path.Clean("/"+q.URL.Path)))
		if err != nil {
			http.NotFound(w, q)
			return
		}
		http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(content))
	}))
	b.t.Cleanup(func() { s.Close() })
	const bundle = "/etc/ssl/certs/ca-certificates.crt"
	b.writeFile(bundle, b.readFile(bundle)+string(certificate), 0o644)
	b.writeFile("/etc/hosts", "127.0.0.1 localhost vm "+monitor+"\n"+othersAt+" "+strings.Join([]string{repository, publisherAt, downloadsAt}, " ")+"\n", 0o644)
}

// packed returns an archive of one file.
func packed(t *testing.T, name string, content []byte) []byte {
	t.Helper()
	archive := filepath.Join(t.TempDir(), "a.tar.gz")
	testkit.Must(t, releases.Pack(archive, releases.File{Name: name, Content: content}))
	packed, err := os.ReadFile(archive)
	testkit.Must(t, err)
	return packed
}

// TestReadme follows README.md on a plain machine, and then the page for publishers.
func TestReadme(t *testing.T) {
	t.Parallel()
	b := bootBare(t)
	repo := newAptRepo(t)
	repo.publish(repo.key("first"))
	b.must("sh", "-c", "rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*") // the machine reaches no mirror
	b.serveNames(repo.dir)

	exampled := func(version string) []byte { return build(t, releases.Daemon{Version: version}) }
	release := func(dir, version string) {
		t.Helper()
		host := t.TempDir()
		archive := filepath.Join(t.TempDir(), "exampled-linux-amd64.tar.gz")
		b.ok(releases.Pack(archive, releases.File{Name: "exampled", Content: exampled(version)}))
		b.ok(releases.Publish(t.Context(), lab.Installed("/usr/bin/machinemon-release"), host, version, "--deltas=0", archive))
		b.must("mkdir", "-p", dir)
		files, err := filepath.Glob(filepath.Join(host, "*"))
		b.ok(err)
		for _, file := range files {
			content, err := os.ReadFile(file)
			b.ok(err)
			b.writeFile(path.Join(dir, filepath.Base(file)), string(content), 0o644)
		}
	}
	b.writeFile("/usr/local/bin/exampled", string(exampled("1.9.0")), 0o755)
	b.writeFile("/etc/systemd/system/exampled.service", "[Service]\nEnvironment=TESTD_ADDRESS=127.0.0.1:8080\nExecStart=/usr/local/bin/exampled\nRestart=on-failure\n", 0o644)
	b.must("systemctl", "daemon-reload")
	b.must("systemctl", "start", "exampled.service")
	b.ok(machine.WaitFor(t.Context(), "exampled serves", func() bool {
		_, got, err := b.getFrom("127.0.0.1:8080", "/version")
		return err == nil && got == "1.9.0"
	}))
	release("/var/www/exampled", "1.9.1")

	readme := b.reader(readPage(t, "README.md"))
	archive := packed(t, "exampled", exampled("1.9.4"))
	digest := sha256.Sum256(archive)
	readme.replace = strings.NewReplacer("DIGEST", hex.EncodeToString(digest[:]))
	readme.before["machinemon-update skip"] = func() {
		release("/var/www/exampled", "1.9.2")
		if r := b.run("machinemon-update", "check", "exampled"); r.Code != 3 {
			t.Errorf("%+v", r)
		}
	}
	readme.before["machinemon-update import"] = func() {
		release("/media/usb", "1.9.3")
		b.writeFile("/var/www/exampled.tar.gz", string(archive), 0o644)
	}
	readme.follows("", "Install", "Update a daemon", "Build it")
	readme.done()
	if _, got, err := b.getFrom("127.0.0.1:8080", "/version"); err != nil || got != "1.9.4" {
		t.Errorf("at the end %s runs: %v", got, err)
	}

	page := b.reader(readPage(t, "packaging/doc/publishing.md"))
	for _, version := range []string{"1.9.1", "2.0.0"} {
		b.writeFile(readersHome+"exampled-"+version+".linux-amd64.tar.gz", string(packed(t, "exampled", exampled(version))), 0o644)
	}
	b.writeFile("/tmp/credentials/passphrase", "correct horse battery staple\n", 0o644)
	b.must("chown", "reader:", "/media/usb")
	b.must("install", "-d", "-o", "reader", "/media/usb2")
	page.before["mode = \"tuf\""] = func() { // the digest is told in another place
		sum := sha256.Sum256([]byte(b.readFile("/media/usb/1.root.json")))
		page.replace = strings.NewReplacer("DIGEST", hex.EncodeToString(sum[:]))
	}
	page.follows("", "After the release", "Signed releases")
	page.done()
	if got := b.must("machinemon-update", "status", "exampled"); !strings.Contains(got, " signed ") {
		t.Errorf("status shows %s", got)
	}
}

// TestMachineMonPage follows the page of MachineMon on one machine, which has the server,
// the gate and an agent.
func TestMachineMonPage(t *testing.T) {
	once(t)
	t.Parallel()
	a := &agent{box: boot(t)}
	a.serveNames(t.TempDir())
	certificate, key := selfSigned(t, monitor)
	const bundle = "/etc/ssl/certs/ca-certificates.crt"
	a.writeFile(bundle, a.readFile(bundle)+string(certificate), 0o644)
	a.writeFile("/etc/ssl/gate.pem", string(certificate), 0o644)
	a.writeFile("/etc/ssl/gate.key", string(key), 0o644)
	const gate = "/etc/machinemon-update/checkin-gate.toml"
	a.writeFile(gate, "tls_certificate = \"/etc/ssl/gate.pem\"\ntls_key = \"/etc/ssl/gate.key\"\n"+a.readFile(gate), 0o644)
	a.writeFile("/etc/systemd/system/machinemon-checkin-gate.socket.d/port.conf", "[Socket]\nListenStream=\nListenStream=127.0.0.1:443\n", 0o644)
	a.must("systemctl", "daemon-reload")
	a.mmServer()

	r := a.reader(readPage(t, "packaging/doc/machinemon.md"))
	client := func(version string) []byte { return build(t, releases.Client{Version: version}) }
	a.writeFile(readersHome+"machinemon-client-linux-amd64.tar.gz", string(packed(t, "machinemon-client-linux-amd64", client("v0.1.12"))), 0o644)
	r.follows("The gate", "A release for a few agents first")

	a.writeFile(clientPath, string(client("v0.1.11")), 0o755)
	a.must("runuser", "-l", "reader", "-c", clientPath+" --server https://"+monitor+" --password secret --no-daemon")
	a.must("env", "SUDO_USER=reader", clientPath, "--service-install")
	a.must("systemctl", "enable", "--quiet", "--now", "machinemon-client.service")
	r.follows("An agent's machine")

	a.writeFile("/usr/local/bin/machinemon-server", string(build(t, releases.Daemon{Version: "v0.1.11"})), 0o755)
	a.writeFile("/etc/systemd/system/machinemon-server.service", "[Service]\nEnvironment=TESTD_ADDRESS=127.0.0.1:8099\nExecStart=/usr/local/bin/machinemon-server\n", 0o644)
	a.must("systemctl", "start", "machinemon-server.service")
	a.writeFile("/srv/machinemon-server-linux-amd64.tar.gz", string(packed(t, "machinemon-server-linux-amd64", build(t, releases.Daemon{Version: "v0.1.12"}))), 0o644)
	a.must("mkdir", "-p", "/var/www/machinemon-server")
	a.must("machinemon-release", "publish", "/var/www/machinemon-server", "--version", "v0.1.12", "/srv/machinemon-server-linux-amd64.tar.gz")
	r.follows("The server's machine")
	r.done()
}

// TestScaleboxPage follows the page of Scalebox.
func TestScaleboxPage(t *testing.T) {
	once(t)
	t.Parallel()
	s := newScalebox(t)
	s.release(releases.Daemon{Version: "build-18"}, build17())
	r := s.reader(readPage(t, "packaging/doc/scalebox.md"))
	r.follows("")
	r.done()
	s.assertRuns(releases.Daemon{Version: "build-17"}, build17())
}
