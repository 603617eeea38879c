package testkit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Step is a system call by which a traced process changes or reads files.
type Step struct{ Call, Path, To string }

func (s Step) String() string { return strings.TrimSpace(s.Call + " " + s.Path + " " + s.To) }

// Watch says which system calls are steps, besides those by which our programs change
// files.
type Watch string

const (
	WatchChanges Watch = "changes" // no others
	WatchSyncs   Watch = "syncs"   // and what makes them durable
	WatchAll     Watch = "all"     // and the rest of what can fail on a disk, except reading
	WatchReads   Watch = "reads"   // and reading, which makes thousands of stops
)

// watchEnv tells a process that it is traced, and its Watch.
const watchEnv = "MACHINEMON_TEST_WATCH"

var (
	changes = []uint32{unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT, unix.SYS_SYMLINKAT, unix.SYS_UNLINKAT, unix.SYS_MKDIRAT,
		unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_FCHMOD, unix.SYS_WRITE, unix.SYS_FALLOCATE}
	syncs = []uint32{unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNCFS}
	rest  = []uint32{unix.SYS_FCHOWN, unix.SYS_FCHOWNAT, unix.SYS_UTIMENSAT, unix.SYS_PWRITE64, unix.SYS_FTRUNCATE, unix.SYS_COPY_FILE_RANGE,
		unix.SYS_FSETXATTR, unix.SYS_CLOSE, unix.SYS_FLOCK, unix.SYS_GETDENTS64}
	reads = []uint32{unix.SYS_READ, unix.SYS_PREAD64}
)

// BeTraced makes every step of this process stop for its tracer, if [Trace] started it. All
// other system calls run at full speed.
func BeTraced() error {
	watch := Watch(os.Getenv(watchEnv))
	if watch == "" {
		return nil
	}
	calls := slices.Clone(changes)
	if watch != WatchChanges {
		calls = append(calls, syncs...)
	}
	if watch == WatchAll || watch == WatchReads {
		calls = append(calls, rest...)
	}
	if watch == WatchReads {
		calls = append(calls, reads...)
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
	creates := uint32(unix.O_CREAT)
	if watch == WatchAll || watch == WatchReads {
		creates = unix.O_CREAT | unix.O_CLOEXEC // which Go always sets
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_OPENAT, Jf: 3},
		load(flags), unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: creates, Jf: 1}, trace, allow)
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&program))); errno != 0 {
		return errno
	}
	return nil
}

// Trace is how a process is traced.
type Trace struct {
	Watch  Watch
	Counts func(Step) bool // whether a step counts
	At     int             // the step at which something happens, from 1 on; 0 is none
	// Errno is the error of that step, which is not made, but for a close: Linux gives the
	// file up whatever it returns, see close(2). Without an error the process is killed
	// before the step.
	Errno syscall.Errno
}

// Run runs a process that calls [BeTraced]. It returns the steps that count, those after
// the one at which the process was killed excepted, whether that step was reached, and how
// the process ended.
func (tr Trace) Run(t testing.TB, cmd *exec.Cmd) (steps []Step, reached bool, end unix.WaitStatus) {
	t.Helper()
	runtime.LockOSThread() // the tracer is a thread
	defer runtime.UnlockOSThread()
	cmd.Env = append(cmd.Env, watchEnv+"="+string(tr.Watch))
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Ptrace = true
	if err := cmd.Start(); err != nil {
		t.Fatalf("cannot trace a process here: %v", err)
	}
	defer cmd.Process.Release()
	main := cmd.Process.Pid
	var ws unix.WaitStatus
	if _, err := unix.Wait4(main, &ws, unix.WALL, nil); err != nil {
		t.Fatal(err)
	}
	Must(t, unix.PtraceSetOptions(main, unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_TRACESECCOMP|unix.PTRACE_O_EXITKILL))
	Must(t, unix.PtraceCont(main, 0))
	killed, closing := false, 0
	for {
		pid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		if err == unix.EINTR {
			continue
		}
		Must(t, err)
		if pid == main && (ws.Exited() || ws.Signaled()) {
			return steps, reached, ws
		}
		if !ws.Stopped() {
			continue
		}
		signal, resume := 0, unix.PtraceCont
		switch s := ws.StopSignal(); {
		case s == unix.SIGTRAP && ws.TrapCause() == unix.PTRACE_EVENT_SECCOMP:
			step, ok := entered(pid)
			if !ok || killed || !tr.Counts(step) {
				break
			}
			steps = append(steps, step)
			if len(steps) != tr.At {
				break
			}
			reached = true
			if tr.Errno == 0 {
				killed = true
				Must(t, unix.Kill(main, unix.SIGKILL))
			} else if step.Call == "close" {
				closing, resume = pid, unix.PtraceSyscall // it stops again when the call ends
			} else if err := refuse(pid, tr.Errno); err != nil {
				t.Fatalf("cannot let a system call fail here: %v", err)
			}
		case s == unix.SIGTRAP && ws.TrapCause() == 0 && pid == closing:
			closing = 0
			if err := answer(pid, tr.Errno); err != nil {
				t.Fatalf("cannot let a system call fail here: %v", err)
			}
		case s == unix.SIGTRAP && ws.TrapCause() > 0, s == unix.SIGSTOP: // SIGSTOP: a new thread
		default:
			signal = int(s)
		}
		if err := resume(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) { // ESRCH: it was killed
			t.Fatal(err)
		}
	}
}

