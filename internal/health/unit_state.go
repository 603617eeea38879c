package health

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/systemd"
)

// unitState is the state of a unit at one moment.
type unitState struct {
	systemd.Unit
	// aside is the process that runs the main file if the main process does not: a
	// wrapper's child, or a process of a unit whose main process systemd does not know.
	aside uint32
	// foreign describes what the unit runs instead of the main file; "" if a process runs
	// the main file, or if the target names none.
	foreign string
	older   bool // the process runs an older file, which the main file has replaced
	// declared says that the main process last ended with an exit that the unit declares,
	// after which systemd restarted it or will restart it.
	declared bool
}

// pid returns the process that runs the program; 0 if the unit needs none.
func (s unitState) pid() uint32 {
	if s.aside != 0 {
		return s.aside
	}
	return s.MainPID
}

// restarting reports whether systemd restarts the unit by itself, after its main
// process has ended.
func (s unitState) restarting() bool {
	return s.Active == "activating" && strings.HasPrefix(s.Sub, "auto-restart")
}

// observe reads the state of the unit. It lists the unit's other processes only if the
// main process is not the program: that is rare, and takes PID 1 some time.
func observe(ctx context.Context, m manager, inspect inspector, w subject) (unitState, error) {
	main := w.main
	u, err := m.Unit(ctx, w.unit)
	s := unitState{Unit: u}
	if err != nil || main.path == "" || !active(u) || u.Sub == "exited" {
		return s, err
	}
	files, err := main.files()
	if err != nil {
		return s, err
	}
	if u.MainPID != 0 {
		e, err := inspect(int(u.MainPID))
		if err != nil || main.runsAs(e, files) {
			return s, err
		}
		if w.reloaded && replaced(e.Path, main.path) {
			s.older, s.foreign = true, "its main process still runs an older "+main.path
			return s, nil
		}
	}
	return s, s.find(ctx, m, inspect, main, files)
}

// standing classifies the state of a unit.
type standing int

const (
	standingPending     standing = iota // it is not up yet, and may still come up
	standingUp                          // it is active and runs the main file
	standingInterrupted                 // another program or the operator stops or restarts it
	standingDown                        // it ended by itself
)

// classify returns how the unit stands, and why it is not up.
func (s unitState) classify() (standing, string) {
	u := s.Unit
	switch {
	case active(u):
		switch {
		case u.Sub == "exited" && !u.Remains():
			return standingDown, describeEnd(u)
		case s.foreign != "":
			return standingPending, s.foreign
		}
		return standingUp, ""
	case u.Active == "activating" && !s.restarting():
		return standingPending, "it is still starting (" + u.Sub + ")"
	case stoppedFromOutside(u):
		return standingInterrupted, "another program or the operator stopped it"
	case killedFromOutside(u):
		return standingInterrupted, "another process ended its main process by " + unix.SignalName(unix.Signal(u.ExecValue))
	case u.Active == "activating", u.Active == "failed":
		return standingDown, describeEnd(u)
	case u.Job != 0:
		return standingInterrupted, "another job stops or restarts it"
	}
	return standingDown, describeEnd(u)
}

// active reports whether the unit is up. A reload does not end the main process.
func active(u systemd.Unit) bool {
	return u.Active == "active" || u.Active == "reloading" || u.Active == "refreshing"
}

// killedFromOutside reports whether another program ended the main process by SIGTERM or
// SIGKILL, neither of which a program sends to itself. systemd takes SIGTERM for a clean end.
// The result is another one if systemd sent the signal itself because of a time limit, or if
// memory was short.
func killedFromOutside(u systemd.Unit) bool {
	if u.MainPID != 0 || u.ExecCode != systemd.Killed {
		return false
	}
	signal := unix.Signal(u.ExecValue)
	return signal == unix.SIGTERM && u.Result == "success" || signal == unix.SIGKILL && u.Result == "signal"
}

// stoppedFromOutside reports whether a job stopped the unit: its main process ended only
// after that, in any way. A program that tells systemd of its end can look so, too; its end
// must then be a clean one.
func stoppedFromOutside(u systemd.Unit) bool {
	if !u.Stopped() {
		return false
	}
	switch u.Result {
	case "success":
		return true
	case "exit-code", "signal", "core-dump":
		return !strings.HasPrefix(u.Type, "notify")
	}
	return false
}

// describeEnd describes how the unit ended.
func describeEnd(u systemd.Unit) string {
	var how string
	switch {
	case u.Load != "" && u.Load != "loaded":
		return "its unit file is " + u.Load
	case u.MainPID != 0 || u.ExecCode == 0:
		how = fmt.Sprintf("it is %s (%s)", u.Active, u.Sub)
	case u.ExecCode == systemd.Exited && u.ExecValue == systemd.ExecFailed:
		how = "its main process could not be executed (status 203/EXEC)"
	case u.ExecCode == systemd.Exited:
		how = fmt.Sprintf("its main process exited with status %d", u.ExecValue)
	default: // it was killed
		how = "its main process was killed by " + unix.SignalName(unix.Signal(u.ExecValue))
	}
	switch u.Result {
	case "", "success", "exit-code", "signal", "core-dump":
		return how
	}
	return how + " (systemd says: " + u.Result + ")"
}
