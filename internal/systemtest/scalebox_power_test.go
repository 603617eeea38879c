//go:build systemd

package systemtest

import (
	"strconv"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestScaleboxPowerCuts cuts the power at many points of a swap of five files and of its
// commit: after the boot all files are old ones, or all are new ones.
func TestScaleboxPowerCuts(t *testing.T) {
	once(t)
	t.Parallel()
	s := newScalebox(t)
	old, d := releases.Daemon{Version: "build-17"}, releases.Daemon{Version: "build-18"}
	five := build17().with(archive{"scalebox-rebuild-template": "#!/bin/sh\necho 18\n", "scalebox-resize-storage": "#!/bin/sh\necho resize 18\n",
		"template-build.sh": "TEMPLATE_VERSION=18\n", "scaleboxd.service": strings.Replace(unitOfScalebox, "RestartSec=5", "RestartSec=6", 1)})
	s.release(d, five)
	// These units hold as in holdable, for this target's timer.
	for name, content := range map[string]string{
		"hold-arming.service":  "[Unit]\nBefore=machinemon-deadline@scaleboxd.timer\n[Service]\nType=oneshot\nExecStart=" + atArming.waits() + "\n",
		"hold-closing.service": "[Unit]\nAfter=machinemon-deadline@scaleboxd.timer\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecStop=" + atClosing.waits() + "\nTimeoutStopSec=infinity\n",
	} {
		s.writeFile("/etc/systemd/system/"+name, content, 0o644)
	}
	s.writeFile("/etc/machinemon-update/targets.d/scaleboxd.toml.d/long.toml", "[health]\nsettle_seconds = 3\n", 0o644)
	s.must("systemctl", "daemon-reload")

	// cut runs an update until the hold, and cuts the power before the n-th durable call
	// of the step from there on.
	cut := func(h hold, step, journal string, n int) {
		t.Helper()
		since := s.cursor()
		if h == atArming {
			s.hold(h)
		}
		apply := s.start("machinemon-update", "apply", "scaleboxd")
		if h == atClosing {
			s.awaitEvent(since, "machinemon-health-gate@scaleboxd.service starting")
			s.hold(h) // three seconds are left to do this
		}
		s.ok(machine.WaitFor(t.Context(), "the journal has "+journal, func() bool {
			content, err := s.ReadFile("/var/lib/machinemon-update/swap/scaleboxd/journal.json")
			return err == nil && strings.Contains(string(content), journal)
		}))
		pid, err := strconv.Atoi(s.property("machinemon-"+step+"@scaleboxd.service", "MainPID"))
		s.ok(err)
		made, yanked, err := s.YankBefore(pid, n, func() { s.letGo(h) })
		s.ok(err)
		t.Logf("%s, cut after %q", step, made)
		if !yanked {
			t.Fatalf("%s has made only %d durable calls", step, len(made))
		}
		s.wait(apply) // it died with the machine
		s.boot()
		s.listen()
	}
	for _, n := range []int{1, 2, 3, 4, 5, 6, 8, 10, 12, 14} {
		cut(atArming, "swap", `"phase": "prepared"`, n)
		s.assertRuns(old, build17())
		s.must("machinemon-update", "unskip", "scaleboxd") // a third interruption would reject the release
	}
	for _, n := range []int{1, 4} {
		cut(atClosing, "commit", `"verdict": "commit"`, n)
		s.assertRuns(d, five)
		if r := s.run("machinemon-update", "rollback", "scaleboxd"); r.Code != 0 {
			t.Fatalf("rollback: %+v", r)
		}
		s.assertRuns(old, build17())
		s.must("machinemon-update", "unskip", "scaleboxd")
	}
	s.update(0, "committed build-18", "Update complete!")
	s.assertRuns(d, five)
}
