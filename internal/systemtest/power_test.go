//go:build systemd

package systemtest

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// bootAndServe boots the machine and starts the server again.
func (c *chain) bootAndServe() {
	c.t.Helper()
	c.boot()
	c.server = c.serve(c.dir)
}

// recoverFirst are the events of a boot that closes a trial before the daemon starts.
var recoverFirst = []string{"machinemon-update-recover.service starting", "machinemon-update-recover.service started", "testd.service started"}

// TestStoppedInTheTrial: the machine stops between the swap and the verdict, by a power
// cut or in order. At the boot the old version is restored before the daemon starts.
func TestStoppedInTheTrial(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		at   hold // "" is the settle time
		stop func(b *box)
	}{
		{"yanked before the first rename", atArming, (*box).yank},
		{"yanked at the restart", atRestart, (*box).yank},
		{"yanked under the gate", "", (*box).yank},
		{"powered off under the gate", "", (*box).powerOff},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newHeldChain(t, longTrial)
			good := releases.Daemon{Version: "1.1.0"}
			c.publish(c.dir, good)
			since, apply := c.applyUntil(test.at)
			test.stop(c.box)
			c.wait(apply) // it died with the machine
			onDisk, want := digest(c.readFile(testdPath)), digest(string(build(t, good)))
			if (onDisk == want) != (test.at != atArming) {
				t.Errorf("when the power went, %s had sha256 %s, and the release %s", testdPath, onDisk, want)
			}
			if _, err := c.Stat(testdJournal); err != nil {
				t.Errorf("when the power went: %v", err)
			}

			c.bootAndServe()
			c.assertOrder(since, recoverFirst...)
			c.assertNever(since, inChain("commit starting")[0])
			c.assertRuns(releases.Daemon{Version: "1.0.0"})
			c.assertLast("rollback", "interrupted", "1.0.0", "1.1.0")
			if s := c.status(); s.Last.Reason != "the machine stopped during the trial" || len(s.Rejected) > 0 {
				t.Errorf("status shows %+v", s)
			}
			c.assertDebris()

			c.target(testdTarget)
			c.apply(0, "committed 1.1.0 (was 1.0.0)")
			c.assertRuns(good)
			c.assertClosed("1.0.0")
		})
	}
}

func (b *box) yank() { b.Yank() }

// TestYankedAfterTheVerdict shows that a power cut after the verdict does not change it.
func TestYankedAfterTheVerdict(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, behaviour, runs, backup, result string
	}{
		{"commit", "", "1.1.0", "1.0.0", "committed"},
		{"rollback", "never-listen", "1.0.0", "", "rolled back"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newHeldChain(t, shortTrial)
			c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: test.behaviour})
			since := c.cursor()
			apply := c.startApply()
			c.awaitEvent(since, inChain("swap started")[0])
			c.hold(atClosing) // three seconds are left to do this
			c.awaitHeld(since, atClosing)
			c.Yank()
			c.wait(apply)

			c.bootAndServe()
			c.assertOrder(since, recoverFirst...)
			c.assertRuns(releases.Daemon{Version: test.runs})
			c.assertClosed(test.backup)
			last := c.status().Last
			if last.Result != test.result || last.Version != "1.1.0" || len(c.history()) != 1 {
				t.Errorf("history shows %+v", c.history())
			}
		})
	}
}

// TestRejectedAfterThreeInterruptions: the release may itself cause the interruptions.
func TestRejectedAfterThreeInterruptions(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, longTrial)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	for n, interrupt := range []func(*machine.Process){
		func(apply *machine.Process) { c.kill("health-gate"); c.said(c.wait(apply), 4, "interrupted 1.1.0") },
		func(apply *machine.Process) { c.Yank(); c.wait(apply); c.bootAndServe() },
		func(apply *machine.Process) { c.powerOff(); c.wait(apply); c.bootAndServe() },
	} {
		if s := c.status(); len(s.Rejected) > 0 {
			t.Fatalf("after %d interruptions: %+v", n, s)
		}
		apply := c.startApply()
		c.awaitTrial()
		interrupt(apply)
		c.assertRuns(releases.Daemon{Version: "1.0.0"})
		c.assertLast("rollback", "interrupted", "1.0.0", "1.1.0")
	}
	c.assertRejected("1.1.0")
	c.assertRuns(releases.Daemon{Version: "1.0.0"})
	c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
	c.target(testdTarget)
	c.apply(0, "committed 1.2.0 (was 1.0.0)")
}

// TestBootWithoutTrial shows that without an open trial a boot runs nothing.
func TestBootWithoutTrial(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.apply(0, "committed 1.1.0")
	c.powerOff()
	if _, err := c.Stat(testdJournal); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a journal on the disk: %v", err)
	}
	c.bootAndServe()
	// systemd checked the condition and skipped the unit. The journal cannot show it,
	// because systemd 257 logs it before journald listens.
	if got := c.must("systemctl", "show", "machinemon-update-recover.service", "--property=ConditionResult", "--property=ConditionTimestampMonotonic"); !strings.Contains(got, "ConditionResult=no\n") || strings.Contains(got, "ConditionTimestampMonotonic=0\n") {
		t.Errorf("recover: %s", got)
	}
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.assertClosed("1.0.0")
	c.apply(0, "already current")
}
