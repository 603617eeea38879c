// Package installed finds out which release is on the machine.
package installed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// nobody is the uid and gid of Debian's user for processes that may do nothing.
const nobody = 65534

// stranger returns what keeps a program away from root and from other targets: the user of
// this target's commands, or nobody before the accounts are made, and namespaces. All that
// the program leaves behind ends with it, since it is the first of its PID namespace.
func stranger(t *target.Target) *syscall.SysProcAttr {
	who := &syscall.Credential{Uid: nobody, Gid: nobody}
	if u, err := user.Lookup(target.Account("command", t.Name)); err == nil {
		uid, uerr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gerr := strconv.ParseUint(u.Gid, 10, 32)
		if uerr == nil && gerr == nil {
			who.Uid, who.Gid = uint32(uid), uint32(gid)
		}
	}
	return &syscall.SysProcAttr{Credential: who, Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC}
}

// Version returns the version that is on the machine: the one in the record of the last
// update if its files' digests match it, else the one that the program itself says, else
// "".
func Version(ctx context.Context, t *target.Target, st state.Status) string {
	if r := st.Installed; r != nil && r.Version != "" && Unchanged(r) {
		return r.Version
	}
	return askVersion(ctx, t)
}

// Formerly returns the install of a file that the records name.
func Formerly(f state.File) target.Install {
	i := target.Install{To: f.To, Listed: true, Tree: f.Tree != nil}
	if i.Tree {
		i.Releases = f.Tree.Releases
	}
	return i
}

// Others loads the targets except this one, to compare their files with its own. The errors
// are about targets that cannot be loaded.
func Others(tree state.Tree, dirs target.Dirs, name string) (all []*target.Target, errs []error) {
	names, err := dirs.Names()
	if err != nil {
		errs = append(errs, err)
	}
	for _, n := range names {
		if n == name {
			continue
		}
		t, err := dirs.Load(n)
		if err != nil {
			errs = append(errs, fmt.Errorf("not comparing with target %s: %w", n, err))
			continue
		}
		// The files that its releases listed are not in its target file.
		if st, err := tree.Status(state.RoleSwap, n); err == nil && st.Installed != nil {
			for _, f := range st.Installed.Files {
				t.Install = append(t.Install, Formerly(f))
			}
		}
		all = append(all, t)
	}
	return all, errs
}

// Missing returns the first file that every release of the target installs and that is not
// there, or "". A file whose directory this process may not look at counts as there, and
// so does one in a user's directory.
func Missing(t *target.Target) string {
	for _, i := range t.Install {
		if durable.OfUser(i.To) {
			continue
		}
		if _, err := os.Lstat(i.To); errors.Is(err, fs.ErrNotExist) && !i.Optional && !i.Listed {
			return i.To
		}
	}
	return ""
}

// Unchanged reports whether the files of a release are on disk as the release left them.
func Unchanged(r *state.Release) bool { return UnchangedSince(r, nil) }

// UnchangedSince is [Unchanged], and does not read files again that were looked at before.
func UnchangedSince(r *state.Release, looked state.Looked) bool {
	return len(r.Files) > 0 && !slices.ContainsFunc(r.Files, func(f state.File) bool { return !looked.Same(f) })
}

// askVersion runs the installed program's version_command and returns the version that it
// prints. The unit runs this program already; root runs it as a [stranger] all the same.
func askVersion(ctx context.Context, t *target.Target) string {
	argv := t.Health.VersionCommand
	if len(argv) == 0 || durable.OfUser(argv[0]) { // no other user runs what that user can write
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = stranger(t)
	}
	// In a session of its own, the program cannot type into root's terminal.
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // a child of the program may hold the pipe open
	var out capped
	cmd.Stdout, cmd.Stderr = &out, &out
	// Some programs print their version and exit with status 1. What one printed that had to
	// be killed, as a daemon that ignores the option, is something else.
	_ = cmd.Run()
	if s := cmd.ProcessState; s == nil || !s.Exited() {
		return ""
	}
	return t.Health.Printed(string(out)).Version()
}

// maxOutput is how many bytes of a program's output are read.
const maxOutput = 64 << 10

// capped keeps the first maxOutput bytes that are written to it.
type capped []byte

func (c *capped) Write(p []byte) (int, error) {
	*c = append(*c, p[:min(len(p), maxOutput-len(*c))]...)
	return len(p), nil
}
