package health

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/systemd"
)

// sight is what was seen of a unit at one moment.
type sight struct {
	systemd.Unit
	// aside is the process that runs the main file where the main process does
	// not: a wrapper's child, or of a unit whose main process systemd does not know.
	aside uint32
	// foreign tells what the unit runs instead of the main file; "" when a process
	// runs that, or may run anything.
	foreign string
	older   bool // what runs is a file that the main file has replaced since
	// declared says that the last end of the main process, after which systemd
	// restarted it or is about to, is one that the unit declares.
	declared bool
}

// pid is the process that runs the program; 0 where none is needed.
func (s sight) pid() uint32 {
	if s.aside != 0 {
		return s.aside
	}
	return s.MainPID
}

// restarting reports whether systemd restarts the unit by itself, after its main
// process has ended.
func (s sight) restarting() bool {
	return s.Active == "activating" && strings.HasPrefix(s.Sub, "auto-restart")
}

// observe takes a sight of the unit. Other processes than the main one are asked for
// only when that is not the program: it is rare, and takes PID 1 some time.
func observe(ctx context.Context, m manager, unit string, main program) (sight, error) {
	u, err := m.Unit(ctx, unit)
	s := sight{Unit: u}
	if err != nil || main.path == "" || !active(u) || u.Sub == "exited" {
		return s, err
	}
	files, err := main.files()
	if err != nil {
		return s, err
	}
	if u.MainPID != 0 {
		id, err := executable(int(u.MainPID))
		if err != nil || slices.Contains(files, id) {
			return s, err
		}
	}
	return s, s.find(ctx, m, main, files)
}

// standing is how a unit stands, by systemd's own view.
type standing int

const (
	pending standing = iota // not yet as it must be, and may still become so
	upright                 // active, and running the right program
	stopped                 // somebody is stopping or restarting it
	fallen                  // it has ended, and not because somebody wanted it to
)

// stands classifies what was seen, and says why it is not upright.
func (s sight) stands() (standing, string) {
	u := s.Unit
	switch {
	case active(u):
		switch {
		case u.Sub == "exited" && !u.Remains():
			return fallen, death(u)
		case s.foreign != "":
			return pending, s.foreign
		}
		return upright, ""
	case u.Active == "activating" && !s.restarting():
		return pending, "it is still starting (" + u.Sub + ")"
	case killedFromOutside(u):
		return stopped, "somebody else ended its main process by SIGTERM"
	case u.Active == "activating", u.Active == "failed":
		return fallen, death(u)
	case u.Job != 0:
		return stopped, "somebody else is stopping or restarting it"
	}
	return fallen, death(u)
}

// active tells whether the unit is up; a reload leaves the main process alone.
func active(u systemd.Unit) bool {
	return u.Active == "active" || u.Active == "reloading" || u.Active == "refreshing"
}

// killedFromOutside tells whether an ended main process was asked to end:
// systemd takes death by SIGTERM for a clean end unless it sent the signal
// itself because of a time limit, and no program does this to itself.
func killedFromOutside(u systemd.Unit) bool {
	return u.MainPID == 0 && u.ExecCode == cldKilled && unix.Signal(u.ExecValue) == unix.SIGTERM && u.Result == "success"
}

// CLD_ codes of waitid(2), as ExecMainCode gives them.
const (
	cldExited = 1
	cldKilled = 2
	cldDumped = 3
)

// exitExec is the status with which systemd's child exits when it cannot
// execute the program: EXIT_EXEC of systemd.exec(5).
const exitExec = 203

// death says how the unit ended.
func death(u systemd.Unit) string {
	var how string
	switch {
	case u.Load != "" && u.Load != "loaded":
		return "its unit file is " + u.Load
	case u.MainPID != 0 || u.ExecCode == 0:
		how = fmt.Sprintf("it is %s (%s)", u.Active, u.Sub)
	case u.ExecCode == cldExited && u.ExecValue == exitExec:
		how = "its main process could not be executed (status 203/EXEC)"
	case u.ExecCode == cldExited:
		how = fmt.Sprintf("its main process exited with status %d", u.ExecValue)
	default: // cldKilled, cldDumped
		how = "its main process was killed by " + unix.SignalName(unix.Signal(u.ExecValue))
	}
	switch u.Result {
	case "", "success", "exit-code", "signal", "core-dump":
		return how
	}
	return how + " (systemd says: " + u.Result + ")"
}
