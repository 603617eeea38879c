//go:build systemd

package systemtest

import (
	"path"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestFromNothing: two agents that were set up as MachineMon documents it, by root and by
// another user, take a signed release by delta from a gate with a base path, by TLS.
// Each of typed is a command that their operator types.
func TestFromNothing(t *testing.T) {
	once(t)
	t.Parallel()
	f := newFleet(t)
	const old, good = "v0.1.11", "v0.1.12"
	f.base, f.signed = "/monitor", newPublisher(t)
	address := "https://" + monitor + f.base
	f.writeFile("/etc/machinemon-update/checkin-gate.toml", f.readFile("/etc/machinemon-update/checkin-gate.toml")+
		"external_url = \""+address+"\"\n", 0o644)
	f.must("systemctl", "try-restart", "machinemon-checkin-gate.service")
	f.sign(releases.Client{Version: old})

	var agents []*edge
	for _, user := range []string{"root", "alice"} {
		a, home := f.plug(user, old)
		a.writeFile("/etc/ssl/certs/ca-certificates.crt", string(f.certificate), 0o644)
		a.configureFor(address, home)
		a.must("env", "SUDO_USER="+user, clientPath, "--service-install")
		if got := a.readFile("/etc/systemd/system/machinemon-client.service"); !strings.Contains(got, "--config "+home+"/.config/machinemon/client.toml") {
			t.Errorf("the agent's unit is %s", got)
		}
		(&chain{box: a.box}).shortPause()
		a.must("systemctl", "enable", "--quiet", "--now", "machinemon-client.service")
		f.await(a, old, func(h heard) bool { return h.version == old })
		agents = append(agents, a)
	}
	f.sign(releases.Client{Version: good})
	var archives, deltas []string
	for _, name := range f.list(download) {
		switch {
		case strings.HasSuffix(name, ".tar.gz"):
			archives = append(archives, path.Join(download, name))
		case strings.HasSuffix(name, ".delta.zst"):
			deltas = append(deltas, path.Join(download, name))
		}
	}
	if len(archives) == 0 || len(deltas) != 1 {
		t.Fatalf("archives %q, deltas %q", archives, deltas)
	}
	t.Logf("sizes: %s", f.must(append([]string{"stat", "--format=%s %n"}, append(archives, deltas...)...)...))
	f.must(append([]string{"rm"}, archives...)...) // now only the delta leads to the release

	for _, a := range agents {
		f.step(a.name+", an agent of "+a.user, func() {
			a.pinAgent(f.signed)
			for _, typed := range [][]string{{"machinemon-checkin-relay", "--setup"}, {"machinemon-update", "enable", "agent"}} {
				a.must(typed...)
			}
			a.stopShipped() // only directives may start a check
			f.await(a, good, updated(good))
			f.shows(a, good, done, good, "")
			if got := a.must("machinemon-update", "status", "agent"); !strings.Contains(got, " signed ") || strings.Contains(got, "not by delta") {
				t.Errorf("status shows %s", got)
			}
		})
	}
}
