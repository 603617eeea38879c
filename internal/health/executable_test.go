package health

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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
