//go:build systemd

package systemtest

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// installBad replaces the installed 1.0.0 by one with this behaviour.
func (b *box) installBad(behaviour string) {
	b.t.Helper()
	b.writeFile(testdPath, string(build(b.t, releases.Daemon{Version: "1.0.0", Behaviour: behaviour})), 0o755)
	b.must("systemctl", "restart", "testd.service")
}

// TestBackButNotHealthy: after a rollback the old program is back and as unhealthy as
// before, so no output says that it runs again.
func TestBackButNotHealthy(t *testing.T) {
	once(t)
	t.Parallel()
	for _, test := range []struct{ behaviour, wrong string }{
		{"exit1-at-once", "its main process exited with status 1"},
		{"answer-500", "http http://" + testdAddress + "/healthz: status 500 instead of 200"},
	} {
		t.Run(test.behaviour, func(t *testing.T) {
			t.Parallel()
			// This restarts more slowly than systemd's start limit, so the daemon goes on crashing.
			c := newChain(t, strings.Replace(testdUnit, "[Service]", "[Service]\nRestartSec=3", 1), strings.Replace(testdTarget, "timeout_seconds = 10", "timeout_seconds = 3", 1))
			c.installBad(test.behaviour)
			c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "exit1-at-once"})
			r := c.run("machinemon-update", "apply", "testd")
			c.said(r, 4, "rolled back 1.1.0: ", test.wrong, "1.0.0 is back, but is not healthy")
			if strings.Contains(r.Stdout, "runs again") {
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

// TestBackUnseen: after a power cut the files are restored before the daemon starts.
// Without a check no output says that it runs.
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
	said := c.journal("--output=cat", "--boot", "MESSAGE_ID="+messageIDs["interrupted"])
	if !strings.HasSuffix(said, ": interrupted: the machine stopped during the trial (the files of 1.0.0 are in place)\n") {
		t.Errorf("the log says %q", said)
	}
	if last := c.status().Last; last.Healthy || last.Unhealthy != "" {
		t.Errorf("status shows %+v", last)
	}
}

// TestScaleboxBackButNotHealthy tests Scalebox's messages for an old version that is unhealthy, too.
func TestScaleboxBackButNotHealthy(t *testing.T) {
	once(t)
	t.Parallel()
	s := newScalebox(t)
	for _, behaviour := range []string{"answer-500", "exit1-at-once"} {
		s.step(behaviour, func() {
			s.writeFile(scaleboxd, string(build(s.t, releases.Daemon{Version: "build-17", Behaviour: behaviour})), 0o755)
			s.must("systemctl", "restart", "scaleboxd.service")
			s.release(releases.Daemon{Version: "build-18", Behaviour: "exit1-at-once"}, build17())
			r := s.run("scalebox-update")
			s.said(r, 1, "Rolling back to previous version...", "rolled back build-18: ", "what ran before is back, but is not healthy",
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

// TestWhatTheDaemonSaid shows that all reports of a rollback quote the last lines of the
// new program, and not those that the old program logged meanwhile.
func TestWhatTheDaemonSaid(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.installBad("says-goodbye")
	c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "needs-host-ip"})
	const fatal = "FATAL: HOST_IP not set"
	since := c.cursor()
	r := c.run("machinemon-update", "apply", "testd")
	c.said(r, 4, "rolled back 1.1.0: ", "(1.0.0 runs again)")
	c.await(since, func(e machine.Entry) bool { return e["MESSAGE"] == "goodbye from 1.0.0" })
	if strings.Contains(r.Stdout, "goodbye") {
		t.Errorf("the old program said: %s", r.Stdout)
	}
	const hint = "(hint: sudo machinemon-update unskip testd tries it again)"
	wants := []string{"\n  testd said: " + fatal + "\n", "\n  more: journalctl -u testd.service --since '", "\n  1.1.0 is rejected " + hint + "\n"}
	more := ""
	for verb, text := range map[string]string{"apply": r.Stdout, "history": c.must("machinemon-update", "history", "testd")} {
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s does not say %q:\n%s", verb, want, text)
			}
		}
		_, more, _ = strings.Cut(text, "more: ")
		more, _, _ = strings.Cut(more, "\n")
		if log := c.must("sh", "-c", more+" --no-pager"); !strings.Contains(log, "HOST_IP not set") || !strings.Contains(log, "systemd[1]: testd.service: Main process exited") {
			t.Errorf("%s shows %s", more, log)
		}
	}
	// The source still offers the release, and the reason of its rejection comes first.
	if got := c.must("machinemon-update", "status", "testd"); !strings.Contains(got, wants[0]) || !strings.Contains(got, wants[1]) ||
		!strings.Contains(got, "\n  it was rejected on ") || strings.Count(got, hint) != 1 {
		t.Errorf("status:\n%s", got)
	}
	var all struct {
		Attempts []struct {
			Said     []string
			Rejected string
		}
	}
	c.ok(json.Unmarshal([]byte(c.must("machinemon-update", "history", "--json", "testd")), &all))
	if a := all.Attempts[0]; len(a.Said) == 0 || len(a.Said) > 5 || !slices.Contains(a.Said, fatal) || a.Rejected != "1.1.0" {
		t.Errorf("history shows %+v", a)
	}
	if line := c.run("machinemon-update", "status", "--check", "testd"); line.Code != 1 || !strings.Contains(line.Stdout, "; 1.1.0 said: ") {
		t.Errorf("status --check: %+v", line)
	}
	c.apply(8, "not attempted 1.1.0: it was rejected on ", hint)
	c.must("systemctl", "reset-failed", "testd.service")
	c.must("machinemon-update", "unskip", "testd")
	if got := c.must("machinemon-update", "history", "testd"); strings.Contains(got, "1.1.0 is rejected") {
		t.Errorf("after unskip: %s", got)
	}
	c.apply(4, "rolled back 1.1.0")

	// After a boot the journal has all these lines, but for a program that logs nothing
	// none is shown.
	c.powerOff()
	c.bootAndServe()
	c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "exit0-at-once"})
	r = c.run("machinemon-update", "apply", "testd")
	c.said(r, 4, "rolled back 1.2.0: ", "(1.0.0 runs again)")
	if strings.Contains(r.Stdout, " said: ") || !strings.Contains(r.Stdout, "\n  more: journalctl") {
		t.Errorf("it said: %s", r.Stdout)
	}

	// If the journal cannot be read, or not in time, only the lines are missing.
	for _, script := range []string{"exit 1", "exec sleep 600"} {
		c.writeFile("/srv/journalctl", "#!/bin/sh\n"+script+"\n", 0o755)
		c.writeFile("/etc/systemd/system/machinemon-rollback@.service.d/words.conf", "[Service]\nBindReadOnlyPaths=/srv/journalctl:/usr/bin/journalctl\n", 0o644)
		c.must("systemctl", "daemon-reload")
		c.must("systemctl", "reset-failed")
		c.must("machinemon-update", "unskip", "testd")
		c.publish(c.dir, releases.Daemon{Version: "1.3.0", Behaviour: "needs-host-ip"})
		start := time.Now()
		r = c.run("machinemon-update", "apply", "testd")
		c.said(r, 4, "rolled back 1.3.0: ", "(1.0.0 runs again)")
		t.Logf("with %q it took %s", script, time.Since(start))
		if strings.Contains(r.Stdout, " said: ") {
			t.Errorf("it said: %s", r.Stdout)
		}
		c.assertRuns(releases.Daemon{Version: "1.0.0", Behaviour: "says-goodbye"})
	}
}

func TestWhatScaleboxSaid(t *testing.T) {
	once(t)
	t.Parallel()
	s := newScalebox(t)
	s.release(releases.Daemon{Version: "build-18", Behaviour: "needs-host-ip"}, build17())
	s.update(1, "Rolling back to previous version...", "rolled back build-18: ", "]   scaleboxd said: FATAL: HOST_IP not set",
		"]   more: journalctl -u scaleboxd.service --since '", "]   build-18 is rejected (hint: sudo machinemon-update unskip scaleboxd tries it again)",
		"Rollback successful", "ERROR: Update failed - rolled back to previous version")
	s.update(1, "ERROR: not attempted build-18: it was rejected on ", "(hint: sudo machinemon-update unskip scaleboxd tries it again)")
}

// TestOnTrial shows that from the swap to the verdict an attempt is reported as on trial,
// without an alarm, for each verb, and that the command goes on waiting.
func TestOnTrial(t *testing.T) {
	once(t)
	t.Parallel()
	c := newHeldChain(t, testdTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.apply(0, "committed 1.1.0")
	c.target(longTrial)
	c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
	for _, test := range []struct{ verb, from, to string }{{"apply", "1.1.0", "1.2.0"}, {"rollback", "1.1.0", "1.0.0"}} {
		c.step(test.verb, func() {
			command := c.start("machinemon-update", test.verb, "testd")
			c.awaitTrial()
			last := c.status().Last
			if want := (attempt{ID: last.ID, Origin: "operator", From: test.from, Version: test.to, Stage: "swap", Result: "on trial"}); last != want || c.history()[0] != want {
				c.t.Errorf("the last attempt is\n%+v, want\n%+v; history has\n%+v", last, want, c.history()[0])
			}
			if got := c.must("machinemon-update", "history", "testd"); strings.Contains(got, "handed on") || strings.Count(got, "on trial") != 1 {
				c.t.Errorf("history:\n%s", got)
			}
			if got := c.must("machinemon-update", "status", "testd"); !strings.Contains(got, test.to+" is on trial") {
				c.t.Errorf("status:\n%s", got)
			}
			if got := c.must("machinemon-update", "status", "--check", "testd"); !strings.Contains(got, `"result":"on trial","version":"`+test.to+`"`) {
				c.t.Errorf("status --check: %s", got)
			}
			c.kill("health-gate")
			c.said(c.wait(command), 4, "interrupted "+test.to, "(1.1.0 runs again)")
			if h := c.history(); h[0].ID != last.ID || h[0].Result != "interrupted" {
				c.t.Errorf("history has %+v", h[0])
			}
			c.must("systemctl", "reset-failed")
		})
	}
}

// TestFirstUpdate shows that the first update names the version that was installed by hand.
func TestFirstUpdate(t *testing.T) {
	once(t)
	t.Parallel()
	for _, test := range []struct{ target, program, address string }{
		{"server", "machinemon-server", "127.0.0.1:8080"},
		{"agent", "machinemon-client", testdAddress},
	} {
		t.Run(test.target, func(t *testing.T) {
			t.Parallel()
			b := boot(t)
			b.stopShipped()
			path := "/usr/local/bin/" + test.program
			b.writeFile(path, string(build(t, releases.Daemon{Version: "v0.1.11"})), 0o755)
			b.writeFile("/etc/systemd/system/"+test.program+".service", "[Service]\nExecStart="+path+"\nEnvironment=TESTD_ADDRESS="+test.address+"\n", 0o644)
			b.writeFile("/etc/machinemon-update/targets.d/"+test.target+".toml", "[source]\nurl = \"http://"+releasesAt+"/client-manifest.json\"\n[health]\nsettle_seconds = 1\n[[health.probe]]\ntcp = \""+test.address+"\"\n", 0o644)
			b.must("systemctl", "daemon-reload")
			b.must("systemctl", "start", test.program+".service", "paths.target")
			dir, name := t.TempDir(), test.program+"-linux-amd64"
			archive := filepath.Join(t.TempDir(), name+".tar.gz")
			b.ok(releases.Pack(archive, releases.File{Name: name, Content: build(t, releases.Daemon{Version: "v0.1.12"})}))
			b.ok(releases.Publish(t.Context(), lab.Installed("/usr/bin/machinemon-release"), dir, "v0.1.12", "--product", test.program, "--deltas=0", archive))
			b.serve(dir)
			if got := b.must("machinemon-update", "apply", test.target); !strings.Contains(got, "committed v0.1.12 (was v0.1.11)") {
				t.Errorf("it said %s", got)
			}
			if got := b.must("machinemon-update", "history", test.target); !strings.Contains(got, "  v0.1.11  v0.1.12  committed\n") {
				t.Errorf("history:\n%s", got)
			}
			if got := b.must("machinemon-update", "status", "--json", test.target); !strings.Contains(got, `"previous": "v0.1.11"`) {
				t.Errorf("status: %s", got)
			}
		})
	}
}

// TestFirstUpdateFromUnknown: nothing states the version that was installed by hand. Each
// output says so in words.
func TestFirstUpdateFromUnknown(t *testing.T) {
	once(t)
	t.Parallel()
	s := newScalebox(t)
	s.release(releases.Daemon{Version: "build-18"}, build17())
	s.update(0, "committed build-18 (the version before is unknown) in ")
	since := s.cursor()
	says := func(want string, argv ...string) {
		t.Helper()
		if got := s.run(argv...).Stdout; !strings.Contains(got, want) {
			t.Errorf("%q does not say %q:\n%s", argv, want, got)
		}
	}
	says("  unknown  build-18  committed\n", "machinemon-update", "history", "scaleboxd")
	says(`"previous": "unknown"`, "machinemon-update", "status", "--json", "scaleboxd")
	const back = "the operator went back from build-18 to the files of before, version unknown"
	says("scaleboxd: committed: "+back+" (was build-18) in ", "machinemon-update", "rollback", "scaleboxd")
	s.assertRuns(releases.Daemon{Version: "build-17"}, build17())
	says("  build-18  unknown   committed\n  "+back+"\n", "machinemon-update", "history", "scaleboxd")
	says(": the operator went back to the files of before, version unknown (hint: sudo machinemon-update unskip scaleboxd ", "machinemon-update", "apply", "scaleboxd")
	entries, err := s.JournalSince(t.Context(), since)
	s.ok(err)
	named := 0
	for _, e := range entries {
		if e["MACHINEMON_TARGET"] == "scaleboxd" && strings.Contains(e["MESSAGE"], ": the files of before, version unknown: ") {
			named++
		}
	}
	if named < 2 { // it goes on trial, and is committed
		t.Errorf("%d lines of the log name it", named)
	}
}
