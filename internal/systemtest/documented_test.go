//go:build systemd

package systemtest

import (
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

const (
	addCheck  = "/usr/lib/machinemon-update/add-agent-check"
	homeFile  = "/home/alice/.config/machinemon/client.toml"
	homeURL   = "https://" + monitor + ":9001/mon/"
	homeCheck = `script_path = "machinemon-update status --check agent"`
)

// setUp sets the client up as MachineMon documents it: as a normal user, then its service
// by sudo.
func (a *agent) setUp(version string) {
	a.t.Helper()
	a.must("useradd", "--create-home", "alice")
	a.writeFile(clientPath, string(build(a.t, releases.Client{Version: version})), 0o755)
	a.must("runuser", "-l", "alice", "-c", clientPath+" --server "+homeURL+" --password "+password+" --no-daemon")
	a.must("env", "SUDO_USER=alice", clientPath, "--service-install")
	since := a.cursor()
	a.must("systemctl", "enable", "--quiet", "--now", "machinemon-client.service")
	a.checksIn(since)
}

// TestDocumentedInstall: the agent is a service of root whose configuration is in the home
// of the user that set it up. Two commands update it and report that to its server.
func TestDocumentedInstall(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	_, dir := a.source(9001)
	a.setUp("1.0.0")
	if said := a.must("/var/lib/dpkg/info/machinemon-update-agent.postinst", "configure", ""); !strings.Contains(said, addCheck) {
		t.Errorf("the package says %q", said)
	}
	a.release(dir, releases.Client{Version: "1.1.0"})
	a.asks(0, "scheduled runs install", "enable", "agent")
	a.must("systemctl", "stop", "machinemon-fetch@agent.timer") // only the runs below may start
	a.uses("https://"+monitor+":9001/mon/download/client-manifest.json", "")
	since := a.cursor()
	a.tick()
	a.awaitEvent(since, "machinemon-commit@agent.service started")
	a.runs("1.1.0")

	if said := a.must(addCheck); !strings.Contains(said, homeFile) {
		t.Errorf("%s said %q", addCheck, said)
	}
	a.asks(0, "", "status", "agent")
	a.restartsWith(homeFile, homeCheck)
	if got := a.must("stat", "--format=%a %U", homeFile, "/home/alice"); got != "600 alice\n"+a.must("stat", "--format=%a", "/home/alice")[:3]+" alice\n" {
		t.Errorf("owners and modes: %s", got)
	}
	a.release(dir, releases.Client{Version: "1.2.0"})
	a.asks(0, "committed 1.2.0 (was 1.1.0)", "apply", "agent")

	a.step("files that root must not believe", func() {
		refused := func(why string) (hint string) {
			a.t.Helper()
			r := a.run("machinemon-update", "check", "agent")
			if said := r.Stdout + r.Stderr; r.Code != 2 || !strings.Contains(said, why) || strings.Contains(said, "chown") || strings.Contains(said, password) {
				a.t.Errorf("%+v, want %s", r, why)
			}
			_, hint, _ = strings.Cut(r.Stdout, "(hint: ")
			return hint
		}
		const dropIn = "/etc/systemd/system/machinemon-client.service.d/user.conf"
		a.must("chmod", "o+w", homeFile)
		refused(homeFile + " is writable by everyone")
		a.must("chmod", "o-w", homeFile)
		a.must("sh", "-c", "cd /home/alice && mv .config x && runuser -u alice -- ln -s x .config")
		refused(homeFile + ": is reached by a link of a user")
		a.must("sh", "-c", "cd /home/alice && rm .config && mv x .config")
		a.writeFile(dropIn, "[Service]\nUser=alice\n", 0o644)
		a.must("systemctl", "daemon-reload")
		hint := refused("/home/alice is owned by user 1000, not by root")

		// What the hint says is enough.
		line, rest, _ := strings.Cut(strings.TrimPrefix(hint, "write "), ", with the server's name, to ")
		file, _, _ := strings.Cut(rest, ")")
		a.writeFile(file, strings.Replace(line, "SERVER", monitor+":9001/mon", 1)+"\n", 0o644)
		a.asks(0, "already current (1.2.0)", "check", "agent")
	})
}

// restartsWith restarts the agent, which must check in, and whose configuration must have
// the text.
func (a *agent) restartsWith(file, text string) {
	a.t.Helper()
	if got := a.readFile(file); strings.Count(got, text) != 1 {
		a.t.Errorf("%s has not one %s:\n%s", file, text, got)
	}
	since := a.cursor()
	a.must("systemctl", "reset-failed", "machinemon-client.service") // a person restarts it less often
	a.must("systemctl", "restart", "machinemon-client.service")
	a.checksIn(since)
}

// TestAddAgentCheck: after the check was added, the agent starts; where that cannot be, the
// configuration stays as it was.
func TestAddAgentCheck(t *testing.T) {
	once(t)
	t.Parallel()
	a := newAgent(t)
	a.source(9001)
	if r := a.run(addCheck); r.Code != 1 || !strings.Contains(r.Stderr, "cannot add the check: there is no "+clientConfig) {
		t.Errorf("without a configuration: %+v", r)
	}
	a.configure(9001, "")
	if r := a.run(addCheck); r.Code != 1 || !strings.Contains(r.Stderr, "there is no "+clientPath) {
		t.Errorf("without an agent: %+v", r)
	}
	a.installClient("1.0.0")
	for _, row := range []struct{ name, more, refuses string }{
		{"nothing", "", ""},
		{"a table, without a newline at the end", "[[process]]\nfriendly_name = \"nginx\"", ""},
		{"the wizard's empty list", "check = []\n\n[[process]]\nfriendly_name = \"nginx\"\n", ""},
		{"an empty list with a comment", "check = [ ] # none\n", ""},
		{"an empty list, CRLF", "check = []\r\n[[process]]\r\nfriendly_name = \"nginx\"\r\n", ""},
		{"the check in a comment", "# script_path = \"machinemon-update status --check agent\"\n", ""},
		{"another check", "[[check]]\ntype = \"script\"\nfriendly_name = \"disk\"\nscript_path = \"echo # \"\n", ""},
		{"a check that has an empty list", "[[process]]\nfriendly_name = \"nginx\"\ncheck = []\n", ""},
		{"inline", "check = [{ type = \"script\", friendly_name = \"disk\", script_path = \"true\" }]\n", "{ type = \"script\", friendly_name = \"updates\", script_path = \"machinemon-update status --check agent\" }"},
		{"an empty list of two lines", "check = [ # none\n]\n", "add to its list of checks"},
		{"a quoted key", "\"check\" = []\n", "add to its list of checks"},
		{"unusable before", "check =\n", "even without it"},
	} {
		a.step(row.name, func() {
			a.configure(9001, row.more)
			before := a.readFile(clientConfig)
			r := a.run(addCheck)
			if row.refuses != "" {
				if r.Code != 1 || !strings.Contains(r.Stderr, row.refuses) || a.readFile(clientConfig) != before {
					a.t.Errorf("%+v, want %s", r, row.refuses)
				}
				return
			}
			if r.Code != 0 {
				a.t.Fatalf("%+v", r)
			}
			a.restartsWith(clientConfig, "\n"+homeCheck)
			after := a.readFile(clientConfig)
			if again := a.must(addCheck); a.readFile(clientConfig) != after || !strings.Contains(again, "already") {
				a.t.Errorf("again: %q", again)
			}
			if got := a.must("stat", "--format=%a %u", clientConfig); got != "600 0\n" {
				a.t.Errorf("the configuration is %s", got)
			}
		})
	}
	if left := a.must("ls", "-A", "/root/.config/machinemon"); left != "client.toml\n" {
		t.Errorf("left behind: %s", left)
	}
	// Root changes no file whose directory belongs to another user than the file.
	const theirs = "/srv/agent/client.toml"
	a.must("install", "-d", "-o", "nobody", "/srv/agent")
	a.writeFile(theirs, "server_url = \"https://example.com\"\npassword = \"x\"\n", 0o600)
	if r := a.run(addCheck, theirs); r.Code != 1 || !strings.Contains(r.Stderr, "belongs to another user (hint: ") {
		t.Errorf("root's file in nobody's directory: %+v", r)
	}
	a.must("chown", "nobody", theirs)
	a.must(addCheck, theirs)
	if got := a.must("sh", "-c", "stat --format='%a %U' "+theirs+"; ls -A /srv/agent; grep -c status "+theirs); got != "600 nobody\nclient.toml\n1\n" {
		t.Errorf("nobody's configuration: %s", got)
	}
	// This is the command that the agent would run.
	if r := a.run("sh", "-c", "machinemon-update status --check agent"); r.Code != 0 || !strings.HasPrefix(r.Stdout, `machinemon-update {"target":"agent","installed":"1.0.0"`) {
		t.Errorf("the check: %+v", r)
	}
}
