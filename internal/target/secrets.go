package target

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/pattern"
)

// proxy sets the proxy of a source. Without one, its other keys would have no effect.
func (v *validation) proxy(s *Source) {
	s.Proxy = v.text("source.proxy")
	s.ProxyLoginFile = v.text("source.proxy_login_file")
	s.NoProxy = v.texts("source.no_proxy")
	for _, key := range []string{"source.proxy_login_file", "source.no_proxy"} {
		if v.written(key) && s.Proxy == "" {
			v.problem(key, "stands without source.proxy", "the variables of the environment are not used; set source.proxy as well")
		}
	}
}

// noProxy reports whether each element is one that [golang.org/x/net/http/httpproxy] understands. It
// ignores others, and * alone would make the proxy useless.
func noProxy(list []string) bool {
	return len(list) > 0 && len(list) <= 64 && each(func(s string) bool {
		if _, err := netip.ParsePrefix(s); err == nil {
			return true
		}
		if host, at, err := net.SplitHostPort(s); err == nil && port(at) {
			s = host
		}
		if _, err := netip.ParseAddr(s); err == nil {
			return true
		}
		return hostOrDomain.MatchString(s) && !strings.Contains(s, "..") && len(s) <= 253
	})(list)
}

var hostOrDomain = pattern.New(`^(\*?\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$`)

// Exposed warns of a secret that all users of the machine can read; "" if there is none. It
// is no error: the secret is known by now, and an update may be what the machine needs.
func (t *Target) Exposed() string {
	files := []struct{ secret, file string }{{"token", t.Source.TokenFile}, {"password", t.Source.ProxyLoginFile}}
	if t.Notify != nil {
		files = append(files, struct{ secret, file string }{"token", t.Notify.TokenFile})
	}
	for _, f := range files {
		if f.file == "" {
			continue
		}
		// If the file cannot be read, the fetcher reports that.
		if secret, err := durable.Secret(t.check.root + f.file); !secret && err == nil {
			return fmt.Sprintf("every user can read the %s in %s (hint: chmod 0600 %[2]s, and replace the %[1]s)", f.secret, f.file)
		}
	}
	return ""
}
