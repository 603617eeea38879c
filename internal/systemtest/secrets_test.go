//go:build systemd

package systemtest

import (
	"fmt"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// secrets are texts that were given in confidence, by what they are. All contain "SECRET",
// except the digests, with which a guess of a secret file could be verified.
var secrets = map[string]string{
	"the token":                      "tokenSECRETa",
	"the query of an import":         "querySECRETb",
	"the password of an address":     "userinfoSECRETc",
	"the client's key":               "clientSECRETd",
	"a snapshot's file":              "snapshotSECRETe",
	"a hook's output":                "hookSECRETf",
	"a probe's output":               "probeSECRETg",
	"the digest of a snapshot":       digest("snapshotSECRETe\n"),
	"the digest of an installed one": digest("key = \"clientSECRETd\"\n"),
}

// onlyRoot are those that systemd's journal may have, which only root and a few groups
// read.
var onlyRoot = map[string]bool{"a hook's output": true, "a probe's output": true}

// TestSecrets: whatever the command does, other users find nothing in /run, /var, the
// journal and /proc that was given in confidence.
func TestSecrets(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	// Programs and services of the test itself are not to be read for secrets.
	patterns := ""
	for _, s := range secrets {
		patterns += s + "\n"
	}
	c.writeFile("/opt/patterns", patterns, 0o644)
	c.must("install", "-d", "-m", "755", "/etc/testd", "/etc/machinemon-update/hooks")
	c.writeFile("/etc/testd/shadow", "snapshotSECRETe\n", 0o600)
	const conf = "key = \"clientSECRETd\"\n"
	c.writeFile("/etc/testd/client.toml", conf, 0o600)
	c.writeFile("/root/token", "tokenSECRETa\n", 0o600)
	c.writeFile("/root/monitor.toml", "server_url = \"http://"+releasesAt+"\"\n"+conf, 0o600)
	hook := func(more string) {
		t.Helper()
		c.writeFile("/etc/machinemon-update/hooks/pre", "#!/bin/sh\necho hookSECRETf\n"+more+"\n", 0o755)
	}
	hook("exit 3")
	c.writeFile("/etc/testd/probed", "probeSECRETg\n", 0o600) // its group may read it
	c.writeFile("/usr/local/bin/probe", "#!/bin/sh\n[ ! -e /etc/testd/ill ] || { cat /etc/testd/probed; exit 1; }\n", 0o755)
	c.must("chgrp", "machinemon-gate", "/etc/testd/probed")
	c.must("chmod", "640", "/etc/testd/probed")
	// The version of an imported archive is not in its name.
	plain := strings.Replace(testdTarget, "version_command = [\""+testdPath+"\", \"--version\"]\n", "", 1)
	plain += "[[health.probe]]\ncommand = [\"/usr/local/bin/probe\"]\n"
	file := strings.Replace(plain, "[health]", "[[install]]\nfrom = \"client.toml\"\nto = \"/etc/testd/client.toml\"\n[health]", 1) + "[rollback]\nsnapshot = [\"/etc/testd/shadow\"]\n" +
		"[hooks]\npre_swap = [\"/etc/machinemon-update/hooks/pre\"]\n"
	c.target(file)
	other := strings.Replace(testdTarget, "url = \"http://"+releasesAt+"/client-manifest.json\"\n", "%s", 1)
	c.writeFile("/etc/machinemon-update/targets.d/hub.toml", strings.ReplaceAll(fmt.Sprintf(other, githubTarget[len("[source]\n"):]+"token_file = \"/root/token\"\n"), testdPath, "/usr/local/bin/hub"), 0o644)
	c.writeFile("/etc/machinemon-update/targets.d/from.toml", strings.ReplaceAll(fmt.Sprintf(other,
		"url_from = { file = \"/root/monitor.toml\", key = \"server_url\", append = \"/client-manifest.json\" }\n"), testdPath, "/usr/local/bin/from"), 0o644)
	c.must("systemctl", "daemon-reload")

	// This finds what is there for a short time only, such as requests and arguments.
	watch := c.start("runuser", "-u", "nobody", "--", "sh", "-c", "exec 2>/dev/null; while :; do "+
		"grep -rasF -D skip -f /opt/patterns /run/machinemon-update /var/lib/machinemon-update; "+
		"cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n' | grep -aF -f /opt/patterns; done")

	search := func(as string, allowed map[string]bool, where string) {
		t.Helper()
		found := c.run("runuser", "-u", as, "--", "sh", "-c", where).Stdout
		for what, secret := range secrets {
			if strings.Contains(found, secret) && !allowed[what] {
				t.Errorf("user %s finds %s:\n%.600s", as, what, lineWith(found, secret))
			}
		}
	}
	const files = "grep -rasF -D skip -f /opt/patterns /run /var /tmp /dev/shm 2>/dev/null; "
	const processes = "for f in /proc/[0-9]*/cmdline /proc/[0-9]*/environ; do tr '\\0' '\\n' <$f; echo; done 2>/dev/null; systemctl show '*' --all 2>/dev/null; "
	const journal = "journalctl --no-pager --all --output=export 2>/dev/null; "
	after := func(what string) {
		t.Helper()
		c.step(what, func() {
			search("nobody", nil, files+processes+journal)
			search("root", onlyRoot, journal)
		})
	}
	do := func(exit int, argv ...string) {
		t.Helper()
		r := c.run(argv...)
		if r.Code != exit {
			t.Errorf("%q: exit status %d, want %d: %s%s", argv, r.Code, exit, r.Stdout, r.Stderr)
		}
		after(strings.Join(argv, " "))
	}
	importing := func(exit int, address string) {
		t.Helper()
		c.writeFile("/root/address", address+"\n", 0o600)
		do(exit, "sh", "-c", "machinemon-update import testd - </root/address")
	}
	publish := func(d releases.Daemon) {
		t.Helper()
		c.publishFiles(c.dir, d.Version, releases.File{Name: "testd", Content: build(t, d)}, releases.File{Name: "client.toml", Content: []byte("key = \"\"\n")})
	}

	publish(releases.Daemon{Version: "1.1.0"})
	do(3, "machinemon-update", "check", "testd")
	do(1, "machinemon-update", "apply", "testd") // its hook fails
	do(7, "machinemon-update", "check", "hub")   // this server is not GitHub
	do(2, "machinemon-update", "check", "from")  // over plain http
	importing(2, "https://user:userinfoSECRETc@"+monitor+"/x?sig=querySECRETb")
	importing(7, "http://"+releasesAt+"/none.tar.gz?sig=querySECRETb")
	hook("")
	base, err := url.JoinPath("http://"+releasesAt, c.archive("1.1.0"))
	c.ok(err)
	importing(0, base+"?sig=querySECRETb")
	publish(releases.Daemon{Version: "1.2.0", Behaviour: "exit1-at-once"})
	do(4, "machinemon-update", "apply", "testd")
	do(0, "machinemon-update", "rollback", "testd")
	if got := c.readFile("/etc/testd/client.toml"); got != conf {
		t.Errorf("after the rollback the file has %q", got)
	}
	do(0, "machinemon-update", "hold", "testd")
	do(8, "machinemon-update", "apply", "testd")
	do(0, "machinemon-update", "unhold", "testd")
	do(0, "machinemon-update", "probe", "testd")
	do(8, "machinemon-update", "settle", "testd", "keep")
	do(8, "machinemon-update", "check", "testd") // the release is rejected
	do(0, "machinemon-update", "history", "testd")
	do(0, "machinemon-update", "history", "--json", "testd")
	do(0, "machinemon-update", "status", "--json")
	c.writeFile("/etc/testd/ill", "", 0o644)
	publish(releases.Daemon{Version: "1.3.0"})
	do(4, "machinemon-update", "apply", "testd") // its probe fails
	do(0, "machinemon-update", "status", "--json", "testd")
	got := c.must("machinemon-update", "history", "testd")
	for _, said := range []string{"hookSECRETf", "probeSECRETg"} {
		if !strings.Contains(got, said) {
			t.Errorf("root does not see %s: %s", said, got)
		}
	}
	c.ok(watch.Signal(syscall.SIGTERM))
	if seen := c.wait(watch).Stdout; seen != "" {
		t.Errorf("meanwhile user nobody found:\n%.3000s", seen)
	}
	if left := c.run("sh", "-c", "ls /run/machinemon-update/attempt/*.query").Stdout; left != "" {
		t.Errorf("left: %s", left)
	}
}

func lineWith(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}

// TestMovedDestination: after the target file names another path, nothing is there, so
// apply installs the release although its version is the recorded one.
func TestMovedDestination(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.apply(0, "committed 1.1.0")
	c.apply(0, "already current")
	c.must("install", "-d", "-m", "755", "/opt/testd")
	c.writeFile("/etc/systemd/system/testd.service", strings.Replace(testdUnit, testdPath, "/opt/testd/testd", 1), 0o644)
	// The old program runs until then, so that its file is not the new main file.
	c.target(strings.Replace(strings.ReplaceAll(testdTarget, testdPath, "/opt/testd/testd"), "[health]\n", "[health]\nmain = \"\"\n", 1))
	c.apply(0, "committed 1.1.0")
	c.must("test", "-x", "/opt/testd/testd")
	c.awaitTestd("1.1.0")
	c.apply(0, "already current")
}
