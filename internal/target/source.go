package target

import (
	"net"
	"net/url"
	"path/filepath"

	"github.com/machinemon/machinemon-update/internal/version"
)

// source takes the keys that belong to the source's type. A fragment that
// sets the type need not unset what lower ones said about another type.
func (v *validation) source() Source {
	kind := v.text("source.type")
	s := Source{Type: kind}
	var foreign []string
	switch kind {
	case SourceManifest:
		foreign = []string{"source.path"}
		if s.From = v.urlFrom(); s.From != nil {
			break
		}
		if !v.written("source.url") {
			s.Type = SourceNone
			break
		}
		s.URL = v.text("source.url")
		s.InsecureSkipTLS = v.boolean("source.insecure_skip_tls")
		s.URLFromAdmin = v.fromAdmin("source.url")
	case SourceFile:
		foreign = []string{"source.url", "source.url_from", "source.insecure_skip_tls", "source.ca_file", "source.proxy"}
		if !v.written("source.path") {
			s.Type = SourceNone
			break
		}
		s.Path = v.text("source.path")
	case SourceGitHub:
		foreign = []string{"source.url", "source.url_from", "source.insecure_skip_tls", "source.path"}
		s = v.github()
	}
	s.Versions, s.Downgrade = v.versions(), v.boolean("source.downgrade")
	if s.Type != SourceFile {
		s.CAFile, s.Proxy = v.text("source.ca_file"), v.text("source.proxy")
	}
	if kind != SourceGitHub {
		foreign = append(foreign, githubKeys...)
	}
	for _, path := range foreign {
		at, written := v.settings[path]
		decided, typed := v.settings["source.type"]
		if written && (!typed || at.order >= decided.order) {
			v.problem(path, `does not belong to a source of type "`+kind+`"`, "set source.type as well")
		}
	}
	return s
}

func (v *validation) versions() version.Range {
	if !v.written("source.versions") {
		return version.Range{}
	}
	r, _ := version.ParseRange(v.text("source.versions")) // text refuses what is none
	return r
}

func (v *validation) fromAdmin(path string) bool {
	at, ok := v.settings[path]
	return ok && within(at.file, filepath.Clean(v.dirs.Admin))
}

func (v *validation) trustMode() string {
	mode := v.text("trust.mode")
	if mode == TrustTUF && !v.written("trust.product") {
		v.missing("trust.product", "the signed releases of another program must not pass as this one's")
	}
	return mode
}

// trustRoot is the file of the root that the operator vouches for. One that is
// missing fails attempts, not the target: what is installed is shown all the same.
func (v *validation) trustRoot(name string) string {
	if v.written("trust.root") {
		return v.text("trust.root")
	}
	file := filepath.Join(filepath.Dir(v.dirs.Admin), "trust", name+".root.json")
	if v.text("trust.mode") == TrustTUF {
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
