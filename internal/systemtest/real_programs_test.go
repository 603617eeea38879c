//go:build systemd && programs

package systemtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/programs"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// realProgram is a program that is built from its source, as the Go module proxy has it,
// and runs on a machine as the target of its example.
type realProgram struct {
	target  string
	module  string // the main package
	flags   string // for the linker: where publishers write the version; {number} is replaced
	was, is string // releases
	args    string // of the unit's command
	config  map[string]string
}

var realPrograms = []realProgram{
	{target: "caddy", module: "github.com/caddyserver/caddy/v2/cmd/caddy", flags: "-X github.com/caddyserver/caddy/v2.CustomVersion={tag}",
		was: "v2.8.1", is: "v2.8.4", args: "run", config: map[string]string{"/etc/hosts": "127.0.0.1 localhost\n"}}, // its API is at localhost
	{target: "coredns", module: "github.com/coredns/coredns", was: "v1.11.1", is: "v1.11.3", args: "-conf /etc/coredns/Corefile",
		config: map[string]string{"/etc/coredns/Corefile": ".:5300 {\n  health\n  whoami\n}\n"}},
	{target: "nats-server", module: "github.com/nats-io/nats-server/v2", was: "v2.10.17", is: "v2.10.18", args: "-a 127.0.0.1 -m 8222"},
	{target: "node_exporter", module: "github.com/prometheus/node_exporter", flags: "-X github.com/prometheus/common/version.Version={number}",
		was: "v1.8.1", is: "v1.8.2"},
	{target: "victoria-metrics", module: "github.com/VictoriaMetrics/VictoriaMetrics/app/victoria-metrics",
		flags: "-X github.com/VictoriaMetrics/VictoriaMetrics/lib/buildinfo.Version=victoria-metrics-20240425-145433-tags-{tag}-0-g5334f0c2c",
		was:   "v1.100.1", is: "v1.101.0", args: "-storageDataPath=/var/lib/victoria-metrics"},
}

// TestRealPrograms updates programs that many people run, by the target files that the
// package has as examples: to a new release, to one that is not what its tag says, and
// back to the old one. It builds them from their source, which takes minutes and a
// network the first time.
func TestRealPrograms(t *testing.T) {
	b := boot(t)
	b.stopShipped()
	for _, p := range realPrograms {
		b.step(p.target, func() { b.updatesReal(p) })
	}
}

func (b *box) updatesReal(p realProgram) {
	program := programs.Named(p.target)
	installed := "/usr/local/bin/" + p.target
	b.writeFile(installed, string(buildReal(b.t, p, p.was)), 0o755)
	for file, content := range p.config {
		b.must("mkdir", "-p", filepath.Dir(file))
		b.writeFile(file, content, 0o644)
	}
	unit := p.target + ".service"
	b.writeFile("/etc/systemd/system/"+unit, "[Service]\nEnvironment=HOME=/var/lib/"+p.target+"\nStateDirectory="+p.target+
		"\nExecStart="+strings.TrimSpace(installed+" "+p.args)+"\n", 0o644)
	example, err := os.ReadFile("../../packaging/examples/targets/" + p.target + ".toml")
	b.ok(err)
	const targets = "/etc/machinemon-update/targets.d/"
	b.writeFile(targets+p.target+".toml", string(example), 0o644)
	b.must("mkdir", "-p", targets+p.target+".toml.d")
	b.writeFile(targets+p.target+".toml.d/server.toml", "[source]\napi_url = \"http://"+releasesAt+"\"\n", 0o644)
	b.must("systemctl", "daemon-reload")
	b.must("systemctl", "start", "paths.target", unit)
	defer b.must("systemctl", "stop", unit)

	_, rest, ok := strings.Cut(string(example), "\nrepo = \"")
	repo, _, _ := strings.Cut(rest, "\"")
	if !ok {
		b.t.Fatalf("the example of %s names no repository", p.target)
	}
	hub := &releases.GitHub{Repo: repo}
	l, err := b.Listen("tcp", releasesAt)
	b.ok(err)
	server := releases.ServeBy(l, hub)
	defer server.Close()

	newest := buildReal(b.t, p, p.is)
	hub.Publish(releaseOf(b.t, program, p.is, newest))
	b.tried(p, 0, "committed "+p.is+" (was ")
	b.executes(unit, installed, newest)
	if out := b.must("machinemon-update", "probe", p.target); strings.Contains(out, "fail") {
		b.t.Errorf("the probes say:\n%s", out)
	}

	hub.Publish(releaseOf(b.t, program, "v99.0.0", buildReal(b.t, p, p.was))) // it is not what its tag says
	b.tried(p, 6, "refused")
	b.executes(unit, installed, newest)

	r := b.run("machinemon-update", "rollback", p.target)
	b.t.Logf("%s", r.Stdout)
	if r.Code != 0 {
		b.t.Errorf("rollback: %+v", r)
	}
	b.executes(unit, installed, buildReal(b.t, p, p.was))
}

// tried runs an apply, and checks its exit status and a text of its output.
func (b *box) tried(p realProgram, exit int, says string) {
	b.t.Helper()
	r := b.run("machinemon-update", "apply", p.target)
	b.t.Logf("%s%s", r.Stdout, r.Stderr)
	if r.Code != exit || !strings.Contains(r.Stdout, says) {
		b.t.Errorf("exit status %d, want %d and %q:\n%s%s", r.Code, exit, says, r.Stdout, r.Stderr)
	}
}

// buildReal builds a release of the program, or takes it from the cache.
func buildReal(t *testing.T, p realProgram, tag string) []byte {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "machinemon-update", "programs", p.target+"-"+tag)
	file := filepath.Join(dir, p.target)
	if content, err := os.ReadFile(file); err == nil {
		return content
	}
	flags := strings.NewReplacer("{tag}", tag, "{number}", strings.TrimPrefix(tag, "v")).Replace(p.flags)
	cmd := exec.CommandContext(t.Context(), "go", "install", "-ldflags", "-s -w "+flags, p.module+"@"+tag)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0")
	cmd.Dir = t.TempDir()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build %s %s: %v\n%s", p.module, tag, err, out)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
