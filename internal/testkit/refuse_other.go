//go:build !amd64

package testkit

import (
	"errors"
	"syscall"
)

// refuse is like that of amd64, whose registers are the only ones it knows.
func refuse(int, syscall.Errno) error { return errors.ErrUnsupported }
