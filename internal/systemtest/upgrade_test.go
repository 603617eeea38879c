//go:build systemd

package systemtest

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// newer packs the package machinemon-update again, as these later versions.
func newer(t *testing.T, versions ...string) (debs []string) {
	t.Helper()
	const name = "machinemon-update_"
	found := slices.DeleteFunc(packages(t), func(deb string) bool { return !strings.HasPrefix(filepath.Base(deb), name) })
	if len(found) != 1 {
		t.Fatalf("the toolkit's package: %q", found)
	}
	dir, out := t.TempDir(), t.TempDir()
	do := func(argv ...string) {
		t.Helper()
		if said, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, said)
		}
	}
	do("dpkg-deb", "--raw-extract", found[0], dir)
	for _, v := range versions {
		do("sed", "-i", "s/^Version: .*/Version: "+v+"/", filepath.Join(dir, "DEBIAN", "control"))
		debs = append(debs, filepath.Join(out, name+v+".deb"))
		do("dpkg-deb", "-Zgzip", "-z1", "--build", dir, debs[len(debs)-1])
	}
	return debs
}

// TestUpgradeMidChain shows that an upgrade of the packages in any stage of the chain
// does no harm: a good release is committed, a bad one rolled back.
func TestUpgradeMidChain(t *testing.T) {
	once(t)
	t.Parallel()
	// The restart is held while apt works, and that time counts as part of the start.
	c := newHeldChain(t, strings.NewReplacer("settle_seconds = 1", "settle_seconds = 15", "timeout_seconds = 10", "timeout_seconds = 300").Replace(testdTarget))
	good := releases.Daemon{Version: "1.1.0"}
	c.publish(c.dir, good)
	came, goOn := c.breakUntil(c.archive("1.1.0"))
	c.hold(atPreflight)
	c.hold(atRestart)

	versions := []string{"99.1", "99.2", "99.3", "99.4", "99.5", "99.6"}
	inside := c.bring(newer(t, versions...)...)
	installed := -1
	install := func(options ...string) {
		t.Helper()
		c.aptGet(append(append([]string{"install"}, options...), inside[installed])...)
		if got, want := c.must("dpkg-query", "-Wf", "${Version} ${db:Status-Status}", "machinemon-update"), versions[installed]+" installed"; got != want {
			t.Errorf("the package is %s, want %s", got, want)
		}
	}
	upgrade := func() {
		t.Helper()
		installed++
		install()
	}

	since := c.cursor()
	apply := c.startApply()
	c.arrived(came)
	upgrade()
	c.hold(atVerify)
	close(goOn)
	c.awaitHeld(since, atVerify)
	upgrade()
	c.letGo(atVerify)
	c.awaitHeld(since, atPreflight)
	install("--reinstall")
	c.letGo(atPreflight)
	c.awaitHeld(since, atRestart)
	upgrade()
	c.letGo(atRestart)
	c.awaitTrial()
	upgrade()
	if got := c.property("machinemon-deadline@testd.timer", "ActiveState"); got != "active" {
		t.Errorf("the deadline's timer is %s", got)
	}
	c.said(c.wait(apply), 0, "committed 1.1.0 (was 1.0.0)")
	c.assertOrder(since, inChain("fetch starting", "verify starting", "swap starting", "testd started", "swap started",
		"health-gate started", "commit started")...)
	c.assertNever(since, inChain("rollback starting")[0])
	c.assertRuns(good)
	c.assertClosed("1.0.0")

	c.target(strings.Replace(testdTarget, "settle_seconds = 1", "settle_seconds = 15", 1))
	c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "never-listen"})
	since = c.cursor()
	apply = c.startApply()
	c.awaitEvent(since, inChain("swap started")[0])
	c.hold(atRestart) // ten seconds are left to do this
	upgrade()
	c.awaitEvent(since, inChain("rollback starting")[0])
	upgrade()
	c.letGo(atRestart)
	c.said(c.wait(apply), 4, "rolled back 1.2.0", "(1.1.0 runs again)")
	c.assertRuns(good)
	c.assertClosed("1.0.0")
	c.assertRejected("1.2.0")
}
