//go:build systemd

package systemtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// kinds is a machine on which the kind of testd's units changes.
type kinds struct {
	*chain
}

// begin installs testd 1.0.0, these units and the target, and starts what is named. Nothing
// is left of the kind before.
func (k *kinds) begin(target string, units map[string]string, start ...string) {
	k.t.Helper()
	k.must("sh", "-c", "systemctl stop 'testd*.socket' 'testd*.timer' 'testd*.service' 'worker*.service'; systemctl reset-failed; "+
		"rm -f /etc/systemd/system/testd* /etc/systemd/system/worker* /var/lib/machinemon-update/*/testd/status.json /usr/local/bin/.machinemon-update/*")
	for _, name := range []string{"client-manifest.json", "testd-linux-amd64.tar.gz"} {
		if err := os.Remove(filepath.Join(k.dir, name)); !errors.Is(err, fs.ErrNotExist) {
			k.ok(err)
		}
	}
	k.writeFile(testdPath, string(build(k.t, releases.Daemon{Version: "1.0.0"})), 0o755)
	for name, text := range units {
		k.writeFile("/etc/systemd/system/"+name, text, 0o644)
	}
	k.target(target)
	if len(start) > 0 {
		k.must(append([]string{"systemctl", "start"}, start...)...)
	}
}

// offers publishes a release of this behaviour.
func (k *kinds) offers(version, behaviour string) {
	k.t.Helper()
	k.publish(k.dir, releases.Daemon{Version: version, Behaviour: behaviour})
}

// serves fails the test unless the daemon at the address is of this version.
func (k *kinds) serves(address, version string) {
	k.t.Helper()
	if status, got, err := k.getFrom(address, "/version"); err != nil || status != 200 || got != version {
		k.t.Errorf("%s answers %d %q, %v; want %s", address, status, got, err, version)
	}
}

// installed fails the test unless this version is the installed file.
func (k *kinds) installed(version string) {
	k.t.Helper()
	if got := k.must(testdPath, "--version"); !strings.Contains(got, " "+version+" ") {
		k.t.Errorf("installed is %q, want %s", got, version)
	}
}

