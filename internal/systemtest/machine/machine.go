// Package machine boots throwaway Debian machines under systemd-nspawn, for
// tests and for the demonstration. It needs root, mmdebstrap and systemd-nspawn.
//
// On disk it owns $XDG_CACHE_HOME (or ~/.cache)/machinemon-update:
//
//	images/bookworm-<hash>/   a base system made by mmdebstrap, never removed
//	images/*.lock, *.tmp      the lock of the process that makes an image; its unfinished tree
//	runs.lock                 held while a run begins or the remains of dead runs are removed
//	runs/<random>/            the directory of one Lab, with all files that one run writes
//	    lock                  locked with flock while the run lives
//	    cgroup                the name of the cgroup that the run made for its machines
//	    <machine>/upper,work  what the machine changed; root/ is its mount point
//	    <machine>/console.log the output of its console
//
// A machine is an overlay of its own directory on the packages that the Lab installed on
// the base image. The kernel ensures that nothing outlives the run, even if SIGKILL ends
// it: the overlay is mounted in a mount namespace that belongs to one thread of this
// process, and nspawn and all its children live in a process namespace whose first
// process dies with that thread. Only the run's directory and empty cgroups remain; the
// next Lab removes those whose lock is free.
package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The main thread represents the process in /proc/self, so a keeper must never move it to
// other namespaces. Therefore the main goroutine is locked to it.
func init() { runtime.LockOSThread() }

// Machine is one throwaway system. It is booted or off; its files can be read and written
// in both states.
type Machine struct {
	Name   string
	dir    string // holds upper, work, root, console.log
	cgroup string
	keeper *keeper
	disk   *os.Root // the overlay, valid also when the machine is off

	// These fields are set while the machine is booted.
	nspawn *exec.Cmd
	gone   chan struct{} // closed when every process of the machine has ended
	leader int           // the machine's PID 1, as this process sees it
	pidfd  int
	live   *os.Root // the file system as PID 1 sees it, with /run and /tmp
	shell  *os.File // the directory of the cgroup for commands run from outside
}

// newMachine returns a machine that is off. mount mounts its file system at root.
func newMachine(name, dir, cgroup string, mount func(root string) error) (*Machine, error) {
	m := &Machine{Name: name, dir: dir, cgroup: cgroup}
	root := filepath.Join(dir, "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		return nil, err
	}
	k, err := newKeeper()
	if err != nil {
		return nil, err
	}
	m.keeper = k
	err = k.do(func() error {
		if err := mount(root); err != nil {
			return fmt.Errorf("cannot mount the file system of %s: %w", name, err)
		}
		m.disk, err = os.OpenRoot(root)
		return err
	})
	if err != nil {
		k.close()
		return nil, err
	}
	return m, nil
}

