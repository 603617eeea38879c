package systemd

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// Unit holds properties of a unit, with the values of org.freedesktop.systemd1(5).
type Unit struct {
	Name       string
	Load       string // LoadState: loaded, not-found, masked, …
	Active     string // ActiveState: active, inactive, failed, activating, …
	Sub        string // SubState: running, dead, auto-restart, …
	Result     string // success, exit-code, signal, timeout, …
	MainPID    uint32
	NRestarts  uint32
	ExecCode   int32 // how the main process ended: [Exited], [Killed] or [Dumped]
	ExecValue  int32 // exit status or signal
	Status     string
	Job        uint32   // 0 if none is queued or running
	Dependents []string // units that Require= or BindTo= it; systemd stops them with it
	Writable   []string // ReadWritePaths=
	KillMode   string   // KillMode= of the loaded unit
	// ControlGroup is the path of its control group; "" if it has none now.
	ControlGroup string
	Triggers     []string // sockets, timers and path units that start it
	Fragment     string   // its unit file
	DropIns      []string // in the order in which systemd reads them
	Outdated     bool     // its files changed since systemd read them (NeedDaemonReload)
	// Began is when the unit last left the inactive state, by CLOCK_MONOTONIC: the start
	// of the program that runs or is being started. It is zero if it never did.
	Began time.Duration
	// Entered is when it last became active, by the same clock.
	Entered time.Duration
	// Left is when it last stopped being active. MainBegan and MainEnded are when its last main
	// process began and ended; all by the same clock.
	Left, MainBegan, MainEnded time.Duration
	// Command is the first ExecStart=, with the program's path.
	Command []string
	User    string   // User=; "" is root
	UID     uint32   // the user's number; [NoUID] if systemd does not know it
	Group   string   // Group=; "" is the user's primary group
	Groups  []string // SupplementaryGroups=
	// DynamicUser says that the user exists only while the unit runs.
	DynamicUser bool
	// Invocation is the invocation ID of the present or last start of the unit, which
	// the journal has, too; "" before the first start.
	Invocation string
	// StartLimit and StopLimit are TimeoutStartSec= and TimeoutStopSec=, at most
	// [longest].
	StartLimit, StopLimit time.Duration

	Frozen          bool   // its processes do not run (systemctl freeze)
	Type            string // simple, forking, oneshot, …
	RemainAfterExit bool
	CanReload       bool      // it has an ExecReload=, or another way to be reloaded
	BeganAt         time.Time // Began, by the clock of the time at that moment
	// Forced and Clean are RestartForceExitStatus= and SuccessExitStatus=.
	Forced, Clean Exits
	// LogNamespace is the namespace of the journal that receives the unit's lines; "" is
	// the system's.
	LogNamespace string
}

// NoUID is the UID of a unit that has no User= or has not run yet.
const NoUID = 1<<32 - 1

// longest is the limit for a unit whose own limits are higher or infinite.
const longest = 15 * time.Minute

// The values of [Unit.ExecCode]: CLD_ codes of waitid(2).
const (
	Exited = 1
	Killed = 2
	Dumped = 3
)

// ExecFailed is the exit status of a unit's process if execve(2) fails: EXIT_EXEC of
// systemd.exec(5).
const ExecFailed = 203

// Settled reports whether the unit has no job and is not between two states.
func (u Unit) Settled() bool {
	return u.Job == 0 && (u.Active == "active" || u.Active == "inactive" || u.Active == "failed")
}

// SparesChildren reports whether a stop of the unit ends only its main process, and not
// the other processes of its control group (KillMode= of systemd.kill(5)).
func (u Unit) SparesChildren() bool { return u.KillMode == "process" || u.KillMode == "none" }

// Running reports whether the unit is active and either has processes, though systemd
// may not know its main process, or has done its work and needs none.
func (u Unit) Running() bool {
	return u.Active == "active" && (u.MainPID != 0 || u.Sub == "running" || u.Remains())
}

