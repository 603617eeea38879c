//go:build systemd

package systemtest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestKilledBeforeTheTrial shows that a worker that dies before the journal is open has
// changed nothing, that the command names its unit, and that the next run succeeds.
func TestKilledBeforeTheTrial(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"fetch", "verify", "swap"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			c := newHeldChain(t, testdTarget)
			release := []releases.File{{Name: "testd", Content: build(t, releases.Daemon{Version: "1.1.0"})}}
			if step == "verify" { // makes verification long enough to be noticed
				release = append(release, releases.File{Name: "bulk", Content: make([]byte, 256<<20)})
			}
			c.publishFiles(c.dir, "1.1.0", release...)
			came := make(chan struct{})
			if step == "fetch" {
				c.server.Break(c.archive("1.1.0"), releases.Hang(came))
			}
			c.hold(atPreflight)

			since := c.cursor()
			apply := c.startApply()
			switch step {
			case "fetch":
				c.arrived(came)
			case "verify":
				c.awaitUnpacking()
			case "swap":
				c.awaitHeld(since, atPreflight)
			}
			c.kill(step)
			c.said(c.wait(apply), 1, "failed: machinemon-"+step+"@testd.service failed (signal)", "nothing was changed", "journalctl -u")
			c.assertOrder(since, inChain(step+" starting", step+" failed")...)
			if step == "swap" {
				// The gate had started already. It waited for nothing, and has not failed.
				c.awaitEvent(since, inChain("health-gate started")[0])
			}
			c.assertUntouched(since)
			c.assertRuns(releases.Daemon{Version: "1.0.0"})
			if _, err := c.Stat(testdJournal); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("there is a journal: %v", err)
			}

			c.server.Mend(c.archive("1.1.0"))
			c.letGo(atPreflight)
			c.apply(0, "committed 1.1.0 (was 1.0.0)")
			c.assertRuns(releases.Daemon{Version: "1.1.0"})
			c.assertClosed("1.0.0")
		})
	}
}

// awaitUnpacking waits until the verifier is unpacking the archive.
func (b *box) awaitUnpacking() {
	b.t.Helper()
	b.ok(machine.WaitFor(b.t.Context(), "the verifier unpacks", func() bool {
		return len(b.list("/var/lib/machinemon-update/verify/testd/ready")) > 0
	}))
}

// TestKilledBaseline shows that without a baseline the trial goes on, under stricter rules.
func TestKilledBaseline(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget+"[[health.probe]]\nhttp = \"http://"+releasesAt+"/ready\"\nforeign = true # the test answers it\n")
	c.ok(os.WriteFile(filepath.Join(c.dir, "ready"), nil, 0o644))
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	came := make(chan struct{})
	c.server.Break("/ready", releases.Hang(came))

	since := c.cursor()
	apply := c.startApply()
	c.arrived(came)
	c.kill("baseline")
	c.server.Mend("/ready")
	c.said(c.wait(apply), 0, "committed 1.1.0 (was 1.0.0)")
	c.assertOrder(since, inChain("baseline starting", "baseline failed", "swap starting", "testd started", "commit started")...)
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.assertClosed("1.0.0", unitOf("baseline"))
}

