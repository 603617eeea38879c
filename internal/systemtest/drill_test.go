//go:build systemd

package systemtest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestDrill: in daylight the operator proves that a release that fails is brought back, and
// sees what has changed since an update. At night, a window decides.
func TestDrill(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget+`[notify]
command = ["/usr/bin/touch", "/run/told"]
`)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.apply(0, "committed 1.1.0")
	c.step("drill", func() {
		since, before := c.cursor(), digest(c.readFile(testdPath))
		began := time.Now()
		result := c.run("machinemon-update", "drill", "testd")
		c.said(result, 0, "drill passed: rolled back to 1.1.0, the service was away ", "the failure that was seen: ")
		// systemd restarts the program after 100 ms. On a busy machine the gate looks after that.
		if !strings.Contains(result.Stdout, "its main process exited with status 1") &&
			!strings.Contains(result.Stdout, "its main process ended and systemd restarted it") {
			t.Errorf("it does not say how the program failed: %s", result.Stdout)
		}
		took := time.Since(began)
		c.assertRuns(releases.Daemon{Version: "1.1.0"})
		if digest(c.readFile(testdPath)) != before {
			t.Error("the program is another one")
		}
		var all struct {
			Targets []struct {
				Installed string
				Previous  string
				Rejected  []string
				Last      struct {
					ID, Result string
					Drill      bool
					AwayMillis int64 `json:"away_millis"`
					Healthy    bool
					Said       []string
				}
			}
		}
		c.ok(json.Unmarshal([]byte(c.must("machinemon-update", "status", "--json", "testd")), &all))
		s := all.Targets[0]
		if l := s.Last; !l.Drill || l.AwayMillis <= 0 || l.AwayMillis > took.Milliseconds() || !l.Healthy || len(s.Rejected) > 0 || s.Installed != "1.1.0" || s.Previous != "1.0.0" ||
			!strings.Contains(strings.Join(l.Said, "\n"), "this is a drill") {
			t.Errorf("status: %+v", s)
		}
		// By the journal: from the first line about the stop until the last "Started".
		lines := c.journal("--after-cursor="+string(since), "-o", "short-monotonic", "_PID=1", "UNIT=testd.service")
		t.Logf("the service was away %d ms of %s; systemd says:\n%s", s.Last.AwayMillis, took, lines)
		// On a busy machine, systemd writes a line some time after what it is about. The failing
		// program alone is started several times in this time.
		const slow = 250
		first, last := 0.0, 0.0
		for line := range strings.Lines(lines) {
			var at float64
			if _, err := fmt.Sscanf(line, "[%f]", &at); err != nil {
				continue
			}
			if first == 0 && (strings.Contains(line, "Stopping") || strings.Contains(line, "Deactivated")) {
				first = at
			}
			if strings.Contains(line, "Started") {
				last = at
			}
		}
		if by := (last - first) * 1000; by < float64(s.Last.AwayMillis)-slow || by > float64(s.Last.AwayMillis)+slow {
			t.Errorf("by the journal %.0f ms, by the record %d ms", by, s.Last.AwayMillis)
		}
		for _, want := range []string{"drill passed", "In the trial: bad", "After the rollback\n  passed "} {
			// The evidence is collected after the end.
			c.ok(machine.WaitFor(t.Context(), fmt.Sprintf("%q is kept", want), func() bool {
				return strings.Contains(c.must("machinemon-update", "history", "testd", s.Last.ID), want)
			}))
		}
		if r := c.run("machinemon-update", "status", "--check", "testd"); r.Code != 0 || !strings.Contains(r.Stdout, `"result":"committed"`) {
			t.Errorf("the check says %+v", r)
		}
		if r := c.run("test", "-e", "/run/told"); r.Code == 0 {
			t.Error("somebody was told")
		}
	})
	c.step("refused", func() {
		c.must("machinemon-update", "hold", "testd")
		c.said(c.run("machinemon-update", "drill", "testd"), 8, "it is held since")
		c.must("machinemon-update", "unhold", "testd")
		c.must("systemctl", "stop", "testd.service")
		c.said(c.run("machinemon-update", "drill", "testd"), 8, "testd.service does not run now")
		c.must("systemctl", "start", "testd.service")
	})
	c.step("drift", func() {
		drift := func(want ...string) {
			c.t.Helper()
			var all struct{ Targets []struct{ Drift []string } }
			c.ok(json.Unmarshal([]byte(c.must("machinemon-update", "status", "--json", "testd")), &all))
			got := all.Targets[0].Drift
			if len(got) != len(want) {
				c.t.Fatalf("drift: %q, want %q", got, want)
			}
			for i, w := range want {
				if !strings.Contains(got[i], w) {
					c.t.Errorf("drift: %q lacks %q", got[i], w)
				}
			}
			if says := c.must("machinemon-update", "status", "--check", "testd"); strings.Contains(says, `"drift":true`) != (len(want) > 0) {
				c.t.Errorf("the check says %s", says)
			}
		}
		drift()
		kept := c.readFile(testdPath)
		c.must("sh", "-c", "cp -a "+testdPath+" /usr/local/bin/new && mv /usr/local/bin/new "+testdPath)
		drift("which was replaced or removed since the process started (hint: sudo systemctl restart testd.service)")
		c.must("systemctl", "restart", "testd.service")
		drift()
		c.must("sh", "-c", "cp -a "+testdPath+" /usr/local/bin/new && echo >>/usr/local/bin/new && mv /usr/local/bin/new "+testdPath)
		c.must("systemctl", "restart", "testd.service")
		drift(testdPath + " is not the file that the update to 1.1.0 left")
		c.must("systemctl", "stop", "testd.service")
		c.writeFile(testdPath, kept, 0o755)
		c.must("systemctl", "start", "testd.service")
		drift()
	})
	c.step("window", func() {
		const fragment = "/etc/machinemon-update/targets.d/testd.toml.d/50-window.toml"
		window := func(from time.Duration) string {
			now := time.Now().UTC()
			text := now.Add(from).Format("15:04-") + now.Add(from+2*time.Hour).Format("15:04 UTC")
			c.writeFile(fragment, "[schedule]\nwindow = \""+text+"\"\n", 0o644)
			c.must("systemctl", "daemon-reload")
			return text
		}
		scheduled := func() attempt { // as the timer does
			c.must("systemctl", "start", "machinemon-fetch@testd.service")
			c.ok(machine.WaitFor(c.t.Context(), "the scheduled attempt has ended", func() bool {
				last := c.status().Last
				return last.Origin == "schedule" && last.Result != "handed on" && last.Result != "on trial"
			}))
			return c.status().Last
		}
		c.must("machinemon-update", "enable", "testd")
		c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
		closed := window(3 * time.Hour)
		if last := scheduled(); last.Result != "available" || last.Version != "1.2.0" {
			c.t.Errorf("outside of the window: %+v", last)
		}
		c.assertRuns(releases.Daemon{Version: "1.1.0"})
		if says := c.must("machinemon-update", "status", "testd"); !strings.Contains(says, "it waits for its window, "+closed+", which opens next at ") {
			c.t.Errorf("status says\n%s", says)
		}
		if got := c.property("machinemon-fetch@testd.timer", "TimersCalendar"); !strings.Contains(got, "OnCalendar=*-*-* "+closed[:5]+":00 UTC") {
			c.t.Errorf("the timer has %s", got)
		}
		c.said(c.run("machinemon-update", "apply", "--dry-run", "testd"), 3, "dry run: verified") // a person does not wait
		window(-time.Hour)
		if last := scheduled(); last.Result != "committed" || last.Version != "1.2.0" {
			c.t.Errorf("in the window: %+v", last)
		}
	})
}
