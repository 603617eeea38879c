package fetch

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

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// limits bound the time that a server may take.
type limits struct {
	dial     time.Duration
	tls      time.Duration
	headers  time.Duration // from the request to the last header of the answer
	manifest time.Duration // for the whole manifest
	stall    time.Duration // for minFlow bytes of an archive
	pause    time.Duration // before the first retry after a connection that brought nothing new
}

var defaultLimits = limits{
	dial:     10 * time.Second,
	tls:      10 * time.Second,
	headers:  30 * time.Second,
	manifest: time.Minute,
	stall:    30 * time.Second,
	pause:    time.Second,
}

const (
	// minFlow is how many bytes of an archive must arrive within limits.stall: a server
	// that sends a byte per second has stalled, too.
	minFlow      = 4 << 10
	maxRedirects = 5
	maxHeaders   = 64 << 10 // bytes
)

// client sends requests to a web server, and to those to which it redirects.
type client struct {
	url       *url.URL // as configured
	anybody   bool     // the operator accepts a transport that anyone on the path can change
	limits    limits
	transport *http.Transport
}

func newClient(t *target.Target, address string, l limits) (client, error) {
	u, err := url.Parse(address)
	if err != nil {
		return client{}, state.Fail(state.ResultMisconfigured, "cannot fetch %s: the url of its source is not valid", t.Name)
	}
	proxy, err := proxyOf(t)
	if err != nil {
		return client{}, err
	}
	roots, err := rootsOf(t)
	if err != nil {
		return client{}, err
	}
	h1 := new(http.Protocols)
	h1.SetHTTP1(true) // one file at a time gains nothing from HTTP/2
	return client{
		url:     u,
		anybody: t.Trust.AllowUnauthenticated,
		limits:  l,
		transport: &http.Transport{
			Proxy:                  proxy,
			Protocols:              h1,
			DialContext:            (&net.Dialer{Timeout: l.dial}).DialContext,
			TLSHandshakeTimeout:    l.tls,
			ResponseHeaderTimeout:  l.headers,
			MaxResponseHeaderBytes: maxHeaders,
			DisableCompression:     true, // a small answer must not become a large one
			DisableKeepAlives:      true,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, InsecureSkipVerify: t.Source.InsecureSkipTLS},
		},
	}, nil
}

// brief returns a context with the time limit for all requests before the archive's.
func (c *client) brief(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, c.limits.manifest, fmt.Errorf("it took longer than %v", c.limits.manifest))
}

// stream requests an archive of this size, from its beginning or from the end of the piece
// that is stored. If the server's answer may not continue that piece, stream requests the
// archive from its beginning.
func (c *client) stream(ctx context.Context, u *url.URL, header http.Header, size int64, have piece, allow func(*url.URL) error) (*body, error) {
	goOn := have.bytes > 0 && have.etag != "" && have.url == show(u)
	asked := http.Header{}
	maps.Copy(asked, header)
	if goOn {
		asked.Set("Range", fmt.Sprintf("bytes=%d-", have.bytes))
		asked.Set("If-Range", have.etag)
	}
	flowing, flow := newFlow(ctx, c.limits.stall)
	resp, err := c.ask(flowing, http.MethodGet, u, asked, allow)
	if err != nil {
		flow.stop()
		return nil, err
	}
	flow.ReadCloser = resp.Body
	b := &body{ReadCloser: flow, name: show(resp.Request.URL), from: piece{url: show(u), etag: strong(resp.Header.Get("ETag"))}}
	if goOn && (resp.StatusCode == http.StatusPartialContent || resp.StatusCode == http.StatusRequestedRangeNotSatisfiable) {
		if follows(resp, have, size) {
			b.from.bytes = have.bytes
			return b, nil
		}
		b.Close()
		return c.stream(ctx, u, header, size, piece{}, allow)
	}
	if err = whole(resp); err == nil && resp.ContentLength >= 0 && resp.ContentLength != size {
		err = refused("the server offers %d bytes, the manifest says %d", resp.ContentLength, size)
	}
	if err != nil {
		err = failed(flowing, resp.Request.URL, err)
		b.Close()
		return nil, err
	}
	return b, nil
}

