package gate

import (
	"net"
	"net/netip"

	"github.com/machinemon/machinemon-update/internal/checkin"
)

// These bound the gate's memory, with those of check-ins (see capturedBody). The unit's
// MemoryMax= must stay above what they allow: see TestFlood for its measure.
const (
	maxHeader   = 16 << 10 // of a request, in bytes; the server adds 4 KiB
	maxProxies  = 1024     // connections of this machine and of trusted proxies
	maxClients  = 1024     // connections of all other clients
	maxOneHost  = 128      // connections of one of them
	maxPrograms = 64       // connections of local programs
)

// shares returns the limits for a new connection of the public sockets. Proxies have a
// limit of their own, so that direct clients cannot keep out those that come by a proxy.
func (g *Gate) shares(c net.Conn) []checkin.Share {
	at, _ := netip.ParseAddrPort(c.RemoteAddr().String())
	a := at.Addr().Unmap().WithZone("")
	if !a.IsValid() || a.IsLoopback() || g.trusts(a) {
		return []checkin.Share{{Of: "proxies", Limit: maxProxies}}
	}
	return []checkin.Share{{Of: hostOf(a), Limit: maxOneHost}, {Of: "clients", Limit: maxClients}}
}

func localShares(net.Conn) []checkin.Share {
	return []checkin.Share{{Of: "programs", Limit: maxPrograms}}
}

// hostOf returns the addresses that count as one client: for IPv6 a /64, since one host
// may own all of it.
func hostOf(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	host, _ := a.Prefix(bits) // the zero prefix for the zero address
	return host
}
