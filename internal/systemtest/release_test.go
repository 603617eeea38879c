//go:build systemd

package systemtest

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

func TestUpdate(t *testing.T) {
	t.Parallel()
	const onDisk = "/srv/releases"
	file := strings.Replace(testdTarget, `url = "http://`+releasesAt+`/client-manifest.json"`, "type = \"file\"\npath = \""+onDisk+`"`, 1)
	for _, test := range []struct{ name, target, packed string }{
		{"manifest", testdTarget, ".tar.gz"},
		{"zstd", testdTarget, ".tar.zst"},
		{"file", file, ".tar.gz"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newChain(t, testdUnit, test.target)
			c.must("chown", "root:adm", testdPath)
			archive := filepath.Join(t.TempDir(), "testd-linux-amd64"+test.packed)
			c.ok(releases.Pack(archive, releases.File{Name: "README", Content: []byte("not wanted")},
				releases.File{Name: "testd", Content: build(t, releases.Daemon{Version: "1.1.0"})}))
			c.ok(releases.Publish(t.Context(), lab.Installed("/usr/bin/machinemon-release"), c.dir, "1.1.0", archive))
			if test.name == "file" {
				c.upload(onDisk)
			}

			since := c.cursor()
			c.apply(0, "committed 1.1.0 (was 1.0.0) in ")
			c.assertOrder(since, inChain("fetch starting", "verify starting", "baseline started", "swap starting",
				"testd stopped", "testd started", "swap started", "health-gate started",
				"commit starting", "commit started")...)
			c.assertRuns(releases.Daemon{Version: "1.1.0"})
			c.assertLast("swap", "committed", "1.0.0", "1.1.0")
			c.assertClosed("1.0.0")
			if got := c.must("stat", "--format=%U:%G %a", testdPath); got != "root:adm 755\n" {
				t.Errorf("the installed file is %s", got)
			}

			since = c.cursor()
			c.apply(0, "already current")
			c.assertUntouched(since)
			c.assertLast("fetch", "already current", "1.1.0", "1.1.0")
			c.assertClosed("1.0.0")
			if n := len(c.history()); n != 2 {
				t.Errorf("history has %d attempts, want 2", n)
			}
			if test.name != "file" {
				c.assertRequests([]int{200, 304}, []int{200})
			}
		})
	}
}

// TestBadRelease shows that a release that fails its trial is rolled back, is not tried
// again, and does not prevent the next one.
func TestBadRelease(t *testing.T) {
	once(t)
	t.Parallel()
	for _, test := range []struct{ behaviour, health, says string }{
		{"exit1-at-once", "", "its main process "},
		{"exit0-at-once", "", "exited with status 0 "},
		{"exit-after-3s", "settle_seconds = 5", "exited with status 1 after "},
		{"never-listen", "timeout_seconds = 2", "did not pass within 2 s"},
		{"answer-500", "timeout_seconds = 2", "500"},
	} {
		t.Run(test.behaviour, func(t *testing.T) {
			t.Parallel()
			c := newChain(t, testdUnit, testdTarget)
			c.writeFile("/etc/machinemon-update/targets.d/testd.toml.d/health.toml", "[health]\n"+test.health+"\n", 0o644)
			c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: test.behaviour})

			since := c.cursor()
			c.apply(4, "rolled back 1.1.0: ", test.says, "(1.0.0 runs again)")
			c.assertOrder(since, inChain("fetch starting", "verify starting", "baseline started", "swap starting",
				"testd started", "swap started", "health-gate failed",
				"rollback starting", "testd started", "rollback started")...)
			c.assertRuns(releases.Daemon{Version: "1.0.0"})
			c.assertLast("rollback", "rolled back", "1.0.0", "1.1.0")
			c.assertClosed("")
			c.assertRejected("1.1.0")

			c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
			c.apply(0, "committed 1.2.0 (was 1.0.0)")
			c.assertRuns(releases.Daemon{Version: "1.2.0"})
			c.assertClosed("1.0.0")
		})
	}
}

// TestReleaseIgnoresSIGTERM shows that such a release only costs TimeoutStopSec=.
func TestReleaseIgnoresSIGTERM(t *testing.T) {
	t.Parallel()
	c := newChain(t, strings.Replace(testdUnit, "[Service]", "[Service]\nTimeoutStopSec=2", 1), testdTarget)
	killed := inChain("testd stopping", "testd failed", "testd started")

	// This probe fails the first release only.
	const strict = "/etc/machinemon-update/targets.d/testd.toml.d/strict.toml"
	c.writeFile(strict, "[[health.probe]]\nhttp = \"http://"+testdAddress+"/version\"\nexpect_body = \"1.0.0\"\n[health]\ntimeout_seconds = 1\n", 0o644)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "ignore-sigterm"})
	since := c.cursor()
	c.apply(4, "rolled back 1.1.0")
	c.assertOrder(since, slices.Concat(inChain("health-gate failed", "rollback starting"), killed, inChain("rollback started"))...)
	c.assertRuns(releases.Daemon{Version: "1.0.0"})
	c.assertClosed("")
	c.assertRejected("1.1.0")

	c.ok(c.Root().Remove(strict[1:]))
	c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "ignore-sigterm"})
	c.apply(0, "committed 1.2.0")
	c.assertClosed("1.0.0")

	c.publish(c.dir, releases.Daemon{Version: "1.3.0"})
	since = c.cursor()
	c.apply(0, "committed 1.3.0")
	c.assertOrder(since, slices.Concat(inChain("swap starting"), killed, inChain("swap started", "commit started"))...)
	c.assertRuns(releases.Daemon{Version: "1.3.0"})
}