// follows reports whether an answer is the whole rest of the same archive after the piece.
// Some servers ignore If-Range.
func follows(resp *http.Response, have piece, size int64) bool {
	return resp.StatusCode == http.StatusPartialContent &&
		resp.Header.Get("ETag") == have.etag &&
		resp.Header.Get("Content-Range") == fmt.Sprintf("bytes %d-%d/%d", have.bytes, size-1, size) &&
		resp.ContentLength == size-have.bytes &&
		plain(resp)
}

// unless returns the header that requests an answer only if it has changed.
func unless(etag string) http.Header {
	h := http.Header{}
	if etag != "" {
		h.Set("If-None-Match", etag)
	}
	return h
}

// ask sends a request. allow decides about the address of each redirect. Only the server
// of u gets the Authorization header.
func (c *client) ask(ctx context.Context, method string, u *url.URL, header http.Header, allow func(*url.URL) error) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, notDownloaded("cannot download %s: its address is not valid", show(u))
	}
	maps.Copy(req.Header, header)
	req.Header.Set("User-Agent", "machinemon-update")
	req.Header.Set("Accept-Encoding", "identity")
	hc := http.Client{Transport: c.transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return fmt.Errorf("it was redirected more than %d times", maxRedirects)
		}
		next.Header.Del("Referer") // its query may contain secrets
		// Go treats another port of the same host as the same server.
		abroad := func(r *http.Request) bool { return origin(r.URL) != origin(u) }
		if abroad(next) || slices.ContainsFunc(via, abroad) {
			next.Header.Del("Authorization")
		}
		if err := secureHop(via[len(via)-1].URL, next.URL); err != nil {
			return err
		}
		return allow(next.URL)
	}}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, failed(ctx, u, err)
	}
	return resp, nil
}

// secureHop returns an error for a redirect that is never allowed.
func secureHop(from, to *url.URL) error {
	switch {
	case to.User != nil:
		return refused("it was redirected to an address with a user name")
	case to.Scheme != "https" && to.Scheme != "http":
		return refused("it was redirected to %s, which is neither https nor http", show(to))
	case from.Scheme == "https" && to.Scheme != "https":
		return refused("it was redirected from https to %s", show(to))
	}
	return nil
}

// safeHop also refuses plain http on another server, unless the operator accepts that:
// http from this machine itself is trusted, and could lead to another one.
func (c *client) safeHop(to *url.URL) error {
	if to.Scheme == "http" && !c.anybody && origin(to) != origin(c.url) {
		return refused("it was redirected to %s, which is not authenticated", show(to))
	}
	return nil
}

// origin returns the scheme, host and port of u.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// whole returns an error unless the answer is complete and without content encoding.
func whole(resp *http.Response) error {
	if l := rateLimited(resp, time.Now()); l != nil {
		return l
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	if !plain(resp) {
		return refused("the server sent it with a Content-Encoding, which was not asked for")
	}
	return nil
}

func plain(resp *http.Response) bool {
	e := resp.Header.Get("Content-Encoding")
	return e == "" || strings.EqualFold(e, "identity")
}

// show returns an address for messages, without query and password, which may be secrets.
func show(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// failed returns the error that u could not be downloaded. The result is NotDownloaded,
// unless err has one already.
func failed(ctx context.Context, u *url.URL, err error) error {
	result := state.ResultNotDownloaded
	if o, ok := errors.AsType[*state.Failure](err); ok {
		result = o.Result
	}
	return state.Fail(result, "cannot download %s: %w", show(u), netCause(ctx, err))
}

// netCause returns err without the address, which the message contains already.
func netCause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c // the context's limit, or the caller's cancellation
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
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
