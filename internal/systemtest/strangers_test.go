//go:build systemd

package systemtest

import (
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// strangerTarget is a target whose gate runs a program of an attacker.
const strangerTarget = `unit = "systemd-journald.service"
[[install]]
from = "stranger"
to = "/usr/local/bin/stranger"
[health]
main = ""
[[health.probe]]
command = ["/usr/local/bin/stranger"]
`

// stranger forges the reports on testd, and kills every process that it may, over and
// over, also after its own gate has ended.
const stranger = `#!/bin/sh
attack() {
	for file in report baseline; do
		echo '{"format":1,"attempt":"'"$(cat /run/stranger-attempt)"'","finding":"bad","reason":"forged","probes":[]}' >/run/machinemon-update/gate/testd/$file.json
	done
	pid=2
	while [ $pid -lt 2000 ]; do
		[ $pid = $$ ] || kill -9 $pid
		pid=$((pid + 1))
	done
}
if [ "$1" != again ]; then
	setsid "$0" again &
	exec sleep 60 # until the attack ends this process, and the one that runs it
fi
while :; do attack; done >/dev/null 2>&1
`

// TestStrangers shows that a program of one target reaches neither the gate of another
// one nor its report: during the trial of testd, the gate of another target runs a program
// that attacks it, and leaves a child that goes on.
func TestStrangers(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.writeFile("/usr/local/bin/stranger", stranger, 0o755)
	c.writeFile("/etc/machinemon-update/targets.d/stranger.toml", strangerTarget, 0o644)
	c.must("systemctl", "daemon-reload")
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	since := c.cursor()
	p := c.startApply()
	c.awaitEvent(since, inChain("swap started")[0])
	// Everybody may read the journal of a trial.
	c.must("sh", "-c", `sed -n 's/.*"attempt": *"\([^"]*\)".*/\1/p' /var/lib/machinemon-update/swap/testd/journal.json >/run/stranger-attempt; test -s /run/stranger-attempt`)
	if r := c.run("machinemon-update", "probe", "stranger"); r.Code != 1 {
		t.Errorf("probe: %+v", r)
	}
	r, err := p.Wait(t.Context())
	c.ok(err)
	c.said(r, 0, "committed 1.1.0 (was 1.0.0)")
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	// What the program left behind ended with the gate that ran it.
	if r := c.run("find", "/proc", "-maxdepth", "1", "-user", "mm-command-stranger"); r.Code != 0 || r.Stdout != "" {
		t.Errorf("it left processes: %+v", r)
	}
}

// TestCommandsOfOneTrial: a release that stops the process that runs its version_command,
// which thus never ends by itself, spoils its own trial, and no later one.
func TestCommandsOfOneTrial(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "stops-runner"})
	c.apply(4, "rolled back 1.1.0", "version_command")
	c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
	c.apply(0, "committed 1.2.0 (was 1.0.0)")
	if r := c.run("find", "/proc", "-maxdepth", "1", "-user", "mm-command-testd"); r.Code != 0 || r.Stdout != "" {
		t.Errorf("there are still processes: %+v", r)
	}
}

// knocks connects to testd's socket for commands, over and over, each time after the last
// connection has started the service and ended it.
const knocks = `use Socket;
while (1) {
	socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die;
	connect($s, pack_sockaddr_un("/run/machinemon-update/command/testd"));
	close $s;
	select undef, undef, undef, 0.1;
}`

// TestStrangersAtCommands shows that the gate of another target cannot use up the starts
// of the service that runs testd's version_command.
func TestStrangersAtCommands(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.writeFile("/etc/machinemon-update/targets.d/stranger.toml", strangerTarget, 0o644)
	c.must("systemctl", "daemon-reload")
	c.must("systemctl", "start", "machinemon-accounts@stranger.service", "machinemon-command@testd.socket")
	c.start(asUser("mm-gate-stranger", "machinemon-gate", "perl", "-e", knocks)...)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.apply(0, "committed 1.1.0 (was 1.0.0)")
}

// clingy is a program that leaves a child when it is asked for its version, which kills
// every process that it may, over and over.
const clingy = `#!/bin/sh
if [ "$1" = again ]; then
	while :; do kill -s KILL -- -1; done >/dev/null 2>&1
fi
setsid "$0" again &
echo clingy 1.0.0
`

// TestStrangersAskedForTheirVersion shows that a program that root asks for its version,
// because no update has installed it, reaches no other target's program that is asked.
func TestStrangersAskedForTheirVersion(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.writeFile("/usr/local/bin/clingy", clingy, 0o755)
	c.writeFile("/etc/machinemon-update/targets.d/clingy.toml",
		strings.Replace(strings.ReplaceAll(strangerTarget, "stranger", "clingy"), "main = \"\"", "main = \"\"\nversion_command = [\"/usr/local/bin/clingy\"]", 1), 0o644)
	if s := c.must("machinemon-update", "status", "clingy"); !strings.Contains(s, "1.0.0") {
		t.Errorf("status: %s", s)
	}
	if s := c.status(); s.Installed != "1.0.0" {
		t.Errorf("status of testd: %+v", s)
	}
	if r := c.run("sh", "-c", "grep -l [c]lingy /proc/[0-9]*/cmdline"); r.Stdout != "" {
		t.Errorf("it left processes: %+v", r)
	}
}
