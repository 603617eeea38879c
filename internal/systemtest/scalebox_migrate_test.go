//go:build systemd

package systemtest

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

const scaleboxLeftOut = "/var/lib/machinemon-update/swap/scaleboxd/left-out"

// TestScaleboxUnrun: a release brings a migration in its own updater, which is not run. The
// operator is told, by a check before the update, too, and can read it. GitHub says nothing
// about it, so the check downloads the archive, once; the update takes that.
func TestScaleboxUnrun(t *testing.T) {
	once(t)
	t.Parallel()
	s := newScalebox(t)
	eighteen, nineteen := releases.Daemon{Version: "build-18"}, releases.Daemon{Version: "build-19"}
	const unknown = "whether a script that the target leaves out has changed is not known (hint: sudo machinemon-update check scaleboxd)"
	inArchive := " (hint: read it in the release's archive; write a pre_swap hook for what it migrates)"
	downloads := func() (n int) {
		for _, r := range s.hub.Requests() {
			if strings.Contains(r.URL.Path, "/releases/download/") {
				n++
			}
		}
		return n
	}
	checks := func(want string, ended int, command ...string) {
		s.t.Helper()
		if r := s.run(command...); r.Code != 3 && r.Code != 0 || !strings.Contains(r.Stdout, want) || downloads() != ended {
			s.t.Errorf("%q after %d downloads: %+v\nwant %s", command, downloads(), r, want)
		}
	}
	asUser := []string{"runuser", "-u", "nobody", "--", "machinemon-update", "check", "scaleboxd"}
	hint := " (hint: read it in " + scaleboxLeftOut + "; write a pre_swap hook for what it migrates)"

	s.step("the first update", func() {
		s.release(eighteen, build17())
		s.must("systemctl", "start", "machinemon-fetch@scaleboxd.service") // as the timer does
		checks(unknown, 0, asUser...)
		const warning = "scalebox-update of build-18 is not run, and the one of the installed release is not known: it may contain a migration"
		checks("scaleboxd: available build-18 (installed: unknown)\n  warning: "+warning+inArchive+"\n", 1, "machinemon-update", "check", "scaleboxd")
		checks("warning: "+warning+inArchive+"\n", 1, "machinemon-update", "check", "scaleboxd")
		checks("warning: "+warning+inArchive+"\n", 1, asUser...)
		checks("WARNING: "+warning+inArchive+"\n", 1, "scalebox-update", "--check")
		s.must("systemctl", "start", "machinemon-fetch@scaleboxd.service")
		s.update(0, "WARNING: scalebox-update of build-18 is not run, and the one of the installed release is not known: it may contain a migration"+hint,
			"Template update available: v0 is built, v17 is required (hint: scalebox-rebuild-template)", "Update complete!")
		s.assertRuns(eighteen, build17())
		if downloads() != 1 {
			s.t.Errorf("%d downloads", downloads())
		}
	})
	s.step("the same updater, and a new template that is built", func() {
		s.writeFile("/var/lib/scalebox/templates/debian-base.version", "17\n", 0o644)
		s.release(nineteen, build17())
		for range 2 {
			if r := s.run("machinemon-update", "check", "scaleboxd"); r.Code != 3 || r.Stdout != "scaleboxd: available build-19 (installed: build-18)\n" {
				s.t.Errorf("check: %+v", r)
			}
		}
		r := s.run("scalebox-update")
		s.said(r, 0, "committed build-19 (was build-18)", "Update complete!")
		if strings.Contains(r.Stdout, "WARNING") {
			s.t.Errorf("it warns")
		}
		if downloads() != 2 {
			s.t.Errorf("%d downloads", downloads())
		}
	})
	s.step("another updater", func() {
		const migrates = "#!/bin/sh\nmigrate_caddy\n"
		s.release(releases.Daemon{Version: "build-20"}, build17().with(archive{"scalebox-update": migrates, "template-build.sh": "TEMPLATE_VERSION=18\n"}))
		checks("warning: scalebox-update of build-20 is not run, and it differs from that of build-19: it may contain a migration"+inArchive+"\n", 3, "machinemon-update", "check", "scaleboxd")
		s.update(0, "WARNING: scalebox-update of build-20 is not run, and it differs from that of build-19: it may contain a migration"+hint+
			"; Template update available: v17 is built, v18 is required (hint: scalebox-rebuild-template)", "Update complete!")
		if got := s.readFile(scaleboxLeftOut + "/scalebox-update"); got != migrates {
			s.t.Errorf("kept is %q", got)
		}
		if got := s.must("machinemon-update", "history", "scaleboxd"); !strings.Contains(got, "scalebox-update of build-20 is not run") {
			s.t.Errorf("history:\n%s", got)
		}
	})
}

