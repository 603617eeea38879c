//go:build systemd

package systemtest

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestScaleboxUpdate: a server installed by hand is updated, also from GitHub's web pages
// while its API is limited, to releases with fewer files, and rolled back.
func TestScaleboxUpdate(t *testing.T) {
	once(t)
	t.Parallel()
	s := newScalebox(t)
	first := build17()
	children := s.children()
	if len(children) != 1 {
		t.Fatalf("children: %q", children)
	}
	if got := s.must("scalebox-update", "--version"); !strings.HasPrefix(got, "scaleboxd unknown\nmachinemon-update ") {
		t.Errorf("--version: %q", got)
	}

	s.step("sudo scalebox-update works on running system", func() { // from build-17 to build-18
		eighteen := first.with(archive{"scalebox-rebuild-template": "#!/bin/sh\necho 18\n", "scalebox-resize-storage": "#!/bin/sh\necho resize 18\n",
			"template-build.sh": "TEMPLATE_VERSION=18\n", "scalebox-new": "#!/bin/sh\necho new\n",
			"scaleboxd.service": strings.Replace(unitOfScalebox, "[Service]\n", "[Service]\nEnvironment=RELEASE=18\n", 1)})
		s.release(releases.Daemon{Version: "build-18"}, eighteen)
		if r := s.run("scalebox-update", "--check"); r.Code != 0 || !strings.HasPrefix(r.Stdout, "[scalebox-update] WARNING: scalebox-update of build-18 is not run, ") ||
			!strings.HasSuffix(r.Stdout, ")\n[scalebox-update] available build-18 (installed: unknown)\n") {
			t.Errorf("--check: %+v", r)
		}
		since := s.cursor()
		outage, err := s.Probe("127.0.0.1:8080", "/health", 5*time.Millisecond)
		s.ok(err)
		s.update(0, "Starting Scalebox update...", "Downloading the latest release...", "Backing up current binary...", "Installing new scaleboxd...",
			"Restarting scaleboxd...", "Waiting for health check...", "Health check passed", "committed build-18 (the version before is unknown) in ", "Update complete!")
		if out := outage.Stop(); out.Failed == 0 || out.Longest > 5*time.Second {
			s.t.Errorf("the service restart is not brief: %+v", out)
		} else {
			s.t.Logf("without service for %v", out.Longest)
		}
		s.assertOrder(since, "machinemon-swap@scaleboxd.service starting", "scaleboxd.service stopped", "scaleboxd.service started",
			"machinemon-commit@scaleboxd.service started")
		s.assertRuns(releases.Daemon{Version: "build-18"}, eighteen, "/usr/local/bin/scalebox-update")
		if env := s.must("cat", "/proc/"+s.property("scaleboxd.service", "MainPID")+"/environ"); !strings.Contains(env, "RELEASE=18") {
			t.Errorf("it runs by the old unit file: %q", env)
		}
		if got := s.must("stat", "-c", "%a", "/usr/local/bin/scalebox-new", scaleboxLibrary, scaleboxUnit); got != "755\n644\n644\n" {
			t.Errorf("modes %q", got)
		}

		since = s.cursor()
		s.update(0, "Downloading the latest release...", "already current (build-18)")
		s.assertIdle(since)
		if got := s.must("scalebox-update", "--check"); got != "[scalebox-update] already current (build-18)\n" {
			t.Errorf("--check: %q", got)
		}
		if got := s.must("scalebox-update", "--version"); !strings.HasPrefix(got, "scaleboxd build-18\n") {
			t.Errorf("--version: %q", got)
		}
	})

	s.step("config is preserved after update", func() {
		if got := s.readFile(scaleboxConfig); got != configOfScalebox {
			s.t.Errorf("it is %q", got)
		}
	})
	s.step("running VMs survive update", func() { // children of the daemon, because of KillMode=process
		now := s.children()
		if len(now) != 2 || !slices.Contains(now, children[0]) {
			t.Errorf("children were %q and are %q", children, now)
		}
	})

	s.step("limited, and one script fewer", func() {
		nineteen := first.with(archive{"template-build.sh": "TEMPLATE_VERSION=19\n"})
		s.release(releases.Daemon{Version: "build-19"}, nineteen)
		// Without the API only a file of the release states the digest.
		s.hub.Limit(http.StatusForbidden, http.Header{"Retry-After": {"3600"}})
		limited := func() {
			s.t.Helper()
			s.update(1, "ERROR: not downloaded: cannot download http://"+scaleboxHub+"/repos/", "it takes no more requests until ", "; meanwhile no sha256 or sha512 of scalebox-build-19.tar.gz is known: ")
			if r := s.run("machinemon-update", "apply", "scaleboxd"); r.Code != 7 || strings.Contains(r.Stdout+r.Stderr, "allow_unauthenticated") {
				s.t.Errorf("apply: %+v", r)
			}
		}
		limited()
		s.hub.Limit(http.StatusTooManyRequests, http.Header{})
		limited()
		reset := time.Now().Add(90 * time.Minute)
		s.hub.Limit(http.StatusForbidden, http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {fmt.Sprint(reset.Unix())}})
		limited()
		asked := len(s.hub.Requests())
		since := s.cursor()
		s.run("systemctl", "start", "machinemon-fetch@scaleboxd.service") // as the timer does
		s.await(since, func(e machine.Entry) bool {
			return strings.Contains(e["MESSAGE"], reset.UTC().Format("backing off until 2006-01-02 15:04 UTC"))
		})
		if len(s.hub.Requests()) != asked {
			s.t.Error("GitHub was asked before that time")
		}
		s.summed()
		s.update(0, "committed build-19 (was build-18)", "Update complete!")
		s.assertRuns(releases.Daemon{Version: "build-19"}, nineteen, "/usr/local/bin/scalebox-new")
		s.hub.Limit(0, nil)
	})

	s.step("rollback available", func() {
		if r := s.run("machinemon-update", "rollback", "scaleboxd"); r.Code != 0 || !strings.Contains(r.Stdout, "committed build-18") {
			s.t.Fatalf("rollback: %+v", r)
		}
		s.assertRuns(releases.Daemon{Version: "build-18"}, archive{"scalebox-new": "#!/bin/sh\necho new\n", "template-build.sh": "TEMPLATE_VERSION=18\n"})
		s.update(1, "ERROR: not attempted build-19: it was rejected on")
		if now := s.children(); !slices.Contains(now, children[0]) {
			t.Errorf("children were %q and are %q", children, now)
		}
	})

	s.step("the plan's own form", func() {
		// Earlier releases have a script for users, and no list.
		d := releases.Daemon{Version: "build-20"}
		s.release(d, archive{"scaleboxd.service": unitOfScalebox, "scalebox": "#!/bin/sh\necho cli\n", "scalebox-update": oldScript, "list": "none"})
		s.update(0, "committed build-20")
		s.assertRuns(d, archive{"scaleboxd.service": unitOfScalebox, "scalebox": "#!/bin/sh\necho cli\n"}, "/usr/local/bin/scalebox-update", "/usr/local/bin/scalebox-new")
	})
}

