//go:build systemd

package systemtest

import (
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

const (
	testdTLS  = "127.0.0.1:9443"
	testdTOML = "/etc/machinemon-update/targets.d/testd.toml"
)

// proofUnit is testd that also serves with a certificate of its own.
var proofUnit = strings.Replace(testdUnit, "[Service]", "[Service]\nEnvironment=TESTD_TLS="+testdTLS, 1)

// proofTarget has, beside the version, two probes that can never pass: one of a port on
// which no program listens, and one of a certificate that the gate cannot verify.
var proofTarget = strings.Replace(strings.Replace(testdTarget, testdAddress, "127.0.0.1:9201", 1), "timeout_seconds = 10", "timeout_seconds = 2", 1) +
	"[[health.probe]]\nhttp = \"https://" + testdTLS + "/healthz\"\n"

// proofCauses are the causes that must be reported for these two probes.
var proofCauses = []string{"http http://127.0.0.1:9201/healthz: connection refused", "http https://" + testdTLS + "/healthz: ", "unknown authority"}

// newProof returns a chain whose scheduled runs install, when the test starts one.
func newProof(t *testing.T, unit, target string) *chain {
	t.Helper()
	c := newChain(t, unit, target)
	c.must("machinemon-update", "enable", "testd")
	c.must("systemctl", "stop", "machinemon-fetch@testd.timer")
	return c
}

// contains fails the test unless the text has each of the parts.
func (c *chain) contains(what, text string, parts ...string) {
	c.t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			c.t.Errorf("%s does not say %q: %s", what, p, text)
		}
	}
}

// probe runs `machinemon-update probe testd`, which must end so.
func (c *chain) probe(exit int, says ...string) {
	c.t.Helper()
	r := c.run("machinemon-update", "probe", "testd")
	c.t.Logf("probe said: %s%s", r.Stdout, r.Stderr)
	if r.Code != exit {
		c.t.Errorf("probe exited with %d, want %d", r.Code, exit)
	}
	c.contains("probe", r.Stdout+r.Stderr, says...)
	if _, err := c.Stat("/run/machinemon-update/request/testd.json"); !errors.Is(err, fs.ErrNotExist) {
		c.t.Errorf("probe has left its request: %v", err)
	}
}

// check runs the agent's check of the target and returns its output.
func (c *chain) check(exit int) string {
	c.t.Helper()
	r := c.run("machinemon-update", "status", "--check", "testd")
	if r.Code != exit {
		c.t.Errorf("status --check exited with %d, want %d: %s", r.Code, exit, r.Stdout)
	}
	return r.Stdout
}

// TestScheduleWantsProof: no probe of this target ever passed here. Scheduled runs install
// nothing, because they would learn nothing about the release, and name the cure. After
// the cure they install, and the same probe fails a bad release.
func TestScheduleWantsProof(t *testing.T) {
	once(t)
	t.Parallel()
	c := newProof(t, proofUnit, proofTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "never-listen"})
	cures := []string{"machinemon-update probe testd", "/etc/machinemon-update/targets.d/testd.toml", "machinemon-update apply testd"}
	pid, since := c.mainPID(), c.cursor()
	for range 2 {
		c.tick()
		h := c.history()
		if len(h) != 1 || h[0].Result != "not attempted" || h[0].Version != "1.1.0" {
			c.t.Fatalf("history: %+v", h)
		}
		c.contains("the reason", h[0].Reason, append(cures, proofCauses...)...)
	}
	t.Logf("the schedule said: %s", c.history()[0].Reason)
	if got := c.must("systemctl", "show", "--property=ExecMainStatus", "--value", "machinemon-fetch@testd.service"); got != "8\n" {
		t.Errorf("the fetcher exited with %s", got)
	}
	if _, archives := c.requests(); len(archives) != 0 {
		t.Errorf("%d archives were asked for", len(archives))
	}
	c.assertUntouched(since)
	if now := c.mainPID(); now != pid {
		t.Errorf("the main process was %s and is %s", pid, now)
	}
	c.contains("status", c.must("machinemon-update", "status", "testd"), proofCauses...)
	c.assertClosed("")

	c.probe(1, "testd: testd.service stands", "fails", "never passed here", testdTOML, "connection refused", "unknown authority")
	c.writeTarget(strings.Replace(proofTarget, "127.0.0.1:9201", testdAddress, 1))
	c.probe(1, "passes", "status 200", "fails")

	// The release does not listen, and the probe that has passed before shows that.
	since = c.cursor()
	c.tick()
	c.awaitEvent(since, "machinemon-rollback@testd.service started")
	c.assertTold("rolled back", "did not pass within 2 s")
	c.assertRejected("1.1.0")
	c.awaitTestd("1.0.0")

	c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
	since = c.cursor()
	c.tick()
	c.awaitEvent(since, "machinemon-commit@testd.service started")
	c.assertTold("committed", "")
	c.awaitTestd("1.2.0")
	c.contains("the check", c.check(0), `"result":"committed"`)
}

