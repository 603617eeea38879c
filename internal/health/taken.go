package health

import (
	"errors"
	"net"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/systemd"
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
	if local, ok := op.Addr.(*net.UnixAddr); ok {
		return local.Name, strings.HasPrefix(local.Name, "@") && inUse(unix.AF_UNIX, &unix.SockaddrUnix{Name: local.Name})
	}
	at, ok := op.Addr.(*net.TCPAddr)
	if !ok {
		return "", false
	}
	family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: at.Port, Addr: [16]byte(at.IP.To16())})
	if ip := at.IP.To4(); ip != nil {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: at.Port, Addr: [4]byte(ip)}
	}
	return at.String(), inUse(family, to)
}

// inUse reports whether the unit cannot listen at an address because a socket has it.
func inUse(family int, at unix.Sockaddr) bool {
	s, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(s)
	// As servers do: connections of an earlier server that are not quite over are in no
	// one's way then.
	if err := unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return false
	}
	err = unix.Bind(s, at)
	if err == nil {
		err = unix.Listen(s, 0) // as the unit would
	}
	return errors.Is(err, unix.EADDRINUSE)
}

// blocked reports whether a try failed because a file of another user is at the path of
// a Unix socket, in a directory in which all users may make files. The unit cannot listen
// there while the file exists.
func blocked(err error, units []systemd.Unit) (path string, owner uint32, is bool) {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || !errors.Is(err, unix.ECONNREFUSED) {
		return "", 0, false
	}
	at, ok := op.Addr.(*net.UnixAddr)
	if !ok {
		return "", 0, false
	}
	var file, dir unix.Stat_t
	if unix.Lstat(at.Name, &file) != nil || unix.Stat(filepath.Dir(at.Name), &dir) != nil || dir.Mode&unix.S_IWOTH == 0 || file.Uid == 0 {
		return "", 0, false
	}
	for _, u := range units {
		uid := u.UID
		// systemd forgets the number when the unit has stopped.
		if who, err := user.Lookup(u.User); err == nil && uid == systemd.NoUID {
			if n, err := strconv.ParseUint(who.Uid, 10, 32); err == nil {
				uid = uint32(n)
			}
		}
		if file.Uid == uid || strconv.FormatUint(uint64(file.Uid), 10) == u.User || u.DynamicUser {
			return "", 0, false
		}
	}
	return at.Name, file.Uid, true
}
