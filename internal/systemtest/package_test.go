//go:build systemd

package systemtest

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// written lists the paths that other programs write while packages are installed and
// removed. A new file outside of them is ours.
var written = []string{
	"/etc/.pwd.lock", "/etc/passwd", "/etc/passwd-", "/etc/shadow", "/etc/shadow-", // systemd-sysusers, userdel
	"/etc/group", "/etc/group-", "/etc/gshadow", "/etc/gshadow-",
	"/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/apt/", "/var/cache/debconf/", "/var/cache/ldconfig/", "/var/lib/systemd/", "/var/log/",
	"/usr/local/bin/testd", "/etc/testd/", // the daemon's files, which stay
}

func others(path string) bool {
	return slices.ContainsFunc(written, func(w string) bool {
		return path == strings.TrimSuffix(w, "/") || strings.HasSuffix(w, "/") && strings.HasPrefix(path, w)
	})
}

func (b *box) find(arguments ...string) []string {
	b.t.Helper()
	return strings.Fields(b.must(append([]string{"find", "/", "-xdev"}, arguments...)...))
}

// without returns the elements of all that are not in some.
func without(all, some []string) []string {
	slices.Sort(some)
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool {
		_, found := slices.BinarySearch(some, s)
		return found
	})
}

// accounts returns the content of the machine's account files.
func (b *box) accounts() string {
	b.t.Helper()
	return b.readFile("/etc/passwd") + b.readFile("/etc/group") + b.readFile("/etc/shadow") + b.readFile("/etc/gshadow")
}

// denied makes it a policy of the machine that no package may start or stop a unit.
func (b *box) denied() {
	b.t.Helper()
	b.writeFile("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
}

// TestPurge shows that after a purge in the middle of a trial the daemon runs as before,
// and that no file of the packages is left.
func TestPurge(t *testing.T) {
	once(t)
	t.Parallel()
	const mark = "/etc/testd/mark"
	b := bootBare(t)
	b.installTestd("1.0.0", testdUnit)
	b.writeFile("/etc/testd/config", "x", 0o644)
	c := &chain{b, t.TempDir(), nil}
	c.server = c.serve(c.dir)
	c.writeFile(mark, "", 0o644)
	before, accounts := c.find(), c.accounts()

	c.install()
	c.target(testdTarget + "[rollback]\nsnapshot = [\"/etc/testd/config\"]\n")
	c.must("machinemon-update", "enable", "testd")
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.apply(0, "committed 1.1.0")
	c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "exit1-at-once"})
	c.apply(4, "rolled back 1.2.0")
	c.must("systemctl", "reset-failed", "testd.service")
	c.writeFile("/etc/machinemon-update/targets.d/testd.toml.d/long.toml", "[health]\nsettle_seconds = 50\n", 0o644)
	c.writeFile("/var/lib/systemd/timers/stamp-machinemon-fetch@testd.timer", "", 0o644)
	c.must("systemctl", "enable", "--now", "machinemon-release-refresh@srv-releases.timer", "machinemon-release-rollout@srv-releases.timer")
	c.publish(c.dir, releases.Daemon{Version: "1.3.0"})
	apply := c.startApply()
	c.awaitTrial()
	for _, name := range []string{"one", "two"} { // the second waits for the minute between answers
		c.must("touch", "/run/machinemon-update/directive/testd/"+name)
		c.awaitProperty("machinemon-directive@testd.service", "ActiveState", func(state string) bool { return state == "active" })
	}

	c.aptGet("purge", "machinemon-update*", "machinemon-release", "machinemon-checkin")
	c.said(c.wait(apply), 4, "interrupted 1.3.0")
	c.assertServes(releases.Daemon{Version: "1.1.0"})
	c.assertGone()
	if got := c.must("systemctl", "is-system-running"); got != "running\n" {
		t.Errorf("the machine is %s", got)
	}
	if got := c.accounts(); got != accounts {
		t.Errorf("the accounts were\n%s\nand are\n%s", accounts, got)
	}
	if r := c.run("dpkg-query", "-W", "machinemon-*"); r.Stdout != "" {
		t.Errorf("dpkg still knows %s", r.Stdout)
	}
	newer := c.find("-newer", mark, "!", "-type", "d")
	t.Logf("find / -xdev -newer MARK ! -type d:\n%s", strings.Join(newer, "\n"))
	after := c.find()
	appeared := without(after, before)
	t.Logf("files and directories that were not there before:\n%s", strings.Join(appeared, "\n"))
	for _, path := range append(newer, appeared...) {
		if !others(path) || strings.Contains(path, "machinemon") {
			t.Errorf("left behind: %s", path)
		}
	}
	if gone := without(before, after); len(gone) > 0 {
		t.Errorf("gone with the packages: %q", gone)
	}

	// This is like a first installation.
	c.install()
	c.target(testdTarget)
	c.apply(0, "committed 1.3.0 (was 1.1.0)")
	if h := c.history(); len(h) != 1 {
		t.Errorf("history has %+v", h)
	}
}

