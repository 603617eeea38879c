//go:build systemd

package systemtest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// debsInside is on a file system that a reboot empties and find -xdev skips.
const debsInside = "/run/debs"

// bring copies package files into the machine and returns their paths.
func (b *box) bring(debs ...string) (inside []string) {
	b.t.Helper()
	for _, deb := range debs {
		content, err := os.ReadFile(deb)
		b.ok(err)
		inside = append(inside, filepath.Join(debsInside, filepath.Base(deb)))
		b.writeFile(inside[len(inside)-1], string(content), 0o644)
	}
	return inside
}

// packages returns the paths of the packages under test.
func packages(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(*debs, "*.deb"))
	if err != nil || len(all) == 0 {
		t.Fatalf("packages: %q, %v", all, err)
	}
	return all
}

func aptGet(args ...string) []string {
	return append([]string{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", "--quiet", "--no-install-recommends",
		"--option=Dpkg::Options::=--force-unsafe-io"}, args...) // the power does not fail here
}

func (b *box) aptGet(args ...string) string {
	b.t.Helper()
	return b.must(aptGet(args...)...)
}

// install installs the packages under test, or reinstalls them.
func (b *box) install(options ...string) {
	b.t.Helper()
	b.aptGet(append(append([]string{"install"}, options...), b.bring(packages(b.t)...)...)...)
}

// assertGone fails the test if a unit of the packages runs, has failed or is loaded.
func (b *box) assertGone() {
	b.t.Helper()
	if got := b.must("systemctl", "list-units", "--all", "--plain", "--no-legend", "--full", "machinemon-*"); got != "" {
		b.t.Errorf("units are left:\n%s", got)
	}
	for line := range strings.Lines(b.run("systemctl", "list-unit-files", "--no-legend", "--full", "machinemon-*").Stdout) {
		// The units of the publisher and of the MachineMon server may stay.
		if !strings.HasPrefix(line, "machinemon-release-") && !strings.HasPrefix(line, "machinemon-checkin-") {
			b.t.Errorf("a unit file is left: %s", line)
		}
	}
	if got := b.must("find", "/run", "-xdev", "-name", "*machinemon*", "!", "-path", debsInside+"/*"); got != "" {
		b.t.Errorf("in /run are left:\n%s", got)
	}
	if got := b.must("systemctl", "list-units", "--failed", "--plain", "--no-legend"); got != "" {
		b.t.Errorf("failed units:\n%s", got)
	}
	if r := b.run("pgrep", "-af", "machinemon-update"); r.Code != 1 {
		b.t.Errorf("still running: %+v", r)
	}
}

// assertServes is assertRuns without machinemon-update.
func (b *box) assertServes(d releases.Daemon) {
	b.t.Helper()
	if got, want := digest(b.readFile(testdPath)), digest(string(build(b.t, d))); got != want {
		b.t.Errorf("%s has sha256 %s, want %s of %+v", testdPath, got, want, d)
	}
	b.awaitTestd(d.Version)
	b.must("test", "/proc/"+b.mainPID()+"/exe", "-ef", testdPath)
}

