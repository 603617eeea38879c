//go:build systemd

package systemtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/signature/signaturetest"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// publisherTarget is a target whose publisher signs checksums or archives.
const publisherTarget = `unit = "testd.service"
` + githubTarget + `asset = "testd-{number}.{os}-{arch}.tar.gz"
[trust]
mode = "signature"
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

// packed returns the archive of a release, with its name.
func (b *box) packed(d releases.Daemon) (name string, content []byte) {
	b.t.Helper()
	name = "testd-" + strings.TrimPrefix(d.Version, "v") + "." + manifest.Host() + ".tar.gz"
	file := filepath.Join(b.t.TempDir(), name)
	b.ok(releases.Pack(file, releases.File{Name: "testd", Content: build(b.t, d)}))
	content, err := os.ReadFile(file)
	b.ok(err)
	return name, content
}

func asset(name string, content []byte) releases.Asset {
	return releases.Asset{Name: name, Content: content}
}

// TestSignature updates from releases that their publisher signs with minisign and then
// with OpenPGP, and shows that the verifier, and root behind a verifier that was taken
// over, install nothing else.
func TestSignature(t *testing.T) {
	once(t)
	t.Parallel()
	c := &chain{box: boot(t)}
	c.signed = true
	c.installTestd("v1.0.0", testdUnit)
	c.target(publisherTarget)
	hub := &releases.GitHub{Repo: "example/testd"}
	l, err := c.Listen("tcp", releasesAt)
	c.ok(err)
	server := releases.ServeBy(l, hub)
	t.Cleanup(func() { server.Close() })
	var (
		mini = signaturetest.NewMinisign(t)
		pgp  = signaturetest.NewOpenPGP(t, time.Now().Add(-time.Hour), 0)
	)
	publish := func(version string, sign func(name string, content []byte) []releases.Asset) []byte {
		name, content := c.packed(releases.Daemon{Version: version})
		hub.Publish(releases.Tagged{Tag: version, Assets: append(sign(name, content), releases.Digested(name, content))})
		return content
	}
	sums := func(name string, content []byte) []byte { return []byte(manifest.Digest(content) + "  " + name + "\n") }

	c.step("pinned", func() {
		publish("v1.1.0", func(name string, content []byte) []releases.Asset {
			return []releases.Asset{asset("SHA256SUMS", sums(name, content)), asset("SHA256SUMS.minisig", mini.Sign(sums(name, content), "SHA256SUMS"))}
		})
		c.apply(6, "there is no /etc/machinemon-update/trust/testd.key (hint: sudo machinemon-update trust testd FILE --sha256 HEX)")
		c.writeFile("/root/app.pub", string(mini.Public()), 0o600)
		if r := c.run("machinemon-update", "trust", "testd", "/root/app.pub"); r.Code != 2 || !strings.Contains(r.Stderr, "it has minisign key ") {
			t.Errorf("trust unseen: %+v", r)
		}
		c.must("machinemon-update", "trust", "testd", "/root/app.pub", "--sha256", manifest.Digest(mini.Public()))
		c.apply(0, "committed v1.1.0 (was v1.0.0)")
		c.assertRuns(releases.Daemon{Version: "v1.1.0"})
		c.assertClosed("v1.0.0")
		if r := c.run("machinemon-update", "status", "testd"); !strings.Contains(r.Stdout, " signed ") {
			t.Errorf("status: %+v", r)
		}
	})

	c.step("an archive with its own signature", func() {
		publish("v1.2.0", func(name string, content []byte) []releases.Asset {
			return []releases.Asset{asset(name+".minisig", mini.Sign(content, name))}
		})
		c.apply(0, "committed v1.2.0 (was v1.1.0)")
		c.assertRuns(releases.Daemon{Version: "v1.2.0"})
	})

	c.step("a new key", func() {
		signed := func(name string, content []byte) []releases.Asset {
			return []releases.Asset{asset(name+".asc", pgp.Sign(content))}
		}
		publish("v1.3.0", signed)
		since := c.cursor()
		c.apply(6, "it is signed by OpenPGP key ", "which is not pinned (hint: pinned are the keys in /etc/machinemon-update/trust/testd.key")
		c.assertUntouched(since)
		both := append(mini.Public(), pgp.Public()...)
		c.writeFile("/root/app.pub", string(both), 0o600)
		c.must("machinemon-update", "trust", "testd", "/root/app.pub", "--sha256", manifest.Digest(both))
		c.apply(0, "committed v1.3.0 (was v1.2.0)")
		c.assertRuns(releases.Daemon{Version: "v1.3.0"})
		publish("v1.4.0", func(name string, content []byte) []releases.Asset {
			return []releases.Asset{asset("sha256sum.txt.asc", pgp.Clear(sums(name, content)))}
		})
		c.apply(0, "committed v1.4.0 (was v1.3.0)")
		c.assertRuns(releases.Daemon{Version: "v1.4.0"})
	})

	c.step("not the publisher's", func() {
		old, content := c.packed(releases.Daemon{Version: "v1.1.0"})
		for _, r := range []struct {
			name string
			sign func(name string, content []byte) []releases.Asset
			says string
		}{
			{"of another archive", func(name string, _ []byte) []releases.Asset {
				return []releases.Asset{asset(name+".asc", pgp.Sign(content))}
			}, "is not valid: "},
			{"of other checksums", func(name string, content []byte) []releases.Asset {
				return []releases.Asset{asset("SHA256SUMS", sums(name, content)), asset("SHA256SUMS.minisig", mini.Sign(sums(old, content), ""))}
			}, "is not valid: file or signature were changed"},
		} {
			publish("v1.5.0", r.sign)
			since := c.cursor()
			c.apply(6, r.says)
			c.assertUntouched(since)
		}
		// An old archive, which the publisher has signed, as a new release.
		name := strings.Replace(old, "1.1.0", "1.5.0", 1)
		hub.Publish(releases.Tagged{Tag: "v1.5.0", Assets: []releases.Asset{asset(name+".asc", pgp.Sign(content)), releases.Digested(name, content)}})
		c.apply(6, "the new program says v1.1.0 instead of v1.5.0")
		hub.Publish(releases.Tagged{Tag: "v1.1.0", Assets: []releases.Asset{asset(old+".asc", pgp.Sign(content)), releases.Digested(old, content)}})
		c.apply(8, "v1.1.0 is lower than the installed v1.4.0, and its signature does not forbid to bring back an old release")
		c.assertRuns(releases.Daemon{Version: "v1.4.0"})
	})

	c.step("a verifier that was taken over", func() {
		publish("v1.6.0", func(name string, content []byte) []releases.Asset {
			return []releases.Asset{asset(name+".minisig", mini.Sign(content, name))}
		})
		_, forged := c.packed(releases.Daemon{Version: "v6.6.6"})
		c.writeFile("/opt/forge/0", string(build(t, releases.Daemon{Version: "v6.6.6"})), 0o644)
		c.writeFile("/opt/forge/payload", string(forged), 0o644)
		for _, r := range []struct{ name, does, says string }{
			{"another tree", "cp $in/payload payload; cp /opt/forge/0 0", "cannot install testd: its sha256 is "},
			{"another archive", "cp /opt/forge/payload payload; cp /opt/forge/0 0", "the manifest says "},
		} {
			c.takeVerifierOver(r.does)
			since := c.cursor()
			c.apply(6, r.says)
			c.assertUntouched(since)
		}
		c.must("rm", "-r", "/etc/systemd/system/machinemon-verify@testd.service.d")
		c.must("systemctl", "daemon-reload")
		c.apply(0, "committed v1.6.0 (was v1.4.0)")
		c.assertRuns(releases.Daemon{Version: "v1.6.0"})
		c.assertClosed("v1.4.0")
	})
}

// takeVerifierOver makes a shell script take the verifier's place, in its sandbox. The
// script puts files into the tree, which has the fetcher's manifest and evidence by then.
// $in is what the fetcher handed on.
func (c *chain) takeVerifierOver(script string) {
	c.t.Helper()
	c.writeFile("/opt/forge/forge.sh", `set -e
attempt=$(readlink `+fetchDir+`/ready/.next.link)
in=`+fetchDir+`/ready/$attempt
mkdir -p `+verifyDir+`/ready/.new
cd `+verifyDir+`/ready/.new
cp "$in"/manifest.json "$in"/metadata.json .
echo '{"attempt":"'"$attempt"'","platform":"linux-amd64","files":[{"entry":"testd","name":"0"}]}' >receipt.json
`+script+`
rm -r "$in"
mv ../.new "../$attempt"
ln -s "$attempt" ../.next.link
`, 0o644)
	c.writeFile("/etc/systemd/system/machinemon-verify@testd.service.d/forge.conf", "[Service]\nExecStart=\nExecStart=/bin/sh /opt/forge/forge.sh\n", 0o644)
	c.must("systemctl", "daemon-reload")
}
