package testkit

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// closerEnv makes the test binary a process that writes a file of this name and closes it.
const closerEnv = "MACHINEMON_TEST_CLOSER"

func TestMain(m *testing.M) {
	if path := os.Getenv(closerEnv); path != "" {
		os.Exit(closer(path))
	}
	os.Exit(m.Run())
}

// closer returns 0 if the close succeeds, 3 if it fails and the file is given up, and 4 if it
// fails and the file is still open.
func closer(path string) int {
	f, err := os.Create(path)
	if err == nil {
		err = BeTraced()
	}
	if err != nil {
		return 1
	}
	fd := f.Fd()
	err = f.Close()
	_, open := unix.FcntlInt(fd, unix.F_GETFD, 0)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, unix.EIO) && open == unix.EBADF:
		return 3
	}
	return 4
}

// TestCloseFails: as on Linux, a close that fails has closed its file.
func TestCloseFails(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("errors are put into amd64's registers only")
	}
	closes := func(s Step) bool { return s.Call == "close" }
	for errno, want := range map[syscall.Errno]int{0: 0, unix.EIO: 3} {
		path := filepath.Join(t.TempDir(), "file")
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{closerEnv + "=" + path}
		trace := Trace{Watch: WatchAll, Counts: closes, Errno: errno}
		if errno != 0 {
			trace.At = 1
		}
		steps, reached, end := trace.Run(t, cmd)
		if len(steps) == 0 || steps[0].Path != path || reached != (errno != 0) || end.ExitStatus() != want {
			t.Errorf("%v: steps %v, reached: %v, exit status %d, want %d", errno, steps, reached, end.ExitStatus(), want)
		}
	}
}