// TestRemovalInEveryStage shows that the daemon runs a complete version after the package
// is removed in any stage of the chain, and that the package can be installed again.
func TestRemovalInEveryStage(t *testing.T) {
	once(t)
	t.Parallel()
	const old, released = "1.0.0", "1.1.0"
	settle4 := strings.Replace(testdTarget, "settle_seconds = 1", "settle_seconds = 4", 1)
	for _, test := range []struct {
		stage, target, behaviour string
		hold                     hold // released after the removal has begun
		reach                    func(c *chain, since machine.Cursor)
		runs                     string
		exit                     int // of the apply
	}{
		{"download", testdTarget, "", "", nil, old, 1},
		{"verify", testdTarget, "", "", func(c *chain, _ machine.Cursor) {
			c.awaitUnpacking()
			c.must("systemctl", "kill", "--signal=STOP", "--kill-who=main", unitOf("verify"))
		}, old, 1},
		{"pre-flight", testdTarget, "", "", func(c *chain, since machine.Cursor) { c.awaitHeld(since, atPreflight) }, old, 1},
		{"arming", testdTarget, "", atArming, func(c *chain, since machine.Cursor) { c.awaitHeld(since, atArming) }, old, 4},
		{"restart", testdTarget, "", atRestart, func(c *chain, since machine.Cursor) { c.awaitHeld(since, atRestart) }, old, 4},
		{"trial", longTrial, "", "", func(c *chain, _ machine.Cursor) { c.awaitTrial() }, old, 4},
		{"commit", settle4, "", atClosing, func(c *chain, since machine.Cursor) {
			c.awaitTrial()
			c.hold(atClosing) // four seconds are left to do this
			c.awaitHeld(since, atClosing)
		}, released, 0},
		{"rollback", strings.Replace(testdTarget, "timeout_seconds = 10", "timeout_seconds = 3", 1), "never-listen", atRestart, func(c *chain, since machine.Cursor) {
			c.awaitEvent(since, inChain("swap started")[0])
			c.hold(atRestart) // three seconds are left to do this
			c.awaitHeld(c.cursor(), atRestart)
		}, old, 4},
	} {
		t.Run(test.stage, func(t *testing.T) {
			t.Parallel()
			c := newHeldChain(t, test.target)
			files := []releases.File{{Name: "testd", Content: build(t, releases.Daemon{Version: released, Behaviour: test.behaviour})}}
			if test.stage == "verify" { // makes verification long enough to be noticed
				files = append(files, releases.File{Name: "bulk", Content: make([]byte, 256<<20)})
			}
			c.publishFiles(c.dir, released, files...)
			var came chan struct{}
			if test.reach == nil {
				came, _ = c.breakUntil(c.archive(released))
			}
			switch test.stage {
			case "pre-flight":
				c.hold(atPreflight)
			case "arming", "restart":
				c.hold(test.hold)
			}
			since := c.cursor()
			apply := c.startApply()
			if test.reach == nil {
				c.arrived(came)
			} else {
				test.reach(c, since)
			}

			remove := c.start(aptGet("remove", "machinemon-update")...)
			if test.hold != "" {
				c.awaitEvent(since, "machinemon-swap@testd.path stopped")
				c.letGo(test.hold)
			}
			r := c.wait(remove)
			t.Logf("removal: %s%s", r.Stdout, r.Stderr)
			if r.Code != 0 {
				t.Fatalf("the removal exited %d", r.Code)
			}
			c.said(c.wait(apply), test.exit)
			c.assertServes(releases.Daemon{Version: test.runs})
			if _, err := c.Stat(testdJournal); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the journal: %v", err)
			}
			c.assertGone()

			// State is kept, and no unit starts by itself.
			since = c.cursor()
			c.target(testdTarget)
			c.install()
			c.must("systemctl", "is-active", "machinemon-verify@testd.path")
			c.assertUntouched(since)
			if test.stage == "commit" {
				c.assertRuns(releases.Daemon{Version: released})
				c.apply(0, "already current")
				return
			}
			c.server.Mend(c.archive(released))
			c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
			if test.stage == "pre-flight" {
				c.letGo(atPreflight)
			}
			c.apply(0, "committed 1.2.0 (was 1.0.0)")
			c.assertClosed("1.0.0")
		})
	}
}

// TestRemovalRefused: the old version cannot be restored, so the package stays and works on.
func TestRemovalRefused(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, longTrial)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	apply := c.startApply()
	c.awaitTrial()
	c.must("sh", "-c", "rm "+testdSide+"/*.old")

	r := c.run(aptGet("remove", "machinemon-update")...)
	if r.Code == 0 || !strings.Contains(r.Stdout+r.Stderr, settleHint) {
		t.Fatalf("removal: %+v", r)
	}
	t.Logf("it said: %s%s", r.Stdout, r.Stderr)
	c.said(c.wait(apply), 5, "rollback failed")
	if got := c.must("dpkg-query", "-Wf", "${db:Status-Status}", "machinemon-update"); got != "installed" {
		t.Errorf("the package is %s", got)
	}
	if got := c.must("systemctl", "is-active", "machinemon-verify@testd.path", "machinemon-swap@testd.path", "machinemon-fetch@testd.timer"); got != "active\nactive\nactive\n" {
		t.Errorf("path units and timer are %q", got)
	}

	// The operator repairs the file.
	c.writeFile(testdPath+".new", string(build(t, releases.Daemon{Version: "1.0.0"})), 0o755)
	c.must("mv", testdPath+".new", testdPath)
	c.settle("back", 0, "settled 1.1.0")
	c.aptGet("remove", "machinemon-update")
	c.assertServes(releases.Daemon{Version: "1.0.0"})
	c.assertGone()
}
