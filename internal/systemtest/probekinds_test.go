//go:build systemd

package systemtest

import (
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

const (
	kindsSocket  = "/run/testd.sock"
	kindsHeaders = "/etc/testd.headers"
)

// kindsUnit is testd with each of its sockets.
var kindsUnit = strings.Replace(testdUnit, "[Service]\n", "[Service]\nEnvironment=TESTD_TLS="+testdTLS+" TESTD_CERT=/etc/testd.pem TESTD_SOCKET="+kindsSocket+"\n", 1)

// probeKinds has a row for each way to ask testd, and what `probe` says of it.
var probeKinds = []struct{ probe, says string }{
	{"http = 'http://" + testdAddress + "/healthz'\nexpect_status = '2xx'\n", "status 2xx"},
	{"http = 'https://" + testdTLS + "/healthz'\nca_file = '/etc/testd.pem'\n", "status 200"},
	{"http = 'https://" + testdTLS + "/private'\ninsecure_skip_tls = true\nheaders_file = '" + kindsHeaders + "'\n", "status 200"},
	{"http = 'http://" + testdAddress + "/private'\nexpect_status = 401\n", "status 401"},
	{"http = 'http://localhost/private'\nunix = '" + kindsSocket + "'\nheaders_file = '" + kindsHeaders + "'\ntimeout_seconds = 3\n", "status 200"},
	{"grpc = 'http://" + testdAddress + "/any.Service'\n", "its health service says SERVING"},
	{"grpc = 'http://localhost'\nunix = '" + kindsSocket + "'\n", "its health service says SERVING"},
}

// TestProbeKinds updates one daemon by the probes of each kind, and by releases that print
// their version in the forms of several publishers.
func TestProbeKinds(t *testing.T) {
	once(t)
	t.Parallel()
	b := boot(t)
	b.writeFile(kindsHeaders, "# of the monitor\nAuthorization: Basic probe:hunter2\n", 0o600)
	text, _, _ := strings.Cut(testdTarget, "[[health.probe]]")
	for _, k := range probeKinds {
		text += "[[health.probe]]\n" + k.probe
	}
	c := b.chain(kindsUnit, text)
	// Another user looks at the files that systemd hands to the gate, while they are there.
	for _, unit := range []string{"baseline", "health-gate"} {
		c.writeFile("/etc/systemd/system/machinemon-"+unit+"@testd.service.d/look.conf", "[Service]\nExecStartPre=+-/bin/sh -c 'runuser -u nobody -- cat /run/credentials/*/probe-* >&2'\n", 0o644)
	}
	c.must("systemctl", "daemon-reload")
	since := c.cursor()

	c.step("each kind passes", func() {
		said := c.must("machinemon-update", "probe", "testd")
		for _, k := range probeKinds {
			if !strings.Contains(said, k.says) {
				c.t.Errorf("%s: does not say %q", k.probe, k.says)
			}
		}
		if n := strings.Count(said, " passes "); n != len(probeKinds) {
			c.t.Errorf("%d pass:\n%s", n, said)
		}
	})
	for _, r := range []struct {
		name, version, behaviour, pattern string
		exit                              int
		says                              string
	}{
		{"a name before the version", "1.1.0", "says-name", "", 0, "committed 1.1.0 (was 1.0.0)"},
		{"a pattern", "1.4.0", "says-library-first", "version_pattern = 'testd build (.*)'\n", 0, "committed 1.4.0 (was 1.1.0)"},
		{"no version", "1.5.0", "says-usage", "", 2, "cannot tell the version of the new program: it (exit status 2) prints no version, and must print 1.5.0 (hint: correct health.version_command; health.version_pattern selects a part of its output); it said: usage: testd [-v]"},
	} {
		c.step(r.name, func() {
			c.writeTarget(strings.Replace(text, "[[health.probe]]", r.pattern+"[[health.probe]]", 1))
			c.publish(c.dir, releases.Daemon{Version: r.version, Behaviour: r.behaviour})
			c.apply(r.exit, r.says)
		})
	}
	c.step("the secret stays with root", func() {
		log := c.journal("--after-cursor=" + string(since))
		if !strings.Contains(log, "machinemon-health-gate@testd.service") || strings.Count(log, "Permission denied") < 4 {
			c.t.Errorf("nobody has looked:\n%s", log)
		}
		if strings.Contains(log, "hunter2") {
			c.t.Error("the journal has the password")
		}
		if found := c.run("grep", "-rl", "hunter2", "/run", "/var/lib/machinemon-update").Stdout; found != "" {
			c.t.Errorf("the password is in %s", found)
		}
	})
	c.step("the secret is missing", func() {
		c.must("mv", kindsHeaders, kindsHeaders+".away")
		pid := c.mainPID()
		c.apply(2, "cannot judge testd: http https://"+testdTLS+"/private: headers_file "+kindsHeaders+" does not exist (hint: make it, or leave headers_file out)")
		if now := c.mainPID(); now != pid {
			c.t.Errorf("the main process was %s and is %s", pid, now)
		}
		c.must("mv", kindsHeaders+".away", kindsHeaders)
	})
	c.step("the secret is readable by all", func() {
		c.must("chmod", "0644", kindsHeaders)
		if r := c.run("machinemon-update", "apply", "testd"); r.Code != 2 || !strings.Contains(r.Stdout+r.Stderr, kindsHeaders+" may be read by others than root (hint: chmod 0600 "+kindsHeaders+")") {
			c.t.Errorf("exit status %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
		c.must("chmod", "0600", kindsHeaders)
	})
	c.step("a daemon that needs longer", func() {
		c.writeTarget(strings.Replace(text, "timeout_seconds = 10", "timeout_seconds = 3", 1))
		c.publish(c.dir, releases.Daemon{Version: "1.7.0", Behaviour: "ready-after-6s"})
		c.apply(4, "rolled back 1.7.0: http http://"+testdAddress+"/healthz did not pass within 3 s: connection refused (hint: if testd.service needs longer to start, raise health.timeout_seconds)", "1.4.0 runs again")
	})
}
