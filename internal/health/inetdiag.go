package health

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Constants of sock_diag(7) that x/sys lacks.
const (
	sockDiagByFamily = 20
	inetDiagCgroupID = 21
	inetDiagRequest  = 56 // bytes of struct inet_diag_req_v2
	inetDiagMessage  = 72 // bytes of struct inet_diag_msg
	tcpListen        = 10
	loopbackDevice   = 1 // its number in each network namespace
)

// errNoSocket says that no socket of this network namespace is at an address.
var errNoSocket = errors.New("no socket of this machine is there")

// tcpSocket is what the kernel tells about a TCP socket.
type tcpSocket struct {
	listens bool
	// group is the control group v2 in which the socket was made, or its listener; 0 if
	// the kernel does not tell it.
	group uint64
}

// servingGroup returns the control group of the socket that serves a TCP connection.
func servingGroup(c net.Conn) (uint64, error) {
	client, ok := c.LocalAddr().(*net.TCPAddr)
	server, isTCP := c.RemoteAddr().(*net.TCPAddr)
	if !ok || !isTCP {
		return 0, fmt.Errorf("%s is no TCP address", c.RemoteAddr())
	}
	d, err := netlink.Dial(unix.NETLINK_INET_DIAG, nil)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	if err := d.SetDeadline(time.Now().Add(answerLimit)); err != nil {
		return 0, err
	}
	at, from := address(server), address(client)
	s, err := findTCP(d, at, from)
	local := at.Addr().IsLoopback() || at.Addr() == from.Addr()
	// Without a connected socket the kernel answers with a listener, also with one that
	// listens on all addresses of this machine for an address of another one.
	if err == nil && s.listens && !local {
		return 0, errNoSocket
	}
	// A connection that waits for its first data (TCP_DEFER_ACCEPT), or was closed by the
	// server, has no socket, but its listener has.
	if err == nil && s.group == 0 && !s.listens {
		s, err = findTCP(d, at, netip.AddrPort{})
	}
	if err == nil && s.group == 0 {
		err = errors.New("the kernel does not tell the control groups of sockets (Linux 5.8 and later do)")
	}
	return s.group, err
}

func address(a *net.TCPAddr) netip.AddrPort {
	p := a.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// findTCP returns the TCP socket at one address that is connected to another one; a listener
// is connected to the zero address.
func findTCP(d *netlink.Conn, at, from netip.AddrPort) (tcpSocket, error) {
	s, err := askTCP(d, at, from, device(at.Addr()))
	// A socket that is bound to a device is found only with its number.
	if errors.Is(err, errNoSocket) && at.Addr().Zone() == "" {
		s, err = askTCP(d, at, from, loopbackDevice)
	}
	return s, err
}

// device returns the number of the device that an IPv6 address names; 0 if it names none.
func device(a netip.Addr) uint32 {
	if dev, err := net.InterfaceByName(a.Zone()); err == nil {
		return uint32(dev.Index)
	}
	return 0
}

func askTCP(d *netlink.Conn, at, from netip.AddrPort, device uint32) (s tcpSocket, err error) {
	// struct inet_diag_req_v2, with addresses and ports in the byte order of the network.
	b := make([]byte, 0, inetDiagRequest)
	family := byte(unix.AF_INET6)
	if at.Addr().Is4() {
		family = unix.AF_INET
	}
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, 1<<32-1) // each state
	b = binary.BigEndian.AppendUint16(b, at.Port())
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = append(b, padded(at.Addr())...)
	b = append(b, padded(from.Addr())...)
	b = binary.NativeEndian.AppendUint32(b, device)
	b = binary.NativeEndian.AppendUint64(b, 1<<64-1) // no cookie
	answer, err := d.Execute(netlink.Message{Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request}, Data: b})
	if errors.Is(err, unix.ENOENT) {
		return s, errNoSocket
	}
	if err != nil {
		return s, err
	}
	if len(answer) != 1 || len(answer[0].Data) < inetDiagMessage {
		return s, errors.New("the kernel's answer about a socket is incomplete")
	}
	s.listens = answer[0].Data[1] == tcpListen
	attributes, err := netlink.NewAttributeDecoder(answer[0].Data[inetDiagMessage:])
	if err != nil {
		return s, err
	}
	for attributes.Next() {
		if attributes.Type() == inetDiagCgroupID {
			s.group = attributes.Uint64()
		}
	}
	return s, attributes.Err()
}

// padded returns an address as an array of 16 bytes, the first of which are the address. Those
// of the zero address are zero.
func padded(a netip.Addr) []byte { return append(a.AsSlice(), make([]byte, 16-a.BitLen()/8)...) }
