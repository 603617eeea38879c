package health

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/systemd"
)

// Each local user may listen on a port that is free, also in the moment between the stop
// of the old program and the start of the new one. So an answer counts only if a socket of
// the unit gave it: one that was made in the control group of the unit or, for socket
// activation, by systemd for a .socket unit that triggers the unit.

// unowned is the error of a try whose answer cannot be ascribed to the unit: another
// program gave it or, if unknown, nothing tells which program did.
type unowned struct {
	error
	unknown bool
}

// peers knows which programs may answer for a target.
type peers struct {
	units []systemd.Unit // as they were last read; a program of each may answer
	// rested has the idle units by their names: the invocation IDs of the runs before the
	// trial.
	rested  map[string]string
	unit    systemd.Unit // of units, the one that is asked about now
	manager manager
	inspect inspector
	// contest says to find out why nothing listens at an address, see [taken].
	contest bool
}

// each asks about one unit after the other until ask returns nil. Otherwise it returns the
// first error.
func (p peers) each(ask func(peers) error) (first error) {
	if len(p.units) == 0 {
		return ask(p)
	}
	for _, u := range p.units {
		p.unit = u
		err := ask(p)
		if err == nil {
			return nil
		}
		first = cmp.Or(first, err)
	}
	return first
}

// dialing makes a connection.
type dialing func(ctx context.Context, network, address string) (net.Conn, error)

// dialer returns a function that makes connections which only the unit's programs answer
// or, if foreign, any program.
func (p peers) dialer(foreign bool) dialing {
	var d net.Dialer
	if foreign {
		return d.DialContext
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, address)
		if err != nil {
			if p.contest {
				err = p.silent(err)
			}
			return nil, err
		}
		// systemd may be busy for longer than the program may take to answer.
		if err := p.each(func(p peers) error { return p.verify(context.WithoutCancel(ctx), c) }); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return c, nil
	}
}

// verify returns nil if a socket of the unit is at the other end of the connection.
func (p peers) verify(ctx context.Context, c net.Conn) error {
	if local, ok := c.(*net.UnixConn); ok {
		return p.verifyUnix(ctx, local)
	}
	return p.verifyTCP(ctx, c)
}

func (p peers) verifyTCP(ctx context.Context, c net.Conn) error {
	tree, err := groupTree()
	if err != nil {
		return p.cannotTell(err)
	}
	id, err := servingGroup(c)
	if errors.Is(err, errNoSocket) {
		return p.stranger("a forwarded port, a container or another machine", "see where the address leads")
	}
	if err != nil {
		return p.cannotTell(err)
	}
	if ours, err := isGroup(tree, p.unit.ControlGroup, id); err != nil || ours {
		return p.maybe(err)
	}
	groups, err := p.sockets(ctx)
	if err != nil {
		return notAsked{err}
	}
	for _, group := range groups {
		if ours, err := isGroup(tree, group, id); err != nil || ours {
			return p.maybe(err)
		}
	}
	return p.stranger("a program of "+groupName(tree, id), "ss -ltnp shows which program has the port; stop it")
}

// maybe returns nil if err is nil.
func (p peers) maybe(err error) error {
	if err != nil {
		return p.cannotTell(err)
	}
	return nil
}

// isGroup reports whether id is the group with this path, or one below it.
func isGroup(tree, path string, id uint64) (bool, error) {
	if path == "" { // the unit has no processes
		return false, nil
	}
	dir, err := findGroup(filepath.Join(tree, path), id)
	return dir != "", err
}

// sockets returns the control groups in which systemd makes the sockets of the active
// .socket units that trigger the unit: those units' own ones, or its own one. It returns
// none if there are no such units.
func (p peers) sockets(ctx context.Context) (groups []string, err error) {
	for _, name := range p.unit.Triggers {
		if !strings.HasSuffix(name, ".socket") {
			continue
		}
		u, err := p.manager.Unit(ctx, name)
		if err != nil {
			return nil, err
		}
		if u.Active == "active" {
			groups = append(groups, u.ControlGroup)
		}
	}
	if len(groups) == 0 {
		return nil, nil
	}
	u, err := p.manager.Unit(ctx, "init.scope")
	return append(groups, u.ControlGroup), err
}

func (p peers) verifyUnix(ctx context.Context, c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return p.cannotTell(err)
	}
	// The process that called listen(2), and its user at that time.
	var listener *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		listener, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil || err != nil {
		return p.cannotTell(errors.Join(cerr, err))
	}
	ours, err := p.listens(ctx, int(listener.Pid), listener.Uid)
	if err != nil {
		return notAsked{err}
	}
	if !ours {
		return p.stranger(fmt.Sprintf("process %d of user %d", listener.Pid, listener.Uid), "ss -lxp shows which program has the socket; stop it")
	}
	return nil
}

// listens reports whether a process with this number and user listened for the unit.
func (p peers) listens(ctx context.Context, pid int, uid uint32) (bool, error) {
	if pid == 1 {
		groups, err := p.sockets(ctx)
		return len(groups) > 0, err
	}
	pids, err := p.manager.Processes(ctx, p.unit.Name)
	if err != nil {
		return false, err
	}
	// If the process has ended, its number may belong to another one by now, so its user
	// must be one of the unit.
	switch {
	case slices.Contains(pids, pid):
		pids = []int{pid}
	case !errors.Is(unix.Kill(pid, 0), unix.ESRCH): // also 0, of another PID namespace
		return false, nil
	}
	// The program may have dropped root's rights after that.
	if uid == 0 || uid == p.unit.UID {
		return true, nil
	}
	for _, pid := range pids {
		e, err := p.inspect(pid)
		if err != nil && !errors.Is(err, errVanished) {
			return false, err
		}
		if err == nil && slices.Contains(e.Users, uid) {
			return true, nil
		}
	}
	return false, nil
}

// stranger returns the error of an answer that another program gave.
func (p peers) stranger(which, cure string) error {
	return unowned{fmt.Errorf("another program than %s answers: %s (hint: %s; if it is a proxy in front of %s, write foreign = true in this probe)",
		p.unit.Name, oneLine(which), cure, p.unit.Name), false}
}

// silent returns the error of a try to connect: another one if a program that does not
// listen keeps the unit from listening.
func (p peers) silent(err error) error {
	if at, is := taken(err); is {
		return unowned{fmt.Errorf("another program than %s has the address %s, and does not listen there (hint: lsof shows its socket as \"protocol: TCP\", and ss does not; stop it)",
			p.units[0].Name, at), false}
	}
	if path, owner, is := blocked(err, p.units); is {
		return unowned{fmt.Errorf("a file of user %d, at which nothing listens, is at %s (hint: ls -l shows it; remove it, or let %s listen in a directory of its own)",
			owner, path, p.units[0].Name), false}
	}
	return err
}

// cannotTell returns the error of an answer of which nothing tells the program.
func (p peers) cannotTell(err error) error {
	return unowned{fmt.Errorf("cannot find out which program answers: %s (hint: use a probe of the kind command or journal; with foreign = true in this probe the answer of each program counts)",
		oneLine(err.Error())), true}
}
