// Package download brings bytes: small files and archives from web servers, and what is
// already stored of an archive that a lost connection interrupted. It does not know what a
// release is; package source does.
package download

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// Limits bound the time that a server may take.
type Limits struct {
	Dial     time.Duration
	TLS      time.Duration
	Headers  time.Duration // from the request to the last header of the answer
	Manifest time.Duration // for the whole manifest
	Stall    time.Duration // for minFlow bytes of an archive
	Pause    time.Duration // before the first retry after a connection that brought nothing new
}

// DefaultLimits are those of the fetcher.
var DefaultLimits = Limits{
	Dial:     10 * time.Second,
	TLS:      10 * time.Second,
	Headers:  30 * time.Second,
	Manifest: time.Minute,
	Stall:    30 * time.Second,
	Pause:    time.Second,
}

// Brief returns a context with the time limit for all requests before the archive's.
func (l Limits) Brief(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, l.Manifest, fmt.Errorf("it took longer than %v", l.Manifest))
}

const (
	// minFlow is how many bytes of an archive must arrive within Limits.Stall: a server
	// that sends a byte per second has stalled, too.
	minFlow      = 4 << 10
	maxRedirects = 5
	maxHeaders   = 64 << 10 // bytes
)

// Client sends requests to a web server, and to those to which it redirects. The errors
// of Ask and Stream name the address, without query and password.
type Client struct {
	URL       *url.URL // as configured
	Anybody   bool     // the operator accepts a transport that anyone on the path can change
	Limits    Limits
	Linked    bool   // the server of URL says where its files are, which may be on other servers
	Named     bool   // the operator named URL for one import, in place of the target's source
	Absent    string // the hint for an archive that is not there; "" for none
	caFile    string
	reach     *reach
	transport *http.Transport
}

// NewClient returns a client for an address, with the proxy and the certificates of the
// target. An error has the result Misconfigured.
func NewClient(t *target.Target, address string, l Limits) (Client, error) {
	u, err := url.Parse(address)
	if err != nil {
		return Client{}, state.Fail(state.ResultMisconfigured, "cannot fetch %s: the url of its source is not valid", t.Name)
	}
	proxy, err := proxyOf(t)
	if err != nil {
		return Client{}, err
	}
	roots, err := rootsOf(t)
	if err != nil {
		return Client{}, err
	}
	reach := newReach(u, hostsFile)
	h1 := new(http.Protocols)
	h1.SetHTTP1(true) // one file at a time gains nothing from HTTP/2
	return Client{
		URL:     u,
		Anybody: t.Trust.AllowUnauthenticated,
		Limits:  l,
		caFile:  t.Source.CAFile,
		reach:   reach,
		transport: &http.Transport{
			Proxy:                  reach.through(proxy, t.Source.NoProxy),
			OnProxyConnectResponse: proxyAnswer,
			Protocols:              h1,
			DialContext:            reach.dial(l.Dial),
			TLSHandshakeTimeout:    l.TLS,
			ResponseHeaderTimeout:  l.Headers,
			MaxResponseHeaderBytes: maxHeaders,
			DisableCompression:     true, // a small answer must not become a large one
			DisableKeepAlives:      true,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, InsecureSkipVerify: t.Source.InsecureSkipTLS},
		},
	}, nil
}

// Direct returns a client for requests to an address that the operator configured beside
// the source. It uses no proxy, follows no redirect and keeps no connection.
func Direct(u *url.URL, l Limits) *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            newReach(u, hostsFile).dial(l.Dial),
			TLSHandshakeTimeout:    l.TLS,
			ResponseHeaderTimeout:  l.Headers,
			MaxResponseHeaderBytes: maxHeaders,
			DisableCompression:     true,
			DisableKeepAlives:      true,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		},
	}
}

// Stream requests an archive of this size, from its beginning or from the end of the piece
// that is stored. If the server's answer may not continue that piece, Stream requests the
// archive from its beginning. allow is as for [Client.Ask]. The caller closes the body.
func (c *Client) Stream(ctx context.Context, u *url.URL, header http.Header, size int64, have Piece, allow func(*url.URL) error) (*Body, error) {
	goOn := have.bytes > 0 && have.etag != "" && have.url == Show(u)
	asked := http.Header{}
	maps.Copy(asked, header)
	if goOn {
		asked.Set("Range", fmt.Sprintf("bytes=%d-", have.bytes))
		asked.Set("If-Range", have.etag)
	}
	flowing, flow := newFlow(ctx, c.Limits.Stall)
	resp, err := c.Ask(flowing, http.MethodGet, u, asked, allow)
	if err != nil {
		flow.stop()
		return nil, err
	}
	flow.ReadCloser = resp.Body
	b := &Body{ReadCloser: flow, Name: Show(resp.Request.URL), from: Piece{url: Show(u), etag: strong(resp.Header.Get("ETag"))},
		veiled: func(err error) error { return c.veiled(resp, err) }}
	if goOn && (resp.StatusCode == http.StatusPartialContent || resp.StatusCode == http.StatusRequestedRangeNotSatisfiable) {
		if follows(resp, have, size) {
			b.from.bytes = have.bytes
			return b, nil
		}
		b.Close()
		return c.Stream(ctx, u, header, size, Piece{}, allow)
	}
	if err = Whole(resp); err == nil && resp.ContentLength >= 0 && resp.ContentLength != size {
		err = state.Refused("%w", Differs(fmt.Sprintf("the server offers %d bytes instead of %d", resp.ContentLength, size)))
	}
	if err != nil && resp.StatusCode == http.StatusNotFound && c.Absent != "" {
		err = fmt.Errorf("%w (hint: %s)", err, c.Absent)
	}
	if err != nil {
		err = c.Unusable(flowing, resp, err)
		b.Close()
		return nil, err
	}
	return b, nil
}

