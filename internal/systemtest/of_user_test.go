//go:build systemd

package systemtest

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

const alicePath = "/home/alice/bin/testd"

var (
	aliceUnit   = strings.NewReplacer("ExecStart="+testdPath, "ExecStart="+alicePath, "[Service]", "[Service]\nUser=alice").Replace(testdUnit)
	aliceTarget = strings.ReplaceAll(testdTarget, testdPath, alicePath)
)

// newAliceChain is newChain with testd in the home of the user as which its unit runs. No
// other user may enter that home.
func newAliceChain(t *testing.T) *chain {
	t.Helper()
	m := boot(t)
	m.must("useradd", "--create-home", "alice")
	m.must("chmod", "700", "/home/alice")
	m.must("runuser", "-u", "alice", "--", "mkdir", "/home/alice/bin")
	m.writeFile("/etc/systemd/system/testd.service", aliceUnit, 0o644)
	m.writeFile("/etc/testd-first", string(build(t, releases.Daemon{Version: "1.0.0"})), 0o755)
	m.must("runuser", "-u", "alice", "--", "install", "-m", "755", "/etc/testd-first", alicePath)
	m.writeTarget(aliceTarget)
	m.must("systemctl", "enable", "--quiet", "--now", "testd.service")
	m.awaitTestd("1.0.0")
	m.must("systemctl", "start", "paths.target")
	m.stopShipped()
	dir := t.TempDir()
	return &chain{m, dir, m.serve(dir)}
}

// assertAlice fails the test unless this build of testd is alice's program and runs.
func (b *box) assertAlice(d releases.Daemon) {
	b.t.Helper()
	b.assertOfUser(alicePath, d)
	if got := b.must("stat", "--format=%a %U:%G %N", alicePath, "/home/alice/bin", "/home/alice"); !strings.HasPrefix(got, "755 alice:alice '"+alicePath+"'\n755 alice:alice ") || !strings.Contains(got, "\n700 alice:alice ") {
		b.t.Errorf("the program and its directories are\n%s", got)
	}
}

// assertOfUser fails the test unless this build of testd is the user's program, with
// nothing beside it, and runs.
func (b *box) assertOfUser(path string, d releases.Daemon) {
	b.t.Helper()
	if got, want := digest(b.readFile(path)), digest(string(build(b.t, d))); got != want {
		b.t.Errorf("%s has sha256 %s, want %s of %s", path, got, want, d.Version)
	}
	if got := b.list(filepath.Dir(path)); len(got) != 1 {
		b.t.Errorf("beside %s are %q", path, got)
	}
	b.awaitTestd(d.Version)
	b.must("test", "/proc/"+b.mainPID()+"/exe", "-ef", path)
	if s := b.status(); s.Trial != "" || s.Error != "" {
		b.t.Errorf("status shows %+v", s)
	}
}

