//go:build systemd

package systemtest

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// publishDeltas is publish with deltas from the previous release.
func (c *chain) publishDeltas(d releases.Daemon) {
	c.t.Helper()
	archive := filepath.Join(c.t.TempDir(), "testd-linux-amd64.tar.gz")
	c.ok(releases.Pack(archive, releases.File{Name: "testd", Content: build(c.t, d)}))
	c.ok(releases.Publish(c.t.Context(), lab.Installed("/usr/bin/machinemon-release"), c.dir, d.Version, archive))
}

// downloads lists the downloads after the first since requests, except of the manifest
// and its metadata: "patch", "delta" or "archive", with " failed" if the status is not 200.
func (c *chain) downloads(since int) []string {
	c.t.Helper()
	var got []string
	for _, r := range c.server.Requests()[since:] {
		what := ""
		switch path.Ext(r.Path) {
		case ".patch":
			what = "patch"
		case ".zst":
			what = "delta"
		case ".gz":
			what = "archive"
		default:
			continue
		}
		if r.Status != 200 {
			what += " failed"
		}
		got = append(got, what)
	}
	return got
}

// assertDownloads runs an update to d, which must succeed in one attempt with these
// downloads.
func (c *chain) assertDownloads(d releases.Daemon, update func(), want ...string) {
	c.t.Helper()
	requests, attempts := len(c.server.Requests()), len(c.history())
	update()
	if got := c.downloads(requests); !slices.Equal(got, want) {
		c.t.Errorf("downloaded %q, want %q", got, want)
	}
	h := c.history()
	if len(h) != attempts+1 || h[0].Result != "committed" || h[0].Version != d.Version || (h[0].NoDelta != "") != (len(want) > 1) {
		c.t.Errorf("history has %d attempts more: %+v", len(h)-attempts, h[0])
	}
	c.assertRuns(d)
}

// patch returns the path of the manifest's only patch.
func (c *chain) patch() (file string) {
	c.t.Helper()
	c.edit(func(_ *manifest.Manifest, p *manifest.Platform) {
		if len(p.Deltas) != 1 || len(p.Patches) != 1 {
			c.t.Fatalf("deltas: %+v, patches: %+v", p.Deltas, p.Patches)
		}
		file = p.Patches[0].File
	})
	return filepath.Join(c.dir, file)
}

// spoilPatch puts a patch into the release that has the digest in the manifest. Only the
// verifier can see that its result is wrong.
func (c *chain) spoilPatch() {
	c.t.Helper()
	file := c.patch()
	c.edit(func(_ *manifest.Manifest, p *manifest.Platform) {
		e, err := zstd.NewWriter(nil)
		c.ok(err)
		made := e.EncodeAll(make([]byte, p.Contents["testd"].Size), nil)
		p.Patches[0].SHA256, p.Patches[0].Size = manifest.Digest(made), int64(len(made))
		c.ok(os.WriteFile(file, made, 0o644))
	})
}