// summed adds a checksums.txt to the newest release.
func (s *scalebox) summed() {
	s.t.Helper()
	a := s.hub.Latest()
	sum := strings.TrimPrefix(a.Assets[0].Digest, "sha256:") + "  " + a.Assets[0].Name + "\n"
	a.Assets = append(a.Assets, releases.Digested("checksums.txt", []byte(sum)))
	s.hub.Publish(a)
}

// TestScaleboxReleaseURL shows what an operator may do with SCALEBOX_RELEASE_URL.
func TestScaleboxReleaseURL(t *testing.T) {
	once(t)
	t.Parallel()
	s := newScalebox(t)
	named := func(url string) []string { return []string{"env", "SCALEBOX_RELEASE_URL=" + url, "scalebox-update"} }
	serve := func(d releases.Daemon, name string) (url, sum string) {
		file := t.TempDir() + "/" + name
		build17().pack(s.box, file, d)
		content, err := os.ReadFile(file)
		s.ok(err)
		s.writeFile("/root/"+name, string(content), 0o600)
		asset := releases.Digested(name, content)
		s.hub.Publish(releases.Tagged{Tag: "by-hand", Prerelease: true, Assets: []releases.Asset{asset}})
		return "http://" + scaleboxHub + "/The-Agentic-Journey/Scalebox/releases/download/by-hand/" + name, strings.TrimPrefix(asset.Digest, "sha256:")
	}
	const warning = "WARNING: nothing vouches for "

	url, sum := serve(releases.Daemon{Version: "build-18"}, "scalebox-test.tar.gz")
	s.step("a URL", func() {
		r := s.run(named(url)...)
		s.said(r, 0, warning+url, "Downloading: "+url, "committed test (the version before is unknown)", "Update complete!")
		if strings.Count(r.Stdout, warning) != 1 {
			t.Errorf("not one warning: %s", r.Stdout)
		}
		s.assertRuns(releases.Daemon{Version: "build-18"}, build17())
	})
	s.step("another under the same name, with its digest", func() {
		url, sum := serve(releases.Daemon{Version: "build-19"}, "scalebox-test.tar.gz")
		s.said(s.run(named(url+"#sha256="+strings.Repeat("0", 63)+"1")...), 1, "ERROR: refused test: ", "its sha256 is "+sum+" instead of 0000", "(hint: is that the digest that its publisher states, ")
		s.awaitDaemon("build-18")
		r := s.run(named(url + "#sha256=" + sum)...)
		s.said(r, 0, "committed test (was test)", "Update complete!")
		if strings.Contains(r.Stdout, warning) {
			t.Errorf("a warning: %s", r.Stdout)
		}
		s.assertRuns(releases.Daemon{Version: "build-19"}, build17())
	})
	s.step("a file", func() {
		_, sum = serve(releases.Daemon{Version: "build-20"}, "any.tar.gz")
		s.said(s.run(named("/root/any.tar.gz")...), 0, warning+"/root/any.tar.gz", "Downloading: /root/any.tar.gz", "committed sha256-"+sum[:12]+" (was test)")
		s.assertRuns(releases.Daemon{Version: "build-20"}, build17())
		s.said(s.run(named("file:///root/any.tar.gz#sha256="+sum)...), 0, "adopted sha256-"+sum[:12])
		if left := s.list("/var/lib/machinemon-update/swap/scaleboxd/import"); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
	s.step("refused", func() {
		since := s.cursor()
		s.said(s.run(named("http://example.com/x.tar.gz")...), 1, "ERROR: cannot use http://example.com/x.tar.gz: it is neither https nor on this machine")
		s.said(s.run(named("/root/nowhere.tar.gz")...), 1, "ERROR: not downloaded: cannot read /root/nowhere.tar.gz")
		s.said(s.run(named("http://"+scaleboxHub+"/nowhere.tar.gz")...), 1, "ERROR: not downloaded: ", "404")
		s.assertIdle(since)
	})
	// The target's own source is unchanged.
	s.release(releases.Daemon{Version: "build-21"}, build17())
	s.update(0, "committed build-21 (was sha256-"+sum[:12]+")")
}
