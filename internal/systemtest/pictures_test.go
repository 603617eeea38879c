//go:build systemd

package systemtest

import (
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestPictures checks what an operator sees in five states. This prints it:
//
//	go test -tags systemd -run TestPictures -v ./internal/systemtest
func TestPictures(t *testing.T) {
	once(t)
	t.Parallel()
	m := boot(t)
	picture := func(of string, says ...string) {
		t.Helper()
		out := m.must("machinemon-update", "status")
		t.Logf("%s:\n%s", of, out)
		for _, s := range says {
			if !strings.Contains(out, s) {
				t.Errorf("%s: status does not say %q:\n%s", of, s, out)
			}
		}
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, " ") {
				continue // a note
			}
			if n := len([]rune(line)) - 1; n > 100 {
				t.Errorf("%s: a line of %d columns:\n%s", of, n, line)
			}
		}
	}

	m.installTestd("1.0.0", testdUnit)
	const source = `url = "http://` + releasesAt + `/client-manifest.json"`
	m.target(strings.Replace(testdTarget, source, "", 1))
	picture("freshly installed, without a source", "testd", "1.0.0")

	m.target(strings.Replace(testdTarget, "settle_seconds = 1", "settle_seconds = 5", 1))
	dir := t.TempDir()
	c := &chain{m, dir, m.serve(dir)}
	c.publish(dir, releases.Daemon{Version: "1.1.0"})
	c.tick()
	picture("a release is available", "1.0.0", "1.1.0", "available")

	apply := c.startApply()
	c.awaitTrial()
	picture("on trial", "1.1.0 is on trial")
	c.said(c.wait(apply), 0, "committed 1.1.0")

	c.must("machinemon-update", "hold", "testd")
	picture("held", "1.1.0", "held since")
	c.must("machinemon-update", "unhold", "testd")

	c.publish(dir, releases.Daemon{Version: "1.2.0", Behaviour: "exit1-at-once"})
	c.apply(4, "rolled back 1.2.0")
	picture("after a rollback", "1.1.0", "rolled back 1.2.0", "its main process")
}