// TestRemoveInstallPurge shows that a removal keeps what a later installation can use,
// and that a purge ignores invalid lines in a list of files.
func TestRemoveInstallPurge(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.apply(0, "committed 1.1.0")

	since := c.cursor()
	c.install("--reinstall")
	c.assertUntouched(since)
	c.apply(0, "already current")
	c.aptGet("remove", "machinemon-update")
	c.assertGone()
	c.install()
	c.assertUntouched(since)
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.assertClosed("1.0.0")
	c.said(c.run("machinemon-update", "rollback", "testd"), 0, "committed 1.0.0")
	c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
	c.apply(0, "committed 1.2.0")

	c.aptGet("remove", "machinemon-update")
	c.must("sh", "-ec", `
		mkdir -p -m 700 /srv/private /srv/a/.machinemon-update /srv/b/.machinemon-update /srv/c/.machinemon-update
		chmod 755 /srv/a/.machinemon-update
		chown nobody /srv/b/.machinemon-update
		mkdir /srv/d && ln -s /srv/private /srv/d/.machinemon-update
		printf '%s\n' /srv/private /srv/a/.machinemon-update /srv/b/.machinemon-update /srv/d/.machinemon-update \
			/srv/none/.machinemon-update '' / -rf '/srv/c/.machinemon-update ' ' /srv/c/.machinemon-update' >> /var/lib/machinemon-update/beside`)
	c.aptGet("purge", "machinemon-update")
	if got, want := c.find("-name", ".machinemon-update"), []string{"/srv/a/.machinemon-update", "/srv/b/.machinemon-update", "/srv/c/.machinemon-update", "/srv/d/.machinemon-update"}; !slices.Equal(slices.Sorted(slices.Values(got)), want) {
		t.Errorf("there are %q, want %q", got, want)
	}
	c.must("test", "-d", "/srv/private")
	c.assertServes(releases.Daemon{Version: "1.2.0"})
}

// TestPolicyForbidsServices shows that an installation starts nothing if a policy forbids
// it, and that a trial is rolled back nevertheless.
func TestPolicyForbidsServices(t *testing.T) {
	once(t)
	t.Parallel()
	b := bootBare(t)
	b.installTestd("1.0.0", testdUnit)
	c := &chain{b, t.TempDir(), nil}
	c.server = c.serve(c.dir)
	c.denied()
	since := c.cursor()
	c.install()
	if events, err := c.UnitEvents(t.Context(), since); err != nil || slices.ContainsFunc(events, func(e machine.Event) bool {
		return strings.HasPrefix(e.Unit, "machinemon-")
	}) {
		t.Errorf("the installation started something: %v, %v", events, err)
	}
	if got := c.must("systemctl", "list-units", "--plain", "--no-legend", "machinemon-*"); got != "" {
		t.Errorf("active are\n%s", got)
	}

	c.target(longTrial) // also starts the chain's units, as a boot would
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	apply := c.startApply()
	c.awaitTrial()
	c.aptGet("remove", "machinemon-update")
	c.said(c.wait(apply), 4, "interrupted 1.1.0")
	c.assertServes(releases.Daemon{Version: "1.0.0"})
	c.assertGone()
}

// TestWithoutSystemd shows that in a chroot without systemd packages can be installed and
// removed, unless a removal would leave a trial open.
func TestWithoutSystemd(t *testing.T) {
	t.Parallel()
	b := bootBare(t)
	accounts := b.accounts()
	chroot := func(args ...string) machine.Result {
		t.Helper()
		return b.run(append([]string{"unshare", "--mount", "sh", "-ec", `mount -t tmpfs none /run/systemd; exec "$@"`, "sh"}, aptGet(args...)...)...)
	}
	install := append([]string{"install"}, b.bring(packages(t)...)...)
	if r := chroot(install...); r.Code != 0 {
		t.Fatalf("installation: %+v", r)
	}
	const journal = "/var/lib/machinemon-update/swap/agent/journal.json"
	b.writeFile(journal, "{}", 0o644)
	if r := chroot("remove", "machinemon-update"); r.Code == 0 || !strings.Contains(r.Stdout+r.Stderr, "cannot close the open trial of agent without systemd") {
		t.Errorf("removal with an open trial: %+v", r)
	}
	b.must("rm", "-r", filepath.Dir(journal), "/run/machinemon-update")
	if r := chroot("purge", "machinemon-update*", "machinemon-checkin"); r.Code != 0 {
		t.Errorf("purge: %+v", r)
	}
	if got := b.find("-name", "*machinemon*", "!", "-path", "/var/lib/dpkg/*", "!", "-path", "*machinemon-release*"); len(got) > 0 {
		t.Errorf("left behind: %q", got)
	}
	if got := b.accounts(); got != accounts {
		t.Errorf("the accounts were\n%s\nand are\n%s", accounts, got)
	}
}
