//go:build systemd

package systemtest

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

var treeCuts = flag.Int("tree", 3, "cut the power so `often` while a tree is installed; 10 are all moments")

// treeFileCount is how many files a release of testd has that is a directory.
const treeFileCount = 5000

const treeTarget = `unit = "testd.service"
[source]
url = "http://` + releasesAt + `/client-manifest.json"
[[install]]
from = "testd-{version}/"
to = "/opt/testd"
keep = ["data", "etc/testd.conf"]
[health]
main = "/opt/testd/bin/testd"
timeout_seconds = 10
settle_seconds = 1
version_command = ["/opt/testd/bin/testd", "--version"]
[[health.probe]]
http = "http://` + testdAddress + `/healthz"
`

// treeRelease returns the files of a release that is a directory.
func treeRelease(t *testing.T, version string) []releases.File {
	dir := "testd-" + version + "/"
	files := []releases.File{{Name: dir + "bin/testd", Content: build(t, releases.Daemon{Version: version})},
		{Name: dir + "etc/testd.conf", Content: []byte("default\n")}}
	for n := range treeFileCount - len(files) {
		files = append(files, releases.File{Name: fmt.Sprintf("%sshare/%02d/%04d.txt", dir, n%50, n), Content: fmt.Appendf(nil, "%s %d\n", version, n)})
	}
	return files
}

// assertTree checks that the whole tree of this version is installed, with what is kept.
func (c *chain) assertTree(version string) {
	c.t.Helper()
	var lines []string
	for _, f := range treeRelease(c.t, version) {
		_, name, _ := strings.Cut(f.Name, "/")
		if name != "etc/testd.conf" {
			lines = append(lines, fmt.Sprintf("%x  ./%s\n", sha256.Sum256(f.Content), name))
		}
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[66:], b[66:]) })
	want := fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(lines, ""))))
	got := c.must("sh", "-ec", "cd /opt/testd; find . -type f ! -path './data/*' ! -name testd.conf -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum")
	if !strings.HasPrefix(got, want) {
		c.t.Errorf("the tree is not that of %s", version)
	}
	if got := c.must("sh", "-ec", "cd /opt/testd; cat data/db etc/testd.conf; stat -c %U data"); got != "precious\nmine\nnobody\n" {
		c.t.Errorf("what is kept is %q", got)
	}
	c.awaitTestd(version)
}

// TestTree updates a program that is a directory of 5,000 files: the outage is that of a
// restart, and power cuts leave one whole directory with what is kept. All ten cuts take
// minutes on a slow machine, so most are left out unless they are asked for:
//
//	sudo go test -tags systemd -run '^TestTree$' -v ./internal/systemtest -tree 10
func TestTree(t *testing.T) {
	once(t)
	t.Parallel()
	m := boot(t)
	m.holdable()
	archive := filepath.Join(t.TempDir(), "old.tar.gz")
	m.ok(releases.Pack(archive, treeRelease(t, "1.0.0")...))
	content, err := os.ReadFile(archive)
	m.ok(err)
	m.writeFile("/root/old.tar.gz", string(content), 0o644)
	m.must("sh", "-ec", "mkdir -p /opt/testd/data; tar -xzf /root/old.tar.gz --strip-components=1 -C /opt/testd; rm /root/old.tar.gz; "+
		"echo precious >/opt/testd/data/db; echo mine >/opt/testd/etc/testd.conf; chown -R nobody /opt/testd/data")
	c := m.chain(strings.Replace(heldUnit, testdPath, "/opt/testd/bin/testd", 1), treeTarget)
	c.assertTree("1.0.0")
	runs := c.treeOutage()

	c.target(strings.Replace(treeTarget, "settle_seconds = 1", "settle_seconds = 50", 1))
	c.publishFiles(c.dir, "2.0.0", treeRelease(t, "2.0.0")...)
	side := c.must("ls", "-A", "/opt/.machinemon-update")
	for _, test := range []struct {
		name string
		at   hold          // "" is the gate
		then time.Duration // after the hold
	}{
		{"before the start", atRestart, 0},
		{"20 ms after the journal is open", atArming, 20 * time.Millisecond},
		{"10 ms after it", atArming, 10 * time.Millisecond},
		{"under the gate", "", 0},
		{"when the journal is open", atArming, 0},
		{"1 ms after it", atArming, time.Millisecond},
		{"40 ms after it", atArming, 40 * time.Millisecond},
		{"80 ms after it", atArming, 80 * time.Millisecond},
		{"when the new tree is staged", atPreflight, 0},
	}[:min(max(*treeCuts-1, 0), 9)] {
		t.Log(test.name)
		since := c.cursor()
		if test.at != "" {
			c.hold(test.at)
		}
		apply := c.startApply()
		if test.at == "" {
			c.awaitTrial()
		} else {
			c.awaitHeld(since, test.at)
		}
		if test.then > 0 {
			c.letGo(test.at)
			time.Sleep(test.then) // the moment is not to be at an event
		}
		c.Yank()
		c.wait(apply) // it died with the machine
		c.bootAndServe()
		c.assertTree(runs)
		if got := c.must("sh", "-ec", "machinemon-update unskip testd >/dev/null; ls -A /opt/.machinemon-update"); test.at != atPreflight && got != side {
			t.Errorf("beside the tree are %s, were %s", got, side)
		}
		if t.Failed() {
			t.Fatalf("the power went %s", test.name)
		}
	}

	// The last cut is after the verdict.
	c.target(strings.Replace(treeTarget, "settle_seconds = 1", "settle_seconds = 3", 1))
	since := c.cursor()
	apply := c.startApply()
	c.awaitEvent(since, inChain("swap started")[0])
	c.hold(atClosing)
	c.awaitHeld(since, atClosing)
	c.Yank()
	c.wait(apply)
	c.bootAndServe()
	c.assertTree("2.0.0")
	c.said(c.run("machinemon-update", "rollback", "testd"), 0, "committed "+runs)
	c.assertTree(runs)
}

// treeOutage measures for how long testd does not serve, at a plain restart and at an
// update, and returns the version that runs in the end.
func (c *chain) treeOutage() (version string) {
	c.t.Helper()
	var restarts, updates []time.Duration
	version = "1.0.0"
	outage := func(act func()) time.Duration {
		c.must("sync")
		p, err := c.Probe(testdAddress, "/healthz", 2*time.Millisecond)
		c.ok(err)
		act()
		c.awaitTestd(version)
		return p.Stop().Total
	}
	for round := range max(1, *treeCuts/3) {
		restarts = append(restarts, outage(func() { c.must("systemctl", "restart", "testd.service") }))
		version = fmt.Sprintf("1.%d.0", round+1)
		c.publishFiles(c.dir, version, treeRelease(c.t, version)...)
		updates = append(updates, outage(func() { c.apply(0, "committed "+version) }))
		c.assertTree(version)
		c.must("systemctl", "reset-failed", "testd.service")
	}
	c.t.Logf("outage of a tree of %d files: plain restart %.1f ms %v, update %.1f ms %v: ratio %.2f", treeFileCount,
		median(restarts), restarts, median(updates), updates, median(updates)/median(restarts))
	if median(updates) > 10*median(restarts) {
		c.t.Errorf("an update takes %v, a restart %v", updates, restarts)
	}
	return version
}
