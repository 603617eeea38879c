//go:build systemd

package systemtest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// squatter is a program of a local user that listens where testd should. Rollbacks end it.
const squatter = `[Unit]
Before=machinemon-rollback@testd.service
Conflicts=machinemon-rollback@testd.service
[Service]
Type=notify
User=nobody
ExecStart=/usr/local/bin/squatter
`

// squatted is a unit that the squatter attacks between its stop and its next start, while
// the file /run/attack exists.
var squatted = strings.Replace(testdUnit, "[Service]\n",
	"[Service]\nExecStopPost=-/bin/sh -c 'test -e /run/attack && rm /run/attack && systemctl start squatter.service'\n", 1)

// squat lets the squatter attack the next restart.
func (c *chain) squat() { c.writeFile("/run/attack", "", 0o644) }

func (c *chain) bringSquatter(unit string) {
	c.t.Helper()
	c.writeFile("/usr/local/bin/squatter", string(build(c.t, releases.Daemon{Version: "6.6.6"})), 0o755)
	c.writeFile("/etc/systemd/system/squatter.service", unit, 0o644)
	c.must("systemctl", "daemon-reload")
}

// TestStrangerOnPort: a local user takes the port while the unit restarts, and answers the
// probe. A release that never listens is not committed for that, and a good release that
// cannot listen is not rejected.
func TestStrangerOnPort(t *testing.T) {
	t.Parallel()
	c := newChain(t, squatted, strings.Replace(testdTarget, "timeout_seconds = 10", "timeout_seconds = 3", 1))
	c.bringSquatter(squatter)
	const stranger = "another program than testd.service answers: a program of control group /system.slice/squatter.service (hint: ss -ltnp"

	c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "never-listen"})
	c.squat()
	c.apply(4, "rolled back 1.1.0: http http://"+testdAddress+"/healthz did not pass within 3 s: "+stranger, "1.0.0 runs again")
	c.assertRuns(releases.Daemon{Version: "1.0.0"})
	c.assertClosed("")

	c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
	c.squat()
	c.apply(4, "rolled back 1.2.0: its main process ", stranger, "1.0.0 runs again")
	c.assertRuns(releases.Daemon{Version: "1.0.0"})
	c.must("systemctl", "reset-failed", "testd.service")
	c.apply(0, "committed 1.2.0 (was 1.0.0)")
	c.assertRuns(releases.Daemon{Version: "1.2.0"})
}

// TestStrangerOnSocket: the same on a Unix socket in a directory that every user may write.
func TestStrangerOnSocket(t *testing.T) {
	t.Parallel()
	const socket = "/srv/open/testd.sock"
	unit := strings.Replace(squatted, "[Service]\n", "[Service]\nEnvironment=TESTD_SOCKET="+socket+"\nExecStartPre=/bin/mkdir -p -m 0777 /srv/open\n", 1)
	before, _, _ := strings.Cut(testdTarget, "[[health.probe]]")
	c := newChain(t, unit, strings.Replace(before, "timeout_seconds = 10", "timeout_seconds = 3", 1)+"[[health.probe]]\nunix = \""+socket+"\"\n")
	c.bringSquatter(strings.Replace(squatter, "[Service]\n", "[Service]\nEnvironment=TESTD_ADDRESS=127.0.0.1:9666 TESTD_SOCKET="+socket+"\n", 1))
	c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "never-listen"})
	c.squat()
	c.apply(4, "rolled back 1.1.0: unix "+socket+" did not pass within 3 s: another program than testd.service answers: process ", "of user 65534 (hint: ss -lxp", "1.0.0 runs again")
	c.assertRuns(releases.Daemon{Version: "1.0.0"})
	c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
	c.apply(0, "committed 1.2.0 (was 1.0.0)")
}

