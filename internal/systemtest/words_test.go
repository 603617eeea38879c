//go:build systemd

package systemtest

import (
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// installBad puts a 1.0.0 of this behaviour in the place of the good one.
func (b *box) installBad(behaviour string) {
	b.t.Helper()
	b.writeFile(testdPath, string(build(b.t, releases.Daemon{Version: "1.0.0", Behaviour: behaviour})), 0o755)
	b.must("systemctl", "restart", "testd.service")
}

// What ran before is back after a rollback, and is as ill as it was: nobody is told
// that it runs again.
func TestBackButNotHealthy(t *testing.T) {
	once(t)
	t.Parallel()
	for _, test := range []struct{ behaviour, wrong string }{
		{"exit1-at-once", "its main process exited with status 1"},
		{"answer-500", "http http://" + testdAddress + "/healthz: status 500 instead of 200"},
	} {
		t.Run(test.behaviour, func(t *testing.T) {
			t.Parallel()
			// Slower than systemd's start limit: it goes on crashing.
			c := newChain(t, strings.Replace(testdUnit, "[Service]", "[Service]\nRestartSec=3", 1), strings.Replace(testdTarget, "timeout_seconds = 10", "timeout_seconds = 3", 1))
			c.installBad(test.behaviour)
			c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "exit1-at-once"})
			r := c.run("machinemon-update", "apply", "testd")
			c.said(r, 4, "rolled back 1.1.0: ", test.wrong, "1.0.0 is back, but is not healthy")
			if strings.Contains(r.Stdout, "runs again") || strings.Count(r.Stdout, test.wrong) != 1 {
				t.Errorf("it said %s", r.Stdout)
			}
			last := c.status().Last
			if !strings.Contains(last.Unhealthy, test.wrong) || last.Healthy {
				t.Errorf("status shows %+v", last)
			}
			for _, verb := range []string{"status", "history"} {
				if got := c.must("machinemon-update", verb, "testd"); !strings.Contains(got, "\n  1.0.0 is back, but is not healthy") {
					t.Errorf("%s: %s", verb, got)
				}
			}
			line := c.run("machinemon-update", "status", "--check", "testd")
			if line.Code != 1 || !strings.Contains(line.Stdout, "1.0.0 is back, but is not healthy") {
				t.Errorf("status --check: %+v", line)
			}
		})
	}
}

// Where nobody has looked, nobody says that it runs: after a power cut the files come
// back before the daemon starts.
func TestBackUnseen(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, longTrial)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	apply := c.startApply()
	c.awaitTrial()
	c.Yank()
	c.wait(apply)
	c.bootAndServe()
	c.assertRuns(releases.Daemon{Version: "1.0.0"})
	said := c.must("journalctl", "--output=cat", "--boot", "MESSAGE_ID="+messageIDs["interrupted"])
	if !strings.HasSuffix(said, ": interrupted: the machine stopped during the trial (the files of 1.0.0 are in place)\n") {
		t.Errorf("the log says %q", said)
	}
	if last := c.status().Last; last.Healthy || last.Unhealthy != "" {
		t.Errorf("status shows %+v", last)
	}
}

// Scalebox's own words for an old version that is not healthy either.
func TestScaleboxBackButNotHealthy(t *testing.T) {
	once(t)
	t.Parallel()
	s := newScalebox(t)
	for _, behaviour := range []string{"answer-500", "exit1-at-once"} {
		s.step(behaviour, func() {
			s.writeFile(scaleboxd, string(build(s.t, releases.Daemon{Version: "build-17", Behaviour: behaviour})), 0o755)
			s.must("systemctl", "restart", "scaleboxd.service")
			s.release(releases.Daemon{Version: "build-18", Behaviour: "never-listen"}, build17())
			r := s.run("scalebox-update")
			s.said(r, 1, "rolled back build-18: ", "what ran before is back, but is not healthy", "Rolling back to previous version...",
				"ERROR: Rollback failed - manual intervention required")
			if strings.Contains(r.Stdout, "successful") || strings.Contains(r.Stdout, "runs again") {
				s.t.Errorf("it said %s", r.Stdout)
			}
			s.must("machinemon-update", "unskip", "scaleboxd")
			if r := s.run("machinemon-update", "apply", "scaleboxd"); r.Code != 4 {
				s.t.Errorf("apply: %+v", r)
			}
			s.must("machinemon-update", "unskip", "scaleboxd")
		})
	}
}
