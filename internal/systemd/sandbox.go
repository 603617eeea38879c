package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"
)

// Sandbox describes a program that a transient unit runs where it can do no harm.
type Sandbox struct {
	Unit   string
	Argv   []string
	Over   [][2]string // bind mounts of files: source, destination
	Output string      // a file for its output; Try makes and removes it
	Limit  int64       // the most bytes of the output that are read
}

// SandboxResult is how the program ended. At most one of Exec and Signal is set; an
// exit status is in Detail only.
type SandboxResult struct {
	Exec   bool // it could not be executed
	Signal bool // a signal ended it; so does the time limit
	Detail string
	Output string
}

// execFailed is the exit status of a unit's process if execve(2) fails: EXIT_EXEC of
// systemd.exec(5).
const execFailed = 203

// sandboxTime limits how long a program may take to print its version.
const sandboxTime = 20 * time.Second

// Try runs a program in a sandbox: a dynamic user, no network, no capabilities, no
// devices, a read-only file system and a time limit. It has no
// MemoryDenyWriteExecute=, since runtimes with a compiler need such memory.
func (c *Conn) Try(ctx context.Context, t Sandbox) (SandboxResult, error) {
	ctx, cancel := context.WithTimeout(ctx, sandboxTime+10*time.Second)
	defer cancel()
	defer os.Remove(t.Output)
	if err := c.clear(ctx, t.Unit); err != nil { // a killed swapper may have left it
		return SandboxResult{}, err
	}
	props := []dbus.Property{
		dbus.PropDescription("Pre-flight of a new release"),
		dbus.PropType("oneshot"),
		execStart(t.Argv),
		dbus.PropRemainAfterExit(true), // otherwise systemd unloads the unit before its result can be read
		property("TimeoutStartUSec", uint64(sandboxTime.Microseconds())),
		property("StandardInput", "null"),
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
		props = append(props, property("BindReadOnlyPaths", binds(t.Over)))
	}
	err := c.transient(ctx, t.Unit, props)
	if _, ok := errors.AsType[*JobError](err); err != nil && !ok {
		return SandboxResult{}, err
	}
	u, err := c.Unit(ctx, t.Unit)
	if err != nil {
		return SandboxResult{}, err
	}
	r := SandboxResult{Detail: u.String()}
	switch {
	case u.Result == "timeout":
		r.Signal, r.Detail = true, fmt.Sprintf("it did not end within %s", sandboxTime)
	case u.ExecCode == cldExited && u.ExecValue == execFailed:
		r.Exec, r.Detail = true, "the kernel refuses it (wrong format or architecture?)"
	case u.ExecCode == cldExited:
		r.Detail = fmt.Sprintf("exit status %d", u.ExecValue)
	case u.ExecCode == cldKilled || u.ExecCode == cldDumped:
		r.Signal, r.Detail = true, unix.SignalName(unix.Signal(u.ExecValue))
	default:
		return r, fmt.Errorf("%s did not run: it is %s, %s", t.Unit, u, u.Result)
	}
	out, err := os.ReadFile(t.Output)
	if err != nil {
		return r, err
	}
	r.Output = string(out[:min(int64(len(out)), t.Limit)])
	return r, c.clear(ctx, t.Unit)
}

// clear stops and unloads a transient unit.
func (c *Conn) clear(ctx context.Context, name string) error {
	if err := c.Stop(ctx, name); err != nil {
		return err
	}
	return c.ResetFailed(ctx, name)
}
