package command

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

	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/units"
)

// torn returns a warning if the running unit has data of the snapshot open for writing: a
// copy made meanwhile may mix several states. It returns "" for users that may not look,
// and if the unit is stopped before its data are saved.
func (a *app) torn(ctx context.Context, m machine, t *target.Target) (string, error) {
	if !a.root || m == nil || t.StopFirst || len(t.Snapshot) == 0 {
		return "", nil
	}
	names, err := units.Names(ctx, m, t)
	if err != nil {
		return "", err
	}
	var pids []int
	for _, name := range names {
		more, err := m.Processes(ctx, name)
		if err != nil {
			return "", err
		}
		pids = append(pids, more...)
	}
	written, err := openForWriting(pids, t.Snapshot)
	if err != nil || len(written) == 0 {
		return "", err
	}
	return fmt.Sprintf("%s has %s of the snapshot open for writing: what a rollback restores may be torn (hint: rollback.stop = true in %s/%s.toml)",
		strings.Join(names, ", "), strings.Join(written, ", "), a.targets.Admin, t.Name), nil
}

// warn prints what may go wrong at an update of the target. The attempt reports errors of
// the target file itself.
func (a *app) warn(ctx context.Context, name string) {
	t, err := a.targets.Load(name)
	if err != nil {
		return
	}
	a.warnAbout(name, t.Exposed())
	m := a.see(ctx)
	if m == nil {
		return
	}
	defer m.Close()
	torn, err := a.torn(ctx, m, t)
	if err != nil {
		torn = err.Error()
	}
	a.warnAbout(name, torn)
}

// openForWriting returns, sorted, those of the paths, or of the files below them, that
// the processes have open for writing. It ignores processes that have ended.
func openForWriting(pids []int, paths []string) ([]string, error) {
	var written []string
	for _, pid := range pids {
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		fds, err := os.ReadDir(filepath.Join(dir, "fd"))
		if ended(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot look at the open files of process %d: %w", pid, err)
		}
		for _, fd := range fds {
			file, err := os.Readlink(filepath.Join(dir, "fd", fd.Name()))
			if err == nil && slices.ContainsFunc(paths, func(p string) bool { return file == p || strings.HasPrefix(file, p+"/") }) {
				var writes bool
				if writes, err = writable(filepath.Join(dir, "fdinfo", fd.Name())); writes && !slices.Contains(written, file) {
					written = append(written, file)
				}
			}
			if err != nil && !ended(err) { // else the descriptor was closed meanwhile
				return nil, fmt.Errorf("cannot look at the open files of process %d: %w", pid, err)
			}
		}
	}
	slices.Sort(written)
	return written, nil
}

// writable reports whether the open file that an fdinfo describes can be written; see
// proc_pid_fdinfo(5).
func writable(fdinfo string) (bool, error) {
	info, err := os.ReadFile(fdinfo)
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(info)) {
		if octal, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(octal), 8, 64)
			return flags&unix.O_ACCMODE != unix.O_RDONLY, err
		}
	}
	return false, fmt.Errorf("%s has no flags", fdinfo)
}

// ended reports whether err says that a process or descriptor no longer exists.
func ended(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }
