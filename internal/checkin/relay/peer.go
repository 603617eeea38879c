package relay

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// admit returns the HTTP status for the sender of a check-in, with the reason: 200 if it
// runs as the agent's user, else 403, or 503 if that user is not known.
func (r *Relay) admit(q *http.Request) (status int, why string) {
	allowed, unit, err := r.allowedUID(q.Context())
	if err != nil {
		r.problems.begin("agent", "cannot find the user that may check in: "+err.Error())
		return http.StatusServiceUnavailable, "cannot find the user that may check in (hint: journalctl -u machinemon-checkin-relay)"
	}
	r.problems.end("agent")
	uid, err := r.senderUID(q)
	if err == nil && uid != allowed {
		err = fmt.Errorf("it comes from UID %d, but %s runs as UID %d", uid, unit, allowed)
	}
	if err != nil {
		r.problems.begin("peer", "refused a check-in: "+err.Error())
		return http.StatusForbidden, "only the user of " + unit + " may check in here"
	}
	return http.StatusOK, ""
}

func (r *Relay) senderUID(q *http.Request) (uint32, error) {
	client, err := netip.ParseAddrPort(q.RemoteAddr)
	at, ok := q.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if err != nil || !ok {
		return 0, errNoSocket
	}
	server, err := netip.ParseAddrPort(at.String())
	if err != nil {
		return 0, errNoSocket
	}
	return r.peerUID(client, server)
}

// targetUID returns the user ID and the name of the target's unit, as systemd knows them.
func targetUID(ctx context.Context, name string) (uint32, string, error) {
	t, err := target.DefaultDirs.Load(name)
	if err != nil {
		return 0, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, checkinTimeout/3)
	defer cancel()
	conn, err := systemd.Connect(ctx)
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	u, err := conn.Unit(ctx, t.Unit)
	if err != nil {
		return 0, "", err
	}
	uid, err := unitUID(u)
	return uid, t.Unit, err
}

func unitUID(u systemd.Unit) (uint32, error) {
	switch {
	case u.Load != "loaded":
		return 0, fmt.Errorf("%s is %s (hint: is the target's unit installed?)", u.Name, u.Load)
	case u.User == "":
		return 0, nil // root
	case u.UID != systemd.NoUID:
		return u.UID, nil
	}
	id := u.User
	if known, err := user.Lookup(id); err == nil {
		id = known.Uid
	}
	uid, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%s runs as %s, but there is no such user", u.Name, u.User)
	}
	return uint32(uid), nil
}

// peerUID returns the user ID of the client's socket of a connection within this machine.
func peerUID(client, server netip.AddrPort) (uint32, error) {
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		f, err := os.Open(table)
		if errors.Is(err, os.ErrNotExist) {
			continue // the kernel has no IPv6
		}
		if err != nil {
			return 0, fmt.Errorf("cannot find the user of the connection: %w", err)
		}
		uid, err := socketOwner(f, client, server)
		f.Close()
		if err == nil || !errors.Is(err, errNoSocket) {
			return uid, err
		}
	}
	return 0, errNoSocket
}

var errNoSocket = errors.New("cannot find the user of the connection: this machine has no such socket")

// socketOwner returns the user ID of a socket in a kernel's table (/proc/net/tcp):
//
//	sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode …
//	4: 0100007F:D1B4 0100007F:01DE 01 00000000:00000000 00:00000000 00000000 0 0 34811 …
//
// The connection must be established (st 01), and the socket must belong to a process
// (inode is not 0), because the kernel shows closed sockets as root's.
func socketOwner(table io.Reader, local, remote netip.AddrPort) (uint32, error) {
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[3] != "01" || f[9] == "0" {
			continue
		}
		l, lok := parseSocketAddress(f[1])
		r, rok := parseSocketAddress(f[2])
		if !lok || !rok || l != canonical(local) || r != canonical(remote) {
			continue
		}
		uid, err := strconv.ParseUint(f[7], 10, 32)
		if err != nil {
			return 0, errors.New("cannot read the kernel's table of sockets")
		}
		return uint32(uid), nil
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("cannot read the kernel's table of sockets: %w", err)
	}
	return 0, errNoSocket
}

// canonical returns a without zone, and an IPv4-mapped IPv6 address as IPv4.
func canonical(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// parseSocketAddress parses "0100007F:01DE": 32-bit words in native byte order, and port.
func parseSocketAddress(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	p, perr := strconv.ParseUint(port, 16, 16)
	if err != nil || perr != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	a, ok := netip.AddrFromSlice(raw)
	return canonical(netip.AddrPortFrom(a, uint16(p))), ok
}
