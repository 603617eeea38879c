// Package installed finds out which release is on the machine.
package installed

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// nobody is Debian's uid and gid for a process that may do nothing.
const nobody = 65534

// Version is the version that is on the machine: what the record of the last update
// says as long as the files' digests match it, else what the program itself says, else
// "".
func Version(ctx context.Context, t *target.Target, st state.Status) string {
	if r := st.Installed; r != nil && r.Version != "" && Unchanged(r) {
		return r.Version
	}
	return askVersion(ctx, t)
}

// Unchanged reports whether the files of a release are on disk as it left them.
func Unchanged(r *state.Release) bool {
	return len(r.Files) > 0 && !slices.ContainsFunc(r.Files, changed)
}

func changed(f state.File) bool {
	sum, err := durable.FileSHA256(f.To)
	if errors.Is(err, fs.ErrNotExist) {
		return f.SHA256 != ""
	}
	return err != nil || sum != f.SHA256
}

// askVersion runs the installed program's version_command. It is the program
// that the unit runs already; root runs it as nobody all the same.
func askVersion(ctx context.Context, t *target.Target) string {
	argv := t.Health.VersionCommand
	if len(argv) == 0 {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	// A session of its own: with a terminal it could type into root's shell.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // a child of it may hold the pipe open
	out := &capped{limit: maxOutput}
	cmd.Stdout, cmd.Stderr = out, out
	// A failure leaves what was printed; programs print their version and exit 1.
	_ = cmd.Run()
	return manifest.FindVersion(string(out.data), filepath.Base(argv[0]))
}

// maxOutput is how many bytes of a program's output are read.
const maxOutput = 64 << 10

// capped keeps the first bytes that are written to it.
type capped struct {
	data  []byte
	limit int
}

func (c *capped) Write(p []byte) (int, error) {
	if room := c.limit - len(c.data); room > 0 {
		c.data = append(c.data, p[:min(room, len(p))]...)
	}
	return len(p), nil
}
