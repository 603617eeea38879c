package swap

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// durableStep is a system call that changes files of a machine in a way that outlives the
// swapper.
type durableStep struct{ call, path, to string }

func (d durableStep) String() string { return strings.TrimSpace(d.call + " " + d.path + " " + d.to) }

// durableCalls are the system calls by which this program changes files.
var durableCalls = []uint32{unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT, unix.SYS_SYMLINKAT, unix.SYS_UNLINKAT, unix.SYS_MKDIRAT,
	unix.SYS_FCHMODAT, unix.SYS_FCHMOD, unix.SYS_WRITE, unix.SYS_FALLOCATE}

// syncsEnv makes the traced process stop at each sync, too.
const syncsEnv = "MACHINEMON_TEST_SYNCS"

// beTraced makes every durable step of this process stop for its tracer. All other system
// calls run at full speed.
func beTraced() error {
	calls := durableCalls
	if os.Getenv(syncsEnv) != "" {
		calls = append(calls, unix.SYS_FSYNC)
	}
	const nr, flags = 0, 16 + 2*8 // offsets in struct seccomp_data of seccomp(2)
	trace := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_TRACE}
	allow := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	filter := []unix.SockFilter{load(nr)}
	for _, c := range calls {
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: c, Jf: 1}, trace)
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_OPENAT, Jf: 3},
		load(flags), unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.O_CREAT, Jf: 1}, trace, allow)
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&program))); errno != 0 {
		return errno
	}
	return nil
}

// trace runs a step in a process of its own and kills it just before its n-th durable
// step, for n > 0. It returns the steps before that. Syncs count only for n == 0: a
// process that is killed loses nothing that it wrote.
func (r *rig) trace(t *testing.T, verb string, n int) (steps []durableStep, killed bool) {
	t.Helper()
	runtime.LockOSThread() // the tracer is a thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{childEnv + "=" + verb + " " + r.dir}
	if n == 0 {
		cmd.Env = append(cmd.Env, syncsEnv+"=1")
	}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("cannot trace a process here: %v", err)
	}
	defer cmd.Process.Release()
	main := cmd.Process.Pid
	var ws unix.WaitStatus
	if _, err := unix.Wait4(main, &ws, unix.WALL, nil); err != nil {
		t.Fatal(err)
	}
	must(t, unix.PtraceSetOptions(main, unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_TRACESECCOMP|unix.PTRACE_O_EXITKILL))
	must(t, unix.PtraceCont(main, 0))
	for {
		pid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		if err == unix.EINTR {
			continue
		}
		must(t, err)
		if pid == main && (ws.Exited() || ws.Signaled()) {
			if !killed && ws.ExitStatus() != 0 {
				t.Fatalf("%s: exit status %d", verb, ws.ExitStatus())
			}
			return steps, killed
		}
		if !ws.Stopped() {
			continue
		}
		signal := 0
		switch s := ws.StopSignal(); {
		case s == unix.SIGTRAP && ws.TrapCause() == unix.PTRACE_EVENT_SECCOMP:
			step, mine := r.entered(pid)
			if !mine || killed {
				break
			}
			steps = append(steps, step)
			if len(steps) == n {
				killed = true
				must(t, unix.Kill(main, unix.SIGKILL))
			}
		case s == unix.SIGTRAP && ws.TrapCause() > 0, s == unix.SIGSTOP: // SIGSTOP: a new thread
		default:
			signal = int(s)
		}
		if err := unix.PtraceCont(pid, signal); err != nil && err != unix.ESRCH { // ESRCH: it was killed
			t.Fatal(err)
		}
	}
}

// entered reads the durable step that a stopped thread is about to make, and reports
// whether it counts.
func (r *rig) entered(pid int) (durableStep, bool) {
	var info [96]byte // at least struct ptrace_syscall_info of ptrace(2)
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(pid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 {
		return durableStep{}, false
	}
	word := func(i int) uint64 { return binary.NativeEndian.Uint64(info[24+8*i:]) } // the number, then the arguments
	of := func(fd uint64) string {
		p, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, int32(fd))) // "" if it is closed
		return p
	}
	name := func(dir, addr uint64) string {
		b := make([]byte, 512)
		mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
		if err != nil {
			return ""
		}
		defer mem.Close()
		k, _ := mem.ReadAt(b, int64(addr)) // a short read at the end of a mapping
		s, _, _ := strings.Cut(string(b[:k]), "\x00")
		if int32(dir) != unix.AT_FDCWD && !filepath.IsAbs(s) {
			s = filepath.Join(of(dir), s)
		}
		return s
	}
	var d durableStep
	switch nr := word(0); nr {
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2:
		d = durableStep{"rename", name(word(1), word(2)), name(word(3), word(4))}
	case unix.SYS_LINKAT:
		d = durableStep{"link", name(word(1), word(2)), name(word(3), word(4))}
	case unix.SYS_SYMLINKAT:
		d = durableStep{call: "symlink", path: name(word(2), word(3))}
	case unix.SYS_UNLINKAT:
		d = durableStep{call: "unlink", path: name(word(1), word(2))}
	case unix.SYS_MKDIRAT:
		d = durableStep{call: "mkdir", path: name(word(1), word(2))}
	case unix.SYS_FCHMODAT:
		d = durableStep{call: "chmod", path: name(word(1), word(2))}
	case unix.SYS_OPENAT:
		d = durableStep{call: "create", path: name(word(1), word(2))}
	case unix.SYS_FCHMOD:
		d = durableStep{call: "chmod", path: of(word(1))}
	case unix.SYS_FSYNC:
		d = durableStep{call: "sync", path: of(word(1))}
	case unix.SYS_WRITE:
		d = durableStep{call: "write", path: of(word(1))}
	case unix.SYS_FALLOCATE:
		d = durableStep{call: "allocate", path: of(word(1))}
	}
	mine := strings.HasPrefix(d.path, r.dir+"/") || strings.HasPrefix(d.path, r.at("units"))
	// Of systemd's work only the final rename counts.
	machinery := strings.HasPrefix(d.path, r.at("machine/")) && d.call != "rename"
	return d, mine && !machinery
}