// TestScaleboxFromRelease: a release brings its migration as a program, which root runs only
// if the release is signed or the operator says so.
func TestScaleboxFromRelease(t *testing.T) {
	once(t)
	t.Parallel()
	s := newScalebox(t)
	const dropIn = "/etc/machinemon-update/targets.d/scaleboxd.toml.d/hook.toml"
	needs := releases.Daemon{Version: "build-18", Behaviour: "needs-key"}
	files := build17().with(archive{"scalebox-migrate": "#!/bin/sh\nset -eu\ntest -r \"$MACHINEMON_STAGING" + scaleboxd + "\"\necho \"$1=1\" >>" + scaleboxConfig +
		"\necho \"added $1 for $MACHINEMON_VERSION\" >\"$MACHINEMON_NOTICE\"\n"})
	s.release(needs, files)
	s.step("not named", func() {
		s.update(1, "ERROR: Update failed - rolled back to previous version")
		s.assertRuns(releases.Daemon{Version: "build-17"}, build17(), "/usr/local/bin/scalebox-migrate")
		s.must("machinemon-update", "unskip", "scaleboxd")
		s.must("systemctl", "reset-failed")
	})
	s.step("named, and not signed", func() {
		s.writeFile(dropIn, "[hooks]\nfrom_release = [\"scalebox-migrate\", \"KEY\"]\n", 0o644)
		since := s.cursor()
		s.update(1, "hook.toml:2: hooks.from_release: root would run a program of releases that are not signed (hint: take signed releases, trust.mode = \"tuf\"; or write a pre_swap hook of your own)")
		s.assertIdle(since)
	})
	s.step("the operator says so", func() {
		s.writeFile(dropIn, "[hooks]\nfrom_release = [\"scalebox-migrate\", \"KEY\"]\nfrom_release_unsigned = true\n", 0o644)
		s.kept[scaleboxConfig] = configOfScalebox + "KEY=1\n"
		s.update(0, "added KEY for build-18", "Update complete!")
		s.assertRuns(needs, files)
		if log := s.journal("--boot", "-u", "machinemon-swap@scaleboxd.service"); !strings.Contains(log, "running the from_release hook") {
			s.t.Errorf("its log:\n%s", log)
		}
		if left := s.find("-name", "*.run", "-path", "/usr/local/*"); len(left) > 0 {
			s.t.Errorf("left: %q", left)
		}
	})
	s.step("signed", func() {
		nineteen, p := releases.Daemon{Version: "build-19"}, newPublisher(s.t)
		file := filepath.Join(s.t.TempDir(), "scalebox-linux-amd64.tar.gz")
		files.pack(s.box, file, nineteen)
		p.release("publish", p.repo, "--version", nineteen.Version, "--keys", p.keys, "--passphrase-fd", "3", file)
		names, err := os.ReadDir(p.repo)
		s.ok(err)
		for _, n := range names {
			if !strings.HasPrefix(n.Name(), ".") {
				content, err := os.ReadFile(filepath.Join(p.repo, n.Name()))
				s.ok(err)
				s.writeFile("/srv/signed/"+n.Name(), string(content), 0o644)
			}
		}
		s.writeFile(dropIn, "[source]\ntype = \"file\"\npath = \"/srv/signed\"\n[trust]\nmode = \"tuf\"\nproduct = \"scalebox\"\n"+
			"[hooks]\nfrom_release = [\"scalebox-migrate\", \"SIGNED\"]\n", 0o644)
		trusts := func(trust, says string) {
			s.t.Helper()
			if got := s.must("machinemon-update", "status", "scaleboxd"); !strings.Contains(got, " "+trust+" ") || strings.Count(got, "cannot trust any release") != strings.Count(says, "cannot trust any release") || !strings.Contains(got, says) {
				s.t.Errorf("status:\n%s", got)
			}
		}
		const unpinned = "cannot trust any release of scaleboxd: there is no /etc/machinemon-update/trust/scaleboxd.root.json"
		trusts("unpinned", unpinned)
		s.update(1, "ERROR: refused: "+unpinned)
		trusts("unpinned", unpinned)
		s.must("machinemon-update", "trust", "scaleboxd", "/srv/signed/1.root.json", "--sha256", digest(s.readFile("/srv/signed/1.root.json")))
		trusts("signed", "")
		s.kept[scaleboxConfig] += "SIGNED=1\n"
		s.update(0, "added SIGNED for build-19", "Update complete!")
		s.assertRuns(nineteen, files)
		trusts("signed", "")
	})
}

