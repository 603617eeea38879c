//go:build systemd && ansible

package systemtest

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// ansiblePlay applies the role to the machine that it runs on. REPOSITORY, TARGET and
// SHA256 are replaced.
const ansiblePlay = `
- name: Update testd
  hosts: all
  become: false
  roles:
    - role: machinemon_update
      vars:
        machinemon_update_repository: "REPOSITORY"
        machinemon_update_targets:
          testd:
            enable: true
            trust: testd.root.json
            sha256: "SHA256"
            file: |
TARGET
`

// TestAnsible applies the example of a role to a machine that has nothing of ours, with
// Debian's Ansible on that machine.
func TestAnsible(t *testing.T) {
	// The programs of Ansible take longer than a command is given otherwise.
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	b := bootBare(t)
	b.installAnsible(ctx)
	b.installTestd("1.0.0", testdUnit)
	b.must("sh", "-c", "rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*") // the machine reaches no mirror

	dir := t.TempDir()
	r := newAptRepo(t)
	r.dir = filepath.Join(dir, "apt")
	r.publish(r.key("publisher"))
	p := newPublisher(t)
	p.publish(releases.Daemon{Version: "1.1.0"})
	b.ok(os.CopyFS(dir, os.DirFS(p.repo)))
	l, err := b.Listen("tcp", releasesAt)
	b.ok(err)
	server, err := releases.Serve(l, dir)
	b.ok(err)
	t.Cleanup(func() { server.Close() })

	example := os.DirFS("../../packaging/examples/ansible")
	b.ok(fs.WalkDir(example, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(example, name)
		b.must("mkdir", "-p", path.Dir("/root/ansible/"+name))
		b.writeFile("/root/ansible/"+name, string(content), 0o644)
		return err
	}))
	root, err := os.ReadFile(filepath.Join(p.repo, "1.root.json"))
	b.ok(err)
	b.must("mkdir", "/root/ansible/files")
	b.writeFile("/root/ansible/files/testd.root.json", string(root), 0o644)
	play := func(target, sha256 string) (out string, ok bool) {
		target = "              " + strings.ReplaceAll(strings.TrimSpace(target), "\n", "\n              ")
		b.writeFile("/root/ansible/test.yml", strings.NewReplacer("REPOSITORY", "http://"+releasesAt+"/apt", "TARGET", target, "SHA256", sha256).Replace(ansiblePlay), 0o644)
		res, err := b.Run(ctx, "sh", "-c", "cd /root/ansible && exec ansible-playbook --connection local --inventory localhost, test.yml")
		b.ok(err)
		return res.Stdout + res.Stderr, res.Code == 0
	}
	changed := regexp.MustCompile(`changed=(\d+)`)

	b.step("from nothing", func() {
		if out, ok := play(signedTarget, digest(string(root))); !ok {
			b.t.Fatal(out)
		}
		b.must("machinemon-update", "apply", "testd")
		b.awaitTestd("1.1.0")
		if got := b.must("systemctl", "is-active", "machinemon-fetch@testd.timer"); strings.TrimSpace(got) != "active" {
			b.t.Errorf("the timer is %s", got)
		}
	})
	b.step("again", func() {
		out, ok := play(signedTarget, digest(string(root)))
		if n := changed.FindStringSubmatch(out); !ok || n == nil || n[1] != "0" {
			b.t.Errorf("it changes something:\n%s", out)
		}
	})
	b.step("a mistake in the target file", func() {
		before := b.readFile("/etc/machinemon-update/targets.d/testd.toml")
		out, ok := play(strings.Replace(signedTarget, "settle_seconds", "setle_seconds", 1), digest(string(root)))
		if ok || !strings.Contains(out, "testd.toml:9: health.setle_seconds: is not a known key") {
			b.t.Errorf("it says:\n%s", out)
		}
		if got := b.readFile("/etc/machinemon-update/targets.d/testd.toml"); got != before {
			b.t.Errorf("the target file is replaced:\n%s", got)
		}
	})
	b.step("another digest", func() {
		out, ok := play(signedTarget, strings.Repeat("0", 64))
		if ok || !strings.Contains(out, "cannot trust") {
			b.t.Errorf("it says:\n%s", out)
		}
	})
}

// installAnsible installs Debian's Ansible, which this host downloads. The machine reaches
// no mirror.
func (b *box) installAnsible(ctx context.Context) {
	b.t.Helper()
	archives := b.t.TempDir()
	b.ok(os.Mkdir(filepath.Join(archives, "partial"), 0o755))
	status := filepath.Join(archives, "partial/status")
	b.ok(os.WriteFile(status, []byte(b.readFile("/var/lib/dpkg/status")), 0o644))
	get := exec.CommandContext(ctx, "apt-get", "install", "--yes", "--no-install-recommends", "--download-only",
		"--option=Dir::State::status="+status, "--option=Dir::Cache::archives="+archives, "ansible-core", "python3-apt")
	if out, err := get.CombinedOutput(); err != nil {
		b.t.Fatalf("cannot download Ansible: %v\n%s", err, out)
	}
	debs, err := filepath.Glob(filepath.Join(archives, "*.deb"))
	b.ok(err)
	b.ok(b.Install(ctx, debs...))
}
