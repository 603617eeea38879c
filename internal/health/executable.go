package health

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/state"
)

// The kernel shows which file a root daemon executes only to a process with
// CAP_SYS_PTRACE. That capability also opens the host's root directory, through
// /proc/1/root. So only a child of the gate has it, which reads numbers of processes and
// writes their executables; the gate itself, which talks to the managed program, executes
// itself again without it.

// executable is what the kernel tells about a process.
type executable struct {
	File   state.FileID `json:"file"`
	Path   string       `json:"path"` // as /proc has it: with " (deleted)" after a file that is gone
	Parent int          `json:"parent"`
	Start  uint64       `json:"start"` // in the kernel's clock ticks
	Users  []uint32     `json:"users"` // real, effective, saved, and of its files
}

// errVanished says that a process ended while it was read. If it was the main process,
// systemd reports that.
var errVanished = errors.New("the process has just ended")

// inspector returns what the kernel tells about a process.
type inspector func(pid int) (executable, error)

// inspect reads /proc itself.
func inspect(pid int) (e executable, err error) {
	link := fmt.Sprintf("/proc/%d/exe", pid)
	// The kernel resolves this link without the directories of the file's path.
	if e.File, err = state.Identify(link); err == nil {
		e.Path, err = os.Readlink(link)
	}
	if err == nil {
		e.Parent, e.Start, err = origin(pid)
	}
	if err == nil {
		e.Users, err = users(pid)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return e, errVanished
	}
	if err != nil {
		return e, fmt.Errorf("cannot find out which file process %d runs: %w", pid, err)
	}
	return e, nil
}

// origin reads the parent of a process, and its start time.
func origin(pid int) (parent int, start uint64, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The name, in brackets, may contain any character. After it come the third and
	// further fields of proc_pid_stat(5).
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("cannot read /proc/%d/stat: it has %d fields", pid, len(fields)+2)
	}
	parent, err = strconv.Atoi(fields[1])
	if err == nil {
		start, err = strconv.ParseUint(fields[19], 10, 64)
	}
	return parent, start, err
}

// users reads the users of a process.
func users(pid int) (uids []uint32, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, err
	}
	_, line, _ := strings.Cut(string(status), "\nUid:")
	line, _, _ = strings.Cut(line, "\n")
	for _, field := range strings.Fields(line) {
		uid, err := strconv.ParseUint(field, 10, 32)
		if err != nil {
			return nil, err
		}
		uids = append(uids, uint32(uid))
	}
	return uids, nil
}

// inspection is the answer of the child.
type inspection struct {
	executable
	Vanished bool   `json:"vanished,omitempty"`
	Error    string `json:"error,omitempty"`
}

// Inspect is the program of the child: it answers numbers of processes, which it reads
// from c, until c ends.
func Inspect(c io.ReadWriter) error {
	in, out := json.NewDecoder(c), json.NewEncoder(c)
	for {
		var pid int
		if err := in.Decode(&pid); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		e, err := inspect(pid)
		answer := inspection{executable: e, Vanished: errors.Is(err, errVanished)}
		if err != nil {
			answer.Error = err.Error()
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
}

// inspectorFD is the descriptor of the child's socket in the gate without the capability.
const inspectorFD = "MACHINEMON_INSPECTOR"

// SplitOff makes a child that keeps CAP_SYS_PTRACE, and executes this program again without
// the capability. The child is this program with the argument verb, and must call
// [Inspect] with its standard input. SplitOff returns nil in the second execution, or if
// the program has no such ambient capability.
func SplitOff(verb string) error {
	if os.Getenv(inspectorFD) != "" {
		return nil
	}
	// Only this thread may lose the capability, because it executes the program.
	runtime.LockOSThread()
	if has, err := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, unix.CAP_SYS_PTRACE, 0, 0); err != nil || has == 0 {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	child := exec.Command("/proc/self/exe", verb)
	child.Stdin, child.Stderr = os.NewFile(uintptr(pair[1]), "inspector"), os.Stderr
	child.Env = []string{}
	if err := child.Start(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(pair[0]), unix.F_SETFD, 0); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), inspectorFD+"="+strconv.Itoa(pair[0])))
}

// inspecting returns an inspector that asks the child of [SplitOff]; without such a child
// it returns [inspect].
func inspecting() (inspector, error) {
	if os.Getenv(inspectorFD) == "" {
		return inspect, nil
	}
	fd, err := strconv.Atoi(os.Getenv(inspectorFD))
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", inspectorFD, err)
	}
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "inspector")
	c, err := net.FileConn(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", inspectorFD, err)
	}
	in, out := json.NewDecoder(c), json.NewEncoder(c)
	return func(pid int) (executable, error) {
		var a inspection
		err := out.Encode(pid)
		if err == nil {
			err = in.Decode(&a)
		}
		switch {
		case err != nil:
			return a.executable, fmt.Errorf("cannot find out which file process %d runs: %w", pid, err)
		case a.Vanished:
			return a.executable, errVanished
		case a.Error != "":
			return a.executable, errors.New(a.Error)
		}
		return a.executable, nil
	}, nil
}
