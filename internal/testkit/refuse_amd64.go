package testkit

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// refuse lets the system call fail that a stopped thread is about to make: the kernel skips
// a call without a number, and leaves the result that is there.
func refuse(pid int, errno syscall.Errno) error {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(pid, &regs); err != nil {
		return err
	}
	regs.Orig_rax, regs.Rax = ^uint64(0), -uint64(errno)
	return unix.PtraceSetRegs(pid, &regs)
}

// answer replaces the result of the system call that a stopped thread has just made.
func answer(pid int, errno syscall.Errno) error {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(pid, &regs); err != nil {
		return err
	}
	regs.Rax = -uint64(errno)
	return unix.PtraceSetRegs(pid, &regs)
}
