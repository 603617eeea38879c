package systemd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"
)

// Hook is a program of the operator that runs in a transient unit. The processes that
// it leaves behind are stopped with the unit, and its output goes to the journal.
type Hook struct {
	Unit        string
	Description string
	Argv        []string
	Env         []string // its whole environment, except for what systemd itself adds
	Limit       time.Duration
	// User is the user that runs it; "" is root, without a sandbox. Another user has no
	// capabilities, no network and no temporary directories, and the groups as in [Unit].
	User, Group string
	Groups      []string
	Bind        []Bind // of directories
}

// RunHook runs the hook and waits for its end. The error says how it failed.
func (c *Conn) RunHook(ctx context.Context, h Hook) error {
	ctx, cancel := context.WithTimeout(ctx, h.Limit+time.Minute)
	defer cancel()
	props := []dbus.Property{
		dbus.PropDescription(h.Description),
		property("TimeoutStopUSec", uint64((10 * time.Second).Microseconds())),
		property("Environment", h.Env),
		// The manager's locale, which differs between machines.
		property("UnsetEnvironment", []string{"LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_MESSAGES"}),
	}
	if h.User != "" {
		props = append(props, h.unprivileged()...)
	}
	u, err := c.oneshot(ctx, h.Unit, h.Argv, h.Limit, props)
	if err != nil {
		return err
	}
	return u.failure(h.Limit)
}

// oneshot runs a program in a transient unit and waits for its end. It returns how the
// unit was then, before it was unloaded.
func (c *Conn) oneshot(ctx context.Context, name string, argv []string, limit time.Duration, more []dbus.Property) (Unit, error) {
	if err := c.clear(ctx, name); err != nil { // a killed swapper may have left it
		return Unit{}, err
	}
	err := c.transient(ctx, name, append([]dbus.Property{
		dbus.PropType("oneshot"),
		execStart(argv),
		dbus.PropRemainAfterExit(true), // otherwise systemd unloads the unit before its result can be read
		property("TimeoutStartUSec", uint64(limit.Microseconds())),
		property("StandardInput", "null"),
	}, more...))
	if _, ok := errors.AsType[*JobError](err); err != nil && !ok {
		return Unit{}, err
	}
	u, err := c.Unit(ctx, name)
	if err != nil {
		return Unit{}, err
	}
	return u, c.clear(ctx, name)
}

// clear stops and unloads a transient unit.
func (c *Conn) clear(ctx context.Context, name string) error {
	if err := c.Stop(ctx, name); err != nil {
		return err
	}
	return c.ResetFailed(ctx, name)
}

// execStart returns ExecStart= with exactly these arguments: without the escape systemd
// would replace the names of environment variables by their values.
func execStart(argv []string) dbus.Property {
	args := make([]string, len(argv))
	for i, arg := range argv {
		args[i] = strings.ReplaceAll(arg, "$", "$$")
	}
	return property("ExecStart", []command{{Path: argv[0], Args: args}})
}

// command is an element of ExecStart= (org.freedesktop.systemd1(5)).
type command struct {
	Path    string
	Args    []string
	Unclean bool // an exit status other than 0 is a failure even with a "-" before Path
}

// unprivileged returns the additional properties of a hook that another user than root
// runs. Such a hook also runs at boot, before basic.target, and so must not have the
// default dependencies.
func (h Hook) unprivileged() []dbus.Property {
	props := []dbus.Property{
		property("DefaultDependencies", false),
		property("User", h.User),
		property("CapabilityBoundingSet", uint64(0)),
		property("NoNewPrivileges", true),
		property("PrivateNetwork", true),
		property("RestrictAddressFamilies", allowed{true, []string{"AF_UNIX"}}),
		property("PrivateDevices", true),
		property("PrivateIPC", true),
		property("ProtectProc", "invisible"),
		property("ProtectKernelTunables", true),
		property("ProtectControlGroups", true),
		property("RestrictNamespaces", uint64(0)),
		property("LockPersonality", true),
		property("MemoryDenyWriteExecute", true),
		property("SystemCallArchitectures", []string{"native"}),
		property("SystemCallFilter", allowed{true, []string{"@system-service"}}),
		property("SystemCallErrorNumber", int32(unix.ENOSYS)), // as in the units
		property("InaccessiblePaths", []string{"-/tmp", "-/var/tmp", "-/dev/shm", "-/run/dbus", "-/run/systemd/private"}),
		property("ReadOnlyPaths", []string{"/run"}),
		property("UMask", uint32(0o077)),
	}
	if h.Group != "" {
		props = append(props, property("Group", h.Group))
	}
	if len(h.Groups) > 0 {
		props = append(props, property("SupplementaryGroups", h.Groups))
	}
	if len(h.Bind) > 0 {
		var writable []string
		for _, b := range h.Bind {
			writable = append(writable, b.To)
		}
		props = append(props, property("BindPaths", h.Bind), property("ReadWritePaths", writable))
	}
	return props
}

// Bind is a bind mount: an element of BindPaths= and BindReadOnlyPaths=
// (org.freedesktop.systemd1(5)).
type Bind struct {
	From, To string
	Missing  bool // ignore a missing source
	Flags    uint64
}

// failure describes how the main process of a unit failed; nil if it did not.
func (u Unit) failure(limit time.Duration) error {
	switch {
	case u.Result == "timeout":
		return fmt.Errorf("it did not end within %s", limit)
	case u.ExecCode == Exited && u.ExecValue == 0 && u.Result == "success":
		return nil
	case u.ExecCode == Exited && u.ExecValue == ExecFailed:
		return errors.New("it cannot be executed")
	case u.ExecCode == Exited:
		return fmt.Errorf("exit status %d", u.ExecValue)
	case u.ExecCode == Killed || u.ExecCode == Dumped:
		return errors.New(unix.SignalName(unix.Signal(u.ExecValue)))
	}
	return fmt.Errorf("%s did not run: it is %s, %s", u.Name, u, u.Result)
}
