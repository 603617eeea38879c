package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/state"
)

const (
	keptOutput = 64 << 10 // bytes of a command's output that are read
	shownTail  = 500      // bytes of it that a reason quotes
	// graceForOutput is how long the gate waits for output of children that a command
	// has left behind.
	graceForOutput = 100 * time.Millisecond
)

// command runs a command of the target and returns the end of its output. The error
// says how the command failed.
func command(ctx context.Context, argv []string) (output string, err error) {
	out := &tail{limit: keptOutput}
	err = launch(ctx, argv, out, out)
	output = string(out.data)
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return output, nil
	case errors.As(err, &exit) && exit.Exited():
		return output, fmt.Errorf("exited with status %d%s", exit.ExitCode(), quoted(output))
	case errors.As(err, &exit):
		signal := exit.Sys().(syscall.WaitStatus).Signal()
		err = fmt.Errorf(killedBy+"%s%s", unix.SignalName(signal), quoted(output))
		if signal == unix.SIGKILL && ctx.Err() == nil { // by somebody, or because memory was short
			err = lacking{err}
		}
		return output, err
	case errors.Is(err, unix.EAGAIN): // no process could be made
		return output, lacking{plain(err)}
	}
	return output, plain(err)
}

// killedBy begins the error of a command that a signal ended.
const killedBy = "was killed by "

// launch runs a command. When it returns, no process of the command's process group is
// left.
func launch(ctx context.Context, argv []string, stdout, stderr io.Writer) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	cmd.WaitDelay = graceForOutput
	err := cmd.Run()
	if cmd.Process != nil {
		// End the children that are left. The number is the group's while one of them
		// lives; should another group have it, this user may not signal that.
		if kill := killGroup(cmd.Process.Pid); err == nil {
			err = kill
		}
	}
	return err
}

func killGroup(pid int) error {
	if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
		return err
	}
	return nil
}

// quoted formats the end of a command's output, to be appended to a reason. Package state
// keeps from other users what follows the mark: perhaps only the command could read it.
func quoted(output string) string {
	if line := oneLine(output[max(0, len(output)-shownTail):]); line != "" {
		return state.SaidMark + line
	}
	return ""
}

// tail is a writer that keeps the last bytes.
type tail struct {
	data  []byte
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if over := len(t.data) - t.limit; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}
