// Intruder stands for a program in a service's sandbox that strangers have taken over: it
// tries all that a sandbox should refuse, undoes what succeeded, and prints a line of JSON
// with the attempts and why each failed ("" if it succeeded).
//
//	intruder NAME    tries, and prints NAME, too
//	intruder plant   makes what the attempts look for outside of sandboxes
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Report is what the intruder prints.
type Report struct {
	Unit     string
	UID      int
	Attempts map[string]string
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "exit" { // it was started in new namespaces
		return
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "intruder:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: intruder NAME|plant")
	}
	if args[0] == "plant" {
		return plant()
	}
	r := Report{args[0], os.Getuid(), make(map[string]string)}
	try := func(name string, attempt func() error) {
		r.Attempts[name] = ""
		if err := attempt(); err != nil {
			r.Attempts[name] = err.Error()
		}
	}
	if args[0] == "processes" {
		processes(try, " (no capability)")
		return json.NewEncoder(os.Stdout).Encode(r.Attempts)
	}
	files(try)
	processes(try, "")
	sockets(try)
	managers(try)
	privileges(try)
	calls(try)
	if r.UID != 0 { // root would have its capabilities again
		without, err := dropped()
		if err != nil {
			return err
		}
		maps.Copy(r.Attempts, without)
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// dropped makes the attempts of a program that has given up its ambient capabilities and
// executed itself, as the health gate does.
func dropped() (attempts map[string]string, err error) {
	runtime.LockOSThread() // the child has the capabilities of this thread
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("cannot drop capabilities: %w", err)
	}
	out, err := exec.Command("/proc/self/exe", "processes").Output()
	if err != nil {
		return nil, err
	}
	return attempts, json.Unmarshal(out, &attempts)
}

// A tryer makes an attempt and records its result.
type tryer func(name string, attempt func() error)

// own are the directories in which the chain's steps keep their files; "other" is a target that
// none of the sandboxes is for.
var own = []string{
	"/var/lib/machinemon-update", "/var/lib/machinemon-update/checkin", "/srv/download",
	"/var/lib/machinemon-update/fetch/testd", "/var/lib/machinemon-update/fetch/testd/ready",
	"/var/lib/machinemon-update/verify/testd", "/var/lib/machinemon-update/swap/testd",
	"/var/lib/machinemon-update/fetch/other", "/var/lib/machinemon-update/fetch/other/ready",
	"/var/lib/machinemon-update/verify/other", "/var/lib/machinemon-update/swap/other",
	"/run/machinemon-update", "/run/machinemon-update/lock", "/run/machinemon-update/directive/testd",
	"/run/machinemon-update/directive/other", "/run/machinemon-update/gate/testd", "/run/machinemon-update/gate/other",
}

// files tries to write directories of the machine, and to read what is not for everyone.
func files(try tryer) {
	for _, dir := range append([]string{"/run", "/run/lock", "/etc", "/usr", "/usr/local/bin", "/opt", "/boot",
		"/var", "/var/log", "/dev", "/sys/fs/cgroup"}, own...) {
		try("write "+dir, func() error { return write(dir) })
	}
	for _, file := range []string{"/proc/sys/kernel/domainname", "/sys/kernel/profiling"} {
		try("open "+file+" to write", func() error {
			f, err := os.OpenFile(file, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			return f.Close()
		})
	}
	// These may be writable if they are not the machine's.
	for _, dir := range []string{"/tmp", "/var/tmp", "/dev/shm"} {
		try("the machine's "+dir, func() error { return read(dir + "/planted") })
	}
	try("fill temporary directories", fill)
	for _, file := range []string{"/home/alice/planted", "/root/planted", "/etc/shadow", "/etc/machinemon-release/srv-download/online.pem"} {
		try("read "+file, func() error { return read(file) })
	}
	try("read the journal", func() error {
		for _, pattern := range []string{"/var/log/journal/*/system.journal", "/run/log/journal/*/system.journal"} {
			if found, err := filepath.Glob(pattern); err != nil || len(found) > 0 {
				return errors.Join(err, read(found[0]))
			}
		}
		return errors.New("no journal")
	})
}

// write creates a file, or a directory where only these can be made.
func write(dir string) error {
	name := fmt.Sprintf("%s/intruder-%d", dir, os.Getpid())
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		return errors.Join(f.Close(), os.Remove(name))
	}
	if os.Mkdir(name, 0o700) == nil {
		return os.Remove(name)
	}
	return err
}

// fill writes so many files into temporary directories that they hurt the machine.
func fill() error {
	const most, size = 64 << 20, 512 << 10
	var written int
	var failed error
	for _, dir := range []string{"/tmp", "/var/tmp", "/dev/shm"} {
		temp, err := os.MkdirTemp(dir, "intruder-")
		for n := 0; err == nil && written < most; n++ {
			if err = os.WriteFile(fmt.Sprintf("%s/%d", temp, n), make([]byte, size), 0o600); err == nil {
				written += size
			}
		}
		if temp != "" {
			failed = errors.Join(failed, os.RemoveAll(temp))
		}
		failed = errors.Join(failed, err)
	}
	if written >= most {
		return nil
	}
	return fmt.Errorf("only %d bytes fit: %w", written, failed)
}

func read(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Read(make([]byte, 1))
	return err
}

// processes tries to see other processes, and through one of them the machine's files.
func processes(try tryer, how string) {
	try("see PID 1"+how, func() error { return read("/proc/1/stat") })
	try("read /proc/1/root"+how, func() error { return read("/proc/1/root/home/alice/planted") })
	try("write /proc/1/root"+how, func() error { return write("/proc/1/root/run") })
	try("open /proc/1/mem"+how, func() error {
		f, err := os.OpenFile("/proc/1/mem", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return f.Close()
	})
}
