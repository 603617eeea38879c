package gate

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/machinemon/machinemon-update/internal/checkin"
)

// newProxy returns a proxy that changes only the headers about the client's address.
func (g *Gate) newProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: g.rewrite,
		Transport: &http.Transport{
			// No proxy is set, and only clients may ask upstream for compression.
			DisableCompression:  true,
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSClientConfig:     g.config.UpstreamTLS,
			TLSHandshakeTimeout: 10 * time.Second,
			MaxIdleConnsPerHost: 64,
			// It is short because a check-in is lost if upstream closes its connection.
			IdleConnTimeout: 2 * time.Second,
			// Web servers accept only a fraction of this in requests.
			MaxResponseHeaderBytes: 256 << 10,
		},
		FlushInterval:  -1, // flush after each write, since answers may be streams
		BufferPool:     &buffers{},
		ModifyResponse: g.modify,
		ErrorHandler:   g.upstreamFailed,
		ErrorLog:       g.quiet,
	}
}

// rewrite makes upstream's request from a client's.
func (g *Gate) rewrite(r *httputil.ProxyRequest) {
	r.SetURL(g.config.Upstream)
	r.Out.Host = r.In.Host
	// ReverseProxy drops parameters that it cannot parse. Upstream gets them here.
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	g.setForwarded(r)
	// The transport sends a request whose body is in memory in one piece. Of others it sends
	// the headers first, because to read the body may take time.
	if c, ok := r.In.Context().Value(checkinKey{}).(*pendingCheckin); ok {
		if body := c.body.bytes(); body != nil {
			r.Out.Body = io.NopCloser(bytes.NewReader(body))
		}
	}
}

// buffers are those through which answers pass. Without them each answer would allocate one,
// which was the most that a check-in allocates.
type buffers struct{ pool sync.Pool }

const bufferSize = 32 << 10 // bytes, as ReverseProxy's own

func (b *buffers) Get() []byte {
	if used, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return used[:]
	}
	return make([]byte, bufferSize)
}

func (b *buffers) Put(p []byte) { b.pool.Put((*[bufferSize]byte)(p)) }

const incomplete = "machinemon-checkin-gate: the request is malformed or incomplete"

// upstreamFailed answers a request that upstream did not answer. It logs that only if the
// client cannot have caused it: upstream may close its connection before the end of a
// request that it refuses.
func (g *Gate) upstreamFailed(w http.ResponseWriter, r *http.Request, err error) {
	unfinished, failed := checkin.BodyOf(r.Context())
	if failed {
		http.Error(w, incomplete, http.StatusBadRequest)
		return
	}
	if r.Context().Err() == nil && !unfinished {
		hint := ""
		if at, is := errors.AsType[*net.OpError](err); is && at.Op == "dial" {
			hint = " (hint: upstream in " + ConfigFile + " must be its address)"
		}
		g.problems.Begin("upstream", "cannot reach the MachineMon server: "+err.Error()+hint)
	}
	http.Error(w, "machinemon-checkin-gate: the MachineMon server does not answer", http.StatusBadGateway)
}

// setForwarded sets the headers that tell upstream the client's address. Upstream limits
// requests by address and believes these headers, so it must not get those of a client.
func (g *Gate) setForwarded(r *httputil.ProxyRequest) {
	client, trusted := g.clientAddr(r.In)
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

// clientAddr returns the client's address: the peer's or, if the peer is a trusted proxy,
// the one in its headers. Each proxy appends the address that it saw, so the last one
// that is not a trusted proxy's counts; the client may have forged those before it.
func (g *Gate) clientAddr(r *http.Request) (client netip.Addr, trusted bool) {
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

// host returns the host name that the client requested.
func (g *Gate) host(r *http.Request, trusted bool) string {
	// Each proxy appends the host that it saw, so the first is the client's.
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