// entered reads the step that a stopped thread is about to make. It is none if the thread
// was killed meanwhile.
func entered(pid int) (s Step, ok bool) {
	var info [96]byte // at least struct ptrace_syscall_info of ptrace(2)
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(pid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 {
		return Step{}, false
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
	switch nr := word(0); nr {
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2:
		return Step{"rename", name(word(1), word(2)), name(word(3), word(4))}, true
	case unix.SYS_LINKAT:
		return Step{"link", name(word(1), word(2)), name(word(3), word(4))}, true
	case unix.SYS_SYMLINKAT:
		return Step{Call: "symlink", Path: name(word(2), word(3))}, true
	case unix.SYS_UNLINKAT:
		return Step{Call: "unlink", Path: name(word(1), word(2))}, true
	case unix.SYS_MKDIRAT:
		return Step{Call: "mkdir", Path: name(word(1), word(2))}, true
	case unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2:
		return Step{Call: "chmod", Path: name(word(1), word(2))}, true
	case unix.SYS_FCHOWNAT:
		return Step{Call: "chown", Path: name(word(1), word(2))}, true
	case unix.SYS_UTIMENSAT:
		if word(2) == 0 { // of the descriptor itself
			return Step{Call: "chtimes", Path: of(word(1))}, true
		}
		return Step{Call: "chtimes", Path: name(word(1), word(2))}, true
	case unix.SYS_OPENAT:
		call := "open"
		if word(3)&unix.O_CREAT != 0 {
			call = "create"
		}
		return Step{Call: call, Path: name(word(1), word(2))}, true
	case unix.SYS_COPY_FILE_RANGE:
		return Step{"copy", of(word(1)), of(word(3))}, true
	case unix.SYS_CLOSE:
		return Step{Call: "close", Path: of(word(1))}, written(pid, word(1))
	}
	for call, numbers := range map[string][]uint64{
		"chmod": {unix.SYS_FCHMOD}, "chown": {unix.SYS_FCHOWN}, "sync": {unix.SYS_FSYNC, unix.SYS_FDATASYNC}, "sync all": {unix.SYS_SYNCFS},
		"write": {unix.SYS_WRITE, unix.SYS_PWRITE64}, "allocate": {unix.SYS_FALLOCATE}, "truncate": {unix.SYS_FTRUNCATE},
		"set attribute": {unix.SYS_FSETXATTR}, "lock": {unix.SYS_FLOCK}, "read": {unix.SYS_READ, unix.SYS_PREAD64}, "list": {unix.SYS_GETDENTS64},
	} {
		if slices.Contains(numbers, word(0)) {
			return Step{Call: call, Path: of(word(1))}, true
		}
	}
	return Step{}, false
}

// written reports whether a process could write to a file that it closes: only then the
// close can say that something was lost.
func written(pid int, fd uint64) bool {
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, int32(fd)))
	var pos, flags int
	if err != nil {
		return false
	}
	_, err = fmt.Sscanf(string(info), "pos:\t%d\nflags:\t0%o", &pos, &flags)
	return err == nil && flags&(unix.O_WRONLY|unix.O_RDWR) != 0
}
