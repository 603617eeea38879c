//go:build systemd

package systemtest

import (
	"slices"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestStoppedInEveryStage shows that a machine that is powered off or rebooted in order,
// in any stage of an attempt, comes up with the complete old or new version, with no open
// trial, and with a history that says what happened.
func TestStoppedInEveryStage(t *testing.T) {
	t.Parallel()
	stops := []struct {
		name string
		do   func(b *box)
	}{{"power-off", func(b *box) { b.powerOff(); b.boot() }}, {"reboot", (*box).reboot}}
	for n, test := range []struct {
		stage     string
		at        hold
		behaviour string
		runs      string // afterwards; 1.0.0 ran before, and 1.1.0 is the release
		result    string // of the attempt; "" if nothing was changed, and the history may omit it
		rejected  bool
	}{
		{stage: "fetching", runs: "1.0.0"},
		{stage: "verifying", runs: "1.0.0"},
		{stage: "pre-flight", at: atPreflight, runs: "1.0.0"},
		{stage: "before the first rename", at: atArming, runs: "1.0.0"},
		{stage: "swapping", at: atRestart, runs: "1.0.0", result: "interrupted"},
		{stage: "on trial", runs: "1.0.0", result: "interrupted"},
		{stage: "committing", at: atClosing, runs: "1.1.0", result: "committed"},
		{stage: "rolling back", at: atRestart, behaviour: "never-listen", runs: "1.0.0", result: "rolled back", rejected: true},
	} {
		// Both stop the same units in the same order, so each systemd tests one of them per stage.
		if *release != "bookworm" {
			n++
		}
		stop := stops[n%len(stops)]
		t.Run(test.stage+", "+stop.name, func(t *testing.T) {
			t.Parallel()
			target := longTrial
			if test.result == "committed" || test.rejected {
				target = shortTrial
			}
			c := newHeldChain(t, target)
			d := releases.Daemon{Version: "1.1.0", Behaviour: test.behaviour}
			file := releases.File{Name: "testd", Content: build(t, d)}
			if test.stage == "verifying" {
				c.publishFiles(c.dir, d.Version, file, releases.File{Name: "bulk", Content: make([]byte, 128<<20)})
			} else {
				c.publishFiles(c.dir, d.Version, file)
			}
			since := c.cursor()
			apply := c.reach(since, test.stage, test.at)
			if test.at == atClosing {
				// The stopped program no longer waits for the timer. But the hold is a
				// unit, and the machine waits for its end.
				go func() {
					if c.AwaitEvent(t.Context(), since, inChain("commit failed")[0]) == nil {
						c.Root().Remove(test.at.file()[1:])
					}
				}()
			}
			stop.do(c.box)
			c.wait(apply) // it died with the machine
			c.server = c.serve(c.dir)

			c.assertRuns(releases.Daemon{Version: test.runs})
			backup := map[bool]string{true: "1.0.0"}[test.runs == "1.1.0"]
			switch {
			case test.at == atPreflight: // swap and pre-flight are stopped in any order
				c.assertDebris(digest(string(file.Content)))
			case backup == "":
				c.assertDebris()
			default:
				c.assertClosed(backup)
			}
			s := c.status()
			if last := s.Last; test.result != "" && (last.Result != test.result || last.Version != "1.1.0") ||
				test.result == "" && !slices.Contains([]string{"", "handed on", "failed", "interrupted"}, last.Result) {
				t.Errorf("the last attempt was %+v, want %q", last, test.result)
			}
			if (len(s.Rejected) > 0) != test.rejected || s.Trial != "" {
				t.Errorf("status shows %+v", s)
			}
			if got := c.must("systemctl", "is-system-running"); got != "running\n" {
				t.Errorf("the machine is %s: %s", got, c.must("systemctl", "--failed", "--plain", "--no-legend"))
			}

			c.target(testdTarget)
			c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
			c.apply(0, "committed 1.2.0 (was "+test.runs+")")
			c.assertClosed(test.runs)
		})
	}
}

// reach starts an attempt and waits until it is at this point.
func (c *chain) reach(since machine.Cursor, stage string, at hold) *machine.Process {
	c.t.Helper()
	late := stage == "committing" || stage == "rolling back"
	if at != "" && !late {
		c.hold(at)
	}
	came := make(chan struct{})
	if stage == "fetching" {
		c.server.Break(c.archive("1.1.0"), releases.Hang(came))
	}
	apply := c.startApply()
	switch {
	case stage == "fetching":
		c.arrived(came)
	case stage == "verifying":
		c.awaitUnpacking()
	case stage == "on trial":
		c.awaitTrial()
	case late:
		c.awaitEvent(since, inChain("swap started")[0])
		from := c.cursor()
		c.hold(at) // three seconds are left to do this
		c.awaitHeld(from, at)
	default:
		c.awaitHeld(since, at)
	}
	return apply
}
