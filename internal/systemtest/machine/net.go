package machine

import (
	"context"
	"net"

	"golang.org/x/sys/unix"
)

// Listen listens inside the machine's network, for a server that runs in this
// process. The address must be literal. The listener outlives a power cut of
// the machine without hearing anything any more.
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