// TestProgramOfUser updates a program in the home of the unit's user, rolls back, and goes
// back; refuses it for a unit of root; and does the same in that user's directory below
// one of root's.
func TestProgramOfUser(t *testing.T) {
	t.Parallel()
	c := newAliceChain(t)
	first, second := releases.Daemon{Version: "1.0.0"}, releases.Daemon{Version: "1.1.0"}
	c.step("update", func() {
		c.publish(c.dir, second)
		c.apply(0, "1.1.0")
		c.assertAlice(second)
		if s := c.status(); s.Installed != "1.1.0" {
			c.t.Errorf("status shows %+v", s)
		}
	})
	c.step("a bad release", func() {
		c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "answer-500"})
		c.apply(4, "1.2.0")
		c.assertAlice(second)
	})
	c.step("back", func() {
		since := c.cursor()
		c.said(c.run("machinemon-update", "rollback", "testd"), 0)
		c.awaitEvent(since, "testd.service started")
		c.assertAlice(first)
	})
	c.step("a link of the user", func() {
		c.must("runuser", "-u", "alice", "--", "sh", "-c", "mv "+alicePath+" /home/alice/testd && ln -s /usr/bin/machinemon-update "+alicePath)
		before := digest(c.readFile("/usr/bin/machinemon-update"))
		c.publish(c.dir, releases.Daemon{Version: "1.3.0"})
		c.apply(1, "a symbolic link leads to it")
		if now := digest(c.readFile("/usr/bin/machinemon-update")); now != before {
			c.t.Error("the file that the link leads to was changed")
		}
		c.must("runuser", "-u", "alice", "--", "mv", "/home/alice/testd", alicePath)
		c.assertAlice(first)
	})
	c.step("a unit of root", func() {
		c.must("systemctl", "stop", "testd.service")
		c.writeFile("/etc/systemd/system/testd.service", strings.Replace(aliceUnit, "User=alice\n", "", 1), 0o644)
		c.must("systemctl", "daemon-reload")
		c.must("systemctl", "start", "testd.service")
		c.apply(2, "misconfigured: cannot install a program in a user's directory: others than root can write there, and testd.service runs as root")
		c.writeFile("/etc/systemd/system/testd.service", aliceUnit, 0o644)
		c.must("systemctl", "daemon-reload")
		c.must("systemctl", "restart", "testd.service")
		c.assertAlice(first)
	})
	c.step("links at any moment", func() {
		// alice swaps the program, and the directory, with links to root's files, all the time.
		c.must("sh", "-c", "install -d /srv/root && cp "+alicePath+" /srv/root/testd && touch -d @0 /srv/root /srv/root/testd")
		before := c.must("sh", "-c", "stat -c '%i %a %u %y %z' /srv/root/testd && ls -A /srv/root && sha256sum /srv/root/testd")
		c.writeFile("/home/alice/swapping", "cd /home/alice\nwhile [ ! -e stop ]; do\n"+
			"mv bin/testd testd; ln -s /srv/root/testd bin/testd; rm bin/testd; mv testd bin/testd\n"+
			"mv bin bin.1; ln -s /srv/root bin; rm bin; mv bin.1 bin\ndone\n", 0o644)
		swapping := c.start("runuser", "-u", "alice", "--", "sh", "/home/alice/swapping")
		for range 3 {
			c.t.Logf("%s", c.run("machinemon-update", "apply", "testd").Stdout)
		}
		c.must("touch", "/home/alice/stop")
		c.wait(swapping)
		if now := c.must("sh", "-c", "stat -c '%i %a %u %y %z' /srv/root/testd && ls -A /srv/root && sha256sum /srv/root/testd"); now != before {
			c.t.Errorf("root's directory was\n%sand is\n%s", before, now)
		}
		if c.status().Trial != "" { // a rollback that met a link waits for the operator
			c.t.Logf("%s", c.run("machinemon-update", "settle", "testd", "back").Stdout)
			if s := c.status(); s.Trial != "" {
				c.t.Errorf("status shows %+v", s)
			}
		}
	})
	c.step("another directory of the user", func() {
		const path = "/srv/app/bin/testd"
		install := func(d releases.Daemon, owner string) {
			c.must("systemctl", "stop", "testd.service")
			c.must("install", "-d", "-o", owner, "-g", "alice", "-m", "2750", filepath.Dir(path)) // the gate's user cannot look there
			c.writeFile("/etc/testd-first", string(build(t, d)), 0o755)
			c.must("install", "-o", "alice", "-g", "alice", "-m", "755", "/etc/testd-first", path)
			c.must("systemctl", "start", "testd.service")
			c.assertOfUser(path, d)
		}
		// What alice did above decides what is on record; this begins with nothing.
		c.must("sh", "-c", "rm -f /var/lib/machinemon-update/*/testd/status.json /var/lib/machinemon-update/swap/testd/private.json")
		c.writeFile("/etc/systemd/system/testd.service", strings.ReplaceAll(aliceUnit, alicePath, path), 0o644)
		c.writeTarget(strings.ReplaceAll(aliceTarget, alicePath, path))
		c.must("systemctl", "daemon-reload")
		install(first, "alice")
		c.publish(c.dir, second)
		c.apply(0, "1.1.0")
		c.assertOfUser(path, second)
		c.publish(c.dir, releases.Daemon{Version: "1.4.0", Behaviour: "answer-500"})
		c.apply(4, "1.4.0")
		c.assertOfUser(path, second)
		since := c.cursor()
		c.said(c.run("machinemon-update", "rollback", "testd"), 0)
		c.awaitEvent(since, "testd.service started")
		c.assertOfUser(path, first)
		if got := c.must("stat", "--format=%a %U:%G", path, filepath.Dir(path), "/srv/app"); got != "755 alice:alice\n2750 alice:alice\n755 root:root\n" {
			c.t.Errorf("the program and its directories are\n%s", got)
		}
		c.must("useradd", "bob")
		install(first, "bob")
		c.apply(2, "owns /srv/app/bin, and testd.service runs as user")
		c.assertOfUser(path, first)
	})
}
