//go:build systemd

package systemtest

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// newGitHubChain returns a machine on which testd runs in this version and is a target
// with releases on GitHub. Scheduled runs install them, but only tick starts one.
func newGitHubChain(t *testing.T, version string) (*chain, *releases.GitHub) {
	t.Helper()
	c := &chain{box: boot(t)}
	c.installTestd(version, testdUnit)
	c.targetOnGitHub("")
	c.stopShipped()
	c.must("systemctl", "stop", "machinemon-fetch@testd.timer")
	hub := &releases.GitHub{Repo: "example/testd"}
	l, err := c.Listen("tcp", releasesAt)
	c.ok(err)
	c.server = releases.ServeBy(l, hub)
	t.Cleanup(func() { c.server.Close() })
	return c, hub
}

// targetOnGitHub makes testd a target with these further keys of its source.
func (c *chain) targetOnGitHub(more string) {
	c.t.Helper()
	_, keys, _ := strings.Cut(testdTarget, "client-manifest.json\"\n")
	c.target("auto_update_enabled = true\nunit = \"testd.service\"\n" + githubTarget + more + keys)
}

// archivesAsked counts the requests for archives on GitHub.
func (c *chain) archivesAsked() (n int) {
	for _, r := range c.server.Requests() {
		if strings.Contains(r.Path, "/download/") && strings.HasSuffix(r.Path, ".tar.gz") {
			n++
		}
	}
	return n
}

// whyNot returns what status says about the next scheduled run.
func (b *box) whyNot() string {
	b.t.Helper()
	var all struct {
		Targets []struct {
			WhyNot string `json:"why_not"`
		}
	}
	b.ok(json.Unmarshal([]byte(b.must("machinemon-update", "status", "--json", "testd")), &all))
	return all.Targets[0].WhyNot
}

// TestNoUnattendedDowngrade: a maintenance release of an old line is "latest" for a
// while. No schedule and no directive installs it, but a user's apply does.
func TestNoUnattendedDowngrade(t *testing.T) {
	once(t)
	t.Parallel()
	c, hub := newGitHubChain(t, "3.4.0")
	const lower = "2.53.9 is lower than the installed 3.5.0, and no schedule goes down (hint: sudo machinemon-update apply testd installs it; source.downgrade = true lets schedules do so)"
	// stays asserts that a run ends by itself, without a download or a restart.
	stays := func(run func()) {
		t.Helper()
		pid, n, since := c.mainPID(), c.archivesAsked(), c.cursor()
		run()
		c.assertUntouched(since)
		if c.mainPID() != pid || c.archivesAsked() != n {
			t.Errorf("the main process is %s and was %s, archives asked for %d and %d", c.mainPID(), pid, c.archivesAsked(), n)
		}
		c.assertRuns(releases.Daemon{Version: "3.5.0"})
	}
	// committed waits for the commit that a run leads to.
	committed := func(version string, run func()) {
		t.Helper()
		since := c.cursor()
		run()
		c.awaitEvent(since, inChain("commit started")[0])
		c.assertRuns(releases.Daemon{Version: version})
	}

	hub.Publish(c.onGitHub("3.5.0", ""))
	c.step("up, by schedule", func() { committed("3.5.0", c.tick) })
	hub.Publish(c.onGitHub("2.53.9", ""))
	c.step("down, by schedule", func() {
		stays(c.tick)
		c.assertTold("not attempted", lower)
		if got := c.whyNot(); got != lower {
			t.Errorf("status says %q", got)
		}
		c.assertClosed("3.4.0")
	})
	c.step("down, by directive", func() {
		stays(func() {
			since := c.cursor()
			c.must("touch", directives+"/d1")
			c.await(since, func(e machine.Entry) bool { return strings.Contains(e["MESSAGE"], lower) })
		})
		if h := c.history(); h[0].Origin != "directive" || h[0].Result != "not attempted" {
			t.Errorf("history begins with %+v", h[0])
		}
	})
	c.step("a person's check", func() {
		stays(func() {
			c.said(c.run("machinemon-update", "check", "testd"), 3, "available 2.53.9", "2.53.9 is lower than the installed 3.5.0")
		})
	})
	c.step("up again, by schedule", func() {
		hub.Publish(c.onGitHub("3.5.1", ""))
		committed("3.5.1", c.tick)
	})
	hub.Publish(c.onGitHub("2.53.10", ""))
	c.step("down, by a person", func() {
		r := c.run("machinemon-update", "apply", "testd")
		c.said(r, 0, "committed 2.53.10 (was 3.5.1)")
		warning, end := strings.Index(r.Stderr, "testd: warning: 2.53.10 is lower than the installed 3.5.1\n"), strings.Index(r.Stderr, "testd: watching\n")
		if warning < 0 || end < warning {
			t.Errorf("it said\n%s", r.Stderr)
		}
		c.assertRuns(releases.Daemon{Version: "2.53.10"})
	})
	c.step("down, as the operator allows", func() {
		c.targetOnGitHub("downgrade = true\n")
		hub.Publish(c.onGitHub("2.53.8", ""))
		committed("2.53.8", c.tick)
	})
	c.step("without an order", func() {
		c.targetOnGitHub("")
		hub.Publish(c.onGitHub("build-82", ""))
		committed("build-82", c.tick)
		hub.Publish(c.onGitHub("build-17", ""))
		committed("build-17", c.tick)
	})
}

