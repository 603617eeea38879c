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

// This file has the helpers of the tests of Scalebox's second update plan, with the
// target file that the package scalebox-update ships.

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
	// The override shortens trials, and takes releases from this machine.
	scaleboxOverride = "[source]\napi_url = \"http://" + scaleboxHub + "\"\n[health]\ntimeout_seconds = 4\nsettle_seconds = 1\n"
)

// scalebox is a server on which Scalebox was installed by its own bootstrap, and the
// GitHub with its releases.
type scalebox struct {
	*box
	hub    *releases.GitHub
	server *releases.Server
	kept   map[string]string // digests of files that no update may change
}

// archive is the content of a Scalebox release: these files, a daemon, its unit and the
// list of all but the daemon. An entry "list" replaces the list.
type archive map[string]string

// build17 returns the release that is installed by hand.
func build17() archive {
	return archive{"scalebox-rebuild-template": "#!/bin/sh\necho 17\n", "scalebox-resize-storage": "#!/bin/sh\necho resize 17\n",
		"template-build.sh": "TEMPLATE_VERSION=17\n", "scalebox-update": oldScript, "scaleboxd.service": unitOfScalebox}
}

// oldScript stands for the updater that Scalebox's releases bring. It must never run.
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

// places returns the files of a release, except the updater, by the paths of their installation.
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

// pack writes the archive of a release. All names in it begin with ./, as tar writes them.
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

// newScalebox returns a server on which build-17 was installed by hand.
func newScalebox(t *testing.T) *scalebox {
	t.Helper()
	s := &scalebox{box: boot(t)}
	s.bootstrap()
	s.listen()
	return s
}

// bootstrap installs build-17 as Scalebox's own installation does, but without its
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

// listen starts the GitHub server in this boot of the machine.
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

// update runs scalebox-update, which must end so and print these texts in this order.
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

// assertRuns fails the test unless this release is completely installed and runs, and no
// other file has changed.
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

// children returns the programs that scaleboxd has started.
func (s *scalebox) children() []string {
	s.t.Helper()
	return strings.Fields(s.must("pgrep", "-f", "/bin/sleep infinity"))
}

// assertIdle fails the test if scaleboxd's unit had an event since.
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