// Remains reports whether the unit is active without a process: it has
// Type=oneshot and RemainAfterExit=yes, and has succeeded.
func (u Unit) Remains() bool {
	return u.Type == "oneshot" && u.RemainAfterExit && u.Active == "active" && u.Sub == "exited"
}

// Passes reports whether the unit never stays active: it is done when its process ends.
func (u Unit) Passes() bool { return u.Type == "oneshot" && !u.RemainAfterExit }

// Stopped reports whether the unit stopped being active while its main process ran, which
// then ended. A job stopped it, or the program announced its end (sd_notify(3)). Without the
// begin, a start that failed before that process would look like the stop before it.
func (u Unit) Stopped() bool {
	return u.MainPID == 0 && u.Began <= u.Left && u.MainBegan < u.Left && u.Left < u.MainEnded
}

// String returns the state in the form of `systemctl status`.
func (u Unit) String() string {
	s := u.Active + " (" + u.Sub + ")"
	switch {
	case u.MainPID != 0: // the end is that of an earlier run
	case u.ExecCode == Exited:
		s += fmt.Sprintf(", its main process exited with status %d", u.ExecValue)
	case u.ExecCode == Killed, u.ExecCode == Dumped:
		s += fmt.Sprintf(", its main process was killed by signal %d", u.ExecValue)
	}
	return s
}

// Unit reads the properties of a unit. A unit that does not exist has Load "not-found".
func (c *Conn) Unit(ctx context.Context, name string) (Unit, error) {
	p, err := c.properties(ctx, name)
	if err != nil {
		return Unit{}, fmt.Errorf("cannot read the state of %s: %w", name, err)
	}
	u := Unit{Name: name}
	u.Load, _ = p["LoadState"].(string)
	u.Active, _ = p["ActiveState"].(string)
	u.Sub, _ = p["SubState"].(string)
	u.Result, _ = p["Result"].(string)
	u.MainPID, _ = p["MainPID"].(uint32)
	u.NRestarts, _ = p["NRestarts"].(uint32)
	u.ExecCode, _ = p["ExecMainCode"].(int32)
	u.ExecValue, _ = p["ExecMainStatus"].(int32)
	u.Status, _ = p["StatusText"].(string)
	if job, ok := p["Job"].([]any); ok && len(job) > 0 {
		u.Job, _ = job[0].(uint32)
	}
	u.Writable, _ = p["ReadWritePaths"].([]string)
	u.KillMode, _ = p["KillMode"].(string)
	u.ControlGroup, _ = p["ControlGroup"].(string)
	u.Triggers, _ = p["TriggeredBy"].([]string)
	u.Fragment, _ = p["FragmentPath"].(string)
	u.DropIns, _ = p["DropInPaths"].([]string)
	u.Outdated, _ = p["NeedDaemonReload"].(bool)
	for property, at := range map[string]*time.Duration{
		"InactiveExitTimestampMonotonic": &u.Began, "ActiveEnterTimestampMonotonic": &u.Entered, "ActiveExitTimestampMonotonic": &u.Left,
		"ExecMainStartTimestampMonotonic": &u.MainBegan, "ExecMainExitTimestampMonotonic": &u.MainEnded,
	} {
		usec, _ := p[property].(uint64)
		*at = time.Duration(usec) * time.Microsecond
	}
	u.Command = firstCommand(p["ExecStart"])
	u.User, _ = p["User"].(string)
	u.Group, _ = p["Group"].(string)
	u.Groups, _ = p["SupplementaryGroups"].([]string)
	u.DynamicUser, _ = p["DynamicUser"].(bool)
	u.UID = NoUID
	if uid, ok := p["UID"].(uint32); ok {
		u.UID = uid
	}
	if id, ok := p["InvocationID"].([]byte); ok && len(id) > 0 {
		u.Invocation = hex.EncodeToString(id)
	}
	u.StartLimit, u.StopLimit = limit(p["TimeoutStartUSec"]), limit(p["TimeoutStopUSec"])
	freezer, _ := p["FreezerState"].(string)
	u.Frozen = strings.HasPrefix(freezer, "fr") || strings.HasPrefix(freezer, "thaw") // or is about to be
	u.Type, _ = p["Type"].(string)
	u.RemainAfterExit, _ = p["RemainAfterExit"].(bool)
	u.CanReload, _ = p["CanReload"].(bool)
	if usec, ok := p["InactiveExitTimestamp"].(uint64); ok && usec > 0 {
		u.BeganAt = time.UnixMicro(int64(usec))
	}
	u.Forced, u.Clean = exits(p["RestartForceExitStatus"]), exits(p["SuccessExitStatus"])
	u.LogNamespace, _ = p["LogNamespace"].(string)
	for _, by := range []string{"RequiredBy", "BoundBy"} {
		names, _ := p[by].([]string)
		u.Dependents = append(u.Dependents, names...)
	}
	return u, nil
}

