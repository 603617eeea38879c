package health

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/state"
)

// program is the main file of a target: what a process of its unit must run.
type program struct {
	path string // "" where any process will do
	// id is the file as root saw it. The gate's user may not be allowed to follow
	// the path, and in what an earlier version wrote there is none: either will do.
	id state.FileID
}

// files are the identities that the program's file may have.
func (p program) files() ([]state.FileID, error) {
	var ids []state.FileID
	if p.id.Known() {
		ids = append(ids, p.id)
	}
	now, err := state.Identify(p.path)
	if err == nil {
		ids = append(ids, now)
	}
	if len(ids) > 0 {
		return ids, nil
	}
	return nil, fmt.Errorf("cannot compare the processes with their file: %w", err)
}

// errVanished says that a process ended while it was looked at. Where it was the
// main process, systemd will tell of it.
var errVanished = errors.New("the process has just ended")

// executable is the file that a process runs.
func executable(pid int) (state.FileID, error) {
	// A link of the kernel's own: the file's directory is not entered.
	id, err := state.Identify(exe(pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return id, errVanished
	}
	if err != nil {
		return id, fmt.Errorf("cannot find out which file process %d runs: %w", pid, err)
	}
	return id, nil
}

func exe(pid int) string { return fmt.Sprintf("/proc/%d/exe", pid) }

// find takes in which process of the unit runs one of the files, if any does, or
// what runs in its place.
func (s *sight) find(ctx context.Context, m manager, main program, files []state.FileID) error {
	pids, err := m.Processes(ctx, s.Name)
	if err != nil {
		return err
	}
	var running, older []int
	var failed error
	for _, pid := range pids {
		id, err := executable(pid)
		if err != nil {
			if !errors.Is(err, errVanished) {
				failed = err
			}
			continue
		}
		path, err := os.Readlink(exe(pid))
		switch {
		case slices.Contains(files, id):
			running = append(running, pid)
		case err == nil && replaced(path, main.path):
			older = append(older, pid)
		}
	}
	if s.aside = eldest(running); s.aside != 0 || failed != nil {
		return failed
	}
	s.foreign = "no process of " + s.Name + " runs " + main.path
	if len(older) > 0 {
		s.older, s.foreign = true, fmt.Sprintf("process %d still runs an older %s", older[0], main.path)
		if older[0] == int(s.MainPID) {
			s.foreign = "its main process still runs an older " + main.path
		}
		return nil
	}
	if s.MainPID != 0 {
		path, err := os.Readlink(exe(int(s.MainPID)))
		if err != nil {
			return errVanished
		}
		s.foreign += "; its main process runs " + oneLine(path)
	}
	return nil
}

// replaced reports whether a process whose executable is at path, in the kernel's
// words, runs a file that was once at main. The directory may have another name.
func replaced(path, main string) bool {
	old, gone := strings.CutSuffix(path, " (deleted)")
	return gone && filepath.Base(old) == filepath.Base(main)
}

// eldest finds the process that the others come from; 0 where there is none. Those
// whose parent is one of them are workers, which come and go.
func eldest(pids []int) uint32 {
	first, began := 0, uint64(0)
	for _, pid := range pids {
		parent, start, err := origin(pid)
		if err != nil || slices.Contains(pids, parent) {
			continue // it has just ended, or is a worker
		}
		if first == 0 || start < began || start == began && pid < first {
			first, began = pid, start
		}
	}
	return uint32(first)
}

// origin reads the parent of a process, and when it began, in the kernel's ticks.
func origin(pid int) (parent int, start uint64, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The name, in brackets, may hold anything. What follows is proc_pid_stat(5)'s
	// third field and on.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("cannot read /proc/%d/stat: it has %d fields", pid, len(fields)+2)
	}
	parent, err = strconv.Atoi(fields[1])
	if err == nil {
		start, err = strconv.ParseUint(fields[19], 10, 64)
	}
	return parent, start, err
}
