//go:build systemd

package systemtest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// What the tests of Scalebox share: its second update plan, on the target file that
// the package scalebox-update ships.

const (
	scaleboxd       = "/usr/local/bin/scaleboxd"
	scaleboxUnit    = "/etc/systemd/system/scaleboxd.service"
	scaleboxConfig  = "/etc/scaleboxd/config"
	scaleboxLibrary = "/usr/local/lib/scalebox/template-build.sh"
	scaleboxHub     = "127.0.0.1:9000"

	unitOfScalebox = `[Unit]
Description=Scalebox VM Management API
[Service]
ExecStart=/usr/local/bin/scaleboxd
EnvironmentFile=/etc/scaleboxd/config
Restart=on-failure
RestartSec=5
KillMode=process
[Install]
WantedBy=multi-user.target
`
	configOfScalebox = "# the operator's\nAPI_TOKEN=hunter2\nTESTD_ADDRESS=127.0.0.1:8080\nTESTD_CHILD=/bin/sleep\n"
	// Test trials are short, and releases come from this machine.
	scaleboxOverride = "[source]\napi_url = \"http://" + scaleboxHub + "\"\n[health]\ntimeout_seconds = 4\nsettle_seconds = 1\n"
)

// scalebox is a server on which Scalebox was installed by its own bootstrap, and
// the GitHub that its releases come from.
type scalebox struct {
	*box
	hub    *releases.GitHub
	server *releases.Server
	kept   map[string]string // digests of what no update may touch
}

// archive is what a release of Scalebox holds: these files, a daemon, its unit and
// the list of all but the daemon. An entry "list" replaces the list.
type archive map[string]string

// build17 is a release as it is installed by hand.
func build17() archive {
	return archive{"scalebox-rebuild-template": "#!/bin/sh\necho 17\n", "scalebox-resize-storage": "#!/bin/sh\necho resize 17\n",
		"template-build.sh": "TEMPLATE_VERSION=17\n", "scalebox-update": oldScript, "scaleboxd.service": unitOfScalebox}
}

// oldScript stands for the updater that Scalebox brings, which must never run.
const oldScript = "#!/bin/sh\necho the old script\nexit 99\n"

func (a archive) with(more archive) archive {
	all := archive{}
	for _, m := range []archive{a, more} {
		for name, content := range m {
			all[name] = content
		}
	}
	return all
}

// places says where the files of a release go that are not the updater's.
func (a archive) places() map[string]string {
	at := map[string]string{}
	for name, content := range a {
		switch {
		case name == "scalebox-update" || name == "list":
		case strings.HasSuffix(name, ".service"):
			at["/etc/systemd/system/"+name] = content
		case strings.HasSuffix(name, ".sh"):
			at["/usr/local/lib/scalebox/"+name] = content
		default:
			at["/usr/local/bin/"+name] = content
		}
	}
	return at
}

// pack writes the archive of a release: all names begin with ./, as tar's do.
func (a archive) pack(b *box, file string, d releases.Daemon) {
	b.t.Helper()
	list := "# what is installed\n\n"
	files := []releases.File{{Name: "./scaleboxd", Content: build(b.t, d)}}
	names := make([]string, 0, len(a))
	for name := range a {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		kind := "bin"
		switch filepath.Ext(name) {
		case ".service":
			kind = "service"
		case ".sh":
			kind = "lib"
		}
		if name == "list" {
			continue
		}
		list += kind + ":" + name + "\n"
		files = append(files, releases.File{Name: "./" + name, Content: []byte(a[name])})
	}
	if own, ok := a["list"]; ok {
		list = own
	}
	if list != "none" {
		files = append(files, releases.File{Name: "./INSTALL_MANIFEST", Content: []byte(list)})
	}
	b.ok(releases.Pack(file, files...))
}

// newScalebox is a server with build-17 by hand.
func newScalebox(t *testing.T) *scalebox {
	t.Helper()
	s := &scalebox{box: boot(t)}
	s.bootstrap()
	s.listen()
	return s
}

// bootstrap installs build-17 as Scalebox's own installation does, but for its
// updater.
func (s *scalebox) bootstrap() {
	s.t.Helper()
	s.writeFile(scaleboxConfig, configOfScalebox, 0o640)
	s.must("chgrp", "daemon", scaleboxConfig)
	for path, content := range build17().places() {
		mode := os.FileMode(0o755)
		if strings.HasSuffix(path, ".sh") || strings.HasSuffix(path, ".service") {
			mode = 0o644
		}
		s.writeFile(path, content, mode)
	}
	s.writeFile(scaleboxd, string(build(s.t, releases.Daemon{Version: "build-17"})), 0o755)
	s.kept = map[string]string{}
	for path, content := range map[string]string{"/usr/local/bin/firecracker": "a hypervisor", "/var/lib/scalebox/vms/a/disk": "a disk",
		"/etc/caddy/Caddyfile": "a site", "/usr/local/bin/sudo": "somebody's"} {
		s.writeFile(path, content, 0o755)
		s.kept[path] = content
	}
	s.kept[scaleboxConfig] = configOfScalebox
	s.writeFile("/etc/machinemon-update/targets.d/scaleboxd.toml", scaleboxOverride, 0o644)
	s.must("systemctl", "daemon-reload")
	s.must("systemctl", "enable", "--quiet", "--now", "scaleboxd.service")
	s.must("systemctl", "start", "paths.target")
	s.stopShipped()
	s.awaitDaemon("build-17")
}

