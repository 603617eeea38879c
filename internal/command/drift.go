package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/units"
)

// changedFiles returns which files are no longer as the last update installed them. What
// this user may not see does not count.
func changedFiles(st *state.Status) (found []string) {
	if st.Installed == nil {
		return nil
	}
	for _, f := range st.Installed.Files {
		if what := changed(f); what != "" {
			found = append(found, fmt.Sprintf("%s %s that the update to %s left (hint: put that file back; until then scheduled runs install nothing)",
				f.To, what, state.Called(st.Installed.Version)))
		}
	}
	return found
}

// strayProcesses returns which units run another file than the installed one.
func strayProcesses(ctx context.Context, m machine, t *target.Target, st *state.Status) (found []string, err error) {
	main := t.Health.Main
	if main == "" || durable.OfUser(main) {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	names, err := units.Names(ctx, m, t)
	if err != nil {
		return found, err
	}
	for _, name := range names {
		u, err := m.Unit(ctx, name)
		if err != nil {
			return found, err
		}
		if u.Active != "active" || u.MainPID == 0 {
			continue
		}
		pids, err := m.Processes(ctx, name)
		if err != nil {
			return found, err
		}
		// Before the first update it is not known that the unit runs this very file.
		if what := outlived(int(u.MainPID), pids, main, st.Installed != nil); what != "" {
			found = append(found, fmt.Sprintf("process %d of %s runs %s (hint: sudo systemctl restart %s)", u.MainPID, name, what, name))
		}
	}
	return found, nil
}

// changed returns how the file differs from what was installed in its place; "" if it does
// not, or if this user cannot tell.
func changed(f state.File) string {
	if durable.OfUser(f.To) || f.Hidden() {
		return ""
	}
	if f.Tree != nil {
		if f.Same() {
			return ""
		}
	}
	switch sum, err := f.Digest(); {
	case err != nil || sum == f.SHA256:
		return ""
	case sum == "":
		return "is not there, other than the file"
	}
	return "is not the file"
}

// outlived says which other file than main the process runs, if no process of its unit runs
// main; "" if one does, or if this user cannot tell. If sure is false, only an earlier file
// of that name counts.
func outlived(pid int, others []int, main string, sure bool) string {
	installed, err := state.Identify(main)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	for _, p := range append(slices.Clone(others), pid) {
		running, err := state.Identify(fmt.Sprintf("/proc/%d/exe", p))
		if err != nil && !errors.Is(err, fs.ErrNotExist) || err == nil && running == installed {
			return ""
		}
	}
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil { // it has ended
		return ""
	}
	return otherFile(link, main, sure)
}

// otherFile says which file other than main a process runs, by the link of /proc to it; "" if
// that does not count.
func otherFile(link, main string, sure bool) string {
	switch {
	case slices.Contains(starters, link): // it is about to execute the program
		return ""
	case link == main+" (deleted)":
		return "an earlier " + main + ", which was replaced or removed since the process started"
	case sure:
		return link + " and not " + main
	}
	return ""
}

// starters are what a process of a unit runs before it executes the unit's program: systemd
// itself, since systemd 255 a program of its own.
var starters = []string{"/usr/lib/systemd/systemd-executor", "/usr/lib/systemd/systemd", "/lib/systemd/systemd"}
