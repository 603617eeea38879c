//go:build systemd

package systemtest

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

const directives = "/run/machinemon-update/directive/testd"

// pause replaces the minute between two answers.
const pause = 3 * time.Second

func (c *chain) shortPause() {
	c.t.Helper()
	c.writeFile("/etc/systemd/system/machinemon-directive@.timer.d/short.conf",
		fmt.Sprintf("[Timer]\nOnActiveSec=\nOnActiveSec=%dms\n", pause.Milliseconds()), 0o644)
	c.must("systemctl", "daemon-reload")
}

// checkedIn passes a check-in response to the command's standard input.
func (c *chain) checkedIn(response string) machine.Result {
	c.t.Helper()
	c.writeFile("/run/response", response, 0o644)
	return c.run("sh", "-c", "machinemon-update directive testd </run/response")
}

// announce makes the server announce a version, and returns the cursor before that.
func (c *chain) announce(version string) machine.Cursor {
	c.t.Helper()
	since := c.cursor()
	r := c.checkedIn(`{"client_id":"c-1","next_checkin_seconds":120,"server_time":"2026-11-01T12:00:00Z","update_version":"` + version + `"}`)
	if r.Code != 0 || !strings.HasPrefix(r.Stdout, "testd: directive: "+version+" is announced, ") || r.Stderr != "" {
		c.t.Errorf("directive: %+v", r)
	}
	return since
}

func (c *chain) awaitSaid(since machine.Cursor, text string) {
	c.t.Helper()
	c.await(since, func(e machine.Entry) bool { return strings.Contains(e["MESSAGE"], text) })
}

// answers returns the times at which directives were answered.
func (c *chain) answers(since machine.Cursor) []time.Time {
	c.t.Helper()
	entries, err := c.JournalSince(c.t.Context(), since)
	c.ok(err)
	var all []time.Time
	for _, e := range entries {
		if isAnswer(e) {
			usec, err := strconv.ParseInt(e["__REALTIME_TIMESTAMP"], 10, 64)
			c.ok(err)
			all = append(all, time.UnixMicro(usec))
		}
	}
	return all
}

func isAnswer(e machine.Entry) bool {
	return strings.HasPrefix(e["MESSAGE"], "testd: directive (") && strings.HasSuffix(e["MESSAGE"], "asking for an attempt")
}

func (c *chain) assertApart(answers []time.Time, least time.Duration) {
	c.t.Helper()
	for i := range answers[1:] {
		if gap := answers[i+1].Sub(answers[i]); gap < least {
			c.t.Errorf("two answers within %s, want %s: %v", gap, least, answers)
		}
	}
}

// assertListening fails the test unless the path unit waits for directives, none is left,
// and no unit failed.
func (c *chain) assertListening() {
	c.t.Helper()
	if left := c.list(directives); len(left) > 0 {
		c.t.Errorf("not consumed: %q", left)
	}
	if got := c.must("systemctl", "is-active", "machinemon-directive@testd.path"); got != "active\n" {
		c.t.Errorf("the path unit is %s", got)
	}
	if got := c.must("systemctl", "list-units", "--failed", "--plain", "--no-legend"); got != "" {
		c.t.Errorf("failed: %s", got)
	}
}

