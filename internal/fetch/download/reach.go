package download

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/machinemon/machinemon-update/internal/target"
)

// hostsFile is where the administrator lists addresses of names.
const hostsFile = "/etc/hosts"

// reach is the rule about the addresses to which a client may connect. All connections
// are subject to it, no matter what leads to them: the configured source, a redirect, a
// manifest, the answer of an API.
//
// A redirect and a manifest may name any address, and under signatures anyone on the path
// may be their author. This machine's loopback and its link have services that trust those
// who can reach them. So such addresses must be the operator's choice: the host of the
// source is that address, or /etc/hosts lists it for the host. If the source is on the
// loopback by that choice, all servers on the loopback may be reached. What DNS answers is
// no choice of the operator. Private networks are allowed, because many fleets have their
// servers there.
//
// The rule judges the address of each connection after the name was resolved. With a proxy
// that is the proxy's own, which the operator chose, and the proxy resolves names: then
// the rule judges the hosts that are addresses, before the proxy is asked.
type reach struct {
	source string // the host and port of the configured source
	named  []netip.Addr
	here   bool     // the source is on this machine's loopback
	proxy  string   // the host and port of the proxy, "" for none
	inside sync.Map // the hosts and ports whose address is not public
}

func newReach(source *url.URL, hosts string) *reach {
	r := &reach{source: hostPort(source), named: listed(hosts, source.Hostname())}
	if ip, err := netip.ParseAddr(source.Hostname()); err == nil {
		r.named = []netip.Addr{ip.Unmap().WithZone("")}
	}
	r.here = target.Loopback(source.Hostname()) || slices.ContainsFunc(r.named, netip.Addr.IsLoopback)
	return r
}

// listed returns the addresses that a file such as /etc/hosts has for a name. It returns
// none if the file cannot be read: then the name has no address of this machine.
func listed(file, name string) (ips []netip.Addr) {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		text, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) == 0 || !slices.ContainsFunc(fields[1:], func(s string) bool { return sameName(s, name) }) {
			continue
		}
		if ip, err := netip.ParseAddr(fields[0]); err == nil {
			ips = append(ips, ip.Unmap().WithZone(""))
		}
	}
	return ips
}

func sameName(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}

// hostPort returns the host and port of an address, as [http.Transport] dials them.
func hostPort(u *url.URL) string {
	_, at, _ := strings.Cut(Origin(u), "://")
	return at
}

// barred is the error for an address that must not be reached. It does not depend on what
// answers there: no connection was attempted.
type barred struct {
	kind   kind
	source bool // it is the host of the configured source
}

func (b *barred) Error() string { return "it is " + string(b.kind) }

// judge returns a [barred] unless the address ip may be reached for a host and port.
func (r *reach) judge(at string, ip netip.Addr) error {
	host, _, err := net.SplitHostPort(at)
	if err != nil {
		return err
	}
	ip = ip.Unmap().WithZone("")
	k, source := kindOf(ip), at == r.source
	switch {
	case k == ordinary && target.Loopback(host):
		return &barred{elsewhere, source} // http to localhost is trusted
	case k == ordinary && !private(ip):
		return nil
	case k == ordinary,
		source && slices.Contains(r.named, ip),
		ip.IsLoopback() && r.here:
		r.inside.Store(at, true)
		return nil
	}
	return &barred{k, source}
}

// dial connects to a host and port.
func (r *reach) dial(limit time.Duration) func(ctx context.Context, network, at string) (net.Conn, error) {
	return func(ctx context.Context, network, at string) (net.Conn, error) {
		at = strings.ToLower(at)
		d := net.Dialer{Timeout: limit, Control: func(_, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("cannot judge the address %.80q: %w", address, err)
			}
			if at == r.proxy { // through makes sure that the request is for the proxy
				return nil
			}
			return r.judge(at, to.Addr())
		}}
		return d.DialContext(ctx, network, at)
	}
}

// through returns a function that chooses the proxy of a request. It bypasses the proxy
// for loopback addresses, which would mean the proxy's own machine; plain http from
// loopback is trusted. It also bypasses it for the hosts of direct, except for the proxy's
// own address, which dial does not judge.
func (r *reach) through(proxy *url.URL, direct []string) func(*http.Request) (*url.URL, error) {
	if proxy == nil {
		return nil
	}
	r.proxy = hostPort(proxy)
	choose := (&httpproxy.Config{HTTPProxy: proxy.String(), HTTPSProxy: proxy.String(), NoProxy: strings.Join(direct, ",")}).ProxyFunc()
	return func(q *http.Request) (*url.URL, error) {
		host, loopback := q.URL.Hostname(), target.Loopback(q.URL.Hostname())
		ip, err := netip.ParseAddr(host)
		if err != nil && loopback {
			ip, err = netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
		}
		if err == nil {
			err = r.judge(hostPort(q.URL), ip)
		} else {
			err = nil // the proxy resolves the name
		}
		if err != nil || loopback {
			return nil, err
		}
		if hostPort(q.URL) == r.proxy {
			return proxy, nil
		}
		return choose(q.URL)
	}
}
