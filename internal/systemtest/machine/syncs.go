package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Sync is a system call that waited for a disk, of a process of this host.
type Sync struct {
	PID  int    // on this host
	Call string // "fsync", "fdatasync", "syncfs" or "sync"
}

// Syncs counts such calls by the kernel's own tracing (ftrace of the kernel's
// documentation). It makes all system calls of the host a little slower.
type Syncs struct {
	mount, dir string
}

// syncsName is the name of the tracing buffer. A run that was killed leaves it, and the
// next one takes it over.
const syncsName = "machinemon-update-syncs"

// WatchSyncs counts from now on, until Close.
func WatchSyncs() (_ *Syncs, err error) {
	s := &Syncs{}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot watch for syncs (tracefs): %w", errors.Join(err, s.Close()))
		}
	}()
	at, err := os.MkdirTemp("", "tracefs-")
	if err != nil {
		return nil, err
	}
	s.mount = at
	if err := unix.Mount("tracefs", at, "tracefs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return nil, err
	}
	s.dir = filepath.Join(at, "instances", syncsName)
	if err := os.Mkdir(s.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		s.dir = ""
		return nil, err
	}
	if err := s.write("options/record-tgid", "1"); err != nil {
		return nil, err
	}
	for _, call := range []string{"fsync", "fdatasync", "syncfs", "sync"} {
		if err := s.write("events/syscalls/sys_enter_"+call+"/enable", "1"); err != nil {
			return nil, err
		}
	}
	return s, s.write("trace", "")
}

func (s *Syncs) write(name, value string) error {
	return os.WriteFile(filepath.Join(s.dir, name), []byte(value), 0)
}

// traced matches a line of the buffer: program and thread, process, processor, flags, time,
// event.
var traced = regexp.MustCompile(`-\d+\s+\(\s*(\d+)\)\s+\[\d+\]\s+\S+\s+\d+\.\d+: sys_(\w+)\(`)

// Take returns the calls until now, and forgets them.
func (s *Syncs) Take() (all []Sync, err error) {
	text, err := os.ReadFile(filepath.Join(s.dir, "trace"))
	if err == nil {
		err = s.write("trace", "")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the syncs: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if m := traced.FindStringSubmatch(line); m != nil {
			pid, err := strconv.Atoi(m[1])
			if err != nil {
				return nil, fmt.Errorf("cannot read the syncs: %w", err)
			}
			all = append(all, Sync{pid, m[2]})
		}
	}
	return all, nil
}

// Close ends the counting and the tracing.
func (s *Syncs) Close() error {
	var err error
	if s.dir != "" {
		err = os.Remove(s.dir)
	}
	if s.mount != "" {
		if unmounted := unix.Unmount(s.mount, 0); !errors.Is(unmounted, unix.EINVAL) { // it was not mounted
			err = errors.Join(err, unmounted)
		}
		err = errors.Join(err, os.Remove(s.mount))
	}
	return err
}
