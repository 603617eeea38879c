// The demonstration behind "make demo": on a throwaway Debian with systemd, the packages
// from dist/ update the real node_exporter from one release to the next, and roll it back
// from a release that does not start. Each claim in its output is checked; if one is
// false, the exit status is 1.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

func main() {
	debs := flag.String("debs", "dist", "the `directory` of the packages to install")
	picture := flag.String("svg", "", "a `file` for a picture of the updates, as README shows it")
	flag.Parse()
	// A signal ends all waiting; the deferred calls then clean up.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *debs, *picture); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// out is where the demonstration writes.
var out io.Writer = os.Stdout

func say(format string, args ...any) { fmt.Fprintf(out, "# "+format+"\n", args...) }

func run(ctx context.Context, debs, picture string) error {
	start := time.Now()
	packages, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	if len(packages) == 0 {
		return fmt.Errorf("no packages in %s: run make deb", debs)
	}
	say("Preparing a Debian with these packages (the first time takes a minute):")
	for _, p := range packages {
		say("  %s", filepath.Base(p))
	}
	lab, err := machine.NewLab(ctx, machine.Options{Debs: packages, Logf: say})
	if err != nil {
		return err
	}
	defer lab.Close()
	m, err := lab.New(ctx, "demo")
	if err != nil {
		return err
	}
	defer m.Close()

	dir, err := os.MkdirTemp(m.Directory(), "releases-")
	if err != nil {
		return err
	}
	listener, err := m.Listen("tcp", releasesAt)
	if err != nil {
		return err
	}
	server, err := releases.Serve(listener, dir)
	if err != nil {
		return err
	}
	defer server.Close()

	d := &demo{ctx: ctx, m: m, releases: dir, publisher: lab.Installed("/usr/bin/machinemon-release")}
	if err := d.story(); err != nil {
		return err
	}
	if picture != "" {
		if err := d.updates.write(picture, "An update of node_exporter, and a rollback"); err != nil {
			return err
		}
	}
	say("All of this happened as told, in %s.", time.Since(start).Round(time.Second))
	return nil
}

type demo struct {
	ctx       context.Context
	m         *machine.Machine
	releases  string // the directory that the server serves
	publisher string // the path of machinemon-release
	updates   recording
}

// story performs and checks the claims of the demonstration, step by step.
func (d *demo) story() error {
	for _, step := range []func() error{
		d.installByHand,
		d.record(d.goodRelease),
		d.record(d.brokenRelease),
		d.whatIsRecorded,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// record returns a step that is also recorded.
func (d *demo) record(step func() error) func() error {
	return func() error {
		out = io.MultiWriter(os.Stdout, &d.updates)
		defer func() { out = os.Stdout }()
		return step()
	}
}

func (d *demo) installByHand() error {
	say("Building node_exporter 1.9.0 and 1.9.1 from source (kept in the cache).")
	old, err := nodeExporter(d.ctx, "1.9.0")
	if err != nil {
		return err
	}
	say("A machine where node_exporter 1.9.0 was installed by hand, and the target file for it:")
	for _, f := range []struct {
		name, content string
		mode          os.FileMode
	}{
		{"/usr/local/bin/node_exporter", string(old), 0o755},
		{"/etc/systemd/system/node_exporter.service", unitFile, 0o644},
		{"/etc/machinemon-update/targets.d/node_exporter.toml", targetFile, 0o644},
	} {
		if err := d.m.WriteFile(f.name, []byte(f.content), f.mode); err != nil {
			return err
		}
	}
	for _, command := range []string{
		"cat /etc/machinemon-update/targets.d/node_exporter.toml",
		"systemctl daemon-reload",
		"systemctl start paths.target",
		"systemctl enable --quiet --now node_exporter.service",
	} {
		if _, err := d.show(0, command); err != nil {
			return err
		}
	}
	return d.serves("1.9.0")
}

func (d *demo) goodRelease() error {
	content, err := nodeExporter(d.ctx, "1.9.1")
	if err != nil {
		return err
	}
	say("node_exporter 1.9.1 is published, on this machine's loopback.")
	if err := d.publish("1.9.1", content); err != nil {
		return err
	}
	if _, err := d.show(3, "machinemon-update check node_exporter"); err != nil {
		return err
	}
	if _, err := d.show(0, "machinemon-update apply node_exporter"); err != nil {
		return err
	}
	return d.serves("1.9.1")
}

func (d *demo) brokenRelease() error {
	content, err := releases.Daemon{Version: "1.9.2", Behaviour: "exit1-at-once"}.Build(d.ctx)
	if err != nil {
		return err
	}
	say("A broken 1.9.2 is published: it answers --version, but as a daemon it exits at once.")
	if err := d.publish("1.9.2", content); err != nil {
		return err
	}
	if _, err := d.show(4, "machinemon-update apply node_exporter"); err != nil {
		return err
	}
	return d.serves("1.9.1")
}

func (d *demo) whatIsRecorded() error {
	out, err := d.show(0, "machinemon-update status")
	if err != nil {
		return err
	}
	if err := mentions(out, "node_exporter", "1.9.1", "rolled back 1.9.2"); err != nil {
		return err
	}
	if out, err = d.show(0, "machinemon-update history node_exporter"); err != nil {
		return err
	}
	if err := mentions(out, "1.9.1", "committed", "1.9.2", "rolled back"); err != nil {
		return err
	}
	say("A release that failed here is not tried again:")
	_, err = d.show(8, "machinemon-update apply node_exporter")
	return err
}

// show runs a command in the machine as a user would, prints its output and returns an
// error unless it exits with this status.
func (d *demo) show(want int, command string) (string, error) {
	fmt.Fprintln(out, "$ "+command)
	var said strings.Builder
	p, err := d.m.StartTo(io.MultiWriter(out, &said), strings.Fields(command)...)
	if err != nil {
		return "", err
	}
	r, err := p.Wait(d.ctx)
	if err != nil {
		return "", err
	}
	if r.Code != 0 {
		say("exit status %d", r.Code)
	}
	if r.Code != want {
		return "", fmt.Errorf("%s exited %d instead of %d", command, r.Code, want)
	}
	return said.String(), nil
}

// serves returns an error unless this version is running and installed.
func (d *demo) serves(version string) error {
	ctx, cancel := context.WithTimeout(d.ctx, 10*time.Second)
	defer cancel()
	client := http.Client{Transport: &http.Transport{DialContext: d.m.Dial, DisableKeepAlives: true}}
	var page []byte
	err := machine.WaitFor(ctx, "node_exporter serves", func() bool {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, metricsURL, nil)
		if err != nil {
			return false
		}
		response, err := client.Do(request)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		page, err = io.ReadAll(response.Body)
		return err == nil && response.StatusCode == http.StatusOK
	})
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "node_exporter_build_info{") {
			if err := mentions(line, `version="`+version+`"`); err != nil {
				return err
			}
			fmt.Printf("# Its metrics page says: %s\n", strings.TrimSpace(line)) // too long for the picture
			return d.installed(version)
		}
	}
	return fmt.Errorf("%s has no node_exporter_build_info", metricsURL)
}

// installed returns an error unless the program on disk reports this version.
func (d *demo) installed(version string) error {
	r, err := d.m.Run(d.ctx, "/usr/local/bin/node_exporter", "--version")
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(r.Stdout, "\n")
	say("The program on disk says: %s", line)
	return mentions(line, "version "+version)
}

func mentions(text string, words ...string) error {
	for _, word := range words {
		if !strings.Contains(text, word) {
			return fmt.Errorf("expected %q in:\n%s", word, text)
		}
	}
	return nil
}
