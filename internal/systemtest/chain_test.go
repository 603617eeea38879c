//go:build systemd

package systemtest

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// This file has the helpers that the tests of the chain share.

const (
	testdJournal = "/var/lib/machinemon-update/swap/testd/journal.json"
	testdSide    = "/usr/local/bin/.machinemon-update"
)

// chain is a machine on which testd 1.0.0 runs and is a target, and a server of the
// releases in dir.
type chain struct {
	*box
	dir    string
	server *releases.Server
}

func newChain(t *testing.T, unit, target string) *chain {
	t.Helper()
	return boot(t).chain(unit, target)
}

func (b *box) chain(unit, target string) *chain {
	b.t.Helper()
	b.writeTarget(target) // installing the unit also reloads systemd
	b.installTestd("1.0.0", unit)
	b.must("systemctl", "start", "paths.target")
	b.stopShipped()
	dir := b.t.TempDir()
	return &chain{b, dir, b.serve(dir)}
}

// stopShipped stops the units that look for releases of the packages' own targets, which
// tests do not use.
func (b *box) stopShipped() {
	b.t.Helper()
	b.must("systemctl", "stop", "machinemon-fetch@agent.timer", "machinemon-fetch@scaleboxd.timer")
}

// apply runs `machinemon-update apply testd`, which must exit with this status and print
// these texts in one line. Indented lines may follow.
func (c *chain) apply(exit int, says ...string) {
	c.t.Helper()
	c.said(c.run("machinemon-update", "apply", "testd"), exit, says...)
}

func (c *chain) said(r machine.Result, exit int, says ...string) {
	c.t.Helper()
	c.t.Logf("it said: %s", r.Stdout)
	if r.Code != exit {
		c.t.Errorf("exit status %d, want %d:\n%s%s", r.Code, exit, r.Stdout, r.Stderr)
	}
	line, below, ended := strings.Cut(r.Stdout, "\n")
	if !strings.HasPrefix(line, "testd: ") || !ended {
		c.t.Errorf("not a line about testd: %q", r.Stdout)
	}
	for more := range strings.Lines(below) {
		if !strings.HasPrefix(more, "  ") || !strings.HasSuffix(more, "\n") {
			c.t.Errorf("a second line: %q", more)
		}
	}
	for _, s := range says {
		if !strings.Contains(line, s) {
			c.t.Errorf("does not say %q: %s", s, line)
		}
	}
}

// refused runs an apply that must end so and leave testd 1.0.0 alone.
func (c *chain) refused(exit int, result, stage, version string, says ...string) {
	c.t.Helper()
	pid, since := c.mainPID(), c.cursor()
	c.apply(exit, says...)
	c.assertUntouched(since)
	if now := c.mainPID(); now != pid {
		c.t.Errorf("the main process was %s and is %s", pid, now)
	}
	c.assertRuns(releases.Daemon{Version: "1.0.0"})
	c.assertLast(stage, result, "1.0.0", version)
}

// step runs f as a subtest on the same machine.
func (b *box) step(name string, f func()) {
	t := b.t
	defer func() { b.t = t }()
	t.Run(name, func(t *testing.T) {
		b.t = t
		f()
	})
}

// attempt is an attempt in the JSON of status and history.
type attempt struct {
	ID, Origin, From, Version, Stage, Result, Reason string
	NoDelta                                          string `json:"no_delta"`
	Healthy                                          bool
	Unhealthy                                        string
}

// status is a target in the JSON of `status`.
type status struct {
	Target, Installed, Available, Previous, Trial, Error string
	Unsigned                                             bool
	Rejected                                             []string
	Last                                                 attempt
}

func (b *box) status() status {
	b.t.Helper()
	var all struct{ Targets []status }
	b.ok(json.Unmarshal([]byte(b.must("machinemon-update", "status", "--json", "testd")), &all))
	if len(all.Targets) != 1 {
		b.t.Fatalf("status shows %+v", all.Targets)
	}
	return all.Targets[0]
}

// history returns the output of `history`, the newest attempt first.
func (b *box) history() []attempt {
	b.t.Helper()
	var all struct{ Attempts []attempt }
	b.ok(json.Unmarshal([]byte(b.must("machinemon-update", "history", "--json", "testd")), &all))
	return all.Attempts
}

// assertLast fails the test unless the last attempt reached this stage with this result.
func (b *box) assertLast(stage, result, from, version string) {
	b.t.Helper()
	last := b.status().Last
	want := attempt{ID: last.ID, Origin: "operator", From: from, Version: version, Stage: stage, Result: result, Reason: last.Reason,
		Healthy: last.Healthy, Unhealthy: last.Unhealthy}
	if last != want {
		b.t.Errorf("the last attempt was\n%+v, want\n%+v", last, want)
	}
	if h := b.history(); len(h) == 0 || h[0] != last {
		b.t.Errorf("history does not begin with %+v:\n%+v", last, h)
	}
}