// TestRefusedRelease shows that an invalid release is refused before any file is touched.
func TestRefusedRelease(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	const version = "1.1.0"
	good := build(t, releases.Daemon{Version: version})
	foreign := bytes.Clone(good)
	foreign[18] = byte(elf.EM_AARCH64) // e_machine
	damaged := append(bytes.Clone(good[:20]), strings.Repeat("garbage", 1000)...)
	lying := build(t, releases.Daemon{Version: version, Behaviour: "version-lies"})
	planted := releases.File{Name: "x/planted", Content: []byte("x")}
	for _, test := range []struct {
		name, stage, says string
		files             []releases.File
	}{
		{"architecture", "verify", "built for aarch64", []releases.File{{Name: "testd", Content: foreign}}},
		{"text", "verify", "is a script", []releases.File{{Name: "testd", Content: []byte("#!/bin/true\n")}}},
		{"missing", "verify", "has no testd", []releases.File{{Name: "testd-other", Content: good}}},
		{"symlink", "verify", "it is a link", []releases.File{{Name: "testd", Link: "/usr/bin/true"}}},
		{"twice", "verify", "is there twice", []releases.File{{Name: "testd", Content: good}, {Name: "testd", Content: lying}}},
		{"outside", "verify", "not a plain relative path", []releases.File{{Name: "testd", Content: good}, {Name: "../../planted"}}},
		// Only the unit that failed last is a failed unit: a stage that succeeds resets its failure.
		{"not executable", "swap", "cannot be executed", []releases.File{{Name: "testd", Content: damaged}}},
		{"version", "swap", "the new program says 0.0.0-lie instead of " + version, []releases.File{{Name: "testd", Content: lying}}},
	} {
		c.step(test.name, func() {
			c.forge(version, test.files...)
			c.refused(6, "refused", test.stage, version, "refused 1.1.0: ", test.says)
			c.assertClosed("", "machinemon-"+test.stage+"@testd.service")
			if got := c.must("find", "/", "-xdev", "-name", "planted"); got != "" {
				c.t.Errorf("planted: %s", got)
			}
		})
	}
	// What the target does not install is skipped, and not followed.
	c.forge("1.2.0", releases.File{Name: "testd", Content: build(t, releases.Daemon{Version: "1.2.0"})},
		releases.File{Name: "x", Link: "/etc"}, planted, releases.File{Name: "testd-cli", Link: "testd"})
	c.apply(0, "committed 1.2.0 (was 1.0.0)")
	if got := c.must("find", "/", "-xdev", "-name", "planted"); got != "" {
		c.t.Errorf("planted: %s", got)
	}
	c.assertRuns(releases.Daemon{Version: "1.2.0"})
	c.assertClosed("1.0.0")
}

// forge publishes a release that machinemon-release would refuse.
func (c *chain) forge(version string, files ...releases.File) {
	c.t.Helper()
	name := fmt.Sprintf("%s-%s.tar.gz", version, strings.Map(func(r rune) rune { return max(r, '-') }, filepath.Base(c.t.Name())))
	c.ok(releases.Pack(filepath.Join(c.dir, name), files...))
	archive, err := os.ReadFile(filepath.Join(c.dir, name))
	c.ok(err)
	c.ship(version, name, archive)
}

// ship publishes a file as a release, with nothing but its digest in the manifest.
func (c *chain) ship(version, name string, archive []byte) {
	c.t.Helper()
	const key = "linux-amd64"
	c.ok(os.WriteFile(filepath.Join(c.dir, name), archive, 0o644))
	m := manifest.Manifest{Schema: 1, Version: version, Platforms: map[string]manifest.Platform{
		key: {File: name, SHA256: manifest.Digest(archive), Size: int64(len(archive))}}}
	document, err := m.Marshal()
	c.ok(err)
	c.ok(os.WriteFile(filepath.Join(c.dir, manifest.FileName), document, 0o644))
}

// assertRejected fails the test unless the offered release is recorded as rejected:
// another attempt downloads and touches nothing.
func (c *chain) assertRejected(version string) {
	c.t.Helper()
	if s := c.status(); !slices.Equal(s.Rejected, []string{version}) {
		c.t.Errorf("rejected are %q, want %s", s.Rejected, version)
	}
	_, before := c.requests()
	since := c.cursor()
	c.apply(8, "not attempted "+version, "rejected")
	c.assertUntouched(since)
	if _, archives := c.requests(); len(archives) != len(before) {
		c.t.Errorf("the archives were asked for again: %v, before %v", archives, before)
	}
}

func (c *chain) assertRequests(manifests, archives []int) {
	c.t.Helper()
	if m, a := c.requests(); !slices.Equal(m, manifests) || !slices.Equal(a, archives) {
		c.t.Errorf("manifests were answered with %v and archives with %v, want %v and %v", m, a, manifests, archives)
	}
}

// upload copies the releases into the machine.
func (c *chain) upload(into string) {
	c.t.Helper()
	names, err := filepath.Glob(filepath.Join(c.dir, "*"))
	c.ok(err)
	for _, name := range names {
		content, err := os.ReadFile(name)
		c.ok(err)
		c.writeFile(filepath.Join(into, filepath.Base(name)), string(content), 0o644)
	}
}
