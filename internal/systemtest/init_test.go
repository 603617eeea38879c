//go:build systemd

package systemtest

import (
	"crypto/tls"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/programs"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestInit: of a program that runs and of its publisher's newest release, init makes what
// the example for it says. Three commands lead from a machine without a target to an update.
func TestInit(t *testing.T) {
	t.Parallel()
	b := boot(t)
	b.stopShipped()
	var hub atomic.Pointer[releases.GitHub] // of one repository after the other
	server := t.TempDir()                   // of MachineMon's publisher
	b.githubAt(&hub, server)

	for _, p := range []struct{ target, unit, port string }{
		{"node_exporter", "node_exporter.service", "9100"},
		{"caddy", "caddy.service", "2019"},
		{"coredns", "coredns.service", "8080"},
		{"server", "machinemon-server.service", "8080"},
	} {
		b.step(p.target, func() {
			name := strings.TrimSuffix(p.unit, ".service")
			file := "../../packaging/examples/targets/" + p.target + ".toml"
			program := programs.Named(p.target)
			was, is := "v1.0.0", program.Tag
			if p.target == "server" {
				file, is = "../../packaging/targets.d/server.toml", "v1.1.0"
			}
			text, err := os.ReadFile(file)
			b.ok(err)
			example := loaded(b.t, name, string(text)+"\n")
			path := example.Install[0].To
			b.writeFile(path, string(build(b.t, releases.Daemon{Version: was})), 0o755)
			b.writeFile("/etc/systemd/system/"+p.unit, "[Service]\nEnvironment=TESTD_ADDRESS=127.0.0.1:"+p.port+"\nExecStart="+path+"\n", 0o644)
			b.must("systemctl", "daemon-reload")
			b.must("systemctl", "start", p.unit)
			defer b.must("systemctl", "stop", p.unit)
			b.ok(machine.WaitFor(b.t.Context(), name+" serves", func() bool {
				_, got, err := b.getFrom("127.0.0.1:"+p.port, "/version")
				return err == nil && got == was
			}))

			newest := build(b.t, releases.Daemon{Version: is})
			from := []string{"--github", example.Source.Repo}
			if p.target == "server" {
				from = []string{"--manifest", "https://" + publisherAt + "/client-manifest.json"}
				archive := filepath.Join(b.t.TempDir(), "machinemon-server-linux-amd64.tar.gz")
				b.ok(releases.Pack(archive, releases.File{Name: "machinemon-server-linux-amd64", Content: newest}))
				b.ok(releases.Publish(b.t.Context(), lab.Installed("/usr/bin/machinemon-release"), server, is, "--deltas=0", archive))
			} else {
				hub.Store(&releases.GitHub{Repo: example.Source.Repo})
				if p.target == "node_exporter" { // as if it were private
					hub.Load().Token = "github_pat_1"
					b.writeFile("/etc/node_exporter.token", hub.Load().Token+"\n", 0o600)
					from = append(from, "--token-file", "/etc/node_exporter.token")
				}
				hub.Load().Publish(releaseOf(b.t, program, is, newest))
			}

			printed := b.must(append([]string{"machinemon-update", "init", name}, from...)...)
			b.t.Logf("machinemon-update init %s %s\n%s", name, strings.Join(from, " "), printed)
			b.writeFile("/root/"+name+".toml", printed, 0o644)
			b.must("machinemon-update", "check-config", "/root/"+name+".toml")
			sameTarget(b.t, loaded(b.t, name, printed), example, "127.0.0.1:"+p.port)
			if left := b.must("sh", "-c", "ls -d /var/tmp/machinemon-update-* 2>/dev/null; systemctl list-units --all --plain --no-legend 'machinemon-init@*'"); left != "" {
				b.t.Errorf("init left behind:\n%s", left)
			}

			write := append([]string{"machinemon-update", "init", "--write", name}, from...)
			if p.target == "server" {
				if r := b.run(write...); r.Code != 2 || !strings.Contains(r.Stderr, "the target server has this unit already (hint: write what it lacks, such as [source], to /etc/machinemon-update/targets.d/server.toml)") {
					b.t.Errorf("beside the target of a package: %+v", r)
				}
			}
			if p.target != "node_exporter" { // one shows how it goes on
				return
			}
			for _, command := range [][]string{write, {"machinemon-update", "doctor", name}, {"machinemon-update", "apply", name}} {
				said := b.must(command...)
				b.t.Logf("%s\n%s", strings.Join(command, " "), said)
			}
			b.executes(p.unit, path, newest)
		})
	}
	if r := b.run("machinemon-update", "init", "systemd-journald"); r.Code != 0 || !strings.Contains(r.Stderr, "/systemd-journald belongs to the Debian package systemd, so no update will replace it") {
		b.t.Errorf("of a program of a package: %+v", r)
	}
}

// githubAt serves a repository as GitHub, and the directory dir at publisherAt.
func (b *box) githubAt(hub *atomic.Pointer[releases.GitHub], dir string) {
	b.t.Helper()
	names := []string{"api.github.com", "github.com", publisherAt}
	certificate, key := selfSigned(b.t, names...)
	pair, err := tls.X509KeyPair(certificate, key)
	b.ok(err)
	l, err := b.Listen("tcp", othersAt+":443")
	b.ok(err)
	files := http.FileServer(http.Dir(dir))
	s := releases.ServeBy(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}}), http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Host == publisherAt {
			files.ServeHTTP(w, q)
			return
		}
		hub.Load().ServeHTTP(w, q)
	}))
	b.t.Cleanup(func() { s.Close() })
	const bundle = "/etc/ssl/certs/ca-certificates.crt"
	b.writeFile(bundle, b.readFile(bundle)+string(certificate), 0o644)
	b.writeFile("/etc/hosts", "127.0.0.1 localhost vm\n"+othersAt+" "+strings.Join(names, " ")+"\n", 0o644)
}