// TestDirective shows that a directive hastens a check, and permits only what schedules may do.
func TestDirective(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.shortPause()
	if got := c.must("stat", "--format=%U:%G %a", directives); got != "root:root 755\n" {
		t.Errorf("the directory is %s", got)
	}
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	manifests := func() int { m, _ := c.requests(); return len(m) }

	c.step("no directive", func() {
		for response, says := range map[string]string{
			`{"client_id":"c-1"}`: "testd: no directive: the response announces no version\n",
			`{"update_version":"v1.0.0","update_url":"http://127.0.0.1:9000/client-manifest.json"}`: "testd: no directive: v1.0.0 is installed already\n",
		} {
			if r := c.checkedIn(response); r.Code != 0 || r.Stdout != says {
				c.t.Errorf("%s: %+v", response, r)
			}
		}
		for what, response := range map[string]string{
			"empty": "", "HTML": "<html>", "cut off": `{"update_version":"1.1.0"`, "no text": "{\"update_version\":\"1.1.0\",\"x\":\"\xff\"}",
			"a path": `{"update_version":"../../1.1.0"}`, "65 KiB": `{"update_version":"1.1.0","x":"` + strings.Repeat("x", 65<<10) + `"}`,
		} {
			if r := c.checkedIn(response); r.Code != 1 || r.Stdout != "" || strings.Count(r.Stderr, "\n") != 1 {
				c.t.Errorf("%s: %+v", what, r)
			}
		}
		c.assertListening()
		if manifests() > 0 {
			c.t.Error("the manifest was asked for")
		}
	})
	c.step("updates are disabled", func() {
		c.awaitSaid(c.announce("1.1.0"), "available 1.1.0")
		if h := c.history(); len(h) != 1 || h[0].Result != "available" || h[0].Origin != "directive" {
			c.t.Errorf("history has %+v", h)
		}
		c.awaitTestd("1.0.0")
	})
	c.step("held", func() {
		c.must("machinemon-update", "enable", "testd")
		c.must("systemctl", "stop", "machinemon-fetch@testd.timer") // only directives may start a check
		c.must("machinemon-update", "hold", "testd")
		c.awaitSaid(c.announce("1.1.0"), "available 1.1.0")
		c.must("machinemon-update", "unhold", "testd")
		c.awaitTestd("1.0.0")
	})
	c.step("enabled", func() {
		// The announced version need not be the source's; only the source counts.
		c.awaitEvent(c.announce("9.9.9"), inChain("commit started")[0])
		c.awaitTestd("1.1.0")
		if h := c.history(); h[0].Result != "committed" || h[0].Origin != "directive" {
			c.t.Errorf("history has %+v", h)
		}
	})
	c.step("rejected", func() {
		c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "exit1-at-once"})
		c.awaitEvent(c.announce("1.2.0"), inChain("rollback started")[0])
		c.awaitSaid(c.announce("1.2.0"), "it was rejected")
		c.awaitTestd("1.1.0")
	})
	if n := manifests(); n != 5 {
		t.Errorf("%d requests for the manifest, want 5", n)
	}
}

// TestDirectiveFlood shows that ten thousand directives cause one check at once, and one
// more a minute later for those that came meanwhile.
func TestDirectiveFlood(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()

	since := c.cursor()
	c.must("sh", "-c", "i=0; while [ $i -lt 10000 ]; do : >"+directives+"/$i; i=$((i+1)); done")
	c.await(since, isAnswer)
	c.must("sh", "-c", ": >"+directives+"/last")
	// The service is active, so that the path unit waits, but has no process.
	c.awaitProperty("machinemon-directive@testd.service", "SubState", func(s string) bool { return s == "exited" })
	if pid := c.property("machinemon-directive@testd.service", "MainPID"); pid != "0" {
		t.Errorf("process %s waits", pid)
	}
	second, err := c.AwaitJournal(ctx, c.cursor(), isAnswer)
	c.ok(err)
	answers := c.answers(since)
	if len(answers) != 2 {
		t.Fatalf("answers at %v, want two", answers)
	}
	c.assertApart(answers, time.Minute)
	// The second answer logs this; the first may log it after the cursor.
	c.awaitSaid(machine.Cursor(second["__CURSOR"]), "available 1.1.0")
	if m, a := c.requests(); len(m) != 2 || len(a) > 0 {
		t.Errorf("manifests %v, archives %v", m, a)
	}
	c.assertListening()
	if h := c.history(); len(h) != 1 {
		t.Errorf("history has %+v", h)
	}
}

