//go:build systemd

package systemtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// mistake is what a newcomer does wrong, and what they are told. says are the cause and the
// cure; they must be in one line of the output.
type mistake struct {
	name   string
	target func(string) string // changes the right target file
	do     func()
	undo   func()
	run    string
	exit   int
	says   []string
}

// TestMistakes: each mistake of a newcomer is answered with its cause and its
// cure, and nothing is replaced.
func TestMistakes(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	good := build(t, releases.Daemon{Version: "2.0.0"})
	publish := func(version, name string, content []byte) func() {
		return func() { c.publishFiles(c.dir, version, releases.File{Name: name, Content: content}) }
	}
	right := publish("2.0.0", "testd", good)
	right()
	hub := &releases.GitHub{Repo: "example/testd"}
	hub.Publish(c.onGitHub("3.0.0", ""))
	l, err := c.Listen("tcp", "127.0.0.1:9001")
	c.ok(err)
	server := releases.ServeBy(l, hub)
	t.Cleanup(func() { server.Close() })

	edit := func(old, new string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, old) {
				c.t.Fatalf("the target file has no %q", old)
			}
			return strings.ReplaceAll(s, old, new)
		}
	}
	const (
		other  = "/etc/machinemon-update/targets.d/other.toml"
		apply  = "machinemon-update apply testd"
		dry    = "machinemon-update apply --dry-run testd"
		doctor = "machinemon-update doctor testd"
	)
	foreign := append([]byte{}, good...)
	foreign[18] = 0xb7 // e_machine: AArch64
	table := ""
	for _, m := range []mistake{
		{name: "wrong port", target: edit(testdAddress, "127.0.0.1:9201"), run: doctor, exit: 1,
			says: []string{"probe: http http://127.0.0.1:9201/healthz: connection refused", "never passed here"}},
		{name: "subfolder", do: publish("2.0.1", "testd-2.0.1/testd", good), undo: right, run: dry, exit: 6,
			says: []string{"the archive has no testd", `from = "testd-{version}/testd"`}},
		{name: "wrong to", target: edit(`to = "`+testdPath+`"`, `to = "/usr/local/bin/tesdt"`), run: dry, exit: 2,
			says: []string{"no process of testd.service runs /usr/local/bin/tesdt; its main process runs " + testdPath, "install.to must be what the unit runs"}},
		{name: "missing --version", target: edit(`, "--version"]`, "]"), run: doctor, exit: 1,
			says: []string{"installed: the version is unknown: " + testdPath + " did not print it and end", "health.version_command must print the version and end, mostly with --version"}},
		{name: "wrong unit", target: edit("testd.service", "tesdt.service"), run: doctor, exit: 1,
			says: []string{"unit: tesdt.service is not installed", `did you mean "testd.service"?`}},
		{name: "no daemon-reload", do: func() { c.writeFile(other, strings.ReplaceAll(testdTarget, testdPath, "/opt/other/testd"), 0o644) }, undo: func() { c.must("rm", other) },
			run: "machinemon-update doctor other", exit: 1,
			says: []string{"daemon-reload: the target file, or a directory that it names, changed since systemd read its configuration", "sudo systemctl daemon-reload"}},
		{name: "404", target: edit("client-manifest.json", "manifest.json"), run: dry, exit: 7,
			says: []string{"404", "is source.url the address of a manifest?"}},
		{name: "http", target: edit("http://"+releasesAt, "http://releases.example.com"), run: dry, exit: 2,
			says: []string{"source.url: checksum trust is refused over plain http", "use https"}},
		{name: "glob", target: edit(`url = "http://`+releasesAt+`/client-manifest.json"`, "type = \"github\"\nrepo = \"example/testd\"\napi_url = \"http://127.0.0.1:9001\"\nasset = \"testd_*.zip\""), run: dry, exit: 6,
			says: []string{"it has no file testd_*.zip; it has testd-3.0.0.tar.gz", "set source.asset"}},
		{name: "world-writable", do: func() { c.must("chmod", "666", testdTOML) }, undo: func() { c.must("chmod", "644", testdTOML) }, run: dry, exit: 2,
			says: []string{testdTOML + " is writable by everyone", "chmod"}},
		{name: "relative path", target: edit(`to = "/usr/local/bin/testd"`, `to = "bin/testd"`), run: dry, exit: 2,
			says: []string{"install.to: must be an absolute path", `allowed: "/DIR/NAME"`}},
		{name: "program of a package", target: edit(`to = "`+testdPath+`"`, `to = "/usr/bin/journalctl"`), run: "machinemon-update check-config testd", exit: 2,
			says: []string{"install.to: ", "bin/journalctl belongs to the Debian package systemd", "a program that apt installs is updated by apt"}},
		{name: "wrong arch", do: publish("2.0.2", "testd", foreign), undo: right, run: dry, exit: 6,
			says: []string{"built for aarch64, this machine is linux-amd64", "must have a program for it"}},
		{name: "no sudo", run: "runuser -u nobody -- " + apply, exit: 2, says: []string{"cannot apply: only root may", "sudo machinemon-update apply testd"}},
		{name: "TOML without quotes", target: edit(`unit = "testd.service"`, `unit = testd.service`), run: dry, exit: 2,
			says: []string{testdTOML + ":1: is not valid TOML: a text has no quotes", `as in unit = "NAME.service"`}},
		{name: "service stopped", do: func() { c.must("systemctl", "stop", "testd.service") }, undo: func() { c.must("systemctl", "start", "testd.service") }, run: dry, exit: 8,
			says: []string{"testd.service is stopped", "systemctl start testd.service"}},
	} {
		c.step(m.name, func() {
			target := testdTarget
			if m.target != nil {
				target = m.target(target)
			}
			c.writeTarget(target)
			if m.do != nil {
				m.do()
			}
			r := c.run(strings.Fields(m.run)...)
			if m.undo != nil {
				m.undo()
			}
			if r.Code != m.exit {
				c.t.Errorf("exit status %d, want %d", r.Code, m.exit)
			}
			said := ""
			for line := range strings.Lines(r.Stdout + r.Stderr) {
				if !slices.ContainsFunc(m.says, func(s string) bool { return !strings.Contains(line, s) }) {
					said = strings.TrimSpace(line)
				}
			}
			if said == "" {
				c.t.Errorf("no line says %q:\n%s%s", m.says, r.Stdout, r.Stderr)
			}
			table += fmt.Sprintf("%s\n  $ sudo %s\n  %s\n", m.name, m.run, said)
		})
	}
	t.Logf("what a newcomer is told:\n%s", strings.ReplaceAll(table, "sudo runuser", "runuser"))
	c.assertRuns(releases.Daemon{Version: "1.0.0"})
}
