//go:build systemd

package systemtest

import (
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

const linkTarget = `unit = "testd.service"
[source]
url = "http://` + releasesAt + `/client-manifest.json"
[[install]]
from = "testd-{version}/"
to = "/opt/testd/current"
releases = "/opt/testd/releases"
[health]
main = "/opt/testd/current/bin/testd"
timeout_seconds = 10
settle_seconds = 1
version_command = ["/opt/testd/current/bin/testd", "--version"]
[[health.probe]]
http = "http://` + testdAddress + `/healthz"
`

// TestLink updates a program whose releases have a directory each, with a link to the one
// that runs.
func TestLink(t *testing.T) {
	once(t)
	t.Parallel()
	m := boot(t)
	release := func(d releases.Daemon) []releases.File {
		dir := "testd-" + d.Version + "/"
		return []releases.File{{Name: dir + "bin/testd", Content: build(t, d)}, {Name: dir + "share/text", Content: []byte(d.Version)}}
	}
	m.must("sh", "-ec", "mkdir -p /opt/testd/releases/1.0.0/bin /opt/testd/releases/1.0.0/share; echo -n 1.0.0 >/opt/testd/releases/1.0.0/share/text; "+
		"ln -s releases/1.0.0 /opt/testd/current")
	m.writeFile("/opt/testd/releases/1.0.0/bin/testd", string(build(t, releases.Daemon{Version: "1.0.0"})), 0o755)
	c := m.chain(strings.Replace(testdUnit, testdPath, "/opt/testd/current/bin/testd", 1), linkTarget)
	stands := func(version string, all ...string) {
		t.Helper()
		c.awaitTestd(version)
		want := "releases/" + version + "\n" + version + strings.Join(append([]string{""}, all...), "\n") + "\n"
		if got := c.must("sh", "-ec", "cd /opt/testd; readlink current; cat current/share/text; echo; ls releases"); got != want {
			t.Errorf("there are %q, want %q", got, want)
		}
	}
	stands("1.0.0", "1.0.0")

	c.publishFiles(c.dir, "2.0.0", release(releases.Daemon{Version: "2.0.0"})...)
	c.apply(0, "committed 2.0.0")
	stands("2.0.0", "1.0.0", "2.0.0")
	c.said(c.run("machinemon-update", "apply", "testd"), 0, "already current")

	c.publishFiles(c.dir, "3.0.0", release(releases.Daemon{Version: "3.0.0", Behaviour: "answer-500"})...)
	c.apply(4, "rolled back")
	stands("2.0.0", "1.0.0", "2.0.0")

	// The power goes while the link leads to a release on trial.
	c.target(strings.Replace(linkTarget, "settle_seconds = 1", "settle_seconds = 50", 1))
	c.publishFiles(c.dir, "4.0.0", release(releases.Daemon{Version: "4.0.0"})...)
	apply := c.startApply()
	c.awaitTrial()
	stands("4.0.0", "1.0.0", "2.0.0", "4.0.0")
	c.Yank()
	c.wait(apply)
	c.bootAndServe()
	stands("2.0.0", "1.0.0", "2.0.0")

	c.target(linkTarget)
	c.must("machinemon-update", "unskip", "testd")
	c.apply(0, "committed 4.0.0")
	stands("4.0.0", "2.0.0", "4.0.0")
	c.said(c.run("machinemon-update", "rollback", "testd"), 0, "committed 2.0.0")
	stands("2.0.0", "2.0.0")
	if got := c.must("sh", "-c", "ls -A /opt/testd /opt/testd/releases | grep -x .machinemon-update || true"); got != "" {
		t.Errorf("something was left beside the releases: %s", got)
	}
}
