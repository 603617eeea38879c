//go:build systemd

package systemtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestScaleboxErrorScenarios tests each row of the plan's table "Error Scenarios", except
// a broken updater (see TestScaleboxPackage), and what else the plan's script refuses.
func TestScaleboxErrorScenarios(t *testing.T) {
	once(t)
	t.Parallel()
	s := newScalebox(t)
	seventeen := releases.Daemon{Version: "build-17"}
	later := build17().with(archive{"template-build.sh": "TEMPLATE_VERSION=18\n", "scalebox-new": "#!/bin/sh\n",
		"scaleboxd.service": strings.Replace(unitOfScalebox, "RestartSec=5", "RestartSec=6", 1)})
	// back runs an update to d that must be rolled back and rejected.
	back := func(d releases.Daemon, a archive, says ...string) {
		s.t.Helper()
		s.release(d, a)
		s.update(1, append(says, "Rolling back to previous version...", "Rollback successful", "ERROR: Update failed - rolled back to previous version")...)
		s.assertRuns(seventeen, build17(), "/usr/local/bin/scalebox-new")
		s.update(1, "ERROR: not attempted "+d.Version+": it was rejected on")
		if r := s.run("machinemon-update", "apply", "scaleboxd"); r.Code != 8 {
			s.t.Errorf("apply: %+v", r)
		}
		s.must("systemctl", "reset-failed")
	}

	s.step("health check fails after update", func() {
		back(releases.Daemon{Version: "build-18", Behaviour: "answer-500"}, later, "Waiting for health check...", "Health check failed after update")
	})
	s.step("service fails to restart", func() {
		back(releases.Daemon{Version: "build-19", Behaviour: "exit1-at-once"}, later, "Restarting scaleboxd...")
	})
	s.step("update with bad binary rolls back automatically", func() {
		back(releases.Daemon{Version: "build-22", Behaviour: "exit0-at-once"}, later)
	})
	s.step("a bad unit file", func() {
		for n, bad := range []string{"[Service]\nExecStart=/nowhere/scaleboxd\n", "not a unit file\n"} {
			back(releases.Daemon{Version: "build-2" + string(rune('0'+n))}, later.with(archive{"scaleboxd.service": bad}))
		}
		if got := s.property("scaleboxd.service", "KillMode"); got != "process" {
			s.t.Errorf("systemd still has the bad unit file: KillMode=%s", got)
		}
	})
	s.server.Close()
	s.step("no network to download", func() {
		since := s.cursor()
		s.update(1, "Downloading the latest release...", "ERROR: not downloaded: cannot download http://"+scaleboxHub)
		s.assertIdle(since)
		s.assertRuns(seventeen, build17())
	})
	s.listen()
	s.step("the connection is cut", func() {
		s.release(releases.Daemon{Version: "build-30"}, later)
		s.server.Break("/storage/5-0", releases.Cut(1000)) // the first file of the sixth release
		since := s.cursor()
		s.update(1, "ERROR: not downloaded build-30: ", "the connection was cut")
		s.assertIdle(since)
		s.assertRuns(seventeen, build17(), "/usr/local/bin/scalebox-new")
	})
	s.step("corrupt tarball", func() {
		file := filepath.Join(t.TempDir(), "scalebox-build-31.tar.gz")
		later.pack(s.box, file, releases.Daemon{Version: "build-31"})
		content, err := os.ReadFile(file)
		s.ok(err)
		for name, asset := range map[string]releases.Asset{
			"damaged on the way": {Name: "scalebox-build-31.tar.gz", Content: append(content[:len(content):len(content)], 'x'), Digest: releases.Digested("", content).Digest},
			"damaged before":     releases.Digested("scalebox-build-31.tar.gz", content[:len(content)-100]),
			"no tarball":         releases.Digested("scalebox-build-31.tar.gz", []byte("<html>")),
		} {
			s.hub.Publish(releases.Tagged{Tag: "build-31", Assets: []releases.Asset{asset}})
			since := s.cursor()
			s.update(1, "ERROR: refused build-31: cannot ")
			s.assertIdle(since)
			s.assertRuns(seventeen, build17(), "/usr/local/bin/scalebox-new")
			if s.t.Failed() {
				s.t.Logf("that was %s", name)
			}
		}
	})
	s.step("not root", func() {
		s.said(s.run(asUser("nobody", "nogroup", "scalebox-update")...), 1, "Starting Scalebox update...", "ERROR: Must run as root. Try: sudo scalebox-update")
		if r := s.run(asUser("nobody", "nogroup", "scalebox-update", "--check")...); r.Code != 0 || !strings.Contains(r.Stdout, "available build-31") {
			s.t.Errorf("--check by nobody: %+v", r)
		}
		s.said(s.run("scalebox-update", "--chekc"), 1, "ERROR: Unknown argument: --chekc. Try: scalebox-update --help")
	})
	s.step("no previous version (first update)", func() {
		if r := s.run("machinemon-update", "rollback", "scaleboxd"); r.Code != 8 || !strings.Contains(r.Stdout, "no previous release of scaleboxd is kept") {
			s.t.Errorf("rollback: %+v", r)
		}
		s.release(releases.Daemon{Version: "build-40"}, later)
		s.update(0, "committed build-40 (the version before is unknown)", "Update complete!")
		s.assertRuns(releases.Daemon{Version: "build-40"}, later)
		if r := s.run("machinemon-update", "rollback", "scaleboxd"); r.Code != 0 {
			s.t.Errorf("rollback: %+v", r)
		}
		s.assertRuns(seventeen, build17(), "/usr/local/bin/scalebox-new")
	})
	s.step("not running", func() {
		s.release(releases.Daemon{Version: "build-41"}, later)
		s.must("systemctl", "stop", "scaleboxd.service")
		s.update(1, "ERROR: scaleboxd service not running. Try: systemctl start scaleboxd")
		if got := s.property("scaleboxd.service", "ActiveState"); got != "inactive" {
			s.t.Errorf("it is %s", got)
		}
	})
	s.step("not installed", func() {
		s.must("mv", scaleboxd, "/root/scaleboxd")
		s.update(1, "ERROR: Scalebox not installed. Run bootstrap first.")
		s.must("mv", "/root/scaleboxd", scaleboxd)
	})
}