// TestScaleboxDelta: releases with a manifest come by deltas although they list their files
// themselves, unless the list has changed.
func TestScaleboxDelta(t *testing.T) {
	once(t)
	t.Parallel()
	s := newScalebox(t)
	dir := t.TempDir()
	publish := func(d releases.Daemon, a archive) {
		s.t.Helper()
		file := filepath.Join(s.t.TempDir(), "scalebox-linux-amd64.tar.gz")
		a.pack(s.box, file, d)
		s.ok(releases.Publish(s.t.Context(), lab.Installed("/usr/bin/machinemon-release"), dir, d.Version, file))
		names, err := os.ReadDir(dir)
		s.ok(err)
		var assets []releases.Asset
		for _, n := range names {
			content, err := os.ReadFile(filepath.Join(dir, n.Name()))
			s.ok(err)
			if n.Type().IsRegular() && (path.Ext(n.Name()) != ".json" || n.Name() == manifest.FileName) {
				assets = append(assets, releases.Digested(n.Name(), content))
			}
		}
		s.hub.Publish(releases.Tagged{Tag: d.Version, Assets: assets})
	}
	updated := func(d releases.Daemon, a archive, kinds []string, says ...string) {
		s.t.Helper()
		since := len(s.hub.Requests())
		s.update(0, append(says, "Update complete!")...)
		s.assertRuns(d, a)
		var got []string
		for _, r := range s.hub.Requests()[since:] {
			kind := path.Ext(r.URL.Path)
			if kind == ".patch" {
				kind = ".zst" // of a large file
			}
			if strings.Contains(r.URL.Path, "/releases/download/") && kind != ".json" && !slices.Contains(got, kind) {
				got = append(got, kind)
			}
		}
		if !slices.Equal(got, kinds) {
			s.t.Errorf("downloaded %q, want %q", got, kinds)
		}
	}
	version := func(v string) releases.Daemon { return releases.Daemon{Version: v} }

	publish(version("build-18"), build17())
	updated(version("build-18"), build17(), []string{".gz"}, "committed build-18")
	s.step("the same list", func() {
		nineteen := build17().with(archive{"template-build.sh": "TEMPLATE_VERSION=19\n", "scalebox-update": "#!/bin/sh\nmigrate\n"})
		publish(version("build-19"), nineteen)
		if r := s.run("machinemon-update", "check", "scaleboxd"); r.Code != 3 || !strings.Contains(r.Stdout,
			"warning: scalebox-update of build-19 is not run, and it differs from that of build-18: it may contain a migration (hint: read it in the release's archive; write a pre_swap hook for what it migrates)") {
			s.t.Errorf("check: %+v", r)
		}
		updated(version("build-19"), nineteen, []string{".zst"}, "scalebox-update of build-19 is not run, and it differs from that of build-18", "committed build-19 (was build-18)")
	})
	s.step("another list", func() {
		twenty := build17().with(archive{"scalebox-new": "#!/bin/sh\n"})
		publish(version("build-20"), twenty)
		updated(version("build-20"), twenty, []string{".gz"}, "committed build-20 (was build-19)")
	})
	s.step("and the same again", func() {
		next := build17().with(archive{"scalebox-new": "#!/bin/sh\necho 21\n"})
		publish(version("build-21"), next)
		updated(version("build-21"), next, []string{".zst"}, "committed build-21 (was build-20)")
	})
}
