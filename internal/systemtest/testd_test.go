//go:build systemd

package systemtest

import (
	"context"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

const (
	testdPath    = "/usr/local/bin/testd"
	testdAddress = "127.0.0.1:9200"
	releasesAt   = "127.0.0.1:9000"
)

const testdUnit = `[Unit]
Description=Test daemon
[Service]
ExecStart=/usr/local/bin/testd
Restart=on-failure
[Install]
WantedBy=multi-user.target
`

const testdTarget = `unit = "testd.service"
[source]
url = "http://` + releasesAt + `/client-manifest.json"
[[install]]
from = "testd"
to = "` + testdPath + `"
[health]
timeout_seconds = 10
settle_seconds = 1
version_command = ["` + testdPath + `", "--version"]
[[health.probe]]
http = "http://` + testdAddress + `/healthz"
`

// build returns a daemon, client or database.
func build(t *testing.T, d interface {
	Build(context.Context) ([]byte, error)
}) []byte {
	t.Helper()
	content, err := d.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// installTestd installs a daemon of this version by hand, as an operator would, and
// starts its unit.
func (b *box) installTestd(version, unit string) {
	b.t.Helper()
	b.writeFile(testdPath, string(build(b.t, releases.Daemon{Version: version})), 0o755)
	b.writeFile("/etc/systemd/system/testd.service", unit, 0o644)
	b.must("systemctl", "enable", "--quiet", "--now", "testd.service") // also reloads systemd
	b.awaitTestd(version)
}

// target makes testd a target, with this target file.
func (b *box) target(file string) {
	b.t.Helper()
	b.writeTarget(file)
	b.must("systemctl", "daemon-reload")
	b.must("systemctl", "start", "paths.target")
}

func (b *box) writeTarget(file string) {
	b.t.Helper()
	b.writeFile("/etc/machinemon-update/targets.d/testd.toml", file, 0o644)
}

// publish adds a release of the daemon to dir, with machinemon-release.
func (b *box) publish(dir string, d releases.Daemon) {
	b.t.Helper()
	b.publishFiles(dir, d.Version, releases.File{Name: "testd", Content: build(b.t, d)})
}

// publishFiles adds a release of these files. It makes no deltas, because that would take
// longer than the tests; deltas have tests of their own.
func (b *box) publishFiles(dir, version string, files ...releases.File) {
	b.t.Helper()
	archive := filepath.Join(b.t.TempDir(), "testd-linux-amd64.tar.gz")
	b.ok(releases.Pack(archive, files...))
	b.ok(releases.Publish(b.t.Context(), lab.Installed("/usr/bin/machinemon-release"), dir, version, "--deltas=0", archive))
}

// serve serves dir on the machine's loopback. It must be called again after Yank and
// boot, because the machine then has a new loopback.
func (b *box) serve(dir string) *releases.Server {
	b.t.Helper()
	l, err := b.Listen("tcp", releasesAt)
	b.ok(err)
	s, err := releases.Serve(l, dir)
	b.ok(err)
	b.t.Cleanup(func() { s.Close() })
	return s
}

// get requests a page from the daemon and returns the status and the body's text.
func (b *box) get(path string) (int, string, error) { return b.getFrom(testdAddress, path) }

func (b *box) getFrom(address, path string) (int, string, error) {
	client := http.Client{Transport: &http.Transport{DialContext: b.Dial, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	r, err := client.Get("http://" + address + path)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return r.StatusCode, strings.TrimSpace(string(body)), err
}

// awaitTestd waits until the daemon of this version serves. systemd logs no event for
// that if the unit is Type=simple.
func (b *box) awaitTestd(version string) {
	b.t.Helper()
	b.ok(machine.WaitFor(b.t.Context(), "testd "+version+" serves", func() bool {
		status, got, err := b.get("/version")
		return err == nil && status == http.StatusOK && got == version
	}))
}

func TestDaemonBehaviours(t *testing.T) {
	once(t)
	t.Parallel()
	m := boot(t)
	m.installTestd("1.0.0", testdUnit)
	if got := m.must(testdPath, "--version"); got != "testd 1.0.0 (commit none)\n" {
		t.Errorf("--version: %q", got)
	}
	if status, body, err := m.get("/healthz"); status != 200 || body != `{"status":"ok"}` || err != nil {
		t.Errorf("/healthz: %d, %q, %v", status, body, err)
	}
	m.must("systemctl", "stop", "testd.service")

	codes := map[string]int{"exit1-at-once": 1, "exit0-at-once": 0, "exit-after-3s": 1, "never-listen": 124}
	running := make(map[string]*machine.Process)
	for behaviour := range codes {
		path := "/usr/local/bin/" + behaviour
		m.writeFile(path, string(build(t, releases.Daemon{Version: "1.1.0", Behaviour: behaviour})), 0o755)
		running[behaviour] = m.start("timeout", "5", path)
	}
	for behaviour, code := range codes {
		if r := m.wait(running[behaviour]); r.Code != code {
			t.Errorf("%s: %+v, want exit %d", behaviour, r, code)
		}
	}
	m.writeFile(testdPath, string(build(t, releases.Daemon{Version: "1.1.0", Behaviour: "version-lies"})), 0o755)
	if got := m.must(testdPath, "--version"); strings.Contains(got, "1.1.0") {
		t.Errorf("version-lies says %q", got)
	}
	m.writeFile(testdPath, string(build(t, releases.Daemon{Version: "1.1.0", Behaviour: "answer-500"})), 0o755)
	since := m.cursor()
	m.writeFile("/etc/systemd/system/testd.service", strings.Replace(testdUnit, "[Service]", "[Service]\nType=notify", 1), 0o644)
	m.must("systemctl", "daemon-reload")
	m.must("systemctl", "start", "testd.service") // waits for READY=1
	if status, _, err := m.get("/healthz"); status != 500 || err != nil {
		t.Errorf("answer-500: %d, %v", status, err)
	}
	m.writeFile(testdPath, string(build(t, releases.Daemon{Version: "1.1.0", Behaviour: "ignore-sigterm"})), 0o755)
	m.must("systemctl", "restart", "testd.service")
	m.must("systemctl", "kill", "testd.service") // SIGTERM
	if _, got, err := m.get("/version"); got != "1.1.0" || err != nil {
		t.Errorf("ignore-sigterm: %q, %v", got, err)
	}
	m.assertOrder(since, "testd.service starting", "testd.service started", "testd.service stopping", "testd.service stopped", "testd.service started")
}

// TestCheck tests the whole fixture: a target, a release by machinemon-release, and a server inside.
func TestCheck(t *testing.T) {
	t.Parallel()
	m := boot(t)
	m.installTestd("1.0.0", testdUnit)
	m.target(testdTarget)
	dir := t.TempDir()
	m.publish(dir, releases.Daemon{Version: "1.1.0"})
	server := m.serve(dir)

	since := m.cursor()
	for range 2 {
		if r := m.run("machinemon-update", "check", "testd"); r.Code != 3 || !strings.Contains(r.Stdout, "1.1.0") {
			t.Errorf("check: %+v", r)
		}
	}
	m.assertOrder(since, "machinemon-fetch@testd.service starting", "machinemon-fetch@testd.service started")
	var got []int
	for _, r := range server.Requests() {
		if r.Path == "/client-manifest.json" {
			got = append(got, r.Status)
		}
	}
	if want := []int{200, 304}; !slices.Equal(got, want) {
		t.Errorf("the manifest was answered with %v, want %v", got, want)
	}
	m.awaitTestd("1.0.0")
}
