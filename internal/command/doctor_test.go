package command

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/generate"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// unitsMachine is a systemd with some units; all others are active.
type unitsMachine struct {
	fakeMachine
	units map[string]systemd.Unit
}

func (m unitsMachine) Unit(_ context.Context, name string) (systemd.Unit, error) {
	u, is := m.units[name]
	if !is {
		u = systemd.Unit{Load: "loaded", Active: "active", Sub: "running"}
	}
	u.Name = name
	return u, nil
}

// TestExamine: what doctor finds out about a target without asking its source or its probes.
func TestExamine(t *testing.T) {
	const program, link = "/usr/bin/true", "/bin/true" // /bin leads to /usr/bin
	sum, err := durable.FileSHA256(program)
	ok(t, err)
	runs := systemd.Unit{Load: "loaded", Active: "active", Sub: "running", Command: []string{program, "-v"}}
	unit := func(change func(*systemd.Unit)) map[string]systemd.Unit {
		u := runs
		change(&u)
		return map[string]systemd.Unit{"agent.service": u}
	}
	well := map[string]systemd.Unit{"agent.service": runs}
	release := func(change func(*state.Release)) func(*state.Status) {
		return func(s *state.Status) {
			s.Installed = &state.Release{Version: "1.1.0", Files: []state.File{{To: program, SHA256: sum}}}
			change(s.Installed)
		}
	}
	known := release(func(*state.Release) {})
	for _, c := range []struct {
		name  string
		more  string
		units map[string]systemd.Unit
		edit  string // a line that is added after systemd read the target file
		swap  func(*state.Status)
		fetch func(*state.Status)
		want  string // a line
		// journal is the record of an open trial; "" if there is none.
		journal string
		exit    int // 1 beside a line that is not bad: another one is
	}{
		{name: "version", units: well, swap: known, want: "ok    installed: 1.1.0"},
		{name: "unknown version", units: well, want: "warn  installed: the version is unknown (hint: set health.version_command to the command that prints it)"},
		{name: "changed", units: well, swap: release(func(r *state.Release) { r.Files[0].SHA256 = "x" }),
			more: "health.version_command = ['/bin/echo', '1.0.0']\n",
			want: "warn  installed: 1.0.0, changed by hand since the last update: scheduled runs leave it alone (hint: sudo machinemon-update apply agent)"},
		{name: "on trial", units: well, swap: release(func(r *state.Release) { r.Files[0].SHA256 = "x" }), more: "health.version_command = ['/bin/echo', '1.0.0']\n",
			journal: `{"format": 1, "attempt": "20261101t120000-00000001", "target": "agent", "version": "1.0.0", "phase": "trial"}`,
			want:    "ok    installed: unknown, of a trial that is open\n"},
		{name: "unit", units: well, want: "ok    unit: agent.service is active (running) and runs " + program},
		{name: "symlink", units: unit(func(u *systemd.Unit) { u.Command = []string{link} }), want: "ok    unit: agent.service is active (running) and runs " + link},
		{name: "wrong to", units: unit(func(u *systemd.Unit) { u.Command = []string{"/opt/agent/bin/agent"} }),
			want: `warn  unit: agent.service is active (running) and runs /opt/agent/bin/agent, which no update replaces (hint: if that is the program, to = "/opt/agent/bin/agent")`},
		{name: "wrong unit", units: map[string]systemd.Unit{"agent.service": {Load: "not-found", Active: "inactive", Sub: "dead"}}, want: "bad   unit: agent.service is not installed"},
		{name: "stopped", units: unit(func(u *systemd.Unit) { u.Active, u.Sub = "inactive", "dead" }), want: "bad   unit: agent.service is stopped (hint: sudo systemctl start agent.service)"},
		{name: "stopped, and what it runs", units: unit(func(u *systemd.Unit) {
			u.Active, u.Sub, u.ExecCode, u.ExecValue = "inactive", "dead", systemd.Killed, 15
		}),
			want: "ok    unit: agent.service starts " + program + "\n", exit: 1},
		{name: "failed", units: unit(func(u *systemd.Unit) {
			u.Active, u.Sub, u.ExecCode, u.ExecValue = "failed", "failed", systemd.Exited, 1
		}),
			want: "ok    unit: agent.service is failed (failed), its main process exited with status 1, and starts " + program + "\n"},
		{name: "held", units: well, swap: func(s *state.Status) { s.Held = &state.Hold{Since: time.Unix(0, 0).UTC()} },
			want: "warn  unit: it is held since 1970-01-01 (hint: sudo machinemon-update unhold agent)"},
		{name: "dead path unit", units: map[string]systemd.Unit{"agent.service": runs, "machinemon-swap@agent.path": {Load: "loaded", Active: "failed", Sub: "failed"}},
			want: "bad   triggers: machinemon-swap@agent.path is failed (failed) (hint: sudo systemctl daemon-reload, then sudo systemctl start paths.target timers.target)"},
		{name: "schedule", units: well, want: "ok    triggers: the source is asked next at "},
		{name: "reloaded", units: well, want: "ok    daemon-reload: systemd knows the present files"},
		{name: "edited target", units: well, edit: "auto_update_check_every_seconds = 60\n",
			want: "warn  daemon-reload: the target file, or a directory that it names, changed since systemd read its configuration (hint: sudo systemctl daemon-reload)"},
		{name: "edited unit", units: unit(func(u *systemd.Unit) { u.Outdated = true }),
			want: "warn  daemon-reload: agent.service changed since systemd read its configuration (hint: sudo systemctl daemon-reload)"},
		{name: "unsigned", units: well, want: "ok    trust: unsigned: the connection to the source authenticates a release"},
		{name: "anyone may change it", units: well, more: "trust.allow_unauthenticated = true\n",
			want: "warn  trust: unsigned, over a connection that others may change, as the target file permits (hint: use https, or signed releases)"},
		{name: "no keys", units: well, more: "trust = { mode = 'signature', product = 'agent' }\n",
			want: "bad   trust: cannot trust any release of agent: there is no /trust/agent.key (hint: sudo machinemon-update trust agent FILE --sha256 HEX)"},
		{name: "room", units: well, want: "ok    disk: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, _, _ := newApp(t)
			file := filepath.Join(a.targets.Root, a.targets.Admin, "agent.toml")
			text := c.more + "unit = 'agent.service'\nsource.url = 'http://127.0.0.1/m.json'\ninstall = [{ from = 'a', to = '" + program + "' }]\n"
			write(t, file, text)
			a.generated = t.TempDir()
			for _, u := range []string{"machinemon-verify@.path", "machinemon-swap@.path", "machinemon-directive@.path", "machinemon-fetch@.timer", "machinemon-inform@.service"} {
				write(t, filepath.Join(a.targets.Root, "usr/lib/systemd/system", u), "")
			}
			ok(t, generate.Run(a.targets, a.generated, t.Output()))
			write(t, file, c.edit+text)
			for role, change := range map[state.Role]func(*state.Status){state.RoleFetch: c.fetch, state.RoleSwap: c.swap} {
				ok(t, os.MkdirAll(a.tree.Dir(role, "agent"), 0o755))
				if change != nil {
					ok(t, a.tree.Update(role, "agent", change))
				}
			}
			if c.journal != "" {
				write(t, filepath.Join(a.tree.Dir(state.RoleSwap, "agent"), "journal.json"), c.journal)
			}
			loaded, err := a.targets.Load("agent")
			ok(t, err)
			st, err := a.tree.Status(state.RoleSwap, "agent")
			ok(t, err)
			e := examination{app: a, machine: unitsMachine{fakeMachine{next: time.Now()}, c.units}, name: "agent", target: loaded, status: st}
			for _, step := range []func(context.Context){e.installed, e.units, e.triggers, e.reload, e.trust, e.room} {
				step(t.Context())
			}
			if got := a.report("agent", e.findings); !strings.Contains(got, "  "+c.want) {
				t.Errorf("got:\n%swant:\n%s", got, c.want)
			} else if bad := strings.HasPrefix(c.want, levelBad) || c.exit == 1; bad != (a.exit == 1) {
				t.Errorf("exit status %d: %s", a.exit, got)
			}
		})
	}
}

