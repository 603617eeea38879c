package health

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/durable"
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
	if p.ofUser() {
		return nil, nil
	}
	var ids []state.FileID
	if p.id.Known() {
		ids = append(ids, p.id)
	}
	now, err := state.Identify(p.path)
	if err == nil {
		ids = append(ids, now)
	} else if len(ids) == 0 && !errors.Is(err, fs.ErrNotExist) { // no process runs what is not there
		return nil, fmt.Errorf("cannot compare the processes with their file: %w", err)
	}
	return ids, nil
}

// ofUser reports whether the path of the program counts: root does not look at a program in
// a user's directory, and compares the bytes that run before the commit.
func (p program) ofUser() bool { return !p.id.Known() && durable.OfUser(p.path) }

// runsAs reports whether a process executes the program.
func (p program) runsAs(e executable, files []state.FileID) bool {
	return slices.Contains(files, e.File) || p.ofUser() && e.Path == p.path
}

// find records which process of the unit runs one of the files or, if none does, what
// runs instead.
func (s *unitState) find(ctx context.Context, m manager, inspect inspector, main program, files []state.FileID) error {
	pids, err := m.Processes(ctx, s.Name)
	if err != nil {
		return err
	}
	running := map[int]executable{}
	var older []int
	var failed error
	for _, pid := range pids {
		e, err := inspect(pid)
		switch {
		case errors.Is(err, errVanished):
		case err != nil:
			failed = err
		case main.runsAs(e, files):
			running[pid] = e
		case replaced(e.Path, main.path):
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
		e, err := inspect(int(s.MainPID))
		if err != nil {
			return err
		}
		s.foreign += "; its main process runs " + oneLine(e.Path)
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
func eldest(running map[int]executable) uint32 {
	first := 0
	for pid, e := range running {
		if _, worker := running[e.Parent]; worker {
			continue
		}
		if first == 0 || e.Start < running[first].Start || e.Start == running[first].Start && pid < first {
			first = pid
		}
	}
	return uint32(first)
}
