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

// admit tells whether the sender is the agent: the HTTP status that it deserves,
// and why.
func (r *Relay) admit(q *http.Request) (status int, why string) {
	may, unit, err := r.agent(q.Context())
	if err != nil {
		r.notes.say("agent", "cannot tell who may check in: "+err.Error())
		return http.StatusServiceUnavailable, "cannot tell who may check in (hint: journalctl -u machinemon-checkin-relay)"
	}
	r.notes.over("agent")
	uid, err := r.sender(q)
	if err == nil && uid != may {
		err = fmt.Errorf("it comes from UID %d, and %s runs as UID %d", uid, unit, may)
	}
	if err != nil {
		r.notes.say("peer", "refused a check-in: "+err.Error())
		return http.StatusForbidden, "only the user of " + unit + " may check in here"
	}
	return http.StatusOK, ""
}

func (r *Relay) sender(q *http.Request) (uint32, error) {
	client, err := netip.ParseAddrPort(q.RemoteAddr)
	at, ok := q.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if err != nil || !ok {
		return 0, errNoSocket
	}
	here, err := netip.ParseAddrPort(at.String())
	if err != nil {
		return 0, errNoSocket
	}
	return r.peer(client, here)
}

// agentUID is the user of the target's unit, as systemd has it now.
func agentUID(ctx context.Context, name string) (uint32, string, error) {
	t, err := target.DefaultDirs.Load(name)
	if err != nil {
		return 0, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, patience/3)
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
	uid, err := userOf(u)
	return uid, t.Unit, err
}

func userOf(u systemd.Unit) (uint32, error) {
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
		return 0, fmt.Errorf("%s runs as %s, and there is no such user", u.Name, u.User)
	}
	return uint32(uid), nil
}

// peerUID is the user whose socket is at the other end of a connection within this
// machine.
func peerUID(client, here netip.AddrPort) (uint32, error) {
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		f, err := os.Open(table)
		if errors.Is(err, os.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return 0, fmt.Errorf("cannot tell whose connection it is: %w", err)
		}
		uid, err := owner(f, client, here)
		f.Close()
		if err == nil || !errors.Is(err, errNoSocket) {
			return uid, err
		}
	}
	return 0, errNoSocket
}

var errNoSocket = errors.New("cannot tell whose connection it is: this machine has no such socket")

// owner finds the socket in one of the kernel's tables (proc(5), /proc/net/tcp):
//
//	sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode …
//	4: 0100007F:D1B4 0100007F:01DE 01 00000000:00000000 00:00000000 00000000 0 0 34811 …
//
// Only an established one (st 01) that still belongs to a process (inode) counts: a
// socket that was closed shows as root's.
func owner(table io.Reader, local, remote netip.AddrPort) (uint32, error) {
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[3] != "01" || f[9] == "0" {
			continue
		}
		l, lok := address(f[1])
		r, rok := address(f[2])
		if !lok || !rok || l != plain(local) || r != plain(remote) {
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

func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// address reads "0100007F:01DE": words of the address, each in this machine's byte
// order, and the port.
func address(s string) (netip.AddrPort, bool) {
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
	return plain(netip.AddrPortFrom(a, uint16(p))), ok
}
