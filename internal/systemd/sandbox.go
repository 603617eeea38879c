package systemd

import (
	"context"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"
)

// Sandbox describes a program that a transient unit runs where it can do no harm.
type Sandbox struct {
	Unit   string
	Argv   []string
	Over   []Bind // of files
	Output string // a file for its output; Try makes and removes it
}

// SandboxResult is how the program ended. At most one of Exec and Signal is set, and
// Detail explains it.
type SandboxResult struct {
	Exec   bool // it could not be executed
	Signal bool // a signal ended it; so does the time limit
	Detail string
	Output string
}

const (
	sandboxTime   = 20 * time.Second // for a program to print its version
	sandboxOutput = 64 << 10         // bytes of the output that are read
)

// Try runs a program in a sandbox: a dynamic user, no network, no capabilities, no
// devices, a read-only file system and a time limit. It has no
// MemoryDenyWriteExecute=, since runtimes with a compiler need such memory.
func (c *Conn) Try(ctx context.Context, t Sandbox) (SandboxResult, error) {
	ctx, cancel := context.WithTimeout(ctx, sandboxTime+10*time.Second)
	defer cancel()
	defer os.Remove(t.Output)
	props := []dbus.Property{
		dbus.PropDescription("Pre-flight of a new release"),
		property("StandardOutputFileToTruncate", t.Output),
		property("StandardErrorFileToTruncate", t.Output),
		property("Environment", []string{"LANG=C.UTF-8"}),
		property("DynamicUser", true),
		property("PrivateNetwork", true),
		property("PrivateDevices", true),
		property("PrivateUsers", true),
		property("ProtectHome", "yes"),
		property("ProtectProc", "invisible"),
		property("ProtectKernelTunables", true),
		property("ProtectControlGroups", true),
		property("RestrictNamespaces", uint64(0)),
		property("CapabilityBoundingSet", uint64(0)),
		property("InaccessiblePaths", []string{"-/var/lib/machinemon-update", "-/run/machinemon-update", "-/run/systemd/private", "-/run/dbus"}),
		property("LimitFSIZE", uint64(1<<20)), // of its output; more ends it by a signal
		property("LimitCORE", uint64(0)),
		property("KillSignal", int32(unix.SIGKILL)), // it has nothing to clean up
		property("OOMScoreAdjust", int32(1000)),     // the kernel ends it before the machine's services
		property("TasksMax", uint64(256)),
	}
	if len(t.Over) > 0 {
		props = append(props, property("BindReadOnlyPaths", t.Over))
	}
	u, err := c.oneshot(ctx, t.Unit, t.Argv, sandboxTime, props)
	if err != nil {
		return SandboxResult{}, err
	}
	var r SandboxResult
	failure := u.failure(sandboxTime)
	switch {
	case u.Result == "timeout", u.ExecCode == Killed, u.ExecCode == Dumped:
		r.Signal, r.Detail = true, failure.Error()
	case u.ExecCode == Exited && u.ExecValue == ExecFailed:
		r.Exec, r.Detail = true, "the kernel refuses it (wrong format or architecture?)"
	case u.ExecCode != Exited:
		return r, failure
	}
	out, err := os.ReadFile(t.Output)
	if err != nil {
		return r, err
	}
	r.Output = string(out[:min(len(out), sandboxOutput)])
	return r, nil
}
