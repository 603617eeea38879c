package download

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/machinemon/machinemon-update/internal/state"
)

// Veiled is the error of a request that was redirected to a server inside a private
// network or this machine. Its text is the same for a closed port, for a service that is
// no web server, and for a web server that refuses: all users can read how an attempt
// ended, and the author of a redirect may be one of them. Cause is for the journal.
type Veiled struct {
	text  string
	Cause error
}

func (v *Veiled) Error() string { return v.text }

// Is reports whether the cause is an error such as fs.ErrNotExist.
func (v *Veiled) Is(target error) bool { return errors.Is(v.Cause, target) }

// unreached returns the error of a request for u that ended without an answer. last is the
// address after redirects.
func (c *Client) unreached(ctx context.Context, u, last *url.URL, err error) error {
	b, is := errors.AsType[*barred](err)
	switch {
	case is && last != u:
		return Failed(ctx, u, state.Refused("it was redirected to %s, which is %s", Show(last), b.kind))
	case is && b.source && b.kind == elsewhere:
		return Failed(ctx, u, state.NotDownloaded("its host is %s", b.kind))
	case is && b.source:
		return Failed(ctx, u, state.NotDownloaded("the address of its host is %s (hint: if that is right, list it in %s)", b.kind, hostsFile))
	case is:
		return Failed(ctx, u, state.Refused("its host is %s", b.kind))
	}
	if from := c.leading(u); c.veils(from, last) {
		return veil(from, last, Failed(ctx, last, err))
	}
	return Failed(ctx, u, c.hinted(netCause(ctx, err)))
}

// Unusable returns the error that an answer cannot be used because of err.
func (c *Client) Unusable(ctx context.Context, resp *http.Response, err error) error {
	return c.veiled(resp, Failed(ctx, resp.Request.URL, err))
}

// Inside reports whether errors about an answer are [Veiled].
func (c *Client) Inside(resp *http.Response) bool {
	return c.veils(c.leading(asked(resp)), resp.Request.URL)
}

func (c *Client) veiled(resp *http.Response, err error) error {
	if c.Inside(resp) {
		return veil(c.leading(asked(resp)), resp.Request.URL, err)
	}
	return err
}

// asked returns the address from which redirects led to an answer.
func asked(resp *http.Response) *url.URL {
	first := resp.Request
	for first.Response != nil {
		first = first.Response.Request
	}
	return first.URL
}

// leading returns the address from which a request for u was led there: an address in the
// answer of an API is as a redirect.
func (c *Client) leading(u *url.URL) *url.URL {
	if c.Linked {
		return c.URL
	}
	return u
}

// veils reports whether a redirect led from the server of u to another one inside.
func (c *Client) veils(u, last *url.URL) bool {
	secured := sameName(u.Hostname(), last.Hostname()) && last.Scheme == "https" && (last.Port() == "" || last.Port() == "443")
	_, inside := c.reach.inside.Load(hostPort(last))
	return inside && !secured && hostPort(u) != hostPort(last)
}

// veil returns a [Veiled] with the result NotDownloaded.
func veil(u, last *url.URL, cause error) error {
	return state.Fail(state.ResultNotDownloaded, "%w", &Veiled{Cause: cause, text: fmt.Sprintf(
		"cannot download %s: it was redirected to %s, on this machine or in a private network, and did not come from there (hint: the journal has the cause)", Show(u), Show(last))})
}