// TestDirectiveSurvives shows that strange entries are discarded, and that after kills,
// stops and reloads directives are still answered, and never too often.
func TestDirectiveSurvives(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.shortPause()
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	rested := func() {
		c.t.Helper()
		// The directory counts first: an entry taken from it keeps the service active.
		c.ok(machine.WaitFor(c.t.Context(), "all directives are answered", func() bool {
			return len(c.list(directives)) == 0 &&
				c.property("machinemon-directive@testd.service", "ActiveState") == "inactive" &&
				c.property("machinemon-fetch@testd.service", "ActiveState") == "inactive"
		}))
	}

	c.step("strange entries", func() {
		since := c.cursor()
		// The entries are made by a user to whom root gave the directory.
		c.must("sh", "-c", "chown nobody "+directives+" && chmod 0500 "+directives)
		c.must("sh", "-c", `set -e; mkdir /run/strange; cd /run/strange
			mkfifo fifo; mkdir -p dir/a/b; : >dir/a/file; chmod 0 dir/a; chown nobody dir
			mkdir deep; (cd deep; i=0; while [ $i -lt 1500 ]; do mkdir d; cd d; i=$((i+1)); done)
			ln -s /etc link; ln -s /etc/hostname dir/link; ln -s nowhere dangling; mknod null c 1 3
			printf '#!/bin/sh\ntouch /run/executed\n' >script; chmod 4755 script; : >.hidden
			: >"$(printf 'a\nb')"; : >"-rf"; : >'*'; : >"$(printf '\377')"
			mv -t `+directives+` -- fifo dir deep link dangling null script .hidden a* -rf '*' "$(printf '\377')"`)
		c.await(since, isAnswer)
		rested()
		c.assertListening()
		if r := c.run("sh", "-c", "test -s /etc/hostname && ! test -e /run/executed"); r.Code != 0 {
			c.t.Error("it was followed, or executed")
		}
		c.must("sh", "-c", "chown root "+directives+" && chmod 0755 "+directives)
	})
	c.step("reloads", func() {
		since := c.cursor()
		flood := c.start("sh", "-c", "while :; do : >"+directives+"/$$; sleep 0.01; done")
		c.await(since, isAnswer)
		for _, verb := range []string{"daemon-reload", "daemon-reload", "daemon-reexec", "daemon-reload"} {
			c.must("systemctl", verb)
		}
		last := c.cursor()
		c.await(last, isAnswer)
		c.ok(flood.Signal(9))
		c.wait(flood)
		rested()
		c.assertApart(c.answers(since), pause)
		c.assertListening()
	})
	c.step("kills", func() {
		for range 3 {
			since := c.cursor()
			c.must("sh", "-c", "i=0; while [ $i -lt 2000 ]; do : >"+directives+"/$i; i=$((i+1)); done")
			c.awaitEvent(since, "machinemon-directive@testd.service starting")
			c.run("systemctl", "kill", "--signal=KILL", "machinemon-directive@testd.service")
			rested()
		}
		since := c.cursor()
		c.must("sh", "-c", ": >"+directives+"/x")
		c.await(since, isAnswer)
		rested()
		c.assertListening()
	})
	c.step("the path unit is stopped", func() {
		c.must("systemctl", "stop", "machinemon-directive@testd.path")
		since := c.cursor()
		r := c.checkedIn(`{"update_version":"1.1.0"}`)
		if r.Code != 0 || !strings.Contains(r.Stderr, "the directive is not seen yet: machinemon-directive@testd.path is loaded, inactive (dead) (hint: ") {
			c.t.Errorf("directive: %+v", r)
		}
		c.tick() // of the schedule
		c.await(since, isAnswer)
		rested()
		c.assertListening()
	})
	c.step("the path unit is masked", func() {
		c.must("systemctl", "mask", "--runtime", "--now", "machinemon-directive@testd.path")
		c.tick()
		if got := c.property("machinemon-directive@testd.path", "ActiveState"); got != "inactive" {
			c.t.Errorf("the operator's mask: %s", got)
		}
	})
}

// TestDirectiveDuringAttempt shows that a directive during an attempt is answered after it.
func TestDirectiveDuringAttempt(t *testing.T) {
	t.Parallel()
	c := newHeldChain(t, testdTarget)
	c.shortPause()
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	since := c.cursor()
	c.hold(atRestart)
	apply := c.startApply()
	c.awaitHeld(since, atRestart)
	c.must("sh", "-c", "i=0; while [ $i -lt 1000 ]; do : >"+directives+"/$i; i=$((i+1)); done")
	// It is logged twice, because the directive is retried as long as the attempt lasts.
	for range 2 {
		c.awaitSaid(c.cursor(), "later, as machinemon-swap@testd.service is activating")
	}
	c.letGo(atRestart)
	if r := c.wait(apply); r.Code != 0 {
		t.Errorf("apply: %+v", r)
	}
	c.awaitSaid(since, "begins: check by directive")
	c.awaitSaid(since, "already current")
	if m, _ := c.requests(); len(m) != 2 {
		t.Errorf("requests for the manifest: %v", m)
	}
	c.assertListening()
	c.assertClosed("1.0.0")
}
