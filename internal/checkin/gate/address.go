package gate

import (
	"net/http"
	"net/url"
	"strings"
)

// stripped returns the request without the prefix base in its path. A request without the
// prefix stays as it is, since a proxy before the gate may have stripped it already.
func stripped(r *http.Request, base string) *http.Request {
	path, ok := cutBase(r.URL.Path, base)
	raw := r.URL.RawPath
	if raw != "" {
		var too bool
		raw, too = cutBase(raw, base)
		ok = ok && too
	}
	if base == "" || !ok {
		return r
	}
	short := *r
	short.URL = new(url.URL)
	*short.URL = *r.URL
	short.URL.Path, short.URL.RawPath = path, raw
	return &short
}

// cutBase removes whole elements from the beginning of a path.
func cutBase(path, base string) (rest string, found bool) {
	rest, found = strings.CutPrefix(path, base)
	if rest == "" {
		rest = "/"
	}
	return rest, found && rest[0] == '/'
}

// external returns the address of the gate as clients know it, without a slash at its end:
// the configured one, or else that of the request.
func (g *Gate) external(r *http.Request) string {
	if g.config.External != "" {
		return g.config.External
	}
	_, trusted := g.clientAddr(r)
	return g.scheme(r, trusted) + "://" + g.host(r, trusted) + g.config.BasePath
}