// TestApplyUnproven shows that a user's apply installs an unproven release, and that all
// outputs call it unproven until a probe passes.
func TestApplyUnproven(t *testing.T) {
	once(t)
	t.Parallel()
	c := newProof(t, proofUnit, proofTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "never-listen"})
	// This release does not listen on the port either, so both probes have the same cause.
	causes := []string{proofCauses[0], proofCauses[1], "none ever passed here", "machinemon-update probe testd"}
	since := c.cursor()
	c.apply(0, append([]string{"committed unproven 1.1.0"}, causes...)...)
	s := c.status()
	if s.Installed != "1.1.0" || s.Last.Result != "committed unproven" {
		t.Errorf("status shows %+v", s)
	}
	c.contains("status", s.Last.Reason, causes...)
	c.contains("status for people", c.must("machinemon-update", "status", "testd"), causes...)
	h := c.history()
	if h[0].Result != "committed unproven" {
		t.Errorf("history: %+v", h)
	}
	c.contains("history", h[0].Reason, causes...)
	c.contains("history for people", c.must("machinemon-update", "history", "testd"), causes...)
	e := c.await(since, func(e machine.Entry) bool { return e["MESSAGE_ID"] == "fdbd9385adb3426782343f148bfbad14" })
	c.contains("the journal", e["MESSAGE"], causes...)
	c.contains("the check", c.check(1), `"result":"committed unproven"`, `"reason":"no probe proves it`, "connection refused")
	// That the source has no newer release proves nothing.
	c.tick()
	c.assertTold("already current", "")
	c.contains("the check", c.check(1), `"result":"committed unproven"`, `"version":"1.1.0"`, "connection refused")
	c.contains("status for people", c.must("machinemon-update", "status", "testd"), causes...)

	// The previous release serves; a correct probe proves it.
	c.writeTarget(strings.Replace(proofTarget, "127.0.0.1:9201", testdAddress, 1))
	c.said(c.run("machinemon-update", "rollback", "testd"), 0, "committed 1.0.0")
	c.awaitTestd("1.0.0")
	c.check(0)
}