// firstCommand returns the arguments of the first command in a property such as ExecStart:
// each command is its path, its arguments, and six more fields.
func firstCommand(property any) []string {
	commands, _ := property.([][]any)
	if len(commands) == 0 || len(commands[0]) < 2 {
		return nil
	}
	path, _ := commands[0][0].(string)
	args, _ := commands[0][1].([]string)
	if len(args) == 0 {
		return nil
	}
	return append([]string{path}, args[1:]...) // the first argument may be another name: see "@" in systemd.service(5)
}

func (c *Conn) properties(ctx context.Context, unit string) (map[string]any, error) {
	return ask(ctx, c, func(sd *dbus.Conn) (map[string]any, error) { return sd.GetAllPropertiesContext(ctx, unit) })
}

// Units reads Load, Active, Sub and Job of units, in one call and so at one moment, in
// the order of the names. [Conn.Unit] is too slow for each change in a chain of units:
// PID 1 gathers hundreds of properties for it.
func (c *Conn) Units(ctx context.Context, names ...string) ([]Unit, error) {
	var listed []dbus.UnitStatus
	err := c.do(ctx, func(l *link) (err error) {
		listed, err = l.list(ctx, names...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the states of %s: %w", strings.Join(names, ", "), err)
	}
	var units []Unit
	for i, u := range listed {
		units = append(units, Unit{Name: names[i], Load: u.LoadState, Active: u.ActiveState, Sub: u.SubState, Job: u.JobId})
	}
	return units, nil
}

// Status reads the STATUS= text of a service: one of the properties that [Conn.Unit] reads.
func (c *Conn) Status(ctx context.Context, name string) (string, error) {
	p, err := ask(ctx, c, func(sd *dbus.Conn) (*dbus.Property, error) {
		return sd.GetServicePropertyContext(ctx, name, "StatusText")
	})
	if err != nil {
		return "", fmt.Errorf("cannot read the status of %s: %w", name, err)
	}
	text, _ := p.Value.Value().(string)
	return text, nil
}

// Alive returns the names of the units that match a pattern and are active, activating
// or deactivating, or have a job.
func (c *Conn) Alive(ctx context.Context, patterns ...string) ([]string, error) {
	units, err := ask(ctx, c, func(sd *dbus.Conn) ([]dbus.UnitStatus, error) {
		return sd.ListUnitsByPatternsContext(ctx, nil, patterns)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list units: %w", err)
	}
	var names []string
	for _, u := range units {
		if u.JobId != 0 || u.ActiveState != "inactive" && u.ActiveState != "failed" {
			names = append(names, u.Name)
		}
	}
	return names, nil
}

func limit(usec any) time.Duration {
	n, _ := usec.(uint64)
	return min(time.Duration(min(n, uint64(longest.Microseconds())))*time.Microsecond, longest)
}

func property(name string, value any) dbus.Property {
	return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
}

func isName(err error, name string) bool {
	e, ok := errors.AsType[godbus.Error](err)
	return ok && e.Name == name
}