// overlay returns a function that mounts an overlay, whose changes are in dir, over the
// given lower directories, the uppermost first.
func overlay(dir string, lower []string) func(root string) error {
	return func(root string) error {
		work := filepath.Join(dir, "work")
		for _, d := range []string{upper(dir), work} {
			// The upper directory becomes the machine's /, which all users must be able to enter.
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
		return unix.Mount("overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(lower, ":"), upper(dir), work))
	}
}

func upper(dir string) string { return filepath.Join(dir, "upper") }

// nspawnScript gives nspawn the /proc of its own process namespace. The shell remains
// that namespace's first process: when it dies, the kernel kills the other processes.
const nspawnScript = `mount -t proc proc /proc && systemd-nspawn "$@"; exit $?`

// Boot starts the machine and returns when its systemd has finished booting.
func (m *Machine) Boot(ctx context.Context) error {
	if m.nspawn != nil {
		return fmt.Errorf("cannot boot %s: it is running", m.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()

	address := fmt.Sprintf("@machinemon-machine-%d-%s-%d", os.Getpid(), m.Name, time.Now().UnixNano())
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer ready.Close()
	if err := m.startNspawn(address); err != nil {
		return fmt.Errorf("cannot start systemd-nspawn: %w", err)
	}
	if err := m.awaitReady(ctx, ready); err != nil {
		console, _ := os.ReadFile(m.consoleLog())
		m.Yank()
		return fmt.Errorf("cannot boot %s: %w; its console said:\n%s", m.Name, err, console)
	}
	if err := m.attach(); err != nil {
		m.Yank()
		return fmt.Errorf("cannot attach to %s: %w", m.Name, err)
	}
	return nil
}

// Booted reports whether the machine is booted.
func (m *Machine) Booted() bool { return m.nspawn != nil }

// Directory returns the directory of this host that holds what the machine wrote.
func (m *Machine) Directory() string { return m.dir }

func (m *Machine) consoleLog() string { return filepath.Join(m.dir, "console.log") }

func (m *Machine) startNspawn(notify string) error {
	console, err := os.OpenFile(m.consoleLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer console.Close()
	cgroup, err := os.Open(m.cgroup)
	if err != nil {
		return err
	}
	defer cgroup.Close()

	cmd := exec.Command("/bin/sh", "-c", nspawnScript, "sh",
		"--directory="+filepath.Join(m.dir, "root"), "--machine="+m.Name,
		"--register=no", "--keep-unit", "--private-network", "--boot", "--notify-ready=yes",
		"--console=pipe", "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--quiet")
	// systemd 257 boots on the unified tree only, even if this host has another one.
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1", "NOTIFY_SOCKET="+notify)
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		Pdeathsig:   syscall.SIGKILL, // when the keeper's thread ends
		Setpgid:     true,            // a Ctrl-C must reach this process only, not nspawn
		UseCgroupFD: true, CgroupFD: int(cgroup.Fd()),
	}
	if err := m.keeper.do(cmd.Start); err != nil {
		return err
	}
	m.nspawn, m.gone = cmd, make(chan struct{})
	go func(gone chan struct{}) {
		cmd.Wait()
		close(gone)
	}(m.gone)
	return nil
}

// awaitReady reads nspawn's notifications until the machine's systemd sends READY=1,
// nspawn ends or ctx ends.
func (m *Machine) awaitReady(ctx context.Context, ready *net.UnixConn) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func(gone <-chan struct{}) {
		select {
		case <-gone:
			cancel(errors.New("nspawn has ended"))
		case <-ctx.Done():
		}
	}(m.gone)
	defer context.AfterFunc(ctx, func() { ready.SetReadDeadline(time.Unix(1, 0)) })()
	for message := make([]byte, 4096); ; {
		n, err := ready.Read(message)
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		if err != nil {
			return err
		}
		if slices.Contains(strings.Split(string(message[:n]), "\n"), "READY=1") {
			return nil
		}
	}
}

// attach finds the machine's PID 1 and opens the files that commands and file access need.
func (m *Machine) attach() error {
	leader := m.nspawn.Process.Pid
	for range 2 { // the shell's child is nspawn, whose child is the machine's PID 1
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", leader, leader))
		if err != nil {
			return err
		}
		if leader, err = strconv.Atoi(strings.TrimSpace(string(children))); err != nil {
			return fmt.Errorf("expected one child, found %q", children)
		}
	}
	pidfd, err := unix.PidfdOpen(leader, 0)
	if err != nil {
		return err
	}
	m.leader, m.pidfd = leader, pidfd
	if m.live, err = os.OpenRoot(fmt.Sprintf("/proc/%d/root", leader)); err != nil {
		return err
	}
	m.shell, err = shellCgroup(leader)
	return err
}

// PowerOff shuts the machine down in order and waits until it is off.
func (m *Machine) PowerOff(ctx context.Context) error {
	const sigRTMinPlus4 = 34 + 4 // systemd(1): powers the machine off
	return m.shutDown(ctx, "power off", sigRTMinPlus4)
}

// Reboot shuts the machine down in order, as for a reboot, and boots it again.
func (m *Machine) Reboot(ctx context.Context) error {
	const sigRTMinPlus5 = 34 + 5 // systemd(1): reboots the machine; nspawn then ends, because it is told to keep its unit
	if err := m.shutDown(ctx, "reboot", sigRTMinPlus5); err != nil {
		return err
	}
	return m.Boot(ctx)
}

func (m *Machine) shutDown(ctx context.Context, how string, signal unix.Signal) error {
	if m.nspawn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	if err := unix.PidfdSendSignal(m.pidfd, signal, nil, 0); err != nil {
		return fmt.Errorf("cannot %s %s: %w", how, m.Name, err)
	}
	select {
	case <-m.gone:
		m.off()
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot %s %s: %w", how, m.Name, ctx.Err())
	}
}

// Yank cuts the power: it kills every process of the machine, and none of them can write
// after Yank has returned. All that they wrote is still readable, because the page cache
// survives; so Yank does not show the effect of a missing fsync.
func (m *Machine) Yank() {
	if m.nspawn == nil {
		return
	}
	// The kernel ends the other processes of the namespace with its first one, which ends last.
	m.nspawn.Process.Kill()
	<-m.gone
	m.off()
}

func (m *Machine) off() {
	if m.live != nil {
		m.live.Close()
		unix.Close(m.pidfd)
	}
	if m.shell != nil {
		m.shell.Close()
	}
	m.nspawn, m.live, m.shell, m.leader = nil, nil, nil, 0
}

// Close ends the machine without a shutdown and removes the files that it wrote.
func (m *Machine) Close() error {
	return errors.Join(m.detach(), os.RemoveAll(m.dir))
}

// detach ends the machine and keeps the files that it wrote.
func (m *Machine) detach() error {
	m.Yank()
	m.disk.Close()
	m.keeper.close()
	return removeCgroup(m.cgroup)
}