// TestHealthFindings: a probe that fails is bad, also if it is not believed.
func TestHealthFindings(t *testing.T) {
	passed := time.Unix(0, 0)
	p := probed{Target: "agent", units: []string{"agent.service"}, Detail: "it runs perl", Probes: []probeResult{
		{Probe: "tcp 127.0.0.1:1", Passed: true, Detail: "a connection is accepted", Millis: 1},
		{Probe: "tcp 127.0.0.1:2", Detail: "connection refused", Millis: 2},
		{Probe: "tcp 127.0.0.1:3", Detail: "connection refused", Millis: 3, LastPassed: &passed},
		{Probe: "tcp 127.0.0.1:4", Unknown: true, Detail: state.NotTried},
	}}
	got := ""
	for _, f := range health(p, "/etc/d") {
		got += f.String() + "\n"
	}
	want := "bad   health: agent.service is not as it must be: it runs perl (hint: systemctl status agent.service)\n" +
		"ok    probe: tcp 127.0.0.1:1: a connection is accepted (1 ms)\n" +
		"bad   probe: tcp 127.0.0.1:2: connection refused (2 ms); it never passed here, so it is not believed (hint: mend it, or remove it, in /etc/d/agent.toml)\n" +
		"bad   probe: tcp 127.0.0.1:3: connection refused (3 ms); it last passed here at " + passed.Format(minutes) + ", and an update must make it pass (hint: mend the program, or the probe in /etc/d/agent.toml)\n" +
		"warn  probe: tcp 127.0.0.1:4: not tried\n"
	if got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
	if f := health(probed{Standing: true, units: []string{"agent.service"}}, "")[0]; f.Level != levelOK {
		t.Errorf("without probes: %s", f)
	}
}

