//go:build systemd

package systemtest

import (
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestRelaySetup: one command puts the relay between an agent that was set up as
// MachineMon documents it and its server, and takes nothing away if that does not work.
func TestRelaySetup(t *testing.T) {
	once(t)
	t.Parallel()
	f := newFleet(t)
	const old, good, server = "v0.1.11", "v0.1.12", "https://" + monitor
	a, home := f.plug("alice", old)
	a.writeFile("/etc/ssl/certs/ca-certificates.crt", string(f.certificate), 0o644)
	a.configureFor(server, home)
	a.must("env", "SUDO_USER=alice", clientPath, "--service-install")
	(&chain{box: a.box}).shortPause()
	a.must("systemctl", "enable", "--quiet", "--now", "machinemon-client.service")
	f.await(a, old, func(h heard) bool { return h.version == old })
	const config = "/etc/machinemon-update/checkin-relay.toml"
	asBefore := a.readFile(config)
	agent := func() string { return a.must("sh", "-c", "stat --format=%U "+homeFile+"; grep server_url "+homeFile) }

	f.step("without root", func() {
		if r := a.run("runuser", "-u", "alice", "--", "machinemon-checkin-relay", "--setup"); r.Code != 1 || !strings.Contains(r.Stderr, "only root can") {
			f.t.Errorf("%+v", r)
		}
	})
	f.step("the relay cannot reach the server", func() {
		a.writeFile(config, "server_url = \""+server+":444\"\n", 0o644)
		r := a.run("machinemon-checkin-relay", "--setup")
		if r.Code != 1 || !strings.Contains(r.Stderr, "the agent does not check in through the relay, and has its server back") {
			f.t.Errorf("%+v", r)
		}
		if got := agent(); got != "alice\nserver_url = '"+server+"'\n" {
			f.t.Errorf("the agent has %s", got)
		}
		f.await(a, old, func(h heard) bool { return h.version == old })
		if got := a.run("systemctl", "is-active", "machinemon-checkin-relay.socket").Stdout; got != "inactive\n" {
			f.t.Errorf("the socket is %s", got)
		}
		a.writeFile(config, asBefore, 0o644)
	})
	f.step("one command", func() {
		if r := a.run("machinemon-checkin-relay", "--setup"); r.Code != 0 || !strings.Contains(r.Stderr, "the agent checks in through the relay") || !strings.Contains(r.Stderr, "machinemon-update enable agent") {
			f.t.Errorf("%+v", r)
		}
		if got := agent(); got != "alice\nserver_url = 'http://"+relayAt+"'\n" {
			f.t.Errorf("the agent has %s", got)
		}
		if got := a.readFile(config); !strings.Contains(got, "\nserver_url = \""+server+"\"\n") {
			f.t.Errorf("the relay has %s", got)
		}
		f.await(a, "its status", func(h heard) bool { return h.status.Target == "agent" && h.status.Installed == old })
	})
	f.step("an update", func() {
		a.must("machinemon-update", "enable", "agent")
		a.stopShipped() // only directives may start a check
		f.publish(releases.Client{Version: good})
		f.await(a, good, updated(good))
	})
	f.step("the package goes", func() {
		if said := a.must("/var/lib/dpkg/info/machinemon-checkin.prerm", "remove"); !strings.Contains(said, "Set server_url = \""+server+"\" in its configuration") {
			f.t.Errorf("it says %q", said)
		}
	})
	f.step("again", func() {
		if r := a.run("machinemon-checkin-relay", "--setup"); r.Code != 0 || !strings.Contains(r.Stderr, "set up already") {
			f.t.Errorf("%+v", r)
		}
		f.await(a, "its status", func(h heard) bool { return h.status.Target == "agent" && h.status.Installed == good })
	})
}
