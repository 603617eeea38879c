package health

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestInspecting asks the child of SplitOff, which is a goroutine here, about processes.
func TestInspecting(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	testkit.Must(t, err)
	child := os.NewFile(uintptr(pair[1]), "child")
	done := make(chan error, 1)
	go func() { done <- Inspect(child) }()
	t.Setenv(inspectorFD, strconv.Itoa(pair[0]))
	ask, err := inspecting()
	testkit.Must(t, err)
	want, err := inspect(os.Getpid())
	testkit.Must(t, err)
	if got, err := ask(os.Getpid()); err != nil || got.File != want.File || got.Path != want.Path || got.Start != want.Start || got.Start == 0 || got.Parent != os.Getppid() {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	gone := exec.Command("/bin/true")
	testkit.Must(t, gone.Run())
	if _, err := ask(gone.Process.Pid); !errors.Is(err, errVanished) {
		t.Errorf("a process that has ended: %v", err)
	}
	testkit.Must(t, unix.Shutdown(pair[1], unix.SHUT_RDWR))
	testkit.Must(t, <-done)
	child.Close()
	if _, err := ask(os.Getpid()); err == nil || !strings.HasPrefix(err.Error(), "cannot find out which file process ") {
		t.Errorf("without the child: %v", err)
	}
	for _, fd := range []string{"x", "12345"} {
		t.Setenv(inspectorFD, fd)
		if _, err := inspecting(); err == nil || !strings.HasPrefix(err.Error(), "cannot use "+inspectorFD) {
			t.Errorf("descriptor %s: %v", fd, err)
		}
	}
}

func TestLook(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	// A program whose file was replaced while it runs, as by a swap without a restart.
	replaced := filepath.Join(t.TempDir(), "sleep")
	copyOf := func(from string) {
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(replaced+".tmp", data, 0o755)
		}
		if err == nil {
			err = os.Rename(replaced+".tmp", replaced)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	copyOf("/bin/sleep")
	sleep := exec.Command(replaced, "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer sleep.Wait()
	defer sleep.Process.Kill()
	copyOf("/bin/sleep")
	newer := exec.Command(replaced, "60")
	if err := newer.Start(); err != nil {
		t.Fatal(err)
	}
	defer newer.Wait()
	defer newer.Process.Kill()
	gone := exec.Command("/bin/true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	// A wrapper that keeps running, with the program as its child.
	wrapper := exec.Command("/bin/sh", "-c", "/bin/sleep 60; exit 1")
	if err := wrapper.Start(); err != nil {
		t.Fatal(err)
	}
	defer wrapper.Wait()
	child := childOf(t, wrapper.Process.Pid)
	defer syscall.Kill(child, syscall.SIGKILL)
	shell, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", wrapper.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	forking := running(0)
	id, err := state.Identify(self)
	if err != nil {
		t.Fatal(err)
	}

	for _, c := range []struct {
		name    string
		unit    systemd.Unit
		pids    []int
		main    string
		id      state.FileID
		aside   int
		foreign string
		older   bool
		err     string

		reloaded bool
	}{
		{name: "the very file", unit: running(os.Getpid()), main: self},
		{name: "by a link", unit: running(os.Getpid()), main: link},
		{name: "in a directory that may not be entered", unit: running(os.Getpid()), main: "/nonexistent/x", id: id},
		{name: "root's word is older than the file", unit: running(os.Getpid()), main: self, id: state.FileID{Dev: 1, Ino: 1}},
		{name: "any", unit: running(os.Getpid())},
		{name: "another", unit: running(os.Getpid()), pids: []int{os.Getpid()}, main: "/bin/sh", foreign: "no process of x.service runs /bin/sh; its main process runs " + self},
		{name: "an older one", unit: running(sleep.Process.Pid), pids: []int{sleep.Process.Pid}, main: replaced, foreign: "its main process still runs an older " + replaced, older: true},
		{name: "an older one, and a new one beside it", unit: running(sleep.Process.Pid), pids: []int{sleep.Process.Pid, newer.Process.Pid}, main: replaced, aside: newer.Process.Pid},
		{name: "an older one after a reload, and a new one beside it", unit: running(sleep.Process.Pid), pids: []int{sleep.Process.Pid, newer.Process.Pid}, main: replaced, reloaded: true,
			foreign: "its main process still runs an older " + replaced, older: true},
		{name: "an older one under a wrapper", unit: running(os.Getpid()), pids: []int{os.Getpid(), sleep.Process.Pid}, main: replaced,
			foreign: fmt.Sprintf("process %d still runs an older %s", sleep.Process.Pid, replaced), older: true},
		{name: "a wrapper's child", unit: running(wrapper.Process.Pid), pids: []int{wrapper.Process.Pid, gone.Process.Pid, child}, main: "/bin/sleep", aside: child},
		{name: "no main process", unit: forking, pids: []int{wrapper.Process.Pid, child}, main: "/bin/sleep", aside: child},
		{name: "no main process, and another file", unit: forking, pids: []int{wrapper.Process.Pid, child}, main: self, foreign: "no process of x.service runs " + self},
		{name: "no main process, any", unit: forking},
		{name: "systemd does not list them", unit: running(wrapper.Process.Pid), main: "/bin/sleep", err: "cannot list the processes"},
		{name: "a shell's child", unit: running(wrapper.Process.Pid), pids: []int{wrapper.Process.Pid, child}, main: self, foreign: "no process of x.service runs " + self + "; its main process runs " + shell},
		{name: "a oneshot that remains", unit: remains.Unit, main: self},
		{name: "not active", unit: failed.Unit, main: self},
		{name: "gone", unit: running(gone.Process.Pid), main: self, err: errVanished.Error()},
		{name: "no such file", unit: running(os.Getpid()), pids: []int{os.Getpid()}, main: "/nonexistent", foreign: "no process of x.service runs /nonexistent; its main process runs " + self},
		{name: "not a directory", unit: running(os.Getpid()), main: self + "/x", err: "cannot compare"},
		{name: "not a directory, and root has read it", unit: running(os.Getpid()), main: self + "/x", id: id},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := observe(t.Context(), fake{unit: c.unit, pids: c.pids}, inspect, subject{unit: "x.service", main: program{c.main, c.id}, reloaded: c.reloaded})
			if s.foreign != c.foreign || s.older != c.older || s.aside != uint32(c.aside) {
				t.Errorf("foreign: %q, older %v, beside %d, want %q, %v, %d", s.foreign, s.older, s.aside, c.foreign, c.older, c.aside)
			}
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
		})
	}
}

// childOf waits until a process has a child that runs another program, and returns it.
func childOf(t *testing.T, parent int) int {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(ms) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
		if err != nil {
			t.Fatal(err)
		}
		var pid int
		if _, err := fmt.Sscan(string(data), &pid); err != nil {
			continue
		}
		if path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && strings.HasSuffix(path, "/sleep") {
			return pid
		}
	}
	t.Fatal("it starts no child")
	return 0
}

// TestEldest shows which of several processes counts: the one that the others descend from.
func TestEldest(t *testing.T) {
	wrapper := exec.Command("/bin/sh", "-c", "/bin/sh -c 'sleep 60; :'; :")
	if err := wrapper.Start(); err != nil {
		t.Fatal(err)
	}
	defer wrapper.Wait()
	defer wrapper.Process.Kill()
	var inner int
	for inner == 0 {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", wrapper.Process.Pid, wrapper.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Sscan(string(data), &inner)
	}
	worker := childOf(t, inner)
	defer syscall.Kill(worker, syscall.SIGKILL)
	for _, c := range []struct {
		pids []int
		want int
	}{
		{nil, 0},
		{[]int{worker, inner, wrapper.Process.Pid}, wrapper.Process.Pid},
		{[]int{worker, inner}, inner},
		{[]int{worker, wrapper.Process.Pid}, wrapper.Process.Pid}, // neither is the other's child
	} {
		running := map[int]executable{}
		for _, pid := range c.pids {
			e, err := inspect(pid)
			if err != nil {
				t.Fatal(err)
			}
			running[pid] = e
		}
		if got := eldest(running); got != uint32(c.want) {
			t.Errorf("%v: %d, want %d", c.pids, got, c.want)
		}
	}
}

// TestEldestAtOnce shows that of processes that started at the same tick it is always the
// same one that counts.
func TestEldestAtOnce(t *testing.T) {
	for range 20 {
		if got := eldest(map[int]executable{9: {Start: 5}, 3: {Start: 5}, 7: {Start: 5}, 2: {Start: 6}}); got != 3 {
			t.Fatalf("%d", got)
		}
	}
}

func TestReplaced(t *testing.T) {
	for _, c := range []struct {
		path, main string
		want       bool
	}{
		{"/opt/x (deleted)", "/opt/x", true},
		{"/srv/app/x (deleted)", "/opt/app/x", true}, // /opt/app is a link
		{"/opt/x", "/opt/x", false},
		{"/opt/wrapper (deleted)", "/opt/x", false},
		{"/usr/bin/python3.11", "/opt/x", false},
	} {
		if got := replaced(c.path, c.main); got != c.want {
			t.Errorf("%s in place of %s: %v", c.path, c.main, got)
		}
	}
}

// TestFind: a process that cannot be looked at may be the program's eldest; one that has ended
// is none of it.
func TestFind(t *testing.T) {
	ours, hidden := state.FileID{Dev: 1, Ino: 1}, errors.New("permission denied")
	see := func(pid int) (executable, error) {
		switch pid {
		case 1:
			return executable{File: ours, Path: "/opt/x"}, nil
		case 2:
			return executable{}, hidden
		case 3:
			return executable{}, errVanished
		}
		return executable{Path: "/bin/sh"}, nil
	}
	for _, c := range []struct {
		pids    []int
		main    uint32
		aside   uint32
		foreign string
		err     error
	}{
		{[]int{3, 1}, 2, 1, "", nil},
		{[]int{2, 1}, 2, 1, "", hidden},
		{[]int{2, 4}, 4, 0, "", hidden},
		{[]int{3, 4}, 4, 0, "no process of x.service runs /opt/x; its main process runs /bin/sh", nil},
		{[]int{4}, 2, 0, "", hidden},
	} {
		s := unitState{Unit: systemd.Unit{Name: "x.service", MainPID: c.main}}
		err := s.find(t.Context(), fake{pids: c.pids}, see, program{path: "/opt/x"}, []state.FileID{ours})
		if !errors.Is(err, c.err) || s.aside != c.aside || err == nil && s.foreign != c.foreign {
			t.Errorf("%v: %v, beside %d, %q", c.pids, err, s.aside, s.foreign)
		}
	}
}
