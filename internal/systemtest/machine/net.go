package machine

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// Listen listens inside the machine's network, for a server in this process. The address
// must be literal. After a power cut of the machine the listener stays open and gets no
// more connections.
func (m *Machine) Listen(network, address string) (l net.Listener, err error) {
	err = m.inside(unix.CLONE_NEWNET, func() error {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// Dial connects to an address inside the machine's network. The address must
// be literal.
func (m *Machine) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = m.inside(unix.CLONE_NEWNET, func() error {
		c, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Connect lays a cable between two machines, from this one's interface to the other's,
// and gives both ends an address such as "10.9.1.1/24". The cable lasts until one of them
// is off. This host's network does not see it.
func (m *Machine) Connect(ctx context.Context, name, address string, other *Machine, otherName, otherAddress string) error {
	far, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", other.leader))
	if err != nil {
		return fmt.Errorf("cannot connect %s to %s: %w", m.Name, other.Name, err)
	}
	defer far.Close()
	err = m.inside(unix.CLONE_NEWNS|unix.CLONE_NEWPID|unix.CLONE_NEWNET, func() error {
		cmd := exec.CommandContext(ctx, "/usr/bin/env", "ip", "link", "add", name, "type", "veth", "peer", "name", otherName, "netns", "/proc/self/fd/3")
		cmd.Dir, cmd.ExtraFiles = "/", []*os.File{far}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot connect %s to %s: %w", m.Name, other.Name, err)
	}
	for _, end := range []struct {
		m             *Machine
		name, address string
	}{{m, name, address}, {other, otherName, otherAddress}} {
		r, err := end.m.Run(ctx, "sh", "-ec", "ip address add "+end.address+" dev "+end.name+"; ip link set "+end.name+" up")
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("ip exited %d: %s", r.Code, r.Stderr)
		}
		if err != nil {
			return fmt.Errorf("cannot set up the network of %s: %w", end.m.Name, err)
		}
	}
	return nil
}