// TestWithdrawnBySequence shows that a publisher withdraws a release by a higher
// sequence. A lower version alone withdraws nothing.
func TestWithdrawnBySequence(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, "auto_update_enabled = true\n"+testdTarget)
	c.must("systemctl", "stop", "machinemon-fetch@testd.timer")
	c.publish(c.dir, releases.Daemon{Version: "3.5.0"})
	c.apply(0, "committed 3.5.0 (was 1.0.0)")

	file := filepath.Join(c.dir, "client-manifest.json")
	c.publish(c.dir, releases.Daemon{Version: "2.53.9"})
	published, err := os.ReadFile(file)
	c.ok(err)
	var m map[string]any
	c.ok(json.Unmarshal(published, &m))
	if m["sequence"] != 2.0 {
		t.Fatalf("the sequence is %v", m["sequence"])
	}
	delete(m, "sequence") // some publishers have none
	without, err := json.Marshal(m)
	c.ok(err)
	c.ok(os.WriteFile(file, without, 0o644))
	_, before := c.requests()
	since := c.cursor()
	c.tick()
	c.assertTold("not attempted", "2.53.9 is lower than the installed 3.5.0")
	c.assertUntouched(since)
	c.assertRuns(releases.Daemon{Version: "3.5.0"})
	if _, after := c.requests(); len(after) != len(before) {
		t.Errorf("archives were asked for: %v, before %v", after, before)
	}

	c.ok(os.WriteFile(file, published, 0o644))
	since = c.cursor()
	c.tick()
	c.awaitEvent(since, inChain("commit started")[0])
	c.assertRuns(releases.Daemon{Version: "2.53.9"})
	c.assertClosed("3.5.0")
}

