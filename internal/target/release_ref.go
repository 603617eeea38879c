package target

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/machinemon/machinemon-update/internal/pattern"
)

// Named is a release that an operator names instead of the target's source.
type Named struct {
	Path   string // a directory, manifest or archive on this machine
	URL    string // of an archive; set only if Path is ""
	SHA256 string // that the archive must have; "" if the operator does not say
	// Version is that of an archive without a manifest; "" if the operator does not say.
	Version string
}

// String returns the path or URL for messages, without the query: it may be a secret.
func (n Named) String() string {
	if u, err := url.Parse(n.URL); n.URL != "" && err == nil {
		return showURL(u)
	}
	return n.Path
}

// Unvouched warns that neither a manifest nor the operator states the digest.
func (n Named) Unvouched() string {
	return fmt.Sprintf("nothing vouches for %s (hint: add #sha256= and its digest)", n)
}

// showURL returns a URL for messages, without its query.
func showURL(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

var namedDigest = pattern.New(`^(.+)#sha256=([0-9A-Fa-f]{64})$`)

// ParseNamed parses a path, a file: URL, or the URL of an archive. #sha256=HEX at the end
// is the archive's digest, if the operator knows it. A URL must be https, or http with a
// loopback host: otherwise anyone on the path could decide what root installs.
func ParseNamed(s string) (Named, error) {
	var n Named
	if m := namedDigest.FindStringSubmatch(s); m != nil {
		s, n.SHA256 = m[1], strings.ToLower(m[2])
	}
	if !strings.Contains(s, "://") {
		n.Path = s
		return n, nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return n, errors.New("cannot use the URL: it is not valid")
	case u.Fragment != "":
		return n, fmt.Errorf("cannot use %s: what stands behind the # is not sha256= and 64 hex digits", showURL(u))
	case u.Scheme == "file" && (u.Host == "" || u.Host == "localhost"):
		n.Path = u.Path
	case u.Scheme != "https" && (u.Scheme != "http" || !Loopback(u.Hostname())):
		return n, fmt.Errorf("cannot use %s: it is neither https nor on this machine", showURL(u))
	case u.Host == "" || u.User != nil:
		return n, fmt.Errorf("cannot use %s: it has no host, or a user name", showURL(u))
	default:
		n.URL = s
	}
	return n, nil
}