// TestDelta shows that deltas are downloaded instead of the archive. If a delta fails,
// the archive is downloaded in the same attempt, and the operator is told.
func TestDelta(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.publishDeltas(releases.Daemon{Version: "1.1.0"})
	version := func(v string) releases.Daemon { return releases.Daemon{Version: v} }
	// The installed version 1.0.0 was never published, so it has no delta.
	c.assertDownloads(version("1.1.0"), func() { c.apply(0, "committed 1.1.0 (was 1.0.0)") }, "archive")

	c.step("good", func() {
		c.publishDeltas(version("1.2.0"))
		since := c.cursor()
		c.assertDownloads(version("1.2.0"), func() { c.apply(0, "committed 1.2.0 (was 1.1.0)") }, "patch")
		c.assertOrder(since, inChain("fetch started", "verify started", "swap started")...)
		c.assertClosed("1.1.0")
		c.assertLines("begin begins 6  machinemon-fetch@testd.service", "fetch handed on 6 1.2.0", "verify handed on 6 1.2.0", "baseline - 6",
			"swap - 6 1.2.0", "swap on trial 6 1.2.0", "health-gate - 6 1.2.0", "commit - 6 1.2.0", "commit committed 6 1.2.0")
	})

	c.step("corrupted on the server", func() {
		c.publishDeltas(version("1.3.0"))
		file := c.patch()
		content, err := os.ReadFile(file)
		c.ok(err)
		content[len(content)/2]++
		c.ok(os.WriteFile(file, content, 0o644))
		c.assertDownloads(version("1.3.0"), func() {
			c.apply(0, "committed 1.3.0 (was 1.2.0)", "(not by delta: cannot use http://", "its sha256 is ")
		}, "patch", "archive")
		c.assertClosed("1.2.0")
	})

	c.step("gone from the server", func() {
		c.publishDeltas(version("1.4.0"))
		file := c.patch()
		c.ok(os.Remove(file))
		c.assertDownloads(version("1.4.0"), func() {
			c.apply(0, "committed 1.4.0 (was 1.3.0)", "(not by delta: cannot download http://", "404")
		}, "patch failed", "archive")
		c.assertClosed("1.3.0")
	})

	c.step("a wrong result", func() {
		c.publishDeltas(version("1.5.0"))
		c.spoilPatch()
		since := c.cursor()
		c.assertDownloads(version("1.5.0"), func() {
			c.apply(0, "committed 1.5.0 (was 1.4.0)", "(not by delta: cannot make testd by delta: its sha256 is then ")
		}, "patch", "archive")
		c.assertOrder(since, inChain("fetch started", "verify failed", "fetch-full started", "verify started", "swap started")...)
		c.assertClosed("1.4.0")
		c.assertLines("begin begins 6  machinemon-fetch@testd.service", "fetch handed on 6 1.5.0", "verify - 6 1.5.0", "baseline - 6",
			"fetch-full handed on 6 1.5.0", "verify handed on 6 1.5.0", "baseline - 6",
			"swap - 6 1.5.0", "swap on trial 6 1.5.0", "health-gate - 6 1.5.0", "commit - 6 1.5.0", "commit committed 6 1.5.0")
		if r := c.run("machinemon-update", "history", "testd"); !strings.Contains(r.Stdout, "(not by delta: cannot make testd by delta: ") {
			c.t.Errorf("history: %s", r.Stdout)
		}
	})

	c.step("and the archive is gone, too", func() {
		c.publishDeltas(version("1.6.0"))
		c.spoilPatch()
		archive := c.archive("1.6.0")
		c.server.Break(archive, releases.Status(404))
		pid, since := c.mainPID(), c.cursor()
		c.apply(7, "not downloaded 1.6.0", "404", "(not by delta: cannot make testd by delta: ")
		c.assertUntouched(since)
		if now := c.mainPID(); now != pid {
			c.t.Errorf("the main process was %s and is %s", pid, now)
		}
		c.server.Mend(archive)
		// The next attempt tries the delta first again.
		c.assertDownloads(version("1.6.0"), func() { c.apply(0, "committed 1.6.0 (was 1.5.0)") }, "patch", "archive")
		c.assertClosed("1.5.0")
	})

	c.step("changed by hand", func() {
		c.publishDeltas(version("1.7.0"))
		c.writeFile(testdPath, string(build(c.t, version("1.6.0")))+"#", 0o755)
		c.assertDownloads(version("1.7.0"), func() { c.apply(0, "committed 1.7.0") }, "archive")
	})

	c.step("by the schedule", func() {
		c.publishDeltas(version("1.8.0"))
		c.spoilPatch()
		c.must("machinemon-update", "enable", "testd")
		c.must("systemctl", "stop", "machinemon-fetch@testd.timer") // only the run below may start
		c.assertDownloads(version("1.8.0"), func() {
			since := c.cursor()
			c.tick()
			c.awaitEvent(since, inChain("commit started")[0])
		}, "patch", "archive")
		if h := c.history(); h[0].Origin != "schedule" {
			c.t.Errorf("%+v", h[0])
		}
		c.must("machinemon-update", "disable", "testd")
	})

	c.step("from a publisher without patches", func() {
		c.publishDeltas(version("1.9.0"))
		c.edit(func(_ *manifest.Manifest, p *manifest.Platform) { p.Patches = nil })
		c.assertDownloads(version("1.9.0"), func() { c.apply(0, "committed 1.9.0 (was 1.8.0)") }, "delta")
	})
}