// TestScaleboxCured shows that a failing daemon is updated, because the update may repair
// it, even while systemd waits to restart it.
func TestScaleboxCured(t *testing.T) {
	once(t)
	t.Parallel()
	s := newScalebox(t)
	s.must("systemctl", "stop", "scaleboxd.service")
	s.writeFile(scaleboxd, string(build(s.t, releases.Daemon{Version: "build-17", Behaviour: "exit1-at-once"})), 0o755)
	s.must("systemctl", "start", "scaleboxd.service")
	s.awaitProperty("scaleboxd.service", "ActiveState", func(state string) bool { return state == "activating" })
	later := build17().with(archive{"scaleboxd.service": strings.Replace(unitOfScalebox, "RestartSec=5", "RestartSec=6", 1)})
	s.release(releases.Daemon{Version: "build-18"}, later)
	s.update(0, "WARNING: scaleboxd service not running: the update may cure it", "committed build-18", "Update complete!")
	s.assertRuns(releases.Daemon{Version: "build-18"}, later)
}

// TestScaleboxHostileList: a list has files that Scalebox's target does not allow. No
// file of the release is written, and the next good release installs.
func TestScaleboxHostileList(t *testing.T) {
	once(t)
	t.Parallel()
	s := newScalebox(t)
	before := s.find("-newer", scaleboxConfig, "-path", "/usr/local/*", "-o", "-newer", scaleboxConfig, "-path", "/etc/systemd/*")
	evil := build17().with(archive{"firecracker": "evil", "ssh.service": "evil", "sudo": "evil", "scalebox-new": "#!/bin/sh\n"})
	for n, list := range []string{"bin:firecracker", "bin:../x", "service:ssh.service", "bin:sudo",
		"bin:scalebox-new\nbin:firecracker\nbin:../x\nservice:ssh.service\nbin:sudo\n", "lib:../../bin/sudo", "lib:/etc/passwd", "bin:scalebox-new/../sudo"} {
		d := releases.Daemon{Version: "build-18"} // each release moves the tag
		s.release(d, evil.with(archive{"list": "bin:scalebox-rebuild-template\n" + list}))
		since := s.cursor()
		s.update(1, "ERROR: refused build-18: cannot use INSTALL_MANIFEST of scalebox-build-18.tar.gz: line ")
		s.assertIdle(since)
		s.assertRuns(releases.Daemon{Version: "build-17"}, build17(), "/usr/local/bin/scalebox-new", "/etc/systemd/system/ssh.service", "/usr/local/x", "/usr/local/bin/x")
		if s.t.Failed() {
			s.t.Fatalf("that was list %d: %q", n, list)
		}
	}
	if after := s.find("-newer", scaleboxConfig, "-path", "/usr/local/*", "-o", "-newer", scaleboxConfig, "-path", "/etc/systemd/*"); strings.Join(after, " ") != strings.Join(before, " ") {
		t.Errorf("there were %q, and are %q", before, after)
	}
	s.release(releases.Daemon{Version: "build-19"}, build17())
	s.update(0, "committed build-19")
	s.assertRuns(releases.Daemon{Version: "build-19"}, build17())

	// The name is allowed, but another file, not of an update, has it.
	s.writeFile("/usr/local/bin/scalebox-mine", "mine", 0o755)
	s.kept["/usr/local/bin/scalebox-mine"] = "mine"
	s.release(releases.Daemon{Version: "build-20"}, build17().with(archive{"scalebox-mine": "evil"}))
	s.update(1, "ERROR: refused build-20: cannot install /usr/local/bin/scalebox-mine: a file of that name is there, and no update has brought it")
	s.assertRuns(releases.Daemon{Version: "build-19"}, build17())
}