// TestKindsOfUnits: each kind of unit, on one machine, with a release that is good, one
// that is not, and what is refused.
func TestKindsOfUnits(t *testing.T) {
	t.Parallel()
	k := &kinds{newChain(t, testdUnit, testdTarget)}
	const second = "127.0.0.1:9201"
	header, health, _ := strings.Cut(strings.TrimPrefix(testdTarget, "unit = \"testd.service\"\n"), "[[health.probe]]")
	probe := "[[health.probe]]" + health
	const oneshot = "[Service]\nType=oneshot\nExecStart=" + testdPath + " --version\n"
	at := func(address, more string) string {
		return strings.Replace(testdUnit, "[Service]\n", "[Service]\nEnvironment=TESTD_ADDRESS="+address+"\n"+more, 1)
	}

	k.step("no unit", func() {
		tool := "unit = \"\"\n" + strings.NewReplacer("settle_seconds = 1\n", "", "timeout_seconds = 10", "timeout_seconds = 3").Replace(header)
		k.begin(tool, nil)
		k.offers("1.1.0", "")
		k.apply(0, "committed 1.1.0 (was 1.0.0)")
		k.installed("1.1.0")
		k.offers("1.2.0", "version-lies")
		k.apply(6, "refused 1.2.0: the new program says 0.0.0")
		k.installed("1.1.0")
		k.target(tool + "[[health.probe]]\ncommand = [\"/bin/sh\", \"-c\", \"! " + testdPath + " --version | grep 1.3.0\"]\n")
		k.offers("1.3.0", "")
		k.apply(4, "rolled back 1.3.0: command /bin/sh did not pass", "(the files of 1.1.0 are in place)")
		k.installed("1.1.0")
		k.said(k.run("machinemon-update", "rollback", "testd"), 0, "committed 1.0.0")
		k.installed("1.0.0")
	})
	k.step("a timer's oneshot", func() {
		target := "unit = \"testd.service\"\n" + header
		slow := strings.Replace(oneshot, "ExecStart=", "ExecStartPre=/bin/sleep $PAUSE\nEnvironmentFile=-/run/pause\nExecStart=", 1)
		k.begin(target, map[string]string{"testd.service": slow, "testd.timer": "[Timer]\nOnBootSec=7d\n"}, "testd.timer")
		k.offers("1.1.0", "")
		since := k.cursor()
		k.apply(0, "committed 1.1.0 (was 1.0.0)")
		k.assertNever(since, "testd.service starting")
		k.must("sh", "-c", "echo PAUSE=60 > /run/pause; systemctl start --no-block testd.service")
		k.awaitProperty("testd.service", "ActiveState", func(state string) bool { return state == "activating" })
		k.offers("1.2.0", "")
		k.apply(8, "testd.service is at work (hint: it is updated between its runs; systemctl status testd.service)")
		k.must("sh", "-c", "rm /run/pause; systemctl stop testd.service")
		k.target(strings.Replace(target, "version_command", "#", 1))
		k.apply(2, "cannot judge testd: testd.service is idle, and the target has no command that shows whether a release works (hint: set health.version_command)")
		k.installed("1.1.0")
	})
	k.step("an alias", func() {
		const own = "/etc/systemd/system/"
		k.begin("unit = \"testd-alias.service\"\n"+header+probe, map[string]string{"testd.service": testdUnit})
		k.must("ln", "-s", "testd.service", own+"testd-alias.service")
		k.must("systemctl", "daemon-reload")
		k.must("systemctl", "start", "testd.service")
		k.offers("1.1.0", "")
		k.apply(0, "committed 1.1.0 (was 1.0.0)")
		k.serves(testdAddress, "1.1.0")
		k.offers("1.2.0", "exit1-at-once")
		k.apply(4, "rolled back 1.2.0")
		k.serves(testdAddress, "1.1.0")
	})
	k.step("a socket's service", func() {
		k.begin("unit = \"testd.service\"\n"+header+probe, map[string]string{"testd.service": testdUnit, "testd.socket": "[Socket]\nListenStream=" + testdAddress + "\n"}, "testd.socket")
		k.offers("1.1.0", "")
		since := k.cursor()
		k.apply(0, "committed 1.1.0 (was 1.0.0)")
		k.assertOrder(since, "machinemon-swap@testd.service started", "testd.service started", "machinemon-health-gate@testd.service started")
		k.serves(testdAddress, "1.1.0")
		k.must("sh", "-c", "systemctl stop testd.service 2>&1")
		k.offers("1.2.0", "exit1-at-once")
		k.apply(4, "rolled back 1.2.0")
		if got := k.must("systemctl", "is-active", "testd.socket"); got != "active\n" {
			k.t.Errorf("the socket is %q", got)
		}
		k.serves(testdAddress, "1.1.0")
		k.must("systemctl", "stop", "testd.socket", "testd.service")
		k.offers("1.3.0", "")
		k.apply(8, "testd.service is stopped (hint: sudo systemctl start testd.service)")
	})
	k.step("several", func() {
		k.begin("units = [\"testd.service\", \"worker.service\"]\n"+header+probe, map[string]string{
			"testd.service":  at(testdAddress, "Environment=KEY=x\n"),
			"worker.service": at(second, "")}, "testd.service", "worker.service")
		k.offers("1.1.0", "")
		since := k.cursor()
		k.apply(0, "committed 1.1.0 (was 1.0.0)")
		k.assertOrder(since, "worker.service stopped", "testd.service stopped", "testd.service started", "worker.service started")
		k.serves(testdAddress, "1.1.0")
		k.serves(second, "1.1.0")
		k.offers("1.2.0", "needs-key")
		k.apply(4, "rolled back 1.2.0: worker.service: its main process", "(1.1.0 runs again)")
		k.serves(testdAddress, "1.1.0")
		k.serves(second, "1.1.0")
		k.must("systemctl", "stop", "worker.service")
		k.offers("1.3.0", "")
		k.apply(8, "worker.service is stopped (hint: sudo systemctl start worker.service)")
	})
	k.step("instances", func() {
		k.begin("unit = \"testd@.service\"\n"+header+probe, map[string]string{"testd@.service": at("127.0.0.1:%i", "")})
		k.offers("1.1.0", "")
		k.apply(8, "no instance of testd@.service runs")
		k.must("systemctl", "start", "testd@9200.service", "testd@9201.service")
		k.apply(0, "committed 1.1.0 (was 1.0.0)")
		k.serves(testdAddress, "1.1.0")
		k.serves(second, "1.1.0")
	})
	for _, how := range []string{"exec", "fork", "ignore"} {
		k.step("reload: "+how, func() {
			unit := at(testdAddress, fmt.Sprintf("Type=notify\nNotifyAccess=all\nEnvironment=TESTD_RELOAD=%s\nExecReload=/bin/kill -HUP $MAINPID\n", how))
			limit := "timeout_seconds = 5"
			if how == "ignore" { // it takes all of it
				limit = "timeout_seconds = 3"
			}
			k.begin("unit = \"testd.service\"\nrestart = \"reload\"\n"+strings.Replace(header, "timeout_seconds = 10", limit, 1)+probe, map[string]string{"testd.service": unit}, "testd.service")
			pid := k.mainPID()
			k.offers("1.1.0", "")
			since := k.cursor()
			if how == "ignore" {
				k.apply(4, "rolled back 1.1.0: not healthy within 3 s: its main process still runs an older "+testdPath, "(1.0.0 runs again)")
				k.serves(testdAddress, "1.0.0")
				return
			}
			k.apply(0, "committed 1.1.0 (was 1.0.0)")
			k.assertNever(since, "testd.service stopped")
			k.serves(testdAddress, "1.1.0")
			if now := k.mainPID(); (now == pid) != (how == "exec") {
				k.t.Errorf("the main process was %s and is %s", pid, now)
			}
			k.offers("1.2.0", "answer-500")
			k.apply(4, "rolled back 1.2.0", "(1.1.0 runs again)")
			k.serves(testdAddress, "1.1.0")
		})
	}
	k.step("reload: not possible", func() {
		k.begin("unit = \"testd.service\"\nrestart = \"reload\"\n"+header+probe, map[string]string{"testd.service": testdUnit}, "testd.service")
		k.offers("1.1.0", "")
		k.apply(2, `cannot update testd: testd.service cannot be reloaded, for it has no ExecReload= (hint: remove restart = "reload")`)
		k.serves(testdAddress, "1.0.0")
	})
}