// TestMachineFindings: what concerns every target.
func TestMachineFindings(t *testing.T) {
	now := time.Unix(0, 0)
	for _, c := range []struct {
		got         finding
		level, want string
	}{
		{clockFinding(now, func() (bool, error) { return true, nil }), levelOK, "synchronised"},
		{clockFinding(now, func() (bool, error) { return false, nil }), levelWarn, "not synchronised"},
		{clockFinding(now, func() (bool, error) { return false, errors.New("no permission") }), levelOK, "no permission"},
		{inotifyFinding(0, nil), levelBad, "has used all"},
		{inotifyFinding(2, nil), levelWarn, "nearly all"},
		{inotifyFinding(inotifyLeft(inotifyWanted)), levelOK, "can be started"},
		{inotifyFinding(0, errors.New("no permission")), levelWarn, "no permission"},
		{space(&state.Disk{Dir: "/d", Need: 3e6}, 2e6), levelBad, "2.0 MB are free on the disk of /d, and an update of the present size needs 3.0 MB there"},
		{space(&state.Disk{Dir: "/d", Need: 3e6}, 4e6), levelWarn, "4.0 MB"},
		{space(&state.Disk{Dir: "/d", Need: 3e6}, 6e6), levelOK, "6.0 MB"},
		{answer(state.Attempt{Result: state.ResultCurrent, Version: "1.0"}), levelOK, "already current (1.0)"},
		{answer(state.Attempt{Result: state.ResultNotAttempted, Version: "1.0", Reason: "it was rejected (hint: unskip)"}), levelWarn, "not attempted 1.0: it was rejected"},
		{answer(state.Attempt{Result: state.ResultNotDownloaded, Reason: "404"}), levelBad, "not downloaded: 404"},
	} {
		if c.got.Level != c.level || !strings.Contains(c.got.Detail, c.want) || (c.level == levelBad) && c.got.Check != "source" && c.got.Hint == "" {
			t.Errorf("got %s; want %s, %s", c.got, c.level, c.want)
		}
	}
}

// TestDoctorJSON: the JSON says what the text says.
func TestDoctorJSON(t *testing.T) {
	a, out, _ := newApp(t)
	write(t, filepath.Join(a.targets.Root, a.targets.Admin, "agent.toml"), "unit = 'agent.service'\nunknwon = 1\n")
	if exit := a.main([]string{"doctor", "--json"}, ""); exit != 1 {
		t.Errorf("exit status %d", exit)
	}
	var d diagnosis
	ok(t, json.Unmarshal([]byte(out.String()), &d))
	if len(d.Machine) < 2 || len(d.Targets) != 1 || len(d.Targets[0].Findings) != 1 {
		t.Fatalf("got %s", out)
	}
	if f := d.Targets[0].Findings[0]; f.Check != "configuration" || f.Level != levelBad || !strings.Contains(f.Detail, "agent.toml:2: unknwon: ") {
		t.Errorf("got %+v", f)
	}
}
