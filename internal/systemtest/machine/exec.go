package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// RunTimeout bounds calls whose context has no deadline.
const RunTimeout = 60 * time.Second

// Entrance returns a command that opens a shell inside the booted machine, for a user of
// this host.
func (m *Machine) Entrance() string {
	return fmt.Sprintf("nsenter -t %d -m -u -i -n -p -C bash -l", m.leader)
}

// Result is the end of a command. Code is −1 if a signal ended it.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Process is a command that runs inside the machine as root.
type Process struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	ended          chan struct{}
}

// Run runs a command inside the machine and waits for it. It returns an error if the
// command could not run or ctx ended first; an exit status other than 0 is only in the
// result.
func (m *Machine) Run(ctx context.Context, argv ...string) (Result, error) {
	p, err := m.Start(argv...)
	if err != nil {
		return Result{}, err
	}
	return p.Wait(ctx)
}

// Start runs a command inside the machine in the background. The command ends with the
// machine at the latest.
func (m *Machine) Start(argv ...string) (*Process, error) {
	p := &Process{ended: make(chan struct{})}
	return p, m.start(p, &p.stdout, &p.stderr, argv)
}

// StartTo is Start with both outputs of the command written to out.
func (m *Machine) StartTo(out io.Writer, argv ...string) (*Process, error) {
	p := &Process{ended: make(chan struct{})}
	return p, m.start(p, out, out, argv)
}

func (m *Machine) start(p *Process, stdout, stderr io.Writer, argv []string) error {
	if m.nspawn == nil {
		return fmt.Errorf("cannot run %s: %s is off", argv[0], m.Name)
	}
	err := m.inside(unix.CLONE_NEWNS|unix.CLONE_NEWPID|unix.CLONE_NEWNET|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS|unix.CLONE_NEWCGROUP, func() error {
		// env looks the command up in the machine's file system; exec would use this host's.
		p.cmd = exec.Command("/usr/bin/env", argv...)
		p.cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "HOME=/root", "LANG=C.UTF-8"}
		p.cmd.Dir = "/"
		p.cmd.Stdout, p.cmd.Stderr = stdout, stderr
		p.cmd.WaitDelay = 2 * time.Second // a process that the command left may hold its output open
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(m.shell.Fd())}
		return p.cmd.Start()
	})
	if err != nil {
		return fmt.Errorf("cannot run %s in %s: %w", strings.Join(argv, " "), m.Name, err)
	}
	go func() {
		p.cmd.Wait() // the exit status is in ProcessState
		close(p.ended)
	}()
	return nil
}

// Wait returns the command's result. It kills the command if ctx ends first.
func (p *Process) Wait(ctx context.Context) (Result, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, RunTimeout)
		defer cancel()
	}
	select {
	case <-p.ended:
	case <-ctx.Done():
		p.Signal(syscall.SIGKILL)
		<-p.ended
		return p.result(), fmt.Errorf("cannot wait for %s: %w", strings.Join(p.cmd.Args[1:], " "), ctx.Err())
	}
	return p.result(), nil
}

func (p *Process) result() Result {
	return Result{Stdout: p.stdout.String(), Stderr: p.stderr.String(), Code: p.cmd.ProcessState.ExitCode()}
}

// Signal sends a signal to the command's whole process group.
func (p *Process) Signal(s syscall.Signal) error {
	if err := syscall.Kill(-p.cmd.Process.Pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// inside runs f on a thread that has entered the machine's namespaces and ends
// afterwards.
func (m *Machine) inside(namespaces int, f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		err := m.enter(namespaces)
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

// enter moves the calling thread, which must be locked, into the machine's namespaces.
func (m *Machine) enter(namespaces int) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	return unix.Setns(m.pidfd, namespaces)
}
