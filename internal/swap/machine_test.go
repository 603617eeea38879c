package swap

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// machine is a systemd for tests. It keeps in files what outlives a killed swapper: which
// program runs, which unit file is loaded, whether the deadline is armed.
type machine struct {
	*rig
	mu       sync.Mutex // guards calls, on and fails: the rollback reads systemd's journal concurrently
	pid      uint32
	units    map[string]systemd.Unit // units that are neither a running unit nor an idle worker
	alive    map[string][]string     // units by pattern
	group    []int                   // the unit's processes besides its main one
	calls    []string                // each "verb unit", in order
	fails    map[string]error        // errors by call
	on       map[string]func()       // run by call, before it has any effect
	after    state.Baseline          // what the gate's user sees after a rollback
	now      *state.Baseline         // the same before an attempt; nil: the baseline fails
	said     string                  // by the program in its pre-flight, if tried is the list of an archive
	tried    systemd.SandboxResult
	armed    time.Duration
	up       time.Duration
	limit    time.Duration     // the limit of the last restart
	patience time.Duration     // how long the last restart might take
	lines    []systemd.LogLine // lines in the unit's log
	trial    systemd.Sandbox
	hook     systemd.Hook
	delayed  string              // why a shutdown is delayed; "" if none is
	dies     int                 // the call of this number, from now on, kills the swapper; 0: none does
	left     time.Duration       // when the unit was seen to leave the active state
	locks    []systemd.Inhibitor // of logind
	home     string              // the program in the home of a user, as which the unit runs; "" for bin/agent
}

func newMachine(r *rig) *machine {
	return &machine{rig: r, pid: 4242, units: map[string]systemd.Unit{}, fails: map[string]error{},
		on: map[string]func(){}, after: state.Baseline{Standing: true}}
}

