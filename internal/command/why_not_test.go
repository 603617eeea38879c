package command

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/generate"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// fakeMachine is a systemd with one unit and one timer.
type fakeMachine struct {
	unit systemd.Unit
	next time.Time
	err  error
}

func (m fakeMachine) Unit(_ context.Context, name string) (systemd.Unit, error) {
	m.unit.Name = name
	return m.unit, m.err
}
func (m fakeMachine) NextElapse(context.Context, string) (time.Time, error) { return m.next, m.err }
func (fakeMachine) Processes(context.Context, string) ([]int, error)        { return nil, nil }
func (fakeMachine) Alive(context.Context, ...string) ([]string, error)      { return nil, nil }
func (fakeMachine) Try(context.Context, systemd.Sandbox) (systemd.SandboxResult, error) {
	return systemd.SandboxResult{}, nil
}
func (fakeMachine) Stop(context.Context, string) error { return nil }
func (fakeMachine) Close()                             {}

// TestOutlook: what status says about the next scheduled run.
func TestOutlook(t *testing.T) {
	testkit.Slow(t)
	running := systemd.Unit{Load: "loaded", Active: "active"}
	next := time.Date(2026, 11, 1, 13, 0, 0, 0, time.UTC)
	elsewhere := time.FixedZone("", 3600) // the time zone of the machine
	nextCheck := "next check: " + next.Local().Format(minutes)
	const on = "auto_update_enabled = true\n"
	later := time.Now().UTC().Add(3 * time.Hour)
	closed, opens := later.Format("15:04-")+later.Add(time.Hour).Format("15:04 UTC"), later.Format(minutes)
	began := time.Now()
	failed := began
	offer := func(s *state.Status) { s.Offer = &state.Offer{Version: "1.1.0", Sequence: 2, Archive: "a"} }
	empty := filepath.Join(t.TempDir(), "a")
	write(t, empty, "")
	installs := func(version string, sequence int64) func(*state.Status) {
		return func(s *state.Status) {
			s.Installed = &state.Release{Version: version, Sequence: sequence,
				Files: []state.File{{To: empty, SHA256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}}
		}
	}
	for _, c := range []struct {
		name        string
		more        string // lines to add to the target file
		unit        systemd.Unit
		next        time.Time
		fetch, swap func(*state.Status)
		want        string // the expected notes, one a line
	}{
		{name: "nothing is available", more: on, unit: running, next: next, want: nextCheck},
		{name: "the next run installs it", more: on, unit: running, next: next, fetch: offer, want: nextCheck},
		{name: "no timer", more: on, unit: running, fetch: offer},
		{name: "not enabled", unit: running, fetch: offer, want: "scheduled runs only check (hint: sudo machinemon-update apply agent)"},
		{name: "outside of the window", more: on + "schedule.window = '" + closed + "'\nschedule.after = ['db']\n", unit: running, fetch: offer,
			want: "it waits for its window, " + closed + ", which opens next at " + opens + " UTC (hint: sudo machinemon-update apply agent does not wait)\nwarning: schedule.after names db, and there is no such target"},
		{name: "others go first", more: on, unit: running, fetch: func(s *state.Status) {
			offer(s)
			s.Offer.NotYet = "not yet for this machine (rollout at 10 %)"
			s.Attempts = []state.Attempt{{ID: "a-1", Time: next, Result: state.ResultAvailable, Reason: s.Offer.NotYet}}
		}, want: "available, not yet for this machine (rollout at 10 %)"},
		{name: "others go first, and not enabled", unit: running, fetch: func(s *state.Status) {
			offer(s)
			s.Offer.NotYet = "not yet for this machine (rollout at 10 %)"
		}, want: "available, not yet for this machine (rollout at 10 %); scheduled runs only check (hint: sudo machinemon-update apply agent)"},
		{name: "rejected", unit: running, fetch: offer, swap: func(s *state.Status) {
			s.Rejected = []state.Rejection{{Archive: "a", Sequence: 2, Time: next, Reason: "it died"}}
		}, want: "it was rejected on 2026-11-01 13:00 UTC: it died (hint: sudo machinemon-update unskip agent tries it again)"},
		{name: "rejected just now", more: on, unit: running, fetch: offer, swap: func(s *state.Status) {
			s.Attempts = []state.Attempt{{ID: "a-1", Time: next, Result: state.ResultRolledBack, Reason: "it died"}}
			s.Rejected = []state.Rejection{{Archive: "a", Sequence: 2, Time: next, Reason: "it died"}}
		}, want: "it was rejected on 2026-11-01 13:00 UTC: it died (hint: sudo machinemon-update unskip agent tries it again)"},
		{name: "rejected by going back", more: on, unit: running, fetch: offer, swap: func(s *state.Status) {
			s.Attempts = []state.Attempt{{ID: "a-1", Time: next, Result: state.ResultCommitted, Version: "1.0.0", Rejected: "1.1.0", Reason: "the operator went back from 1.1.0 to 1.0.0"}}
			s.Rejected = []state.Rejection{{Archive: "a", Version: "1.1.0", Sequence: 2, Time: next, Reason: "the operator went back to 1.0.0"}}
		}, want: "the operator went back from 1.1.0 to 1.0.0\nit was rejected on 2026-11-01 13:00 UTC: the operator went back to 1.0.0 (hint: sudo machinemon-update unskip agent tries it again)"},
		{name: "withdrawn, with a higher sequence", more: on, unit: running, fetch: offer, swap: func(s *state.Status) {
			s.Rejected = []state.Rejection{{Archive: "a", Sequence: 1, Time: next, Reason: "it died"}}
		}},
		{name: "lower than what is installed", more: on, unit: running, fetch: offer, swap: installs("1.2.0", 2),
			want: "1.1.0 is lower than the installed 1.2.0, and no schedule goes down (hint: sudo machinemon-update apply agent installs it; source.downgrade = true lets schedules do so)"},
		{name: "lower, with a higher sequence", more: on, unit: running, next: next, fetch: func(s *state.Status) { offer(s); s.Offer.Sequence = 3 }, swap: installs("1.2.0", 2), want: nextCheck},
		{name: "lower, and allowed", more: on + "source.downgrade = true\n", unit: running, next: next, fetch: offer, swap: installs("1.2.0", 2), want: nextCheck},
		{name: "out of range, and not enabled", more: "source.versions = '>=2'\n", unit: running, fetch: offer,
			want: "1.1.0 is not in source.versions \">=2\" (hint: source.versions of target agent says which releases are taken)"},
		{name: "changed by hand", more: on, unit: running, fetch: offer, swap: func(s *state.Status) {
			s.Installed = &state.Release{Version: "1.0.0", Files: []state.File{{To: "/nonexistent", SHA256: "x"}}}
		}, want: "the installed files were changed by hand (hint: sudo machinemon-update apply agent)\n" +
			"/nonexistent is not there, other than the file that the update to 1.0.0 left (hint: put that file back; until then scheduled runs install nothing)"},
		{name: "stopped", more: on, unit: systemd.Unit{Load: "loaded", Active: "inactive"}, fetch: offer,
			want: "agent.service is stopped (hint: sudo systemctl start agent.service)"},
		{name: "idle, and nothing shows whether a release works", more: on, unit: systemd.Unit{Load: "loaded", Active: "inactive", Type: "oneshot"}, fetch: offer,
			want: "cannot judge agent: agent.service is idle, and the target has no command that shows whether a release works (hint: set health.version_command)"},
		{name: "proven since", unit: running, next: next, swap: func(s *state.Status) {
			s.Installed = &state.Release{Version: "1.1.0"}
			s.Attempts = []state.Attempt{{ID: "a-1", Time: next, Result: state.ResultUnproven, Version: "1.1.0", Reason: "no probe proves it"}}
		}, want: "a probe has passed since\n" + nextCheck},
		{name: "not installed", more: on, unit: systemd.Unit{Load: "not-found"}, fetch: offer, want: "agent.service is not installed (hint: systemctl list-units --type=service lists what unit may be)"},
		{name: "backing off", more: on, unit: running, fetch: func(s *state.Status) {
			offer(s)
			s.Attempts = []state.Attempt{{ID: "a-1", Time: failed, Manifest: "m", Version: "1.1.0", Result: state.ResultNotDownloaded, Reason: "no route"}}
		}, want: "no route\nit failed before: backing off until " + failed.Add(time.Hour).Format(minutes+" MST")},
		{name: "backing off, and another release was imported", more: on, unit: running, fetch: func(s *state.Status) {
			offer(s)
			s.Attempts = []state.Attempt{{ID: "a-1", Time: failed, Manifest: "m", Version: "1.1.0", Result: state.ResultNotDownloaded, Reason: "no route"},
				{ID: "a-2", Time: failed, Manifest: "n", Version: "1.0.0", Result: state.ResultHandedOn}}
		}, want: "it failed before: backing off until " + failed.Add(time.Hour).Format(minutes+" MST")},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, _, _ := newApp(t)
			target := "unit = 'agent.service'\nsource.url = 'https://x/m.json'\ninstall = [{ from = 'a', to = '/usr/local/bin/a' }]\n" + c.more
			write(t, filepath.Join(a.targets.Root, a.targets.Admin, "agent.toml"), target)
			failed = time.Now() // the change of a target file after a failure ends the wait
			c.want = strings.ReplaceAll(c.want, began.Add(time.Hour).Format(minutes), failed.Add(time.Hour).Format(minutes))
			a.generated = t.TempDir()
			m := fakeMachine{unit: c.unit, next: c.next.In(elsewhere)}
			// From here on the units exist as the generator made them.
			templates := filepath.Join(a.targets.Root, "usr/lib/systemd/system")
			for _, u := range []string{"machinemon-verify@.path", "machinemon-swap@.path", "machinemon-directive@.path", "machinemon-fetch@.timer", "machinemon-inform@.service"} {
				write(t, filepath.Join(templates, u), "")
			}
			ok(t, generate.Run(a.targets, a.generated, t.Output()))
			for role, change := range map[state.Role]func(*state.Status){state.RoleFetch: c.fetch, state.RoleSwap: c.swap} {
				ok(t, os.MkdirAll(a.tree.Dir(role, "agent"), 0o755))
				if change != nil {
					ok(t, a.tree.Update(role, "agent", change))
				}
			}
			s := a.statusOf(t.Context(), m, "agent")
			if got := strings.Join(s.row().notes, "\n"); got != c.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, c.want)
			}
			if s.NextCheck != nil && s.NextCheck.Location() != time.UTC {
				t.Errorf("the next check is not told in UTC: %s", s.NextCheck)
			}
			if a.exit != 0 || s.Error != "" {
				t.Errorf("exit status %d: %s", a.exit, s.Error)
			}
			// A new comment needs no daemon-reload; a new interval does.
			file := filepath.Join(a.targets.Root, a.targets.Admin, "agent.toml")
			write(t, file, "# A comment.\n"+target)
			if s := a.statusOf(t.Context(), m, "agent"); s.Pending {
				t.Error("a comment is pending")
			}
			write(t, file, "auto_update_check_every_seconds = 60\n"+target)
			if s := a.statusOf(t.Context(), m, "agent"); !s.Pending || !strings.Contains(strings.Join(s.row().notes, "\n"), "the target file, or a directory that it names, has changed: systemd will know after sudo systemctl daemon-reload") {
				t.Errorf("an edit is not pending: %+v", s)
			}
		})
	}
	// The records are shown even if systemd does not answer.
	a, out, said := newApp(t)
	write(t, filepath.Join(a.targets.Root, a.targets.Admin, "agent.toml"), "unit = 'agent.service'\ninstall = [{ from = 'a', to = '/usr/local/bin/a' }]\n")
	a.machine = func(context.Context) (machine, error) { return nil, errors.New("no answer") }
	if exit := a.main([]string{"status"}, ""); exit != 0 || !strings.Contains(out.String(), "agent") || said.String() != "machinemon-update: cannot ask systemd: no answer\n" {
		t.Errorf("exit status %d: %s%s", exit, out, said)
	}
}

// TestSlowVersion: the first program prints its version only after systemd's timeout.
func TestSlowVersion(t *testing.T) {
	testkit.Slow(t)
	a, out, said := newApp(t)
	for _, name := range []string{"slow", "second"} {
		write(t, filepath.Join(a.targets.Root, a.targets.Admin, name+".toml"), "unit = 'agent.service'\ninstall = [{ from = 'a', to = '/usr/local/bin/a' }]\n"+
			"health.version_command = ['/bin/sleep', '"+map[string]string{"slow": "3.5", "second": "0"}[name]+"']\n")
	}
	a.machine = func(context.Context) (machine, error) { return patientMachine{}, nil }
	if exit := a.main([]string{"status", "slow", "second"}, ""); exit != 0 {
		t.Errorf("exit status %d: %s%s", exit, out, said)
	}
}

// patientMachine answers until its context ends.
type patientMachine struct{ fakeMachine }

func (patientMachine) Unit(ctx context.Context, name string) (systemd.Unit, error) {
	return systemd.Unit{Name: name}, ctx.Err()
}

var (
	ok    = testkit.Must
	write = testkit.Put
)
