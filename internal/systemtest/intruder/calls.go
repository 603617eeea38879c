package main

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// privileges tries what gives a program more than it has.
func privileges(try tryer) {
	try("mount", func() error {
		if err := unix.Mount("intruder", "/mnt", "tmpfs", 0, ""); err != nil {
			return err
		}
		return unix.Unmount("/mnt", 0)
	})
	try("a user namespace", func() error { return child(&syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}) })
	try("a mount namespace", func() error { return child(&syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}) })
	try("setuid", func() error {
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // the thread ends with this function
			if _, _, errno := unix.RawSyscall(unix.SYS_SETUID, 1, 0, 0); errno != 0 {
				done <- errno
			}
			close(done)
		}()
		return <-done
	})
	try("a setuid file", setuid)
	try("writable code", func() error {
		m, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		return unix.Munmap(m)
	})
	// Both are planted.
	try("shared memory", func() error {
		_, err := unix.SysvShmGet(planted, 0, 0)
		return err
	})
	try("a message queue", func() error { return queue(unix.O_RDONLY) })
}

// setuid makes a program that runs as this user, in one of the directories that some sandbox
// can write.
func setuid() (failed error) {
	for _, dir := range append([]string{"/tmp", "/usr/local/bin"}, own...) {
		f, err := os.CreateTemp(dir, "intruder-")
		if err != nil {
			failed = err
			continue
		}
		err = errors.Join(f.Chmod(0o755|os.ModeSetuid), f.Close(), os.Remove(f.Name()))
		if err == nil {
			return nil
		}
		failed = err
	}
	return failed
}

func child(how *syscall.SysProcAttr) error {
	cmd := exec.Command("/proc/self/exe", "exit")
	cmd.SysProcAttr = how
	return cmd.Run()
}

// calls tries which system calls reach the kernel, with arguments that it refuses. Only a
// service's filter answers them with ENOSYS.
func calls(try tryer) {
	const wrong = ^uintptr(0)
	for name, number := range map[string]uintptr{
		"bpf": unix.SYS_BPF, "keyctl": unix.SYS_KEYCTL, "ptrace": unix.SYS_PTRACE, "process_vm_readv": unix.SYS_PROCESS_VM_READV,
		"perf_event_open": unix.SYS_PERF_EVENT_OPEN, "init_module": unix.SYS_INIT_MODULE, "pivot_root": unix.SYS_PIVOT_ROOT,
		"open_by_handle_at": unix.SYS_OPEN_BY_HANDLE_AT, "reboot": unix.SYS_REBOOT, "chroot": unix.SYS_CHROOT,
	} {
		try("call "+name, func() error {
			if _, _, errno := unix.Syscall6(number, wrong, wrong, wrong, wrong, wrong, wrong); errno == unix.ENOSYS {
				return errno
			}
			return nil
		})
	}
}

// planted is the key of the machine's shared memory.
const planted = 0x6d6d7570

// plant makes what every process outside of sandboxes reaches.
func plant() error {
	if _, err := unix.SysvShmGet(planted, 4096, unix.IPC_CREAT|0o666); err != nil {
		return err
	}
	unix.Umask(0)
	return errors.Join(queue(unix.O_RDONLY|unix.O_CREAT), os.WriteFile("/dev/shm/planted", []byte("x"), 0o666))
}

// queue opens the machine's message queue.
func queue(flags int) error {
	name, err := unix.BytePtrFromString("planted")
	if err != nil {
		return err
	}
	fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), uintptr(flags), 0o666, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return unix.Close(int(fd))
}