// TestKilledInTheTrial shows that when a worker dies or is stopped during the trial the
// release is rolled back and not rejected: it may be tried again.
func TestKilledInTheTrial(t *testing.T) {
	t.Parallel()
	stop := func(step string) func(c *chain) {
		return func(c *chain) { c.must("systemctl", "stop", unitOf(step)) }
	}
	kill := func(step string) func(c *chain) {
		return func(c *chain) { c.kill(step) }
	}
	for _, test := range []struct {
		name, step string
		at         hold
		end        func(c *chain)
		restarts   bool // testd must go back to its old file
	}{
		{"swap killed before the first rename", "swap", atArming, kill("swap"), false},
		{"swap killed at the restart", "swap", atRestart, kill("swap"), true},
		{"swap stopped at the restart", "swap", atRestart, stop("swap"), true},
		{"gate killed", "health-gate", "", kill("health-gate"), true},
		{"gate stopped", "health-gate", "", stop("health-gate"), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newHeldChain(t, longTrial)
			c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
			since, apply := c.applyUntil(test.at)
			test.end(c)
			if test.at != "" {
				c.letGo(test.at)
			}
			back := "(1.0.0 runs again)"
			if !test.restarts { // no file was touched, so testd was not judged again
				back = "(the files of 1.0.0 are in place)"
			}
			c.said(c.wait(apply), 4, "interrupted 1.1.0: the ", " was interrupted", back)
			c.assertOrder(since, inChain(test.step+" starting", test.step+" failed", "rollback starting", "rollback started")...)
			if test.restarts {
				c.assertOrder(since, inChain(test.step+" failed", "rollback starting", "testd started", "rollback started")...)
			} else {
				c.assertUntouched(since)
			}
			c.assertNever(since, inChain("commit starting")[0])
			c.assertRuns(releases.Daemon{Version: "1.0.0"})
			c.assertLast("rollback", "interrupted", "1.0.0", "1.1.0")
			if test.step == "swap" {
				c.assertDebris()
			} else {
				c.assertClosed("")
			}
			if s := c.status(); len(s.Rejected) > 0 {
				t.Errorf("rejected: %q", s.Rejected)
			}

			c.target(testdTarget)
			c.apply(0, "committed 1.1.0 (was 1.0.0)")
			c.assertRuns(releases.Daemon{Version: "1.1.0"})
			c.assertClosed("1.0.0")
		})
	}
}

// assertNever fails the test if this event happened.
func (b *box) assertNever(since machine.Cursor, event string) {
	b.t.Helper()
	events, err := b.UnitEvents(b.t.Context(), since)
	b.ok(err)
	if machine.InOrder(events, event) == nil {
		b.t.Errorf("%s", event)
	}
}

// assertDebris is assertClosed after the death of a swap. Its bundle stays under a hidden
// name, which starts no unit, until the next swap removes it. So do staged files if it
// died before its trial.
func (b *box) assertDebris(staged ...string) {
	b.t.Helper()
	for _, name := range b.list("/var/lib/machinemon-update/verify/testd/ready") {
		if name[0] != '.' {
			b.t.Errorf("the spool of verify shows %s", name)
		}
	}
	left := slices.DeleteFunc(b.side(), func(sum string) bool { return slices.Contains(staged, sum) })
	if b.status().Trial != "" || len(left) > 0 {
		b.t.Errorf("a trial is open: %+v, with %q", b.status(), left)
	}
}

// TestKilledVerdict shows that a unit that dies after the verdict is restarted and completes.
func TestKilledVerdict(t *testing.T) {
	once(t)
	t.Parallel()
	for _, test := range []struct {
		name, behaviour, step string
		at                    hold
		exit                  int
		says, backup          string
	}{
		{"commit", "", "commit", atClosing, 0, "committed 1.1.0", "1.0.0"},
		{"rollback at the restart", "never-listen", "rollback", atRestart, 4, "rolled back 1.1.0", ""},
		{"rollback before it is recorded", "never-listen", "rollback", atClosing, 4, "rolled back 1.1.0", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newHeldChain(t, shortTrial)
			runs := releases.Daemon{Version: "1.0.0"}
			if test.exit == 0 {
				runs.Version = "1.1.0"
			}
			c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: test.behaviour})
			since := c.cursor()
			apply := c.startApply()
			c.awaitEvent(since, inChain("swap started")[0])
			c.hold(test.at) // three seconds are left to do this
			from := c.cursor()
			c.awaitHeld(from, test.at)
			c.kill(test.step)
			c.awaitEvent(from, inChain(test.step + " restarting")[0])
			c.letGo(test.at)
			c.said(c.wait(apply), test.exit, test.says)
			c.assertOrder(since, inChain(test.step+" starting", test.step+" failed", test.step+" starting", test.step+" started")...)
			c.assertRuns(runs)
			c.assertClosed(test.backup)
			if n := len(c.history()); n != 1 {
				t.Errorf("history has %d attempts", n)
			}
		})
	}
}
