//go:build systemd

package systemtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// aptRepo is a repository that packaging/apt-repo makes of packages in work/dist.
type aptRepo struct {
	t                       *testing.T
	dir, work, script, home string // home is GnuPG's
}

// newAptRepo returns a repository with nothing in it, for the packages that are tested.
func newAptRepo(t *testing.T) *aptRepo {
	t.Helper()
	r := &aptRepo{t: t, dir: t.TempDir(), work: t.TempDir(), home: filepath.Join(t.TempDir(), "gnupg")}
	testkit.Must(t, os.Mkdir(r.home, 0o700))
	t.Cleanup(func() { r.run("/", "gpgconf", "--kill", "all") })
	var err error
	r.script, err = filepath.Abs("../../packaging/apt-repo")
	testkit.Must(t, err)
	testkit.Must(t, os.MkdirAll(filepath.Join(r.work, "debian"), 0o755)) // as in the source
	testkit.Must(t, os.CopyFS(filepath.Join(r.work, "dist"), os.DirFS(*debs)))
	control, err := os.ReadFile("../../debian/control")
	testkit.Must(t, err)
	testkit.Must(t, os.WriteFile(filepath.Join(r.work, "debian/control"), control, 0o644))
	return r
}

func (r *aptRepo) run(in string, argv ...string) string {
	r.t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = in, append(os.Environ(), "GNUPGHOME="+r.home, "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}

// key makes a key of this name and returns its fingerprint.
func (r *aptRepo) key(name string) string {
	r.t.Helper()
	r.run("/", "gpg", "--batch", "--passphrase", "", "--quick-generate-key", name, "ed25519", "sign", "1y")
	for line := range strings.Lines(r.run("/", "gpg", "--batch", "--with-colons", "--list-keys", name)) {
		if fields := strings.Split(line, ":"); fields[0] == "fpr" {
			return fields[9]
		}
	}
	r.t.Fatalf("no key for %s", name)
	return ""
}

func (r *aptRepo) publish(keys ...string) {
	r.t.Helper()
	r.run(r.work, append([]string{r.script, r.dir}, keys...)...)
}

// TestAptRepository installs the packages with plain apt from a repository that
// packaging/apt-repo made, upgrades one, and replaces the key.
func TestAptRepository(t *testing.T) {
	t.Parallel()
	b := bootBare(t)
	r := newAptRepo(t)
	l, err := b.Listen("tcp", releasesAt)
	b.ok(err)
	server, err := releases.Serve(l, r.dir)
	b.ok(err)
	t.Cleanup(func() { server.Close() })
	first := r.key("first")
	r.publish(first)
	pinned, err := os.ReadFile(filepath.Join(r.dir, "machinemon-update.asc"))
	b.ok(err)
	b.must("sh", "-c", "rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*") // the machine reaches no mirror
	b.must("mkdir", "-p", "/usr/share/keyrings")
	b.writeFile("/usr/share/keyrings/machinemon-update.asc", string(pinned), 0o644)
	b.writeFile("/etc/apt/sources.list.d/machinemon-update.sources", "Types: deb\nURIs: http://"+releasesAt+
		"\nSuites: stable\nComponents: main\nSigned-By: /usr/share/keyrings/machinemon-update.asc\n", 0o644)
	version := func(name string) string {
		return b.must("dpkg-query", "--show", "--showformat=${Version}", name)
	}

	b.step("install", func() {
		b.must("apt-get", "update", "--error-on=any")
		b.must("apt-get", "install", "--yes", "machinemon-update", "machinemon-update-agent", "machinemon-update-keyring")
		if out := b.must("machinemon-update", "check-config"); !strings.Contains(out, "agent: ok") {
			b.t.Errorf("it says %s", out)
		}
	})
	b.step("upgrade", func() {
		old := version("machinemon-update-agent")
		r.raise("machinemon-update-agent_"+old+"_all.deb", old+"+1")
		r.publish(first)
		b.must("apt-get", "update", "--error-on=any")
		b.must("apt-get", "upgrade", "--yes")
		if got := version("machinemon-update-agent"); got != old+"+1" {
			b.t.Errorf("%s is installed after the upgrade from %s", got, old)
		}
	})
	b.step("a changed package of a published version", func() {
		r.raise("machinemon-update-agent_"+version("machinemon-update-agent")+"_all.deb", version("machinemon-update-agent"))
		cmd := exec.Command(r.script, r.dir, first)
		cmd.Dir, cmd.Env = r.work, append(os.Environ(), "GNUPGHOME="+r.home)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "has another package of this version") {
			b.t.Errorf("%v: %s", err, out)
		}
		b.ok(os.RemoveAll(filepath.Join(r.work, "dist")))
		b.ok(os.CopyFS(filepath.Join(r.work, "dist"), os.DirFS(*debs)))
	})
	b.step("another key", func() {
		old := version("machinemon-update-keyring")
		second := r.key("second")
		r.publish(first, second)
		b.must("apt-get", "update", "--error-on=any")
		b.must("apt-get", "upgrade", "--yes")
		both := version("machinemon-update-keyring")
		r.publish(second)
		b.must("apt-get", "update", "--error-on=any")
		b.must("apt-get", "upgrade", "--yes")
		only := version("machinemon-update-keyring")
		if old == both || both == only {
			b.t.Errorf("the keyring's versions: %s, %s, %s", old, both, only)
		}
		if got := b.readFile("/usr/share/keyrings/machinemon-update.asc"); got == string(pinned) {
			b.t.Error("the first key is still trusted")
		}
		r.publish(first) // as an attacker with the old key would
		if got := b.run("apt-get", "update", "--error-on=any"); got.Code == 0 {
			b.t.Errorf("apt accepts the key that was replaced:\n%s%s", got.Stdout, got.Stderr)
		}
	})
}

// raise makes another package of a package that is published next, with this version.
func (r *aptRepo) raise(deb, version string) {
	r.t.Helper()
	r.run(filepath.Join(r.work, "dist"), "sh", "-euc", `dpkg-deb --raw-extract "$1" x
sed -i "s/^Version: .*/Version: $2/" x/DEBIAN/control
echo "# changed" >>x/usr/lib/machinemon-update/targets.d/agent.toml
dpkg-deb -Znone --root-owner-group --build x . >/dev/null
rm -r x`, "sh", deb, version)
}
