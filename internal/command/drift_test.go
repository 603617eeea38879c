package command

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// processMachine has one unit, with a process.
type processMachine struct {
	fakeMachine
	pids []int
}

func (m processMachine) Processes(context.Context, string) ([]int, error) { return m.pids, nil }

// TestDrift: status tells of a process that does not run the installed file, and of a file
// that is not what was installed.
func TestDrift(t *testing.T) {
	testkit.NeedRoot(t, "it writes to /opt")
	sleep, err := exec.LookPath("sleep")
	ok(t, err)
	bytes, err := os.ReadFile(sleep)
	ok(t, err)
	for name, c := range map[string]struct {
		change func(t *testing.T, program string)
		first  bool     // there was no update yet
		want   []string // parts of each line
	}{
		"as it was":                           {change: func(*testing.T, string) {}},
		"replaced":                            {change: func(t *testing.T, p string) { ok(t, durable.WriteFile(p, append(bytes, 0), 0o755)) }, want: []string{"is not the file that the update to 1.0.0 left", "which was replaced or removed since the process started (hint: sudo systemctl restart agent.service)"}},
		"restored":                            {change: func(t *testing.T, p string) { ok(t, durable.WriteFile(p, bytes, 0o755)) }, want: []string{"which was replaced or removed since"}},
		"moved away":                          {change: func(t *testing.T, p string) { ok(t, os.Rename(p, p+".old")); ok(t, durable.WriteFile(p, bytes, 0o755)) }, want: []string{"/agent.old and not "}},
		"deleted":                             {change: func(t *testing.T, p string) { ok(t, os.Remove(p)) }, want: []string{"is not there, other than the file", "which was replaced or removed since"}},
		"replaced, before the first update":   {first: true, change: func(t *testing.T, p string) { ok(t, durable.WriteFile(p, bytes, 0o755)) }, want: []string{"which was replaced or removed since"}},
		"moved away, before the first update": {first: true, change: func(t *testing.T, p string) { ok(t, os.Rename(p, p+".old")) }},
	} {
		t.Run(name, func(t *testing.T) {
			a, out, _ := newApp(t)
			dir, err := os.MkdirTemp("/opt", "machinemon-update-test-") // a target installs nothing in /tmp
			ok(t, err)
			defer os.RemoveAll(dir)
			program := filepath.Join(dir, "agent")
			ok(t, os.WriteFile(program, bytes, 0o755))
			daemon := exec.Command(program, "60")
			ok(t, daemon.Start())
			defer func() { _ = daemon.Process.Kill(); _ = daemon.Wait() }()
			write(t, filepath.Join(a.targets.Root, a.targets.Admin, "agent.toml"), "unit = 'agent.service'\ninstall = [{ from = 'a', to = '"+program+"' }]\n")
			ok(t, os.MkdirAll(a.tree.Dir(state.RoleSwap, "agent"), 0o755))
			if !c.first {
				sum, err := durable.FileSHA256(program)
				ok(t, err)
				ok(t, a.tree.Update(state.RoleSwap, "agent", func(s *state.Status) {
					s.Installed = &state.Release{Version: "1.0.0", Files: []state.File{{To: program, SHA256: sum}}}
				}))
			}
			c.change(t, program)
			m := processMachine{fakeMachine{unit: systemd.Unit{Load: "loaded", Active: "active", MainPID: uint32(daemon.Process.Pid)}}, []int{daemon.Process.Pid}}
			a.generated = t.TempDir()
			s := a.statusOf(t.Context(), m, "agent")
			if len(s.Drift) != len(c.want) {
				t.Fatalf("%q (%s), want %q", s.Drift, s.Error, c.want)
			}
			notes := strings.Join(s.row().notes, "\n")
			for i, want := range c.want {
				if !strings.Contains(s.Drift[i], want) || !strings.Contains(notes, want) {
					t.Errorf("%q lacks %q; the notes: %s", s.Drift[i], want, notes)
				}
			}
			a.machine = func(context.Context) (machine, error) { return m, nil }
			if a.main([]string{"status", "--check", "agent"}, ""); strings.Contains(out.String(), `"drift":true`) != (len(c.want) > 0) {
				t.Errorf("the check says %s", out)
			}
		})
	}
}

// TestOtherFile: what runs in place of the installed file, except what has yet to execute it.
func TestOtherFile(t *testing.T) {
	for _, c := range []struct {
		link string
		sure bool
		want string
	}{
		{"/usr/lib/systemd/systemd-executor", true, ""},
		{"/usr/lib/systemd/systemd", true, ""},
		{"/opt/other", true, "/opt/other and not /opt/agent"},
		{"/opt/other", false, ""},
		{"/opt/agent (deleted)", false, "an earlier /opt/agent, which was replaced or removed since the process started"},
	} {
		if got := otherFile(c.link, "/opt/agent", c.sure); got != c.want {
			t.Errorf("%s: %q, want %q", c.link, got, c.want)
		}
	}
}
