//go:build systemd

package systemtest

import (
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestScaleboxPackage: the package's script takes the place of Scalebox's own. It
// survives releases and damage by hand, and the removal brings Scalebox's script back.
func TestScaleboxPackage(t *testing.T) {
	once(t)
	t.Parallel()
	const (
		script = "/usr/local/bin/scalebox-update"
		ours   = "/usr/bin/scalebox-update"
		aside  = script + ".before-package"
	)
	s := &scalebox{box: bootBare(t)}
	s.writeFile(script, oldScript, 0o755)
	s.install()
	s.bootstrap()
	s.listen()
	inPlace := func(wantAside string) {
		s.t.Helper()
		if got := s.readFile(aside); got != wantAside {
			s.t.Errorf("%s holds %q", aside, got)
		}
		if got := s.must("sh", "-c", "command -v scalebox-update; stat -c '%a %U %F' "+script); got != script+"\n755 root regular file\n" {
			s.t.Errorf("found is %q", got)
		}
		if got := s.must(script, "--version"); !strings.Contains(got, "\nmachinemon-update ") {
			s.t.Errorf("it says %q", got)
		}
	}
	reinstall := func() {
		s.t.Helper()
		s.install("--reinstall")
	}
	s.step("scalebox-update is executable on server", func() {
		inPlace(oldScript)
		if got := s.must("stat", "-c", "%a %U", ours); got != "755 root\n" {
			s.t.Errorf("%s is %s", ours, got)
		}
	})

	s.step("a release with a script of that name", func() {
		s.release(releases.Daemon{Version: "build-18"}, build17())
		s.update(0, "committed build-18", "Update complete!")
		s.assertRuns(releases.Daemon{Version: "build-18"}, build17())
		inPlace(oldScript)
	})
	s.step("scalebox-update itself broken", func() {
		for _, program := range []string{ours, "/usr/bin/machinemon-update", "/usr/lib/machinemon-update/swapper", "/usr/lib/machinemon-update/fetcher"} {
			s.writeFile(program, "broken on purpose", 0o755)
		}
		s.release(releases.Daemon{Version: "build-19"}, build17())
		if r := s.run("scalebox-update"); r.Code == 0 {
			s.t.Errorf("broken, it says %+v", r)
		}
		s.awaitDaemon("build-18")
		reinstall()
		s.update(0, "committed build-19 (was build-18)", "Update complete!")
		s.assertRuns(releases.Daemon{Version: "build-19"}, build17())
	})
	s.step("arguments", func() {
		for _, args := range []string{"''", "'' --help", "--help --check", "--check scaleboxd", "update", "build-18", "--", "--halp"} {
			since := s.cursor()
			if r := s.run("sh", "-c", "scalebox-update "+args); r.Code != 1 || !strings.Contains(r.Stderr, "ERROR: Unknown argument: ") || r.Stdout != "" {
				s.t.Errorf("with %s: %+v", args, r)
			}
			s.assertIdle(since)
		}
		if r := s.run("scalebox-update", "-h"); r.Code != 0 || !strings.HasPrefix(r.Stdout, "usage: sudo scalebox-update ") {
			s.t.Errorf("-h: %+v", r)
		}
	})
	const newer = "#!/bin/sh\necho a newer script\n"
	again := func() { // as Scalebox's installation does
		s.writeFile("/root/scalebox-update", newer, 0o755)
		s.must("cp", "/root/scalebox-update", script)
	}
	warned := func() bool {
		return strings.Contains(s.must("machinemon-update", "status"),
			"warning: "+script+" is not the package's, and runs instead of "+ours+" (hint: reinstall the package of "+ours+")")
	}
	s.step("Scalebox is installed again, twice", func() {
		for range 2 {
			if warned() {
				s.t.Error("status warns of the package's own script")
			}
			again()
			if !warned() {
				s.t.Errorf("status does not warn:\n%s", s.must("machinemon-update", "status"))
			}
			reinstall()
			inPlace(newer)
		}
		if left := s.must("sh", "-c", "ls "+script+"*"); left != script+"\n"+aside+"\n" {
			s.t.Errorf("there are now %q", left)
		}
	})
	s.aptGet("remove", "scalebox-update")
	if got := s.readFile(script); got != newer {
		t.Errorf("after the removal %s holds %q", script, got)
	}
	for _, gone := range []string{ours, aside, "/usr/lib/machinemon-update/targets.d/scaleboxd.toml"} {
		if r := s.run("test", "-e", gone); r.Code == 0 {
			t.Errorf("after the removal there is %s", gone)
		}
	}
	s.step("purged while Scalebox's script is over ours", func() {
		reinstall()
		again()
		s.writeFile(aside+".~1~", "of an earlier version of the package", 0o755)
		s.aptGet("purge", "scalebox-update")
		if left := s.must("sh", "-c", "cat "+script+"; ls "+script+"*"); left != newer+script+"\n" {
			s.t.Errorf("left: %q", left)
		}
	})
	s.awaitDaemon("build-19")
	if r := s.run("machinemon-update", "status", "agent"); r.Code != 0 {
		t.Errorf("status: %+v", r)
	}
}