// loaded returns the target that a file describes.
func loaded(t *testing.T, name, text string) *target.Target {
	t.Helper()
	dirs := target.Dirs{Root: t.TempDir(), Admin: "/admin", Vendor: "/vendor"}
	if err := os.MkdirAll(dirs.Root+"/admin", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dirs.Root+"/admin/"+name+".toml", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	loaded, err := dirs.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

// sameTarget compares what a target is about. The command that prints the version may be
// another one, and the probe only has the port.
func sameTarget(t *testing.T, got, want *target.Target, port string) {
	t.Helper()
	if got.Unit != want.Unit || got.Source.Repo != want.Source.Repo || got.Source.Asset != want.Source.Asset || got.Trust.Product != want.Trust.Product ||
		len(want.Install) != 1 || got.Install[0].From != want.Install[0].From || got.Install[0].To != want.Install[0].To || len(got.Install) != 1 {
		t.Errorf("init made\n%+v, %+v\nthe example is\n%+v, %+v", got.Source, got.Install, want.Source, want.Install)
	}
	if len(got.Health.VersionCommand) != 2 || got.Health.VersionCommand[0] != want.Health.VersionCommand[0] {
		t.Errorf("the command that prints the version is %q, in the example %q", got.Health.VersionCommand, want.Health.VersionCommand)
	}
	page, err := url.Parse(want.Health.Probes[0].HTTP)
	if err != nil || page.Host != port || !slices.ContainsFunc(got.Health.Probes, func(p target.Probe) bool { return p.TCP == port }) {
		t.Errorf("the probes are %+v, in the example %+v", got.Health.Probes, want.Health.Probes)
	}
}

// executes checks that the unit's main process executes this program.
func (b *box) executes(unit, path string, program []byte) {
	b.t.Helper()
	if got := b.readFile(path); got != string(program) {
		b.t.Errorf("%s is another file", path)
	}
	pid := strings.TrimSpace(b.must("systemctl", "show", "--property=MainPID", "--value", unit))
	if got := strings.TrimSpace(b.must("readlink", "/proc/"+pid+"/exe")); got != path {
		b.t.Errorf("%s executes %s", unit, got)
	}
}

// releaseOf returns a release with the layout of the publisher's.
func releaseOf(t *testing.T, p programs.Program, tag string, program []byte) releases.Tagged {
	t.Helper()
	as := strings.NewReplacer(p.Tag, tag, strings.TrimPrefix(p.Tag, "v"), strings.TrimPrefix(tag, "v"))
	var files []releases.File
	for n, entry := range p.Entries {
		content := []byte("text\n")
		if n == 0 {
			content = program
		}
		files = append(files, releases.File{Name: as.Replace(entry), Content: content})
	}
	archive := filepath.Join(t.TempDir(), "release.tar.gz")
	testkit.Must(t, releases.Pack(archive, files...))
	content, err := os.ReadFile(archive)
	testkit.Must(t, err)
	return releases.Tagged{Tag: tag, Assets: []releases.Asset{releases.Digested(as.Replace(p.Archives["linux-amd64"]), content)}}
}
