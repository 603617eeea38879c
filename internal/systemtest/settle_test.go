//go:build systemd

package systemtest

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

const (
	settleTrap = "/etc/systemd/system/testd.service.d/trap.conf"
	settleHint = "machinemon-update settle testd back: roll back once more; or settle testd keep"
)

var (
	needy    = releases.Daemon{Version: "1.0.0", Behaviour: "needs-key"}
	rejected = releases.Daemon{Version: "1.1.0", Behaviour: "answer-500"}
)

// newUnsettled returns a machine on which the rollback of 1.1.0 has failed: each start of
// the unit removes the key that 1.0.0 needs.
func newUnsettled(t *testing.T) *chain {
	t.Helper()
	c := newChain(t, strings.Replace(testdUnit, "[Service]\n", "[Service]\nEnvironmentFile=-"+testdConfig+"\n", 1), withLimit(testdTarget, "2"))
	c.must("install", "-d", "-m", "755", "/etc/testd")
	c.writeFile(testdConfig, "KEY=1\n", 0o600)
	c.replaceTestd(needy)
	c.writeFile(settleTrap, "[Service]\nExecStartPre=+/bin/rm -f "+testdConfig+"\n", 0o644)
	c.must("systemctl", "daemon-reload")
	c.shortPause()
	c.publish(c.dir, rejected)
	c.apply(5, "rollback failed 1.1.0: ", "the old files are back, but testd.service does not run", "it said: testd: KEY is not set", settleHint)
	c.says("testd: scheduled runs install", "machinemon-update", "enable", "testd")
	return c
}

// cure removes the cause that keeps 1.0.0 from running.
func (c *chain) cure() {
	c.t.Helper()
	c.must("rm", settleTrap)
	c.must("systemctl", "daemon-reload")
	c.writeFile(testdConfig, "KEY=1\n", 0o600)
}

// byHand installs a program as an administrator would, and starts it.
func (c *chain) byHand(d releases.Daemon, how string) {
	c.t.Helper()
	c.writeFile("/root/testd", string(build(c.t, d)), 0o755)
	c.must("systemctl", "stop", "testd.service") // otherwise systemd might restart the old one meanwhile
	c.must("sh", "-ec", how)
	c.must("systemctl", "reset-failed") // it names no unit, as systemd may have forgotten testd's
	c.must("systemctl", "start", "testd.service")
	c.awaitTestd(d.Version)
}

const (
	byRename = "mv /root/testd " + testdPath
	inPlace  = "cp /root/testd " + testdPath
)

// rebootAndServe reboots the machine and starts the server again.
func (c *chain) rebootAndServe() {
	c.t.Helper()
	c.reboot()
	c.server = c.serve(c.dir)
}

// settle runs `machinemon-update settle testd keep|back`.
func (c *chain) settle(word string, exit int, says ...string) {
	c.t.Helper()
	r := c.run("machinemon-update", "settle", "testd", word)
	c.t.Logf("it said: %s", r.Stdout)
	if r.Code != exit || !strings.HasPrefix(r.Stdout, "testd: ") {
		c.t.Errorf("settle testd %s: %+v, want exit status %d", word, r, exit)
	}
	for _, s := range says {
		if !strings.Contains(r.Stdout, s) {
			c.t.Errorf("does not say %q: %s", s, r.Stdout)
		}
	}
}

// assertUnsettled fails the test unless the trial is open and status shows once how to settle it.
func (c *chain) assertUnsettled() {
	c.t.Helper()
	if _, err := c.Stat(testdJournal); err != nil {
		c.t.Errorf("the journal is not kept: %v", err)
	}
	text := c.must("machinemon-update", "status", "testd")
	if n := strings.Count(text, "  decide: sudo "+settleHint); n != 1 {
		c.t.Errorf("status says %d times what to decide:\n%s", n, text)
	}
	var all struct {
		Targets []struct{ Trial, Unsettled string }
	}
	c.ok(json.Unmarshal([]byte(c.must("machinemon-update", "status", "--json", "testd")), &all))
	if len(all.Targets) != 1 || all.Targets[0].Trial != "1.1.0" || all.Targets[0].Unsettled == "" {
		c.t.Errorf("status --json has %+v", all.Targets)
	}
	if r := c.run("machinemon-update", "status", "--check", "testd"); r.Code != 1 || strings.Count(r.Stdout, "\n") != 1 {
		c.t.Errorf("status --check: %+v", r)
	}
}

