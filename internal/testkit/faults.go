package testkit

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

var everyFault = flag.Int("faults", 0, "try every `n`th fault: 1 is all of them, 0 is a small sample")

// ManyFaults reports whether [Faults] tries more than a small sample.
func ManyFaults() bool { return *everyFault > 0 }

// Fault is an error that a system call of a worker returned, and how the worker ended.
type Fault struct {
	Step
	Errno syscall.Errno
	Exit  int    // its exit status
	Error string // what it wrote to stderr
	Log   string // what it wrote to stdout
}

// Worker is a process of a program that is ready to run.
type Worker struct {
	Process *exec.Cmd
	Watch   Watch                   // [WatchAll] or [WatchReads]
	Counts  func(Step) bool         // which steps may fail
	Check   func(*testing.T, Fault) // looks at what the fault has led to
}

// errnosOf returns the errors that a call can return because of a disk, a mount or an
// access control.
func errnosOf(call string) []syscall.Errno {
	switch call {
	case "open":
		return []syscall.Errno{unix.EIO, unix.EACCES, unix.EINTR}
	case "read", "list", "lock":
		return []syscall.Errno{unix.EIO, unix.EINTR}
	case "sync", "sync all", "close":
		return []syscall.Errno{unix.EIO, unix.ENOSPC, unix.EINTR}
	}
	return []syscall.Errno{unix.ENOSPC, unix.EIO, unix.EROFS, unix.EACCES, unix.EINTR}
}

// Faults lets each step of a worker fail, one in each run, with each error that it can
// return. make is called for each run. Without the flag -faults it only tries a sample of
// about so many faults, and those that did harm once, such as "EIO open status.json".
func Faults(t *testing.T, sample int, harmful []string, make func(*testing.T) Worker) {
	t.Helper()
	w := make(t)
	steps, _, none := w.run(t, 0, 0)
	if none.Exit != 0 || len(steps) < 5 {
		t.Fatalf("without a fault it made %d steps and ended with status %d: %s", len(steps), none.Exit, none.Error)
	}
	type fault struct {
		at    int
		errno syscall.Errno
	}
	var all []fault
	for i, s := range steps {
		for _, e := range errnosOf(s.Call) {
			all = append(all, fault{i + 1, e})
		}
	}
	every := *everyFault
	if every == 0 {
		every = max(1, len(all)/sample)
	}
	var mu sync.Mutex
	exits := map[int]int{}
	tried, passed := 0, 0
	t.Run("faults", func(t *testing.T) {
		for i, f := range all {
			step := steps[f.at-1]
			name := fmt.Sprintf("%s %s %s", unix.ErrnoName(f.errno), step.Call, filepath.Base(step.Path))
			if i%every > 0 && !slices.Contains(harmful, name) {
				continue
			}
			tried++
			t.Run(fmt.Sprintf("%d %s", f.at, name), func(t *testing.T) {
				t.Parallel()
				w := make(t)
				steps, reached, got := w.run(t, f.at, f.errno)
				if !reached {
					t.Fatalf("it made only %d steps", len(steps))
				}
				defer func() {
					mu.Lock()
					defer mu.Unlock()
					exits[got.Exit]++
					if !t.Failed() {
						passed++
						return
					}
					t.Logf("%v of %s: exit %d\nstderr: %s\nstdout: %s", got.Errno, got.Step, got.Exit, got.Error, got.Log)
				}()
				got.plain(t)
				w.Check(t, got)
			})
		}
	})
	t.Logf("faults: %-55s %3d points, %4d errors tried, %4d passed; exit statuses %v", t.Name(), len(steps), tried, passed, exits)
}

// run runs the worker, whose step of this number, if it is not 0, fails.
func (w Worker) run(t *testing.T, at int, errno syscall.Errno) (steps []Step, reached bool, f Fault) {
	t.Helper()
	var says [2]string
	var readers sync.WaitGroup
	var writers []*os.File
	for i := range says {
		r, to, err := os.Pipe()
		Must(t, err)
		writers = append(writers, to)
		readers.Go(func() {
			defer r.Close()
			all, _ := io.ReadAll(r) // a pipe does not fail
			says[i] = string(all)
		})
	}
	w.Process.Stdout, w.Process.Stderr = writers[0], writers[1]
	steps, reached, end := Trace{Watch: w.Watch, Counts: w.Counts, At: at, Errno: errno}.Run(t, w.Process)
	for _, to := range writers {
		Must(t, to.Close())
	}
	readers.Wait()
	f = Fault{Errno: errno, Exit: end.ExitStatus(), Log: says[0], Error: says[1]}
	if reached {
		f.Step = steps[at-1]
	}
	return steps, reached, f
}

// plain checks what the worker says: a failure is one line, which names the cause.
func (f Fault) plain(t *testing.T) {
	t.Helper()
	if f.Exit < 0 {
		t.Errorf("it did not exit: %d", f.Exit)
	}
	if f.Exit == 0 {
		return
	}
	if strings.Count(f.Error, "\n") != 1 {
		t.Errorf("the error is not one line: %q", f.Error)
	}
	if !strings.Contains(f.Error, f.Errno.Error()) {
		t.Errorf("the error does not name the cause %q: %s", f.Errno.Error(), f.Error)
	}
}
