package gate

import (
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"time"
)

// newProxy passes requests on as they are, but for what they say of who sent them.
func (g *Gate) newProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(g.config.Upstream)
			r.Out.Host = r.In.Host
			// ReverseProxy drops what it cannot parse, which here is upstream's to judge.
			r.Out.URL.RawQuery = r.In.URL.RawQuery
			g.introduce(r)
		},
		Transport: &http.Transport{
			// No proxy of the environment, and no compression that nobody asked for.
			DisableCompression:  true,
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSHandshakeTimeout: 10 * time.Second,
			MaxIdleConnsPerHost: 64,
			// Short: a check-in on a connection that upstream is about to close is lost.
			IdleConnTimeout: 2 * time.Second,
			// A web server's own limit for requests is a fraction of this.
			MaxResponseHeaderBytes: 256 << 10,
		},
		FlushInterval:  -1, // streams
		ModifyResponse: g.modify,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			// A client that left is no news of the server.
			if r.Context().Err() == nil {
				g.once.say("upstream", "cannot reach the MachineMon server: "+err.Error())
			}
			http.Error(w, "machinemon-checkin-gate: the MachineMon server does not answer", http.StatusBadGateway)
		},
		ErrorLog: g.quiet,
	}
}

// introduce tells upstream who asks. Upstream limits requests by address, and
// believes these headers: so nobody but a trusted proxy may bring any of them.
func (g *Gate) introduce(r *httputil.ProxyRequest) {
	client, trusted := g.client(r.In)
	for name := range r.Out.Header {
		if name == "True-Client-Ip" || name == "X-Real-Ip" || name == "Forwarded" || strings.HasPrefix(name, "X-Forwarded-") {
			delete(r.Out.Header, name)
		}
	}
	r.Out.Header.Set("X-Forwarded-For", client.String())
	r.Out.Header.Set("X-Real-Ip", client.String())
	r.Out.Header.Set("X-Forwarded-Host", g.host(r.In, trusted))
	r.Out.Header.Set("X-Forwarded-Proto", g.scheme(r.In, trusted))
}

// client is the address that a request comes from: the peer's, or what a trusted
// proxy says. Of several, each proxy has added the one that it saw, so the last that
// is not a proxy's own counts, and whatever stands before it is hearsay.
func (g *Gate) client(r *http.Request) (client netip.Addr, trusted bool) {
	at, _ := netip.ParseAddrPort(r.RemoteAddr)
	client = at.Addr().Unmap().WithZone("")
	if !g.trusts(client) {
		return client, false
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	if hops[0] == "" && len(hops) == 1 {
		hops = r.Header.Values("X-Real-Ip")
	}
	for i := len(hops) - 1; i >= 0; i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		if client = hop.Unmap().WithZone(""); !g.trusts(client) {
			break
		}
	}
	return client, true
}

func (g *Gate) trusts(a netip.Addr) bool {
	for _, p := range g.config.Trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// host is the name that the client asked for.
func (g *Gate) host(r *http.Request, trusted bool) string {
	// Of several, each proxy has added the one that it saw.
	first, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Host"), ",")
	if first = strings.TrimSpace(first); trusted && first != "" {
		return first
	}
	return r.Host
}

func (g *Gate) scheme(r *http.Request, trusted bool) string {
	if p := r.Header.Get("X-Forwarded-Proto"); trusted && (p == "http" || p == "https") {
		return p
	}
	if r.TLS != nil {
		return "https"
	}
	return "http"
}