// assertLeftAlone fails the test if an action other than settle or a boot touches the
// program that the operator has installed, or its process.
func (c *chain) assertLeftAlone(d releases.Daemon) {
	c.t.Helper()
	pid := c.mainPID()
	for _, asks := range []struct {
		name string
		ask  func(since machine.Cursor)
	}{
		{"a scheduled run", func(machine.Cursor) { c.tick() }},
		{"a second one", func(machine.Cursor) { c.tick() }},
		{"a third one", func(machine.Cursor) { c.tick() }},
		{"a directive", func(since machine.Cursor) {
			c.announce("9.9.9")
			c.awaitSaid(since, "does not begin")
		}},
		{"apply", func(machine.Cursor) { c.apply(5, "rollback failed", settleHint) }},
		{"the umbrella", func(machine.Cursor) {
			if r := c.run("systemctl", "start", "machinemon-update.service"); r.Code != 1 {
				c.t.Errorf("the umbrella: %+v", r)
			}
		}},
		{"the rollback unit", func(machine.Cursor) { c.must("systemctl", "start", unitOf("rollback")) }},
		{"the deadline", func(machine.Cursor) { c.must("systemctl", "start", unitOf("deadline")) }},
		{"the commit unit", func(machine.Cursor) { c.must("systemctl", "start", unitOf("commit")) }},
	} {
		c.step(asks.name, func() {
			since := c.cursor()
			asks.ask(since)
			c.assertUntouched(since)
			if got, want := digest(c.readFile(testdPath)), digest(string(build(c.t, d))); got != want {
				c.t.Errorf("%s has sha256 %s, want %s of %+v", testdPath, got, want, d)
			}
			if now := c.mainPID(); now != pid {
				c.t.Errorf("the main process was %s and is %s", pid, now)
			}
			if asks.name != "the commit unit" {
				c.awaitSaid(since, settleHint)
			}
		})
	}
	c.assertUnsettled()
}

// TestSettleKeep: after a failed rollback the operator decides. The program that the
// operator installs runs on, even if other units start, with or without a hold, and after
// a boot; keep makes it the installed program.
func TestSettleKeep(t *testing.T) {
	t.Parallel()
	c := newUnsettled(t)
	c.assertUnsettled()
	mine := releases.Daemon{Version: "1.0.7"}
	c.byHand(mine, byRename)
	c.assertLeftAlone(mine)

	c.must("machinemon-update", "hold", "testd")
	c.step("held", func() {
		c.assertLeftAlone(mine)
		c.said(c.run("machinemon-update", "rollback", "testd"), 8, "held since")
		c.settle("back", 8, "held since")
		c.assertUnsettled()
	})
	c.must("machinemon-update", "unhold", "testd")

	c.rebootAndServe()
	c.awaitTestd("1.0.7")
	c.assertUnsettled()
	c.assertLeftAlone(mine)

	r := c.run("machinemon-update", "settle", "--json", "testd", "keep")
	var all struct {
		Targets []struct {
			attempt
			Target string
			Exit   int
		}
	}
	c.ok(json.Unmarshal([]byte(r.Stdout), &all))
	if r.Code != 0 || len(all.Targets) != 1 || all.Targets[0].Exit != 0 || all.Targets[0].Target != "testd" || all.Targets[0].Result != "settled" {
		t.Errorf("settle --json: %+v", r)
	}
	c.assertServes(mine)
	if h := c.history(); h[0].Result != "settled" && h[1].Result != "settled" || slices.ContainsFunc(h, func(a attempt) bool { return a.ID == all.Targets[0].ID && a.Result != "settled" }) {
		t.Errorf("history has %+v", h)
	}
	if s := c.status(); s.Installed != "1.0.7" || s.Previous != "1.0.0" || s.Trial != "" {
		t.Errorf("status shows %+v", s)
	}
	c.assertSwept()
	c.must("systemctl", "reset-failed")
	c.settle("keep", 8, "not attempted: no rollback has failed")
	c.settle("back", 8, "not attempted: no rollback has failed")

	// Scheduled runs neither try the failed release again nor replace the operator's
	// program; only apply does.
	c.step("a schedule", func() {
		for _, version := range []string{"1.1.0", "1.2.0"} {
			if version == "1.2.0" {
				c.publish(c.dir, releases.Daemon{Version: version})
			}
			since := c.cursor()
			c.tick()
			c.assertNever(since, inChain("swap starting")[0])
			c.assertServes(mine)
		}
	})
	c.apply(0, "committed 1.2.0 (was 1.0.7)")
	c.assertRuns(releases.Daemon{Version: "1.2.0"})
	c.assertClosed("1.0.7")
}

