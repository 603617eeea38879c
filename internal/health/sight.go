package health

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/systemd"
)

// sight is what was seen of a unit at one moment.
type sight struct {
	systemd.Unit
	// foreign tells what the main process runs instead of the main file; ""
	// when it runs that, or may run anything.
	foreign string
}

// errVanished says that the main process ended while it was looked at. systemd
// will tell of it.
var errVanished = errors.New("the main process has just ended")

// look takes a sight of the unit. main is the file that the main process must
// run, "" for any.
func look(ctx context.Context, m manager, unit, main string) (sight, error) {
	u, err := m.Unit(ctx, unit)
	s := sight{Unit: u}
	if err != nil || main == "" || u.MainPID == 0 || !active(u) {
		return s, err
	}
	exe := fmt.Sprintf("/proc/%d/exe", u.MainPID)
	running, err := os.Stat(exe)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return s, errVanished
	}
	if err != nil {
		return s, fmt.Errorf("cannot tell which file the main process runs: %w", err)
	}
	installed, err := os.Stat(main)
	if err != nil {
		return s, fmt.Errorf("cannot compare the main process with its file: %w", err)
	}
	if os.SameFile(running, installed) {
		return s, nil
	}
	path, err := os.Readlink(exe)
	if err != nil {
		return s, errVanished
	}
	if path = strings.TrimSuffix(path, " (deleted)"); path == main {
		s.foreign = "its main process still runs an older " + main
	} else {
		s.foreign = fmt.Sprintf("its main process runs %s, not %s", oneLine(path), main)
	}
	return s, nil
}

// standing is how a unit stands, by systemd's own view.
type standing int

const (
	pending standing = iota // not yet as it must be, and may still become so
	upright                 // active, with the right main process
	stopped                 // somebody is stopping or restarting it
	fallen                  // it has ended, and not because somebody wanted it to
)

// stands classifies what was seen, and says why it is not upright.
func (s sight) stands() (standing, string) {
	u := s.Unit
	switch {
	case active(u):
		switch {
		case u.MainPID == 0 && u.Sub == "exited":
			return fallen, death(u)
		case u.MainPID == 0:
			return pending, "systemd knows no main process of it"
		case s.foreign != "":
			return pending, s.foreign
		}
		return upright, ""
	case u.Active == "activating" && !strings.HasPrefix(u.Sub, "auto-restart"):
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