// TestDeltaKilled shows that a delta fails if it kills the verifier. If the fetcher of
// the archive is then killed, the attempt ends and does not impair the next one.
func TestDeltaKilled(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	old, good := releases.Daemon{Version: "1.1.0"}, releases.Daemon{Version: "1.2.0"}
	c.publishDeltas(old)
	c.apply(0, "committed 1.1.0")
	c.publishDeltas(good)

	// The verifier makes this system call first after it has copied the delta, and is killed.
	const dropIn = "/run/systemd/system/machinemon-verify@testd.service.d/kill.conf"
	c.must("mkdir", "-p", path.Dir(dropIn))
	c.writeFile(dropIn, "[Service]\nSystemCallFilter=\nSystemCallFilter=~lseek\nSystemCallErrorNumber=kill\n", 0o644)
	c.must("systemctl", "daemon-reload")
	archive := c.archive("1.2.0")
	came := make(chan struct{})
	c.server.Break(archive, releases.Hang(came))
	since := c.cursor()
	apply := c.startApply()
	c.arrived(came)
	c.assertOrder(since, inChain("fetch started", "verify failed", "fetch-full starting")...)
	c.kill("fetch-full")
	c.said(c.wait(apply), 1, "failed: machinemon-fetch-full@testd.service failed (signal)", "nothing was changed")
	c.assertUntouched(since)
	c.assertRuns(old)

	came, goOn := c.breakUntil(archive)
	c.assertDownloads(good, func() {
		apply := c.startApply()
		c.arrived(came)
		if r := c.run("machinemon-update", "apply", "testd"); r.Code != 8 {
			t.Errorf("a second apply meanwhile: %+v", r)
		}
		c.must("rm", "-r", path.Dir(dropIn))
		c.must("systemctl", "daemon-reload")
		close(goOn)
		c.said(c.wait(apply), 0, "committed 1.2.0 (was 1.1.0)", "(not by delta: the verifier was stopped while it applied them)")
	}, "patch", "archive")
	c.assertClosed("1.1.0")
	if names := c.list("/var/lib/machinemon-update/verify/testd"); slices.Contains(names, "fallback.json") {
		t.Errorf("in the verifier's directory: %q", names)
	}
}

// TestDeltaTUF shows that deltas work for signed releases, too.
func TestDeltaTUF(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, signedTarget)
	p := newPublisher(t)
	c.pin(p)
	p.publish(releases.Daemon{Version: "1.1.0"})
	c.show(p)
	c.assertDownloads(releases.Daemon{Version: "1.1.0"}, func() { c.apply(0, "committed 1.1.0 (was 1.0.0)") }, "archive")
	p.publish(releases.Daemon{Version: "1.2.0"})
	c.show(p)
	c.assertDownloads(releases.Daemon{Version: "1.2.0"}, func() { c.apply(0, "committed 1.2.0 (was 1.1.0)") }, "patch")

	p.publish(releases.Daemon{Version: "1.3.0"})
	c.show(p)
	// One delta for each older release, or one for both if their bytes are the same.
	deltas, err := filepath.Glob(filepath.Join(c.dir, "testd-1.3.0-*.patch"))
	if err != nil || len(deltas) == 0 {
		t.Fatalf("no deltas: %v", err)
	}
	for _, delta := range deltas {
		c.ok(os.WriteFile(delta, []byte("garbage"), 0o644))
	}
	c.assertDownloads(releases.Daemon{Version: "1.3.0"}, func() { c.apply(0, "committed 1.3.0 (was 1.2.0)", "(not by delta: ") }, "patch", "archive")
	c.assertClosed("1.2.0")
}