// follows reports whether an answer is the whole rest of the same archive after the piece.
// Some servers ignore If-Range.
func follows(resp *http.Response, have Piece, size int64) bool {
	return resp.StatusCode == http.StatusPartialContent &&
		resp.Header.Get("ETag") == have.etag &&
		resp.Header.Get("Content-Range") == fmt.Sprintf("bytes %d-%d/%d", have.bytes, size-1, size) &&
		resp.ContentLength == size-have.bytes &&
		plain(resp)
}

// secretHeaders are those with a token: GitLab has a header of its own for it.
var secretHeaders = []string{"Authorization", "Private-Token"}

// Ask sends a request. allow decides about the address of each redirect. Only the server
// of u gets the headers with a token.
func (c *Client) Ask(ctx context.Context, method string, u *url.URL, header http.Header, allow func(*url.URL) error) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, state.NotDownloaded("cannot download %s: its address is not valid", Show(u))
	}
	maps.Copy(req.Header, header)
	req.Header.Set("User-Agent", "machinemon-update")
	req.Header.Set("Accept-Encoding", "identity")
	last := u
	hc := http.Client{Transport: c.transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return fmt.Errorf("it was redirected more than %d times", maxRedirects)
		}
		next.Header.Del("Referer") // its query may contain secrets
		// Go treats another port of the same host as the same server.
		abroad := func(r *http.Request) bool { return Origin(r.URL) != Origin(u) }
		if abroad(next) || slices.ContainsFunc(via, abroad) {
			for _, name := range secretHeaders {
				next.Header.Del(name)
			}
		}
		if err := secureHop(last, next.URL); err != nil {
			return err
		}
		if err := allow(next.URL); err != nil {
			return err
		}
		last = next.URL
		return nil
	}}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, c.unreached(ctx, u, last, err)
	}
	return resp, nil
}

// secureHop returns an error for a redirect that is never allowed.
func secureHop(from, to *url.URL) error {
	switch {
	case strings.ContainsFunc(to.Host, func(r rune) bool { return r > unicode.MaxASCII }):
		return state.Refused("it was redirected to an address whose host is not in ASCII")
	case to.User != nil:
		return state.Refused("it was redirected to an address with a user name")
	case to.Scheme != "https" && to.Scheme != "http":
		return state.Refused("it was redirected to %s, which is neither https nor http", Show(to))
	case from.Scheme == "https" && to.Scheme != "https":
		return state.Refused("it was redirected from https to %s", Show(to))
	}
	return nil
}

// SafeHop is a function for [Client.Ask] that also refuses plain http on another server,
// unless the operator accepts that: http from this machine itself is trusted, and could
// lead to another one.
func (c *Client) SafeHop(to *url.URL) error {
	if to.Scheme == "http" && !c.Anybody && Origin(to) != Origin(c.URL) {
		return state.Refused("it was redirected to %s, which is not authenticated", Show(to))
	}
	return nil
}

// Origin returns the scheme, host and port of u.
func Origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// Whole returns an error unless the answer is complete and without content encoding. It is
// a [RateLimit] if the server accepts no more requests for a while.
func Whole(resp *http.Response) error {
	if l := rateLimited(resp, time.Now()); l != nil {
		return l
	}
	if resp.StatusCode == http.StatusProxyAuthRequired {
		return proxyRefused(resp.StatusCode)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	if !plain(resp) {
		return state.Refused("the server sent it with a Content-Encoding, which was not asked for")
	}
	return nil
}

func plain(resp *http.Response) bool {
	e := resp.Header.Get("Content-Encoding")
	return e == "" || strings.EqualFold(e, "identity")
}

// Show returns an address for messages, without query and password, which may be secrets.
func Show(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// Failed returns the error that u could not be downloaded. The result is NotDownloaded,
// unless err has one already.
func Failed(ctx context.Context, u *url.URL, err error) error {
	result := state.ResultNotDownloaded
	if o, ok := errors.AsType[*state.Failure](err); ok {
		result = o.Result
	}
	return state.Fail(result, "cannot download %s: %w", Show(u), netCause(ctx, err))
}

// netCause returns err without the address, which the message contains already.
func netCause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c // the context's limit, or the caller's cancellation
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	if strings.HasPrefix(err.Error(), "failed to parse Location header ") {
		return errors.New("it was redirected to an address that is not valid") // the error quotes its query
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the connection was cut")
	}
	return err
}

// flow is the body of an archive. Its context ends if fewer than minFlow bytes arrive
// within the limit.
type flow struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	limit  time.Duration
	timer  *time.Timer
	fresh  int // bytes since the timer was set
}

func newFlow(ctx context.Context, limit time.Duration) (context.Context, *flow) {
	ctx, cancel := context.WithCancelCause(ctx)
	stalled := fmt.Errorf("it stalled: fewer than %d bytes came in %v", minFlow, limit)
	return ctx, &flow{ctx: ctx, cancel: cancel, limit: limit,
		timer: time.AfterFunc(limit, func() { cancel(stalled) })}
}

func (f *flow) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if f.fresh += n; f.fresh >= minFlow {
		f.fresh = 0
		f.timer.Reset(f.limit)
	}
	if err != nil && err != io.EOF {
		err = netCause(f.ctx, err)
	}
	return n, err
}

func (f *flow) Close() error {
	f.stop()
	return f.ReadCloser.Close()
}

func (f *flow) stop() {
	f.timer.Stop()
	f.cancel(nil)
}