// TestScaleboxMigration: a release needs a new key, like Scalebox's HOST_IP. It is rolled
// back without a hook, committed with one, and undone if it fails after the hook.
func TestScaleboxMigration(t *testing.T) {
	once(t)
	t.Parallel()
	s := newScalebox(t)
	const hook = "/etc/machinemon-update/hooks/scaleboxd-migrate"
	needs := releases.Daemon{Version: "build-18", Behaviour: "needs-key"}
	s.release(needs, build17())
	s.step("without a hook", func() {
		if r := s.run("machinemon-update", "apply", "scaleboxd"); r.Code != 4 || !strings.Contains(r.Stdout, "rolled back build-18") {
			s.t.Errorf("apply: %+v", r)
		}
		s.assertRuns(releases.Daemon{Version: "build-17"}, build17())
		s.must("machinemon-update", "unskip", "scaleboxd")
		s.must("systemctl", "reset-failed")
		s.update(1, "ERROR: Update failed - rolled back to previous version")
		s.assertRuns(releases.Daemon{Version: "build-17"}, build17())
		s.must("systemctl", "reset-failed")
	})
	s.must("install", "-d", "-m", "755", filepath.Dir(hook))
	s.writeFile(hook, "#!/bin/sh\nset -eu\ngrep -q ^KEY= "+scaleboxConfig+" || echo KEY=1 >>"+scaleboxConfig+"\n", 0o755)
	s.writeFile("/etc/machinemon-update/targets.d/scaleboxd.toml.d/hook.toml", "[hooks]\npre_swap = [\""+hook+"\"]\n", 0o644)
	s.step("it fails after the hook", func() {
		s.release(releases.Daemon{Version: "build-19", Behaviour: "exit1-at-once"}, build17())
		s.update(1, "ERROR: Update failed - rolled back to previous version")
		s.assertRuns(releases.Daemon{Version: "build-17"}, build17())
		s.must("systemctl", "reset-failed")
	})
	s.step("with a hook", func() {
		needs.Version = "build-20"
		s.release(needs, build17())
		s.kept[scaleboxConfig] = configOfScalebox + "KEY=1\n"
		s.update(0, "committed build-20", "Update complete!")
		s.assertRuns(needs, build17())
	})
}