// assertRuns fails the test unless this build of testd is installed, runs as the unit,
// answers, and is the version in status.
func (b *box) assertRuns(d releases.Daemon) {
	b.t.Helper()
	b.assertProgram(build(b.t, d), d.Version)
}

func (b *box) assertProgram(program []byte, version string) {
	b.t.Helper()
	if got, want := digest(b.readFile(testdPath)), digest(string(program)); got != want {
		b.t.Errorf("%s has sha256 %s, want %s of %s", testdPath, got, want, version)
	}
	b.awaitTestd(version)
	b.must("test", fmt.Sprintf("/proc/%s/exe", b.mainPID()), "-ef", testdPath)
	if s := b.status(); s.Installed != version || s.Error != "" || s.Unsigned == b.signed {
		b.t.Errorf("status shows %+v, want %s installed", s, version)
	}
}

func (b *box) mainPID() string {
	b.t.Helper()
	return strings.TrimSpace(b.must("systemctl", "show", "--property=MainPID", "--value", "testd.service"))
}

func digest(content string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(content))) }

// assertClosed fails the test if an attempt left a trial, a spool entry, a staged file, a
// timer, a dead path unit, or failed units other than these. Only a backup of this
// version may be left; none if it is "".
func (b *box) assertClosed(backup string, failed ...string) {
	b.t.Helper()
	if _, err := b.Stat(testdJournal); !errors.Is(err, fs.ErrNotExist) {
		b.t.Errorf("the journal is not closed: %v", err)
	}
	if s := b.status(); s.Trial != "" || s.Previous != backup {
		b.t.Errorf("status shows %+v, want previous %q and no trial", s, backup)
	}
	for _, role := range []string{"fetch", "verify"} {
		if got := b.list("/var/lib/machinemon-update/" + role + "/testd/ready"); len(got) > 0 {
			b.t.Errorf("the spool of %s holds %q", role, got)
		}
	}
	var want []string
	if backup != "" {
		want = []string{digest(string(build(b.t, releases.Daemon{Version: backup})))}
	}
	if got := b.side(); !slices.Equal(got, want) {
		b.t.Errorf("%s holds files with digests %q, want %q", testdSide, got, want)
	}
	if got := b.must("systemctl", "is-active", "machinemon-verify@testd.path", "machinemon-swap@testd.path"); got != "active\nactive\n" {
		b.t.Errorf("the path units are %q", got)
	}
	if got := b.must("systemctl", "list-units", "--all", "--plain", "--no-legend", "machinemon-deadline@*.timer", "machinemon-preflight@*"); got != "" {
		b.t.Errorf("still there: %s", got)
	}
	var units []string
	for line := range strings.Lines(b.must("systemctl", "list-units", "--failed", "--plain", "--no-legend")) {
		units = append(units, strings.Fields(line)[0])
	}
	slices.Sort(units)
	slices.Sort(failed)
	if !slices.Equal(units, failed) {
		b.t.Errorf("failed units: %q, want %q", units, failed)
	}
}

// side returns the digests of the files beside the installed one.
func (b *box) side() []string {
	b.t.Helper()
	var digests []string
	for _, name := range b.list(testdSide) {
		digests = append(digests, digest(b.readFile(path.Join(testdSide, name))))
	}
	return digests
}

// list returns the names in a directory; none if it does not exist.
func (b *box) list(dir string) []string {
	b.t.Helper()
	d, err := b.Root().Open(strings.TrimPrefix(dir, "/"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	b.ok(err)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	b.ok(err)
	slices.Sort(names)
	return names
}

// inChain completes the unit names of events: "swap started" becomes
// "machinemon-swap@testd.service started".
func inChain(events ...string) []string {
	for i, e := range events {
		unit, what, _ := strings.Cut(e, " ")
		if unit == "testd" {
			events[i] = "testd.service " + what
		} else {
			events[i] = "machinemon-" + unit + "@testd.service " + what
		}
	}
	return events
}

// assertUntouched fails the test if testd's unit had an event since.
func (b *box) assertUntouched(since machine.Cursor) {
	b.t.Helper()
	events, err := b.UnitEvents(b.t.Context(), since)
	b.ok(err)
	for _, e := range events {
		if e.Unit == "testd.service" {
			b.t.Errorf("%s", e)
		}
	}
}

// requests returns the statuses of the answers for the manifest and for archives.
func (c *chain) requests() (manifests, archives []int) {
	for _, r := range c.server.Requests() {
		if r.Path == "/client-manifest.json" {
			manifests = append(manifests, r.Status)
		} else {
			archives = append(archives, r.Status)
		}
	}
	return manifests, archives
}
