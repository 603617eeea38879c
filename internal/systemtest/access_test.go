//go:build systemd

package systemtest

import (
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// asUser returns a command that runs argv as this user with exactly these groups.
func asUser(user, groups string, argv ...string) []string {
	who := []string{"setpriv", "--reuid=" + user, "--regid=" + groups, "--clear-groups", "--"}
	if first, others, more := strings.Cut(groups, ","); more {
		who = []string{"setpriv", "--reuid=" + user, "--regid=" + first, "--groups=" + others, "--"}
	}
	return append(who, argv...)
}

// TestOtherUsers shows that every user may read states and only root may change anything.
func TestOtherUsers(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.apply(0, "committed 1.1.0")
	nobody := func(argv ...string) []string { return asUser("nobody", "nogroup", argv...) }

	// root may see more of other targets: see TestSourceOfAgent.
	for _, argv := range [][]string{{"machinemon-update", "status", "testd"}, {"machinemon-update", "status", "--json", "testd"},
		{"machinemon-update", "history", "testd"}, {"machinemon-update", "history", "--json", "testd"}, {"machinemon-update", "version"}} {
		want, got := c.run(argv...), c.run(nobody(argv...)...)
		if got != want || got.Stdout == "" {
			t.Errorf("%q: nobody sees %+v\nroot sees %+v", argv, got, want)
		}
	}
	if r := c.run(nobody("machinemon-update", "check", "testd")...); r.Code != 0 || !strings.Contains(r.Stdout, "already current") {
		t.Errorf("check: %+v", r)
	}
	c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
	if r := c.run(nobody("machinemon-update", "check", "testd")...); r.Code != 3 || !strings.Contains(r.Stdout, "available 1.2.0 (installed: 1.1.0)") {
		t.Errorf("check: %+v", r)
	}
	since := c.cursor()
	for _, verb := range []string{"apply", "rollback"} {
		if r := c.run(nobody("machinemon-update", verb, "testd")...); r.Code != 2 || !strings.Contains(r.Stderr, "cannot "+verb) || !strings.Contains(r.Stderr, "hint: sudo machinemon-update "+verb) {
			t.Errorf("%s: %+v", verb, r)
		}
	}
	if r := c.run(nobody("systemctl", "start", "machinemon-update.service")...); r.Code == 0 {
		t.Errorf("systemctl start: %+v", r)
	}
	c.assertNever(since, inChain("fetch starting")[0])
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.assertClosed("1.0.0")
}

// TestStatusInTheTrial shows that a release does not run with the rights of a user that
// asks for the status during its trial.
func TestStatusInTheTrial(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, strings.NewReplacer("settle_seconds = 1", "settle_seconds = 6",
		`["`+testdPath+`", "--version"]`, `["/usr/local/bin/asked"]`).Replace(testdTarget))
	c.writeFile("/usr/local/bin/asked", "#!/bin/sh\ntouch /tmp/asked-$(id -un)\nexec "+testdPath+" --version\n", 0o755)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	since := c.cursor()
	apply := c.start("machinemon-update", "apply", "testd")
	c.awaitEvent(since, inChain("swap started")[0])
	if r := c.run(asUser("daemon", "daemon", "machinemon-update", "status", "testd")...); !strings.Contains(r.Stdout, "1.1.0") {
		t.Errorf("status: %+v", r)
	}
	c.said(c.wait(apply), 0, "committed 1.1.0")
	if r := c.run("ls", "/tmp/asked-daemon"); r.Code == 0 {
		t.Error("the release ran as daemon")
	}
}

// TestPermissions shows that other users can write nothing, and that the user of a worker
// can write only its own directories and those that its unit must empty.
func TestPermissions(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.apply(0, "committed 1.1.0")
	c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "exit1-at-once"})
	c.apply(4, "rolled back 1.2.0")
	const state, run = "/var/lib/machinemon-update", "/run/machinemon-update"
	for _, test := range []struct {
		user, groups string
		may          []string // and everything below
	}{
		{"nobody", "nogroup", nil},
		{"mm-fetch-testd", "mm-fetch-testd", []string{state + "/fetch/testd"}},
		{"mm-verify-testd", "mm-verify-testd,mm-fetch-testd", []string{state + "/verify/testd", state + "/fetch/testd/ready"}},
		{"mm-gate-testd", "mm-gate-testd", []string{run + "/command/testd"}},
		{"mm-command-testd", "mm-command-testd", nil},
		{"mm-notify-testd", "mm-notify-testd", []string{state + "/notify/testd/ready"}},
	} {
		found := c.run(asUser(test.user, test.groups, "find", state, run, "/etc/machinemon-update", "/usr/lib/machinemon-update",
			"/usr/bin/machinemon-update", "/usr/local/bin", "/etc/systemd/system", "-writable", "!", "-type", "l")...)
		writable := strings.Fields(found.Stdout)
		for _, path := range writable {
			if !slices.ContainsFunc(test.may, func(dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }) {
				t.Errorf("%s may write %s", test.user, path)
			}
		}
		for _, dir := range test.may {
			if !slices.Contains(writable, dir) {
				t.Errorf("%s may not write %s", test.user, dir)
			}
		}
	}
	// Other users may not see which versions were or will be installed.
	if r := c.run(asUser("nobody", "nogroup", "ls", testdSide)...); r.Code == 0 {
		t.Errorf("nobody sees %s", r.Stdout)
	}
}

// TestNothingIsResident shows that after an attempt no process of the packages is left,
// and no active unit except the path units and those that made the accounts or listen
// for the gate.
func TestNothingIsResident(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	for _, d := range []releases.Daemon{{Version: "1.1.0"}, {Version: "1.2.0", Behaviour: "exit1-at-once"}} {
		c.publish(c.dir, d)
		c.run("machinemon-update", "apply", "testd")
		c.must("systemctl", "start", "machinemon-inform@testd.service") // which the end of the attempt has started
		for line := range strings.Lines(c.must("systemctl", "list-units", "--plain", "--no-legend", "--state=active,activating,deactivating,reloading", "machinemon-*")) {
			if unit, _, _ := strings.Cut(line, " "); !strings.HasSuffix(unit, ".path") && !strings.HasSuffix(unit, ".slice") && !strings.HasPrefix(unit, "machinemon-accounts@") && !strings.HasPrefix(unit, "machinemon-command@") {
				t.Errorf("after %s: %s", d.Version, line)
			}
		}
		if r := c.run("sh", "-c", "readlink /proc/[0-9]*/exe | grep -E 'machinemon|\\.machinemon-update'"); r.Code != 1 {
			t.Errorf("after %s: %+v", d.Version, r)
		}
	}
}
