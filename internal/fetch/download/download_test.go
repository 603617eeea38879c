package download

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
)

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) {
	return 0, &fs.PathError{Op: "write", Path: "/var/x", Err: syscall.ENOSPC}
}

// TestDiskFull checks that a full disk is not reported as a failed download.
func TestDiskFull(t *testing.T) {
	c := Transfer{Report: func(int64, int64) {}}
	_, err := c.Receive(fullDisk{}, strings.NewReader("abc"), 0, 3, "x.tar.gz")
	if _, ok := errors.AsType[*state.Failure](err); ok || err == nil || err.Error() != "cannot store x.tar.gz: no space left on device" {
		t.Error(err)
	}
}
