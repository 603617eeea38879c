//go:build systemd

package systemtest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// edit changes the published manifest, as a publisher with an editor would.
func (c *chain) edit(change func(m *manifest.Manifest, p *manifest.Platform)) {
	c.t.Helper()
	path := filepath.Join(c.dir, manifest.FileName)
	raw, err := os.ReadFile(path)
	c.ok(err)
	m, err := manifest.Parse(raw)
	c.ok(err)
	p := m.Platforms["linux-amd64"]
	change(m, &p)
	m.Platforms["linux-amd64"] = p
	raw, err = m.Marshal()
	c.ok(err)
	c.ok(os.WriteFile(path, raw, 0o644))
}

// archives returns how often an archive was requested.
func (c *chain) archives() int {
	_, a := c.requests()
	return len(a)
}

// installs runs ticks, which must install this version.
func (c *chain) installs(version string) {
	c.t.Helper()
	since := c.cursor()
	c.tick()
	c.awaitEvent(since, inChain("commit started")[0])
	c.assertRuns(releases.Daemon{Version: version})
}

// strict makes the trial of every version but this one fail.
func (c *chain) strict(version string) {
	c.t.Helper()
	c.writeFile("/etc/machinemon-update/targets.d/testd.toml.d/strict.toml",
		"[[health.probe]]\nhttp = \"http://"+testdAddress+"/version\"\nexpect_body = \""+version+"\"\n[health]\ntimeout_seconds = 1\n", 0o644)
}

func (c *chain) lenient() {
	c.t.Helper()
	c.must("rm", "/etc/machinemon-update/targets.d/testd.toml.d/strict.toml")
}

// TestCorrectedRelease: scheduled runs leave a release that failed its trial here, and take a
// correction: other bytes, or a higher sequence, by which the publisher confirms the bytes.
func TestCorrectedRelease(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.must("machinemon-update", "enable", "testd")
	c.must("systemctl", "stop", "machinemon-fetch@testd.timer") // only the runs below may start
	fails := func(version string) {
		t.Helper()
		since := c.cursor()
		c.tick()
		c.awaitEvent(since, inChain("rollback started")[0])
		c.assertTold("rolled back", "")
		before := c.archives()
		for range 10 {
			c.tick()
		}
		c.assertTold("not attempted", "rejected")
		if n := c.archives() - before; n > 0 {
			t.Errorf("%s was downloaded %d times more", version, n)
		}
		c.must("systemctl", "reset-failed")
	}

	c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "exit1-at-once"})
	var sequence int64
	c.edit(func(m *manifest.Manifest, _ *manifest.Platform) { sequence = m.Sequence })
	fails("1.1.0")
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.edit(func(m *manifest.Manifest, _ *manifest.Platform) { m.Sequence = sequence }) // only its digest differs
	c.installs("1.1.0")

	// This release is good; it failed because of the strict probe.
	c.strict("1.1.0")
	c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
	fails("1.2.0")
	c.lenient()
	c.edit(func(m *manifest.Manifest, _ *manifest.Platform) { m.Sequence++ })
	c.installs("1.2.0")
	c.assertClosed("1.1.0")
}

// TestRepackedRelease shows that a rejected program is not installed from another archive.
func TestRepackedRelease(t *testing.T) {
	once(t)
	t.Parallel()
	for _, test := range []struct {
		name      string
		contents  bool
		downloads int // of the new archive in total
	}{
		{"with contents", true, 0},
		{"without contents", false, 1}, // only the downloaded archive shows its contents
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newChain(t, testdUnit, testdTarget)
			bad := releases.Daemon{Version: "1.1.0", Behaviour: "exit1-at-once"}
			c.publish(c.dir, bad)
			var first manifest.Manifest
			c.edit(func(m *manifest.Manifest, _ *manifest.Platform) { first = *m })
			c.apply(4, "rolled back 1.1.0")
			c.must("machinemon-update", "enable", "testd")
			c.must("systemctl", "stop", "machinemon-fetch@testd.timer")

			c.publishFiles(c.dir, bad.Version, releases.File{Name: "README", Content: []byte("new")}, releases.File{Name: "testd", Content: build(t, bad)})
			c.edit(func(m *manifest.Manifest, p *manifest.Platform) {
				if m.Sequence <= first.Sequence || p.SHA256 == first.Platforms["linux-amd64"].SHA256 {
					t.Fatalf("not re-packed: %+v", m)
				}
				m.Sequence = first.Sequence
				if !test.contents {
					p.Contents = nil
				}
			})
			before, since := c.archives(), c.cursor()
			for range 3 {
				c.tick()
				c.settled()
				c.assertTold("not attempted", "rejected")
				c.apply(8, "not attempted 1.1.0", "rejected")
			}
			if n := c.archives() - before; n != test.downloads {
				t.Errorf("the archive was downloaded %d times, want %d", n, test.downloads)
			}
			c.assertUntouched(since)
			c.assertRuns(releases.Daemon{Version: "1.0.0"})
			c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
			c.apply(0, "committed 1.2.0 (was 1.0.0)")
			c.assertClosed("1.0.0")
		})
	}
}

// settled waits, after a tick, until no unit or bundle of testd's chain is left at work.
func (c *chain) settled() {
	c.t.Helper()
	c.must("sh", "-ec", `while systemctl list-jobs --no-legend 'machinemon-*@testd.service' | grep -q . ||
		systemctl list-units --no-legend --state=activating,deactivating 'machinemon-*@testd.service' | grep -q . ||
		find /var/lib/machinemon-update/*/testd/ready -mindepth 1 | grep -q .; do sleep 0.05; done`)
}