func (m *machine) set(name, value string) error {
	path := m.at("machine/" + name)
	if err := os.WriteFile(path+".tmp", []byte(value), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

func (m *machine) get(name string) string {
	b, _ := os.ReadFile(m.at("machine/" + name)) // a missing file means ""
	return string(b)
}

func (m *machine) call(verb, name string) error {
	c := strings.TrimSpace(verb + " " + name)
	m.mu.Lock()
	m.calls = append(m.calls, c)
	does := m.on[c]
	m.mu.Unlock()
	if m.dies > 0 && !strings.HasPrefix(verb, "log") {
		if m.dies--; m.dies == 0 {
			panic(errKilled)
		}
	}
	if does != nil {
		does()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fails[c]
}

// called returns how often a call was made.
func (m *machine) called(call string) int {
	n := 0
	for _, c := range m.calls {
		if c == call {
			n++
		}
	}
	return n
}

func (m *machine) Uptime(context.Context) (time.Duration, error) { return m.up, m.call("uptime", "") }

func (m *machine) Unit(_ context.Context, name string) (systemd.Unit, error) {
	if err := m.fails["unit "+name]; err != nil {
		return systemd.Unit{}, err
	}
	if u, ok := m.units[name]; ok {
		u.Name = name
		return u, nil
	}
	u := systemd.Unit{Name: name, Load: "loaded", Active: "inactive", Sub: "dead", StartLimit: time.Second, StopLimit: time.Second}
	switch {
	case name == "agent.service":
		u.Dependents, u.Triggers, u.KillMode = []string{"needs.service", "idle.service"}, []string{"agent.socket"}, m.killMode()
		u.Invocation = cmp.Or(m.get("invocation"), "1st")
		if m.home != "" {
			u.User, u.UID = "alice", alice
		}
		if m.get("running") != "" {
			u.Active, u.Sub, u.MainPID = "active", "running", m.pid
		}
	case strings.HasSuffix(name, ".path"):
		u.Active, u.Sub = "active", "waiting"
	case name == "machinemon-swap@agent.service":
		u.Writable = []string{m.at("bin"), "-" + m.at("units"), m.at("etc"), m.at("opt")}
	case name == "machinemon-fetch@agent.service":
		u.User = "mm-fetch-agent"
	case name == "needs.service" && m.get("needs") != "stopped":
		u.Active, u.Sub = "active", "running"
	}
	return u, nil
}

func (m *machine) Units(ctx context.Context, names ...string) (all []systemd.Unit, err error) {
	for _, name := range names {
		u, err := m.Unit(ctx, name)
		if err != nil {
			return nil, err
		}
		all = append(all, systemd.Unit{Name: u.Name, Load: u.Load, Active: u.Active, Sub: u.Sub, Job: u.Job})
	}
	return all, nil
}

func (m *machine) Processes(context.Context, string) ([]int, error) {
	return append([]int{int(m.pid)}, m.group...), m.fails["processes agent.service"]
}

func (m *machine) Start(_ context.Context, name string) error {
	if err := m.call("start", name); err != nil {
		return err
	}
	switch name {
	case "machinemon-baseline@agent.service":
		j, err := m.tree.Journal("agent")
		if err != nil || j == nil && m.now == nil {
			return err
		}
		if j == nil {
			o, err := m.tree.Order("agent")
			if err != nil {
				return err
			}
			b := *m.now
			b.Attempt = o.Attempt
			return look(m.tree, b)
		}
		b := m.after
		b.Attempt = j.Attempt
		return look(m.tree, b)
	case "machinemon-rollback@agent.service":
		return m.sw.Rollback(context.Background(), "agent")
	case "machinemon-commit@agent.service":
		return m.sw.Commit(context.Background(), "agent")
	}
	return nil
}

// killMode returns the KillMode= that the loaded unit file sets, or the default.
func (m *machine) killMode() string {
	if strings.Contains(m.get("loaded"), "KillMode=process") {
		return "process"
	}
	return "control-group"
}

// Restart stops the program that runs, if one does, and starts the installed one. A
// program migrates the configuration of an older one; it does not read a newer one's.
func (m *machine) Restart(ctx context.Context, name string, limit time.Duration) error {
	m.limit = limit
	if until, ok := ctx.Deadline(); ok {
		m.patience = time.Until(until)
	}
	err := m.call("restart", name)
	if err != nil {
		if _, ok := err.(*systemd.JobError); !ok {
			return err
		}
	}
	if rerr := m.stopAgent(); rerr != nil {
		return rerr
	}
	agent := cmp.Or(m.home, m.at("bin/agent"))
	if info, rerr := os.Lstat(agent); rerr != nil || !info.Mode().IsRegular() {
		return errors.Join(err, rerr) // exec(2) fails, which is not an error of the job
	}
	program, rerr := os.ReadFile(agent)
	if rerr != nil {
		return rerr
	}
	if u, is := m.units[name]; is && u.Invocation != "" {
		u.Invocation += "another"
		m.units[name] = u
	}
	if rerr := m.set("invocation", m.get("invocation")+"another"); rerr != nil {
		return rerr
	}
	if rerr := m.set("needs", "stopped"); rerr != nil { // the effect of its Requires=
		return rerr
	}
	if rerr := m.set("running", string(program)); rerr != nil {
		return rerr
	}
	if rerr := os.WriteFile(m.at("opt/app/data/seen"), program, 0o600); rerr != nil && !os.IsNotExist(rerr) {
		return rerr
	}
	if config, rerr := os.ReadFile(m.at("etc/config")); rerr != nil || string(config) >= "config of "+string(program) {
		return errors.Join(err, rerr)
	}
	return errors.Join(err, m.writeConfig(string(program)))
}

// writeConfig writes the configuration in place, as daemons do.
func (m *machine) writeConfig(program string) error {
	return os.WriteFile(m.at("etc/config"), []byte("config of "+program), 0o600)
}

// stopAgent ends the running program, which writes its configuration when it stops. With
// the control group's kill mode its children end, too.
func (m *machine) stopAgent() error {
	program := m.get("running")
	if program == "" {
		return nil
	}
	if m.killMode() != "process" {
		if err := m.set("children", "killed"); err != nil {
			return err
		}
	}
	return errors.Join(m.writeConfig(program), m.set("running", ""), m.set("needs", "stopped"))
}

func (m *machine) Reload(context.Context) error {
	if err := m.call("reload", ""); err != nil {
		return err
	}
	file, err := os.ReadFile(m.at("units/agent.service"))
	if err != nil {
		return err
	}
	return m.set("loaded", string(file))
}

func (m *machine) ReloadUnit(_ context.Context, name string) error { return m.call("reload", name) }

func (m *machine) Arm(_ context.Context, timer string, after time.Duration) error {
	if err := m.call("arm", timer); err != nil {
		return err
	}
	m.armed = after
	return m.set("deadline", timer)
}

func (m *machine) Stop(_ context.Context, name string) error {
	if err := m.call("stop", name); err != nil {
		return err
	}
	switch name {
	case m.get("deadline"):
		return os.Remove(m.at("machine/deadline"))
	case "agent.service":
		return m.stopAgent()
	}
	return nil
}

// Kill ends what does not stop.
func (m *machine) Kill(_ context.Context, name string) error {
	err := m.call("kill", name)
	delete(m.units, name)
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.fails, "restart "+name)
	delete(m.fails, "stop "+name)
	return err
}

func (m *machine) Alive(_ context.Context, patterns ...string) ([]string, error) {
	var names []string
	for _, p := range patterns {
		names = append(names, m.alive[p]...)
	}
	return names, m.call("list", strings.Join(patterns, " "))
}

func (m *machine) Queue(_ context.Context, name string) error {
	err := m.call("queue", name)
	if err == nil && name == "needs.service" {
		err = m.set("needs", "")
	}
	return err
}

func (m *machine) ResetFailed(_ context.Context, names ...string) error {
	for _, n := range names {
		if err := m.call("reset", n); err != nil {
			return err
		}
	}
	return nil
}

func (m *machine) Try(_ context.Context, p systemd.Sandbox) (systemd.SandboxResult, error) {
	if m.said != "" && p.Input == "" { // a pre-flight, after an archive was listed
		m.tried.Output = m.said
	} else {
		m.trial = p
	}
	return m.tried, m.call("try", filepath.Base(p.Argv[0]))
}

// RunHook records what the hook is told. A hook called migrate rewrites the
// configuration, even if it fails.
func (m *machine) RunHook(_ context.Context, h systemd.Hook) error {
	m.hook = h
	program := filepath.Base(h.Argv[0])
	if h.User == "alice" {
		return errors.Join(m.call("hook", h.Argv[1]), asAlice(h))
	}
	if program == "migrate" {
		if err := os.WriteFile(m.at("etc/config"), []byte("migrated"), 0o640); err != nil {
			return err
		}
	}
	return m.call("hook", program)
}

func (m *machine) Leaving(_ context.Context, units ...string) (func() time.Duration, error) {
	return func() time.Duration { return m.left }, m.call("watch", strings.Join(units, " "))
}

func (m *machine) Inhibitors(context.Context) ([]systemd.Inhibitor, error) {
	return m.locks, m.fails["inhibitors"]
}

func (m *machine) Delay(_ context.Context, why string) (func(), error) {
	m.delayed = why
	return func() { m.delayed = "" }, m.fails["delay"]
}

func (m *machine) LastLines(_ context.Context, unit, boot string, n int) ([]systemd.LogLine, error) {
	return m.lines[max(0, len(m.lines)-n):], m.call("log "+boot, unit)
}

// order reports whether the calls were made in this order; others may come between.
func (m *machine) order(calls ...string) bool {
	rest := m.calls
	for _, c := range calls {
		i := slices.Index(rest, c)
		if i < 0 {
			return false
		}
		rest = rest[i+1:]
	}
	return true
}