// TestVersions shows that source.versions limits every source and a user's apply, and
// that the highest matching release of GitHub's list is found.
func TestVersions(t *testing.T) {
	once(t)
	t.Parallel()
	c, hub := newGitHubChain(t, "3.4.0")
	hub.Publish(c.onGitHub("3.5.0", "checksums.txt"))
	hub.Publish(c.onGitHub("4.0.0", "checksums.txt"))
	prerelease, draft := c.onGitHub("3.6.0", ""), c.onGitHub("3.7.0", "")
	prerelease.Prerelease, draft.Draft = true, true
	hub.Publish(prerelease)
	hub.Publish(draft)
	hub.Publish(c.onGitHub("2.53.9", "checksums.txt"))
	asked := func(path string) (n int) {
		for _, r := range c.server.Requests() {
			if r.Path == "/repos/example/testd/releases"+path {
				n++
			}
		}
		return n
	}

	c.step("the highest that fits", func() {
		c.targetOnGitHub("versions = \">=3, <4\"\n")
		since := c.cursor()
		c.tick()
		c.awaitEvent(since, inChain("commit started")[0])
		c.assertRuns(releases.Daemon{Version: "3.5.0"})
		c.apply(0, "already current")
		if list, latest := asked(""), asked("/latest"); list != 2 || latest != 0 {
			t.Errorf("asked %d times for the list and %d times for the latest", list, latest)
		}
	})
	c.step("limited, and the latest does not fit", func() {
		hub.Limit(http.StatusForbidden, http.Header{"Retry-After": {"3600"}})
		c.apply(0, "already current") // the API's earlier answer counts
		c.targetOnGitHub("versions = \">=3, <3.9\"\n")
		c.apply(7, "it takes no more requests until", `the latest release there, "2.53.9", is not in source.versions ">=3, <3.9"`)
		hub.Limit(0, nil)
		c.apply(0, "already current") // otherwise schedules would wait for an hour
	})
	c.step("none fits", func() {
		c.targetOnGitHub("versions = \">=9\"\n")
		n := c.archivesAsked()
		c.apply(8, `not attempted: none of the 4 newest releases of example/testd is in source.versions ">=9" (hint: source.tag names one that is older)`)
		if c.archivesAsked() != n {
			t.Error("an archive was asked for")
		}
	})
	c.step("a tag that does not fit", func() {
		c.targetOnGitHub("versions = \">=3, <4\"\ntag = \"4.0.0\"\n")
		n := c.archivesAsked()
		c.apply(8, `not attempted 4.0.0: 4.0.0 is not in source.versions ">=3, <4"`)
		c.said(c.run("machinemon-update", "check", "testd"), 8, `4.0.0 is not in source.versions ">=3, <4"`)
		if got := c.whyNot(); !strings.HasPrefix(got, `4.0.0 is not in source.versions ">=3, <4"`) {
			t.Errorf("status says %q", got)
		}
		if c.archivesAsked() != n {
			t.Error("an archive was asked for")
		}
	})

	c.step("a manifest", func() {
		c.server.Close()
		c.dir = t.TempDir()
		c.server = c.serve(c.dir)
		c.target(strings.Replace("auto_update_enabled = true\n"+testdTarget, "[source]\n", "[source]\nversions = \">=3, <4\"\n", 1))
		c.publish(c.dir, releases.Daemon{Version: "4.0.0"})
		since := c.cursor()
		c.tick()
		c.assertTold("not attempted", `4.0.0 is not in source.versions ">=3, <4"`)
		c.apply(8, `4.0.0 is not in source.versions ">=3, <4" (hint: `)
		c.assertUntouched(since)
		if _, archives := c.requests(); len(archives) > 0 {
			t.Errorf("archives were asked for: %v", archives)
		}
		c.assertRuns(releases.Daemon{Version: "3.5.0"})
	})
	c.step("an archive that a person names", func() {
		archive := filepath.Join(t.TempDir(), "testd.tar.gz")
		c.ok(releases.Pack(archive, releases.File{Name: "testd", Content: build(t, releases.Daemon{Version: "4.0.0"})}))
		content, err := os.ReadFile(archive)
		c.ok(err)
		c.writeFile("/root/testd-4.0.0.tar.gz", string(content), 0o644)
		c.targetOnGitHub("versions = \">=3, <4\"\nasset = \"testd-{version}.tar.gz\"\n")
		c.said(c.run("machinemon-update", "import", "testd", "/root/testd-4.0.0.tar.gz#sha256="+digest(string(content))), 0, "committed 4.0.0 (was 3.5.0)")
		c.assertRuns(releases.Daemon{Version: "4.0.0"})
	})
}

// TestRollbackIsRemembered shows that after the operator's rollback the release is
// neither offered nor downloaded again to find that out.
func TestRollbackIsRemembered(t *testing.T) {
	once(t)
	t.Parallel()
	c, hub := newGitHubChain(t, "3.4.0")
	hub.Publish(c.onGitHub("3.5.0", ""))
	c.apply(0, "committed 3.5.0 (was 3.4.0)")
	c.said(c.run("machinemon-update", "rollback", "testd"), 0, "committed 3.4.0: the operator went back from 3.5.0")
	n, since := c.archivesAsked(), c.cursor()
	const rejected = "it was rejected on "
	c.said(c.run("machinemon-update", "check", "testd"), 8, "not attempted 3.5.0: "+rejected, "the operator went back to 3.4.0")
	if got := c.whyNot(); !strings.HasPrefix(got, rejected) {
		t.Errorf("status says %q", got)
	}
	c.says(rejected, "machinemon-update", "status", "testd")
	c.apply(8, "not attempted 3.5.0: "+rejected, "the operator went back to 3.4.0")
	c.tick()
	c.assertTold("not attempted", rejected)
	c.assertUntouched(since)
	if got := c.archivesAsked(); got != n || n == 0 {
		t.Errorf("archives were asked for %d times, and %d times before", got, n)
	}
	c.assertRuns(releases.Daemon{Version: "3.4.0"})
	if s := c.status(); !slices.Equal(s.Rejected, []string{"3.5.0"}) {
		t.Errorf("status shows %+v", s)
	}

	hub.Publish(c.onGitHub("3.5.1", ""))
	c.apply(0, "committed 3.5.1 (was 3.4.0)")
}
