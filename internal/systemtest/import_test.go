//go:build systemd

package systemtest

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// bringReleases copies the server's files into a directory of root.
func (c *chain) bringReleases(to string) {
	c.t.Helper()
	entries, err := os.ReadDir(c.dir)
	c.ok(err)
	c.must("install", "-d", "-m", "700", to)
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(c.dir, e.Name()))
		c.ok(err)
		c.writeFile(to+"/"+e.Name(), string(content), 0o600)
	}
}

// TestImport: on a machine without a network root imports a release from a directory of
// root, and it passes through the whole chain.
func TestImport(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, strings.Replace(testdTarget, "url = ", "# url = ", 1))
	c.server.Close()
	from := func(exit int, file string, says ...string) {
		t.Helper()
		c.said(c.run("machinemon-update", "import", "testd", file), exit, says...)
		if left := c.list("/var/lib/machinemon-update/swap/testd/import"); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.bringReleases("/root/usb")
	from(7, "/root/nowhere", "cannot read /root/nowhere")
	c.must("machinemon-update", "hold", "testd")
	from(8, "/root/usb", "it is held since")
	c.must("machinemon-update", "unhold", "testd")
	// What only root could read, only root and the fetcher can read meanwhile.
	watch := c.start("runuser", "-u", "nobody", "--", "sh", "-c", "exec 2>/dev/null; cd /var/lib/machinemon-update/swap/testd && while :; do ls import; head -c 10 import/*; done")
	from(0, "/root/usb/client-manifest.json", "committed 1.1.0 (was 1.0.0)")
	c.ok(watch.Signal(syscall.SIGTERM))
	if seen := c.wait(watch).Stdout; seen != "" {
		t.Errorf("meanwhile user nobody found:\n%.300s", seen)
	}
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.assertClosed("1.0.0")
	from(0, "/root/usb", "already current")

	// A release that was altered on the way is refused; one that fails is rolled back.
	c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "exit1-at-once"})
	c.bringReleases("/root/usb2")
	archive := "/root/usb2" + c.archive("1.2.0")
	c.must("cp", archive, "/root/good")
	c.must("sh", "-c", "printf x | dd of="+archive+" conv=notrunc bs=1 seek=100 2>&1")
	from(6, archive, "its sha256 is", "(hint: copy the archive and its manifest again, both of one release)")
	c.must("cp", "/root/good", archive)
	from(4, archive, "rolled back 1.2.0", "1.1.0 runs again")
	from(8, archive, "it was rejected on")
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
}
