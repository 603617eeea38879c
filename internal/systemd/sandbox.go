package systemd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"
)

// Sandbox describes a program that a transient unit runs where it can do no harm.
type Sandbox struct {
	Unit string
	// Description is the unit's; "" for that of the pre-flight.
	Description string
	Argv        []string
	User        string
	Over        []Bind // of files
	Input       string // the file that is its standard input; "" for none
	Token       string // the file that systemd, as root, hands to it as the credential "token"; "" for none
	Output      string // a file for its output; Try makes it, and removes it unless Keep is set
	// Network permits it to use the network, and to ask this machine's resolver.
	Network bool
	// Look permits it to see how the machine fares: Network, the other processes, and D-Bus,
	// where everybody may ask.
	Look bool
	// Keep leaves Output where it is. The result has only its end, and only of a failure.
	Keep bool
	// Time and MaxOutput, in bytes, are limits that differ from those of a program that
	// prints its version; 0 if they do not.
	Time      time.Duration
	MaxOutput int64
}

// SandboxResult is how the program ended. At most one of Exec, Signal and Late is set;
// Detail explains it, or says with which status the program failed.
type SandboxResult struct {
	Exec   bool // it could not be executed
	Signal bool // a signal ended it
	Late   bool // it did not end within the time limit
	Detail string
	Output string
}

const (
	sandboxTime   = 20 * time.Second // for a program to print its version
	sandboxOutput = 64 << 10         // bytes of the output that are read
	sandboxMemory = 1 << 30          // bytes, of which its files are a part
)

// Try runs a program in a sandbox: without network (unless Network is set), capabilities,
// devices and the sockets of other services, with a limit of time and of memory, and with
// nothing to write but its output and a few small files that end with it. It has no MemoryDenyWriteExecute= and no
// SystemCallFilter=, since runtimes with a compiler may need what these refuse. An error
// is no fault of the program.
//
// The user is no dynamic one: that would bring PrivateTmp=, in which the program could
// fill the disk.
func (c *Conn) Try(ctx context.Context, t Sandbox) (SandboxResult, error) {
	limit, most := cmp.Or(t.Time, sandboxTime), cmp.Or(t.MaxOutput, sandboxOutput)
	ctx, cancel := context.WithTimeout(ctx, limit+10*time.Second)
	defer cancel()
	if !t.Keep {
		defer os.Remove(t.Output)
	}
	props := []dbus.Property{
		dbus.PropDescription(cmp.Or(t.Description, "Pre-flight of a new release")),
		property("StandardOutputFileToTruncate", t.Output),
		property("StandardErrorFileToTruncate", t.Output),
		// Some programs unpack themselves into /tmp, or into their home directory.
		property("Environment", []string{"LANG=C.UTF-8", "HOME=/tmp"}),
		property("User", t.User),
		property("NoNewPrivileges", true),
		property("RestrictSUIDSGID", true),
		property("ProtectSystem", "strict"),
		property("PrivateIPC", true),
		property("PrivateDevices", true),
		property("PrivateUsers", true),
		property("ProtectHome", "yes"),
		property("ProtectKernelTunables", true),
		property("ProtectControlGroups", true),
		property("RestrictNamespaces", uint64(0)),
		property("CapabilityBoundingSet", uint64(0)),
		property("KeyringMode", "private"),
		// Without AF_VSOCK, which reaches the hypervisor even without a network.
		property("RestrictAddressFamilies", allowed{true, []string{"AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"}}),
		property("MemoryMax", uint64(sandboxMemory)),
		property("MemorySwapMax", uint64(0)),
		property("LimitFSIZE", uint64(max(1<<20, most))), // of its output; more ends it by a signal
		property("LimitCORE", uint64(0)),
		property("KillSignal", int32(unix.SIGKILL)), // it has nothing to clean up
		property("OOMScoreAdjust", int32(1000)),     // the kernel ends it before the machine's services
		property("TasksMax", uint64(256)),
	}
	hidden, empty := []string{"-/var/lib/machinemon-update"}, []temporary{{"/tmp", small}, {"/var/tmp", small}, {"/dev/shm", small}}
	if !t.Look {
		props = append(props, property("ProtectProc", "invisible"))
	}
	switch {
	case t.Look:
		hidden = append(hidden, "-/run/systemd/private")
		props = append(props, property("ReadOnlyPaths", []string{"/run"}))
	case t.Network: // as the fetcher's unit has it
		hidden = append(hidden, "-/run/systemd/private", "-/run/dbus")
		props = append(props, property("ReadOnlyPaths", []string{"/run"}))
	default:
		empty = append(empty, temporary{"/run", "ro"}) // where services have their sockets
		props = append(props, property("PrivateNetwork", true))
	}
	props = append(props, property("TemporaryFileSystem", empty), property("InaccessiblePaths", hidden))
	if t.Input != "" {
		props = append(props, property("StandardInputFile", t.Input))
	}
	if t.Token != "" {
		props = append(props, property("LoadCredential", []struct{ ID, Path string }{{"token", t.Token}}))
	}
	if len(t.Over) > 0 {
		props = append(props, property("BindReadOnlyPaths", t.Over))
	}
	u, err := c.oneshot(ctx, t.Unit, t.Argv, limit, props)
	if err != nil {
		return SandboxResult{}, err
	}
	var r SandboxResult
	failure := u.failure(limit)
	if !t.Keep || failure != nil {
		if r.Output, err = t.output(most); err != nil && !errors.Is(err, fs.ErrNotExist) { // systemd may fail before it makes the file
			return SandboxResult{}, err
		}
	}
	switch {
	case u.Result == "oom-kill": // perhaps because of the machine's other programs
		return r, fmt.Errorf("it was out of memory (it may use %d MiB)", sandboxMemory>>20)
	case u.Result == "timeout":
		r.Late, r.Detail = true, failure.Error()
	case u.ExecCode == Killed, u.ExecCode == Dumped:
		r.Signal, r.Detail = true, failure.Error()
	case u.ExecCode == Exited && u.ExecValue == ExecFailed:
		r.Exec, r.Detail = true, "the kernel refuses it (wrong format or architecture?)"
	case u.ExecCode != Exited:
		return r, failure
	case u.ExecValue >= setupFailed && r.Output == "":
		return r, fmt.Errorf("systemd cannot make its sandbox: %w", failure)
	case failure != nil:
		r.Detail = failure.Error()
	}
	return r, nil
}

// output returns the beginning of the output, or the end of one that is kept.
func (t Sandbox) output(most int64) (string, error) {
	f, err := os.Open(t.Output)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if t.Keep {
		info, err := f.Stat()
		if err != nil {
			return "", err
		}
		most = min(most, sandboxOutput)
		if _, err := f.Seek(max(0, info.Size()-most), io.SeekStart); err != nil {
			return "", err
		}
	}
	out, err := io.ReadAll(io.LimitReader(f, most))
	return string(out), err
}

// setupFailed is the first of the exit statuses of systemd itself, when it cannot execute a
// program as its unit says (systemd.exec(5)).
const setupFailed = 200

// small are the options of a temporary file system that every user may write.
const small = "mode=1777,size=16M,nr_inodes=1024"

// temporary is an element of TemporaryFileSystem=, and allowed is a list such as
// RestrictAddressFamilies= (org.freedesktop.systemd1(5)).
type (
	temporary struct{ Path, Options string }
	allowed   struct {
		Allow bool
		Names []string
	}
)
