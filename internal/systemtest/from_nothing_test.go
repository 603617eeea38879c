//go:build systemd

package systemtest

import (
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// typed returns the commands that a section of a manual has operators type as root, without
// sudo, and the section's text.
func typed(t *testing.T, manual, section string) (commands []string, text string) {
	t.Helper()
	source, err := os.ReadFile("../../packaging/man/" + manual)
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ = strings.Cut(string(source), "\n.SH "+section+"\n")
	text, _, _ = strings.Cut(text, "\n.SH ")
	text = strings.NewReplacer(`\%`, "", `\-`, "-", `\fB`, "", `\fI`, "", `\fR`, "").Replace(text)
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(line, "$ sudo "); ok {
			commands = append(commands, strings.TrimSpace(command))
		}
	}
	return commands, text
}

// TestFromNothing: two agents that were set up as MachineMon documents it, by root and by
// another user, take a signed release by delta from a gate with a base path, by TLS. Their
// operators type the manuals' commands, and begin without our packages.
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
		a, home := f.plugIn(bootBare(t), user, old)
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
		case strings.HasSuffix(name, ".patch"), strings.HasSuffix(name, ".delta.zst"):
			deltas = append(deltas, path.Join(download, name))
		}
	}
	if len(archives) == 0 || len(deltas) != 2 {
		t.Fatalf("archives %q, deltas %q", archives, deltas)
	}
	t.Logf("sizes: %s", f.must(append([]string{"stat", "--format=%s %n"}, append(archives, deltas...)...)...))
	f.must(append([]string{"rm"}, archives...)...) // now only the delta leads to the release

	setup, _ := typed(t, "machinemon-checkin-relay.8", "EXAMPLE")
	trust, text := typed(t, "machinemon-release.1", "SIGNED RELEASES")
	const trusts = "[trust]\nmode = \"tuf\"\n"
	if len(setup) != 3 || len(trust) != 1 || !strings.Contains(text, "/etc/machinemon-update/targets.d/agent.toml") || !strings.Contains(text, trusts) {
		t.Fatalf("an operator types %q and %q", setup, trust)
	}
	page, err := os.ReadFile("../../packaging/doc/machinemon.md")
	f.ok(err)
	for _, command := range setup[1:] {
		if !strings.Contains(string(page), "sudo "+command+"\n") {
			t.Errorf("the page of MachineMon does not have %q", command)
		}
	}
	root, err := os.ReadFile(filepath.Join(f.signed.repo, "1.root.json"))
	f.ok(err)
	for _, a := range agents {
		f.step(a.name+", an agent of "+a.user, func() {
			a.bring(packages(t)...)
			a.writeFile(debsInside+"/1.root.json", string(root), 0o644)
			for n, command := range []string{setup[0], trust[0], setup[1], setup[2]} {
				if n == 1 {
					a.writeFile("/etc/machinemon-update/targets.d/agent.toml", trusts, 0o644)
				}
				command = strings.NewReplacer("apt install", strings.Join(aptGet("install"), " "), "HEX", digest(string(root))).Replace(command)
				a.must("sh", "-c", "cd "+debsInside+" && "+command)
			}
			a.must("systemctl", "stop", "machinemon-fetch@agent.timer") // only directives may start a check
			f.await(a, good, updated(good))
			f.shows(a, good, done, good, "")
			if got := a.must("machinemon-update", "status", "agent"); !strings.Contains(got, " signed ") || strings.Contains(got, "not by delta") {
				t.Errorf("status shows %s", got)
			}
		})
	}
}
