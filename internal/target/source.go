package target

import (
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/machinemon/machinemon-update/internal/version"
)

// source takes the keys that belong to the source's type. A fragment that
// sets the type need not unset what lower ones said about another type.
func (v *validation) source() Source {
	k := &v.keys.Source
	s := Source{Type: valueOr(k.Type, SourceManifest)}
	var foreign []string
	switch s.Type {
	case SourceManifest:
		foreign = []string{"source.path"}
		if s.From = v.urlFrom(); s.From != nil {
			break
		}
		if k.URL == nil {
			s.Type = SourceNone
			break
		}
		s.URL = *k.URL
		s.InsecureSkipTLS = valueOr(k.InsecureSkipTLS, false)
		s.URLFromAdmin = v.fromAdmin("source.url")
		if !webURL(s.URL) {
			v.bad("source.url")
		}
	case SourceFile:
		foreign = []string{"source.url", "source.url_from", "source.insecure_skip_tls", "source.ca_file", "source.proxy"}
		if k.Path == nil {
			s.Type = SourceNone
			break
		}
		s.Path = *k.Path
		if !cleanPath(s.Path) {
			v.bad("source.path")
		} else {
			v.rootOnly("source.path", s.Path)
		}
	case SourceGitHub:
		foreign = []string{"source.url", "source.url_from", "source.insecure_skip_tls", "source.path"}
		s = v.github()
	default:
		v.bad("source.type")
	}
	s.Versions, s.Downgrade = v.versions(), valueOr(k.Downgrade, false)
	if s.Type != SourceFile {
		s.CAFile, s.Proxy = v.caFile(), v.proxy()
	}
	if valueOr(k.Type, SourceManifest) != SourceGitHub {
		foreign = append(foreign, githubKeys...)
	}
	for _, path := range foreign {
		at, written := v.where[path]
		decided, typed := v.where["source.type"]
		if written && (!typed || at.order >= decided.order) {
			v.problem(path, `does not belong to a source of type "`+valueOr(k.Type, SourceManifest)+`"`, "set source.type as well")
		}
	}
	return s
}

func (v *validation) versions() version.Range {
	if v.keys.Source.Versions == nil {
		return version.Range{}
	}
	r, err := version.ParseRange(*v.keys.Source.Versions)
	if err != nil || hasControl(r.String()) {
		v.bad("source.versions")
	}
	return r
}

func (v *validation) caFile() string {
	const path = "source.ca_file"
	file := valueOr(v.keys.Source.CAFile, "")
	if v.keys.Source.CAFile == nil {
		return ""
	}
	if !cleanPath(file) {
		v.bad(path)
	} else {
		v.rootOnly(path, file)
	}
	return file
}

func (v *validation) proxy() string {
	p := valueOr(v.keys.Source.Proxy, "")
	if v.keys.Source.Proxy == nil {
		return ""
	}
	u, err := url.Parse(p)
	if err != nil || !webURL(p) || u.Port() == "" || u.Scheme+"://"+u.Host != p {
		v.bad("source.proxy")
	}
	return p
}

func (v *validation) fromAdmin(path string) bool {
	at, ok := v.where[path]
	return ok && within(at.file, filepath.Clean(v.dirs.Admin))
}

func (v *validation) trustMode() string {
	mode := valueOr(v.keys.Trust.Mode, TrustChecksum)
	switch mode {
	case TrustChecksum:
	case TrustTUF:
		if v.keys.Trust.Product == nil {
			v.missing("trust", "product", "the signed releases of another program must not pass as this one's")
		}
	default:
		v.bad("trust.mode")
	}
	return mode
}

// trustRoot is the file of the root that the operator vouches for. One that is
// missing fails attempts, not the target: what is installed is shown all the same.
func (v *validation) trustRoot(name string) string {
	file := valueOr(v.keys.Trust.Root, filepath.Join(filepath.Dir(v.dirs.Admin), "trust", name+".root.json"))
	if !cleanPath(file) {
		v.bad("trust.root")
	} else if v.keys.Trust.Root != nil || valueOr(v.keys.Trust.Mode, TrustChecksum) == TrustTUF {
		v.rootOnly("trust.root", file)
	}
	return file
}

const unauthenticatedHint = "use https, or set trust.allow_unauthenticated = true to accept releases from anybody on the path"

// authenticated refuses checksum trust where the transport proves nothing.
// Any local user can take a free loopback port, so plain http to it counts
// only when the administrator wrote it.
func (v *validation) authenticated(t *Target) {
	if t.Source.Type != SourceManifest || t.Trust.AnyTransport() || t.Source.From != nil {
		return // a derived URL is checked by Derive
	}
	u, err := url.Parse(t.Source.URL)
	if err != nil {
		return // source reported it
	}
	switch {
	case t.Source.InsecureSkipTLS:
		v.problem("source.insecure_skip_tls", "checksum trust needs a server that proves who it is", unauthenticatedHint)
	case u.Scheme == "https":
	case !Loopback(u.Hostname()):
		v.problem("source.url", "checksum trust is refused over plain http", unauthenticatedHint)
	case !t.Source.URLFromAdmin:
		v.problem("source.url", "checksum trust is refused over plain http; a loopback server is trusted only when written in "+v.dirs.Admin, unauthenticatedHint)
	}
}

// Loopback tells whether a host is this machine.
func Loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// webURL tells whether s can be fetched, and shown to everyone.
func webURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil || hasControl(s) || len(s) > 2048 {
		return false
	}
	if u.Scheme != "https" && u.Scheme != "http" {
		return false
	}
	return u.Hostname() != "" && u.User == nil && !strings.Contains(s, "#") && (u.Port() == "" && !strings.HasSuffix(u.Host, ":") || port(u.Port()))
}

// hostPort tells whether s can be connected to.
func hostPort(s string) bool {
	host, p, err := net.SplitHostPort(s)
	return err == nil && host != "" && !hasControl(host) && !strings.ContainsAny(host, "/ @") && port(p)
}

func port(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}
