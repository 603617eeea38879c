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

// program is the main file of a target, which a process of its unit must run.
type program struct {
	path string // "" if each process counts
	// id identifies the file as root read it: the gate's user may not be able to reach
	// the path. A journal of an earlier version has none; then the path counts.
	id state.FileID
}

// files returns the identities that the program's file may have.
func (p program) files() ([]state.FileID, error) {
	var ids []state.FileID
	if p.id.Known() {
		ids = append(ids, p.id)
	}
	now, err := state.Identify(p.path)
	if err == nil {
		ids = append(ids, now)
	} else if len(ids) == 0 {
		return nil, fmt.Errorf("cannot compare the processes with their file: %w", err)
	}
	return ids, nil
}

// errVanished says that a process ended while it was read. If it was the main process,
// systemd reports that.
var errVanished = errors.New("the process has just ended")

// executable returns the identity of the file that a process runs.
func executable(pid int) (state.FileID, error) {
	// The kernel resolves this link without the directories of the file's path.
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

// find records which process of the unit runs one of the files or, if none does, what
// runs instead.
func (s *unitState) find(ctx context.Context, m manager, main program, files []state.FileID) error {
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

// replaced reports whether a process runs a file that was at main earlier. path is its
// executable, as /proc has it; the directory may have another name there.
func replaced(path, main string) bool {
	old, gone := strings.CutSuffix(path, " (deleted)")
	return gone && filepath.Base(old) == filepath.Base(main)
}

// eldest returns the process from which the others descend; 0 if there is none. A process
// whose parent is one of them is a worker, which may end at any time.
func eldest(pids []int) uint32 {
	first, began := 0, uint64(0)
	for _, pid := range pids {
		parent, start, err := origin(pid)
		if err != nil || slices.Contains(pids, parent) {
			continue // it has ended, or is a worker
		}
		if first == 0 || start < began || start == began && pid < first {
			first, began = pid, start
		}
	}
	return uint32(first)
}

// origin reads the parent of a process, and its start time in the kernel's clock ticks.
func origin(pid int) (parent int, start uint64, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The name, in brackets, may contain any character. After it come the third and
	// further fields of proc_pid_stat(5).
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