// TestOwnSockets: the probes of a unit pass in each way in which its programs may listen.
func TestOwnSockets(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	target, _, _ := strings.Cut(strings.Replace(testdTarget, "timeout_seconds = 10", "timeout_seconds = 3", 1), "[[health.probe]]")
	service := func(lines string) string { return strings.Replace(testdUnit, "[Service]\n", "[Service]\n"+lines, 1) }
	const http4, http6 = "[[health.probe]]\nhttp = \"http://" + testdAddress + "/healthz\"\n", "[[health.probe]]\nhttp = \"http://[::1]:9200/healthz\"\n"
	for i, s := range []struct{ name, unit, socket, probes string }{
		{"on all addresses of both families", service("Environment=TESTD_ADDRESS=[::]:9200\n"), "", http4 + http6},
		{"by IPv6", service("Environment=TESTD_ADDRESS=[::1]:9200\n"), "", http6 + "[[health.probe]]\ntcp = \"[::1]:9200\"\n"},
		{"in a group below the unit's", strings.Replace(service("Delegate=yes\n"), "ExecStart=/usr/local/bin/testd",
			"ExecStart=/bin/sh -c 'cd /sys/fs/cgroup/system.slice/testd.service && mkdir worker && echo $$$$ >worker/cgroup.procs && exec /usr/local/bin/testd'", 1), "", http4},
		{"as another user, on a Unix socket", service("User=daemon\nRuntimeDirectory=testd\nEnvironment=TESTD_SOCKET=/run/testd/s\n"), "", http4 + "[[health.probe]]\nunix = \"/run/testd/s\"\n"},
		{"on an address that others reach, by a name", service("ExecStartPre=/bin/sh -c 'ip address replace 10.77.0.1/32 dev lo; grep -q testd.example /etc/hosts || echo 10.77.0.1 testd.example >>/etc/hosts'\nEnvironment=TESTD_ADDRESS=[::]:9200\n"), "",
			"[[health.probe]]\nhttp = \"http://testd.example:9200/healthz\"\n[[health.probe]]\ntcp = \"10.77.0.1:9200\"\n"},
		{"on sockets of systemd", service(""), "[Socket]\nListenStream=" + testdAddress + "\nListenStream=/run/testd.sock\n", http4 + "[[health.probe]]\nunix = \"/run/testd.sock\"\n"},
	} {
		c.step(s.name, func() {
			c.must("systemctl", "stop", "testd.service")
			if s.socket != "" {
				c.writeFile("/etc/systemd/system/testd.socket", s.socket, 0o644)
			}
			c.writeFile("/etc/systemd/system/testd.service", s.unit, 0o644)
			c.writeTarget(target + s.probes)
			c.must("systemctl", "daemon-reload")
			if s.socket != "" {
				c.must("systemctl", "start", "testd.socket")
			}
			c.must("systemctl", "start", "testd.service")
			version := fmt.Sprintf("1.%d.0", i+1)
			c.publish(c.dir, releases.Daemon{Version: version})
			c.apply(0, "committed "+version)
			t.Log(c.must("machinemon-update", "probe", "testd"))
		})
	}
}

// TestForeign: a probe through a proxy in front of the unit needs foreign = true.
func TestForeign(t *testing.T) {
	once(t)
	t.Parallel()
	target := strings.Replace(testdTarget, testdAddress, "127.0.0.1:9300", 1)
	c := newChain(t, testdUnit, target)
	c.writeFile("/etc/systemd/system/proxy.socket", "[Socket]\nListenStream=127.0.0.1:9300\n", 0o644)
	c.writeFile("/etc/systemd/system/proxy.service", "[Service]\nExecStart=/usr/lib/systemd/systemd-socket-proxyd "+testdAddress+"\n", 0o644)
	c.must("systemctl", "daemon-reload")
	c.must("systemctl", "start", "proxy.socket")
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.refused(2, "misconfigured", "swap", "1.1.0", "cannot judge testd: http http://127.0.0.1:9300/healthz: another program than testd.service answers",
		"if it is a proxy in front of testd.service, write foreign = true in this probe)")
	if r := c.run("machinemon-update", "probe", "testd"); r.Code != 1 || !strings.Contains(r.Stdout, "another program than testd.service answers") {
		t.Errorf("probe: %+v", r)
	}
	c.writeTarget(target + "foreign = true\n")
	c.apply(0, "committed 1.1.0 (was 1.0.0)")
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	if r := c.run("machinemon-update", "probe", "testd"); r.Code != 0 || !strings.Contains(r.Stdout, "status 200, by any program (foreign = true)") {
		t.Errorf("probe: %+v", r)
	}
	if r := c.run("machinemon-update", "probe", "--json", "testd"); !strings.Contains(r.Stdout, `"foreign": true`) {
		t.Errorf("probe --json: %+v", r)
	}
}

// TestStrangerInSilence: a local user takes the port in the same moment and does not listen,
// which no list of sockets shows. A good release that cannot listen is not rejected.
func TestStrangerInSilence(t *testing.T) {
	t.Parallel()
	c := newChain(t, squatted, strings.Replace(testdTarget, "timeout_seconds = 10", "timeout_seconds = 3", 1))
	host, port, _ := strings.Cut(testdAddress, ":")
	c.bringSquatter(strings.NewReplacer("Type=notify", "Type=forking", "/usr/local/bin/squatter", // it has the port when it forks
		`/usr/bin/perl -MSocket -e 'socket(S, PF_INET, SOCK_STREAM, 0); setsockopt(S, SOL_SOCKET, SO_REUSEADDR, 1); bind(S, pack_sockaddr_in(`+port+`, inet_aton("`+host+`"))) or die; setsockopt(S, SOL_SOCKET, SO_REUSEADDR, 0); fork and exit; sleep'`).Replace(squatter))
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.squat()
	c.apply(4, "rolled back 1.1.0: its main process ", "another program than testd.service has the address "+testdAddress+", and does not listen there", "1.0.0 runs again")
	c.assertRuns(releases.Daemon{Version: "1.0.0"})
	c.must("systemctl", "reset-failed", "testd.service")
	c.apply(0, "committed 1.1.0 (was 1.0.0)")
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
}