// TestSettleBack: the operator has installed the same bytes as the failed release, by
// writing them over the old program. They stay until the operator settles the trial; back
// restores the old program completely.
func TestSettleBack(t *testing.T) {
	t.Parallel()
	c := newUnsettled(t)
	c.byHand(rejected, inPlace)
	c.assertLeftAlone(rejected)
	c.rebootAndServe()
	c.awaitTestd("1.1.0")
	c.assertLeftAlone(rejected)

	c.step("not yet cured", func() {
		c.settle("back", 5, "rollback failed 1.1.0", settleHint)
		c.assertUnsettled()
		c.byHand(rejected, inPlace)
	})
	c.cure()
	const aside = "  warning: " + testdPath + ", which was not of this update, is now " + testdPath + ".aside-"
	c.settle("back", 0, "settled 1.1.0: rolled back (1.0.0 runs again): ", aside)
	var places []string
	for _, name := range c.list(path.Dir(testdPath)) {
		if strings.HasPrefix(name, "testd.aside-") {
			places = append(places, name)
			if got, want := digest(c.readFile(path.Dir(testdPath)+"/"+name)), digest(string(build(t, rejected))); got != want {
				t.Errorf("%s has sha256 %s, want %s", name, got, want)
			}
		}
	}
	if len(places) != 2 { // one of each settling
		t.Errorf("aside are %q", places)
	}
	c.assertRuns(needy)
	if h := c.history(); !slices.ContainsFunc(h, func(a attempt) bool { return a.Result == "rolled back" && a.Version == "1.1.0" }) {
		t.Errorf("history has %+v", h)
	}
	if s := c.status(); s.Trial != "" || s.Previous != "" {
		t.Errorf("status shows %+v", s)
	}
	c.assertRejected("1.1.0")
	c.assertSwept()
	c.must("systemctl", "reset-failed")
	c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
	c.apply(0, "committed 1.2.0 (was 1.0.0)")
	c.assertRuns(releases.Daemon{Version: "1.2.0"})
}

// assertSwept fails the test if the trial has left files. Beside the program only the
// file for `rollback` may be left, and no snapshot.
func (c *chain) assertSwept() {
	c.t.Helper()
	if _, err := c.Stat(testdJournal); !errors.Is(err, fs.ErrNotExist) {
		c.t.Errorf("the journal is not closed: %v", err)
	}
	want := map[string][]string{"": nil, "1.0.0": {digest(string(build(c.t, needy)))}}[c.status().Previous]
	if got := c.side(); !slices.Equal(got, want) {
		c.t.Errorf("%s holds files with digests %q, want %q", testdSide, got, want)
	}
	if got := c.list("/var/lib/machinemon-update/swap/testd/snapshot"); len(got) > 0 {
		c.t.Errorf("snapshots are left: %q", got)
	}
}

// TestUnsettledOfEarlierVersion: a rollback failed under version 0.1.0, which recorded
// that in its record only. The trial waits for the operator, too.
func TestUnsettledOfEarlierVersion(t *testing.T) {
	once(t)
	t.Parallel()
	c := newUnsettled(t)
	var j map[string]any
	c.ok(json.Unmarshal([]byte(c.readFile(testdJournal)), &j))
	// The journal keeps only the fields that 0.1.0 wrote.
	for name := range j {
		if !slices.Contains([]string{"format", "attempt", "origin", "target", "unit", "main", "from", "version", "sequence", "archive", "manifest",
			"unsigned", "started", "phase", "verdict", "finding", "reason", "was_running", "changes", "timeout", "settle"}, name) {
			delete(j, name)
		}
	}
	content, err := json.Marshal(j)
	c.ok(err)
	c.writeFile(testdJournal, string(content), 0o644)
	mine := releases.Daemon{Version: "1.0.7"}
	c.byHand(mine, byRename)
	c.assertLeftAlone(mine)
	c.rebootAndServe()
	c.assertServes(mine)
	c.assertUnsettled()
	c.cure()
	c.settle("back", 0, "settled 1.1.0: rolled back (1.0.0 runs again): ")
	c.assertRuns(needy)
	c.assertSwept()
}

// TestRemovalUnsettled shows that the package cannot be removed until the trial is settled.
func TestRemovalUnsettled(t *testing.T) {
	once(t)
	t.Parallel()
	c := newUnsettled(t)
	mine := releases.Daemon{Version: "1.0.7"}
	c.byHand(mine, byRename)
	pid := c.mainPID()
	r := c.run(aptGet("remove", "machinemon-update")...)
	if r.Code == 0 || !strings.Contains(r.Stdout+r.Stderr, settleHint) {
		t.Fatalf("removal: %+v", r)
	}
	if now := c.mainPID(); now != pid {
		t.Errorf("the main process was %s and is %s", pid, now)
	}
	c.assertServes(mine)
	c.assertUnsettled()
	c.settle("keep", 0, "settled 1.1.0")
	c.aptGet("remove", "machinemon-update")
	c.assertServes(mine)
	c.assertGone()
}
