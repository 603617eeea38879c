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
	"time"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// peer is a connection whose sender is known. The kernel gives its four-tuple to no other
// socket while it is open here, so what was found out at its beginning stays true.
type peer struct {
	halfCloser
	uid   uint32
	err   error // why uid is not known
	agent agent // that may check in
}

type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// agent is the user that may check in.
type agent struct {
	uid  uint32
	unit string
	err  error // why it is not known
	at   time.Time
}

func (p *peer) isAgent() bool { return p.err == nil && p.agent.err == nil && p.uid == p.agent.uid }

type peerKey struct{}

func withPeer(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, c)
}

// admit returns the HTTP status for the sender of a check-in, with the reason: 200 if it
// runs as the agent's user, else 403, or 503 if that user is not known.
func (r *Relay) admit(q *http.Request) (status int, why string) {
	p := q.Context().Value(peerKey{}).(*peer)
	if err := p.agent.err; err != nil {
		r.problems.Change("agent", "cannot find the user that may check in: "+err.Error())
		return http.StatusServiceUnavailable, "cannot find the user that may check in (hint: journalctl -u machinemon-checkin-relay)"
	}
	r.problems.End("agent", "")
	if p.isAgent() {
		return http.StatusOK, ""
	}
	err := p.err
	if err == nil {
		err = fmt.Errorf("it comes from UID %d, but %s runs as UID %d", p.uid, p.agent.unit, p.agent.uid)
	}
	r.problems.Change("peer", "refused a check-in: "+err.Error())
	return http.StatusForbidden, "only the user of " + p.agent.unit + " may check in here"
}

// sorter is a listener that finds out the senders of connections, before these take up any
// of the server's places. It does so for all that are there at once, because the kernel's
// table has all connections of this machine: one reading for each would take so long that
// others could keep the agent out.
type sorter struct {
	net.Listener
	relay    *Relay
	accepted chan net.Conn
	sorted   chan *peer
	err      error // why there are no more
}

// maxBatch is the greatest number of connections that are accepted and not sorted yet.
const maxBatch = 256

func (r *Relay) sort(l net.Listener) net.Listener {
	s := &sorter{Listener: checkin.Steady(l), relay: r, accepted: make(chan net.Conn, maxBatch), sorted: make(chan *peer)}
	go s.accept()
	go s.sort()
	return s
}

// Accept returns each accepted connection, those too that were accepted before Close, and
// then the error.
func (s *sorter) Accept() (net.Conn, error) {
	if p, ok := <-s.sorted; ok {
		return p, nil
	}
	return nil, s.err
}

func (s *sorter) accept() {
	defer close(s.accepted)
	for {
		c, err := s.Listener.Accept()
		if err != nil {
			s.err = err
			return
		}
		s.accepted <- c
	}
}

func (s *sorter) sort() {
	defer close(s.sorted)
	for first := range s.accepted {
		batch := []net.Conn{first}
		for range min(len(s.accepted), maxBatch) {
			batch = append(batch, <-s.accepted)
		}
		for _, p := range s.relay.identify(batch) {
			s.sorted <- p
		}
	}
}

// identify finds out the senders of connections.
func (r *Relay) identify(batch []net.Conn) []*peer {
	owners, failed := r.owners()
	peers, uids := make([]*peer, len(batch)), map[uint32]bool{}
	for i, c := range batch {
		p := &peer{halfCloser: c.(halfCloser), err: failed}
		peers[i] = p
		if failed != nil {
			continue
		}
		client, _ := netip.ParseAddrPort(c.RemoteAddr().String())
		server, _ := netip.ParseAddrPort(c.LocalAddr().String())
		uid, found := owners[ends{canonical(client), canonical(server)}]
		if !found {
			p.err = errNoSocket
			continue
		}
		p.uid, uids[uid] = uid, true
	}
	a := r.agent(uids)
	for _, p := range peers {
		p.agent = a
	}
	return peers
}

// known is the time for which an answer of systemd is enough to refuse other users.
const known = 10 * time.Second

// agent returns the user that may check in. It asks systemd if one of these users may be
// that one; for others it does so once in a while, else they could keep the bus busy.
func (r *Relay) agent(uids map[uint32]bool) agent {
	r.asking.Lock()
	defer r.asking.Unlock()
	if last := r.known; last.err != nil || uids[last.uid] || time.Since(last.at) > known {
		uid, unit, err := r.allowedUID(context.Background())
		r.known = agent{uid, unit, err, time.Now()}
	}
	return r.known
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
	if t.Unit == "" || t.Template() {
		return 0, "", fmt.Errorf("target %s has no unit whose user the agent could be (hint: the relay needs a target with one unit)", name)
	}
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

// ends are the addresses of a connection: of the client's socket, and of the server's.
type ends struct{ client, server netip.AddrPort }

// owners returns the user ID of the client's socket of each connection within this machine.
func owners() (map[ends]uint32, error) {
	all := map[ends]uint32{}
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		f, err := os.Open(table)
		if errors.Is(err, os.ErrNotExist) {
			continue // the kernel has no IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("cannot find the users of connections: %w", err)
		}
		err = readOwners(f, all)
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

var errNoSocket = errors.New("cannot find the user of the connection: this machine has no such socket")

// readOwners reads the user IDs of sockets from a kernel's table (/proc/net/tcp):
//
//	sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode …
//	4: 0100007F:D1B4 0100007F:01DE 01 00000000:00000000 00:00000000 00000000 0 0 34811 …
//
// The connection must be established (st 01), and the socket must belong to a process
// (inode is not 0), because the kernel shows closed sockets as root's.
func readOwners(table io.Reader, into map[ends]uint32) error {
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[3] != "01" || f[9] == "0" {
			continue
		}
		l, lok := parseSocketAddress(f[1])
		r, rok := parseSocketAddress(f[2])
		uid, err := strconv.ParseUint(f[7], 10, 32)
		if lok && rok && err == nil {
			into[ends{l, r}] = uint32(uid)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("cannot read the kernel's table of sockets: %w", err)
	}
	return nil
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
