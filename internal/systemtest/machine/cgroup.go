package machine

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"golang.org/x/sys/unix"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ownCgroup returns the directory of pid's cgroup ("self" for this process) in
// the unified tree, which hybrid hosts mount beside the old controllers.
func ownCgroup(pid string) (string, error) {
	mount, err := cgroupMount()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join("/proc", pid, "cgroup"))
	if err != nil {
		return "", err
	}
	for _, line := range strings.Split(string(b), "\n") {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return filepath.Join(mount, path), nil
		}
	}
	return "", fmt.Errorf("process %s is in no cgroup of the unified tree", pid)
}

func cgroupMount() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// proc(5): … root mount-point options [tags] - fstype source options
		fields := strings.Fields(lines.Text())
		if strings.Contains(lines.Text(), " - cgroup2 ") && fields[3] == "/" {
			return fields[4], nil
		}
	}
	return "", errors.New("no cgroup2 file system is mounted")
}

// shellCgroup makes a cgroup inside the machine for commands run from outside, so that
// they belong to the machine but to none of its units.
func shellCgroup(leader int) (*os.File, error) {
	scope, err := ownCgroup(fmt.Sprint(leader)) // …/init.scope
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(filepath.Dir(scope), "shell")
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.Open(dir)
}

// removeCgroup ends all processes in a cgroup that this package made, and removes the
// cgroup with all cgroups below it.
func removeCgroup(dir string) error {
	err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = awaitEmpty(dir)
	}
	if err != nil {
		return fmt.Errorf("cannot end the processes in %s: %w", dir, err)
	}
	return removeTree(dir)
}

// awaitEmpty waits until the last process in the cgroup has ended. It polls
// cgroup.events, which the kernel makes pollable for this (cgroups(7)).
func awaitEmpty(dir string) error {
	f, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return err
	}
	defer f.Close()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		b := make([]byte, 256)
		n, err := f.ReadAt(b, 0)
		if err != nil && err != io.EOF {
			return err
		}
		if bytes.Contains(b[:n], []byte("populated 0")) {
			return nil
		}
		poll := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(poll, 1000); err != nil && err != unix.EINTR {
			return err
		}
	}
	return errors.New("they do not end")
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(dir)
}