// listen has GitHub answer, in this boot of the machine.
func (s *scalebox) listen() {
	s.t.Helper()
	if s.hub == nil {
		s.hub = &releases.GitHub{Repo: "The-Agentic-Journey/Scalebox"}
	}
	l, err := s.Listen("tcp", scaleboxHub)
	s.ok(err)
	s.server = releases.ServeBy(l, s.hub)
	s.t.Cleanup(func() { s.server.Close() })
}

// release publishes a release on GitHub.
func (s *scalebox) release(d releases.Daemon, a archive) {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "scalebox-"+d.Version+".tar.gz")
	a.pack(s.box, file, d)
	content, err := os.ReadFile(file)
	s.ok(err)
	s.hub.Publish(releases.Tagged{Tag: d.Version, Assets: []releases.Asset{releases.Digested(filepath.Base(file), content)}})
}

// update runs scalebox-update, which must end so and say these things in this order.
func (s *scalebox) update(exit int, says ...string) {
	s.t.Helper()
	s.said(s.run("scalebox-update"), exit, says...)
}

func (s *scalebox) said(r machine.Result, exit int, says ...string) {
	s.t.Helper()
	s.t.Logf("it said:\n%s%s", r.Stdout, r.Stderr)
	if r.Code != exit {
		s.t.Errorf("exit status %d, want %d", r.Code, exit)
	}
	for line := range strings.Lines(r.Stdout + r.Stderr) {
		if !strings.HasPrefix(line, "[scalebox-update] ") {
			s.t.Errorf("not in its form: %q", line)
		}
	}
	if (r.Stderr == "") != (exit == 0) || strings.Count(r.Stderr, "\n") > 1 {
		s.t.Errorf("on standard error: %q", r.Stderr)
	}
	rest := r.Stdout + r.Stderr
	for _, want := range says {
		_, after, ok := strings.Cut(rest, want)
		if !ok {
			s.t.Errorf("it does not say %q (there)", want)
			continue
		}
		rest = after
	}
}

// awaitDaemon waits until scaleboxd of this version serves.
func (s *scalebox) awaitDaemon(version string) {
	s.t.Helper()
	s.ok(machine.WaitFor(s.t.Context(), "scaleboxd "+version+" serves", func() bool {
		status, got, err := s.getFrom("127.0.0.1:8080", "/version")
		return err == nil && status == 200 && got == version
	}))
}

// assertRuns fails unless this release is installed whole, runs, and nothing else
// has changed.
func (s *scalebox) assertRuns(d releases.Daemon, a archive, gone ...string) {
	s.t.Helper()
	s.awaitDaemon(d.Version)
	pid := s.property("scaleboxd.service", "MainPID")
	s.must("test", "/proc/"+pid+"/exe", "-ef", scaleboxd)
	want := a.places()
	want[scaleboxd] = string(build(s.t, d))
	for path, content := range want {
		if got := s.readFile(path); got != content {
			s.t.Errorf("%s is not that of %s: %.100q", path, d.Version, got)
		}
	}
	for _, path := range gone {
		if _, err := s.Stat(path); !os.IsNotExist(err) {
			s.t.Errorf("%s is there: %v", path, err)
		}
	}
	for path, content := range s.kept {
		if got := s.readFile(path); got != content {
			s.t.Errorf("%s was changed to %.100q", path, got)
		}
	}
	if got := s.must("stat", "-c", "%a %U:%G", scaleboxConfig); got != "640 root:daemon\n" {
		s.t.Errorf("%s is now %s", scaleboxConfig, got)
	}
	if got := s.property("scaleboxd.service", "NeedDaemonReload"); got != "no" {
		s.t.Errorf("NeedDaemonReload=%s", got)
	}
	if _, err := s.Stat("/var/lib/machinemon-update/swap/scaleboxd/journal.json"); !os.IsNotExist(err) {
		s.t.Errorf("the journal is not closed: %v", err)
	}
}

// children are the programs that scaleboxd has started.
func (s *scalebox) children() []string {
	s.t.Helper()
	return strings.Fields(s.must("pgrep", "-f", "/bin/sleep infinity"))
}

// assertIdle fails if something happened to scaleboxd's unit since.
func (s *scalebox) assertIdle(since machine.Cursor) {
	s.t.Helper()
	events, err := s.UnitEvents(s.t.Context(), since)
	s.ok(err)
	for _, e := range events {
		if e.Unit == "scaleboxd.service" {
			s.t.Errorf("%s", e)
		}
	}
}
