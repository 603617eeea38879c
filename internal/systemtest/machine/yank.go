package machine

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// durable lists the system calls that change a disk durably: those that change names, and
// the syncs that make changes last.
var durable = map[uint64]string{unix.SYS_RENAMEAT: "rename", unix.SYS_RENAMEAT2: "rename", unix.SYS_LINKAT: "link", unix.SYS_UNLINKAT: "unlink", unix.SYS_FSYNC: "fsync"}

// YankBefore cuts the power just before a process of the machine makes its n-th durable
// system call from now on. pid is the process's PID inside the machine. YankBefore calls
// letGo, which should release the process, once it is traced. It returns the calls that
// were made, and false if the process ended first.
func (m *Machine) YankBefore(pid, n int, letGo func()) (made []string, yanked bool, err error) {
	runtime.LockOSThread() // ptrace(2) ties the tracer to one thread
	defer runtime.UnlockOSThread()
	host, err := m.hostPID(pid)
	if err != nil {
		return nil, false, err
	}
	if err := seize(host); err != nil {
		return nil, false, fmt.Errorf("cannot trace process %d of %s: %w", pid, m.Name, err)
	}
	letGo()
	gone := make(chan struct{})
	for {
		var ws unix.WaitStatus
		thread, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ECHILD: // all threads of the process have ended
			if yanked {
				<-gone
			}
			return made, yanked, nil
		case err != nil:
			return made, yanked, err
		case !ws.Stopped():
			continue
		}
		signal := 0
		switch s := ws.StopSignal(); {
		case s == unix.SIGTRAP|0x80: // PTRACE_O_TRACESYSGOOD
			call := entered(thread)
			if call == "" || yanked {
				break
			}
			if len(made)+1 == n {
				yanked = true
				// This thread must reap the killed process; otherwise the machine would never be off.
				go func() {
					m.Yank()
					close(gone)
				}()
				continue
			}
			made = append(made, call)
		case ws.TrapCause() > 0, s == unix.SIGTRAP: // a new thread, or its first stop
		default:
			signal = int(s)
		}
		if err := unix.PtraceSyscall(thread, signal); err != nil && err != unix.ESRCH {
			return made, yanked, err
		}
	}
}

// seize stops every thread of a process and lets each run to its next system call.
func seize(pid int) error {
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE
	seized := map[string]bool{}
	for more := true; more; {
		more = false
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return err
		}
		for _, t := range threads {
			id, err := strconv.Atoi(t.Name())
			if err != nil || seized[t.Name()] {
				continue
			}
			more, seized[t.Name()] = true, true
			if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(id), 0, options, 0, 0); errno != 0 {
				return errno
			}
			if err := unix.PtraceInterrupt(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// entered returns the name of the durable call that a stopped thread is about to make;
// "" if it is about to make another call or has just made one.
func entered(thread int) string {
	var info [96]byte // at least struct ptrace_syscall_info of ptrace(2)
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(thread), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 || info[0] != unix.PTRACE_SYSCALL_INFO_ENTRY {
		return ""
	}
	return durable[binary.NativeEndian.Uint64(info[24:])]
}

// hostPID returns the PID on this host of a process of the machine.
func (m *Machine) hostPID(inside int) (int, error) {
	same, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", m.leader))
	if err != nil {
		return 0, err
	}
	all, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return 0, err
	}
	for _, path := range all {
		status, err := os.ReadFile(path)
		ns, nerr := os.Readlink(filepath.Join(filepath.Dir(path), "ns/pid"))
		if err != nil || nerr != nil || ns != same {
			continue // it belongs to another machine or has ended
		}
		_, line, _ := strings.Cut(string(status), "\nNSpid:")
		line, _, _ = strings.Cut(line, "\n")
		if pids := strings.Fields(line); len(pids) > 0 && pids[len(pids)-1] == strconv.Itoa(inside) {
			return strconv.Atoi(filepath.Base(filepath.Dir(path)))
		}
	}
	return 0, fmt.Errorf("%s has no process %d", m.Name, inside)
}
