//go:build !amd64

package testkit

import (
	"errors"
	"syscall"
)

// refuse and answer are like those of amd64, whose registers are the only ones they know.
func refuse(int, syscall.Errno) error { return errors.ErrUnsupported }
func answer(int, syscall.Errno) error { return errors.ErrUnsupported }