// TestProbeProves shows that a probe that passes later ends the alarm of an unproven release.
func TestProbeProves(t *testing.T) {
	once(t)
	t.Parallel()
	c := newProof(t, proofUnit, proofTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.apply(0, "committed unproven 1.1.0")
	c.check(1)
	c.writeTarget(testdTarget)
	r := c.run("machinemon-update", "probe", "--json", "testd")
	var got struct {
		Target, Unit string
		Exit         int
		Standing     bool
		Probes       []struct {
			Probe, Detail string
			Passed        bool
			Millis        *int64
			LastPassed    string `json:"last_passed"`
		}
	}
	if err := json.Unmarshal([]byte(r.Stdout), &got); err != nil || r.Code != 0 {
		t.Fatalf("%+v: %v", r, err)
	}
	if got.Target != "testd" || got.Unit != "testd.service" || got.Exit != 0 || !got.Standing || len(got.Probes) != 1 {
		t.Errorf("probe said %+v", got)
	} else if p := got.Probes[0]; p.Probe != "http http://"+testdAddress+"/healthz" || !p.Passed || p.Detail != "status 200" || p.Millis == nil || p.LastPassed == "" {
		t.Errorf("probe said %+v", p)
	}
	c.contains("the check", c.check(0), `"result":"committed"`, "a probe has passed since")

	// probe must neither run during an attempt nor prevent one, as it uses the chain's own unit.
	asked := make(chan struct{}, 1)
	c.server.Break("/client-manifest.json", releases.Hang(asked))
	p := c.start("machinemon-update", "check", "testd")
	<-asked
	c.probe(8, "cannot probe testd now", "another machinemon-update is at work")
	c.must("systemctl", "kill", "--signal=KILL", "machinemon-fetch@testd.service")
	c.wait(p)
	c.must("systemctl", "start", "--no-block", "machinemon-fetch@testd.service")
	<-asked
	c.probe(8, "cannot probe testd now", "an attempt is under way")
	c.server.Mend("/client-manifest.json")
	c.must("systemctl", "stop", "machinemon-fetch@testd.service")
	c.probe(0, "passes", "status 200")
	// If the unit is stopped, no probe is tried, and probe says so.
	c.must("systemctl", "stop", "testd.service")
	c.probe(1, "testd: testd.service is not as it must be", "not tried", "it last passed here at")
}

// TestScheduleCuresFailedUnit shows that an update may repair a unit that is not up:
// scheduled runs do not wait for a proof that the old version cannot give.
func TestScheduleCuresFailedUnit(t *testing.T) {
	once(t)
	t.Parallel()
	c := newProof(t, strings.Replace(proofUnit, "Restart=on-failure\n", "", 1), proofTarget)
	c.writeFile(testdPath+".new", string(build(t, releases.Daemon{Version: "1.0.0", Behaviour: "exit1-at-once"})), 0o755)
	c.must("mv", testdPath+".new", testdPath)
	c.must("systemctl", "restart", "testd.service")
	c.ok(machine.WaitFor(t.Context(), "testd failed", func() bool { return c.run("systemctl", "is-failed", "testd.service").Code == 0 }))
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	since := c.cursor()
	c.tick()
	c.awaitEvent(since, "machinemon-commit@testd.service started")
	c.assertTold("committed unproven", "no probe proves it")
	c.awaitTestd("1.1.0")
}

// TestIllDaemon: a probe that passed before fails now, so the daemon is not healthy. An
// update is committed only if it repairs the daemon; if it does not, it is rolled back
// without being rejected.
func TestIllDaemon(t *testing.T) {
	once(t)
	t.Parallel()
	c := newProof(t, testdUnit, strings.Replace(testdTarget, "timeout_seconds = 10", "timeout_seconds = 2", 1))
	c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "ill-on-demand"})
	c.apply(0, "committed 1.1.0")
	c.writeFile("/run/testd-ill", "", 0o644)
	c.probe(1, "fails", "status 503 instead of 200", "it last passed here at")

	c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "ill-on-demand"})
	c.apply(4, "rolled back 1.2.0", "status 503 instead of 200", "not rejected", "failed before the update, too")
	if s := c.status(); len(s.Rejected) != 0 || s.Installed != "1.1.0" {
		t.Errorf("status shows %+v", s)
	}

	c.publish(c.dir, releases.Daemon{Version: "1.3.0"})
	since := c.cursor()
	c.tick()
	c.awaitEvent(since, "machinemon-commit@testd.service started")
	c.assertTold("committed", "")
	c.awaitTestd("1.3.0")
	if h := c.history(); slices.ContainsFunc(h, func(a attempt) bool { return a.Result == "committed unproven" }) {
		t.Errorf("history: %+v", h)
	}
	c.check(0)
}
