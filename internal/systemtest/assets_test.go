//go:build systemd

package systemtest

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"os/exec"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestAssets shows that what publishers ship besides tar in gzip and zstd is installed, and
// which words refuse what the target file does not fit.
func TestAssets(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	from := func(name string) { c.target(strings.Replace(testdTarget, `from = "testd"`, `from = "`+name+`"`, 1)) }
	program := func(version string) []byte { return build(t, releases.Daemon{Version: version}) }
	zipped := func(names []string, body []byte) []byte {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		for _, name := range names {
			w, err := z.Create(name)
			c.ok(err)
			_, err = w.Write(body)
			c.ok(err)
		}
		c.ok(z.Close())
		return b.Bytes()
	}
	xz := func(b []byte) []byte {
		cmd := exec.Command("xz", "-0", "-c")
		cmd.Stdin = bytes.NewReader(b)
		out, err := cmd.Output()
		c.ok(err)
		return out
	}
	gz := func(b []byte) []byte {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		_, err := z.Write(b)
		c.ok(err)
		c.ok(z.Close())
		return out.Bytes()
	}
	installed := func(version, was string) {
		c.apply(0, "committed "+version+" (was "+was+")")
		c.assertRuns(releases.Daemon{Version: version})
		c.assertClosed(was)
	}

	c.step("glob of several", func() {
		from("testd-*/testd")
		c.ship("1.2.0", "testd-1.2.zip", zipped([]string{"testd-1/testd", "testd-2/testd"}, program("1.2.0")))
		c.refused(6, "refused", "verify", "1.2.0", "testd-*/testd must match exactly one entry, and 2 match: testd-1/testd, testd-2/testd")
	})
	c.step("an archive as the program", func() {
		from(".")
		c.ship("1.3.0", "testd-1.3.zip", zipped([]string{"testd"}, program("1.3.0")))
		c.refused(6, "refused", "verify", "1.3.0", "the archive has no . (it has testd)")
	})
	c.step("zip, glob", func() {
		from("testd-*/testd")
		c.ship("1.3.1", "testd.zip", zipped([]string{"testd-1.3.1/testd", "testd-1.3.1/README"}, program("1.3.1")))
		installed("1.3.1", "1.0.0")
	})
	c.step("a program in gzip", func() {
		from(".")
		c.ship("1.4.0", "testd-1.4.gz", gz(program("1.4.0")))
		installed("1.4.0", "1.3.1")
	})
	c.step("a program in xz", func() {
		c.ship("1.5.0", "testd-1.5.xz", xz(program("1.5.0")))
		installed("1.5.0", "1.4.0")
	})
	c.step("a program", func() {
		c.ship("1.6.0", "testd-1.6", program("1.6.0"))
		installed("1.6.0", "1.5.0")
	})
}
