package health

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// taken reports whether a try failed because nothing listens at an address, and the unit
// cannot listen there either: a socket that does not listen has the address, too, but no
// list of the kernel shows it. To find out, this takes the address for an instant, so it
// must not be called while the unit may be about to do so.
func taken(err error) (address string, is bool) {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || !errors.Is(err, unix.ECONNREFUSED) {
		return "", false
	}
	at, ok := op.Addr.(*net.TCPAddr)
	if !ok {
		return "", false
	}
	family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: at.Port, Addr: [16]byte(at.IP.To16())})
	if ip := at.IP.To4(); ip != nil {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: at.Port, Addr: [4]byte(ip)}
	}
	s, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", false
	}
	defer unix.Close(s)
	// As servers do: connections of an earlier server that are not quite over are in no
	// one's way then.
	if err := unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return "", false
	}
	err = unix.Bind(s, to)
	if err == nil {
		err = unix.Listen(s, 0) // as the unit would
	}
	return at.String(), errors.Is(err, unix.EADDRINUSE)
}
