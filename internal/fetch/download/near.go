package download

import (
	"net/netip"
	"slices"
)

// kind is what makes an address different from those of other machines' servers. The text
// of a kind continues "which is".
type kind string

const (
	ordinary  kind = ""
	thisHost  kind = "an address of this machine"
	thisLink  kind = "a link-local address"
	metadata  kind = "the address of a cloud's metadata service"
	noServer  kind = "an address that no server has"
	elsewhere kind = "not an address of this machine"
)

// services are the addresses of clouds' metadata services, which give credentials to all
// that ask. The others are link-local.
var services = addresses("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")

func addresses(all ...string) (ips []netip.Addr) {
	for _, s := range all {
		ips = append(ips, netip.MustParseAddr(s))
	}
	return ips
}

var (
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8") // Linux connects 0.0.0.0 to this machine
	protocols   = netip.MustParsePrefix("192.0.0.0/24")
	reserved    = netip.MustParsePrefix("240.0.0.0/4") // with the broadcast address
	shared      = netip.MustParsePrefix("100.64.0.0/10")
)

// kindOf returns the kind of an address. One that carries an IPv4 address has the kind of
// that: a translator or a tunnel may connect to it.
func kindOf(ip netip.Addr) kind {
	ip = ip.Unmap().WithZone("")
	switch {
	case ip.IsLoopback(), ip.IsUnspecified(), thisNetwork.Contains(ip):
		return thisHost
	case ip.IsLinkLocalUnicast():
		return thisLink
	case slices.Contains(services, ip):
		return metadata
	case ip.IsMulticast(), protocols.Contains(ip), reserved.Contains(ip):
		return noServer
	}
	for _, inner := range carried(ip) {
		if k := kindOf(inner); k != ordinary {
			return k
		}
	}
	return ordinary
}

// private reports whether an address belongs to a network of its own, such as a company's
// or a home's.
func private(ip netip.Addr) bool {
	ip = ip.Unmap()
	return ip.IsPrivate() || shared.Contains(ip) || slices.ContainsFunc(carried(ip), private)
}

var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056
)

// carried returns the IPv4 addresses that an IPv6 address may carry, by the well-known
// forms. In the local prefix for NAT64, a network chooses one of four places.
func carried(ip netip.Addr) []netip.Addr {
	if !ip.Is6() {
		return nil
	}
	b := ip.As16()
	at := func(i ...int) netip.Addr { return netip.AddrFrom4([4]byte{b[i[0]], b[i[1]], b[i[2]], b[i[3]]}) }
	switch {
	case nat64.Contains(ip), translated.Contains(ip), compatible.Contains(ip):
		return []netip.Addr{at(12, 13, 14, 15)}
	case sixToFour.Contains(ip):
		return []netip.Addr{at(2, 3, 4, 5)}
	case localNAT64.Contains(ip):
		return slices.DeleteFunc([]netip.Addr{at(6, 7, 9, 10), at(7, 9, 10, 11), at(9, 10, 11, 12), at(12, 13, 14, 15)},
			func(v4 netip.Addr) bool { return thisNetwork.Contains(v4) }) // the other places hold zeros
	}
	return nil
}
