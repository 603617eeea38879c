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
	// refused runs a setup that must fail and change nothing.
	refused := func(why string) {
		f.t.Helper()
		before := a.readFile(config) + agent()
		r := a.run("machinemon-checkin-relay", "--setup")
		if r.Code != 1 || !strings.Contains(r.Stderr, why) {
			f.t.Errorf("%+v, want %q", r, why)
		}
		if after := a.readFile(config) + agent(); after != before {
			f.t.Errorf("%s: changed from\n%s\nto\n%s", why, before, after)
		}
		f.await(a, old, func(h heard) bool { return h.version == old })
		if got := a.run("systemctl", "is-active", "machinemon-checkin-relay.socket").Stdout; got != "inactive\n" {
			f.t.Errorf("the socket is %s", got)
		}
	}
	f.step("the relay cannot reach the server", func() {
		const proxy = "/run/systemd/system/machinemon-checkin-relay.service.d/proxy.conf"
		a.writeFile(proxy, "[Service]\nEnvironment=HTTPS_PROXY=http://127.0.0.1:1\n", 0o644)
		a.must("systemctl", "daemon-reload")
		refused("and undid its steps: the agent does not check in through the relay")
		a.must("rm", proxy)
		a.must("systemctl", "daemon-reload")
	})
	f.step("a step fails", func() {
		a.must("systemctl", "mask", "--quiet", "machinemon-checkin-relay.socket")
		refused("and undid its steps: systemctl enable")
		a.must("systemctl", "unmask", "--quiet", "machinemon-checkin-relay.socket")
		const targets = "/etc/machinemon-update/targets.d"
		a.must("mount", "--bind", "-o", "ro", targets, targets)
		refused("read-only file system")
		a.must("umount", targets)
	})
	f.step("no such target", func() {
		a.writeFile(config, "target = \"agnet\"\n", 0o644)
		refused("there is no target agnet (hint: sudo apt install machinemon-update-agent brings the agent's; target in " + config + " names another)")
	})
	f.step("the operator wrote another server", func() {
		a.writeFile(config, "server_url = \""+server+":444\"\n", 0o644)
		refused("the agent checks in at " + server + ", and " + config + " has server_url = \"" + server + ":444\"")
	})
	f.step("a link of the user", func() {
		a.writeFile(config, "server_url = \""+server+"\"\n", 0o644)
		a.must("install", "-m", "0600", homeFile, "/root/secret.toml")
		a.must("mv", homeFile, homeFile+".1")
		a.must("runuser", "-u", "alice", "--", "ln", "-s", "/root/secret.toml", homeFile)
		if r := a.run("machinemon-checkin-relay", "--setup"); r.Code != 1 || !strings.Contains(r.Stderr, homeFile+": is reached by a link of a user") {
			f.t.Errorf("%+v", r)
		}
		if got := a.readFile("/root/secret.toml"); strings.Contains(got, relayAt) {
			f.t.Errorf("root's file has %s", got)
		}
		a.must("mv", homeFile+".1", homeFile)
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
	f.step("the agent got another server", func() {
		f.publish(releases.Client{Version: "v0.1.13"}, "--disabled")
		const other = server + ":443"
		a.must("runuser", "-u", "alice", "--", clientPath, "--config", homeFile, "--server", other, "--no-daemon")
		if r := a.run("machinemon-checkin-relay", "--setup"); r.Code != 0 || !strings.Contains(r.Stderr, "the agent checks in through the relay") ||
			!strings.HasSuffix(r.Stderr, "\nagent: not attempted v0.1.13: the publisher has disabled updates\n") {
			f.t.Errorf("%+v", r)
		}
		if got := agent(); got != "alice\nserver_url = 'http://"+relayAt+"'\n" {
			f.t.Errorf("the agent has %s", got)
		}
		if got := a.must("grep", "-h", "server_url = ", config); got != "#server_url = \"https://monitor.example.com\"\nserver_url = \""+other+"\"\n" {
			f.t.Errorf("the relay has %s", got)
		}
		f.await(a, "its status", func(h heard) bool { return h.status.Target == "agent" && h.status.Installed == good })
	})
	f.step("the package goes", func() {
		if said := a.must("/var/lib/dpkg/info/machinemon-checkin.prerm", "remove"); !strings.Contains(said, "Set server_url = \""+server+":443\" in its configuration") {
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
