package target

import (
	"net"
	"net/url"
	"path/filepath"

	"github.com/machinemon/machinemon-update/internal/version"
)

// source returns the source that the keys of its type describe. Keys of another type are
// refused, unless a lower fragment than that of source.type has them: a fragment that
// changes the type cannot unset them.
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
	case SourceFile:
		foreign = []string{"source.url", "source.url_from", "source.insecure_skip_tls", "source.ca_file", "source.proxy", "source.proxy_login_file", "source.no_proxy"}
		if !v.written("source.path") {
			s.Type = SourceNone
			break
		}
		s.Path = v.text("source.path")
	case SourceGitHub, SourceForgejo, SourceGitLab:
		foreign = []string{"source.url", "source.url_from", "source.insecure_skip_tls", "source.path"}
		s = v.github(kind)
	}
	s.names = v.archNames()
	s.Versions, _ = version.ParseRange(v.text("source.versions")) // text has refused ranges that are not valid
	if s.Prereleases {
		s.Versions = s.Versions.WithPrereleases()
	}
	s.Downgrade = v.boolean("source.downgrade")
	if s.Type != SourceFile {
		s.CAFile = v.text("source.ca_file")
		v.proxy(&s)
	}
	if kind == SourceManifest || kind == SourceFile {
		foreign = append(foreign, githubKeys...)
		foreign = append(foreign, tagKeys...)
	}
	for _, path := range foreign {
		at, written := v.settings[path]
		decided, typed := v.settings["source.type"]
		if written && (!typed || at.order >= decided.order) {
			hint := "set source.type as well"
			if typed && at.order == decided.order {
				hint = "remove it, or set another source.type"
			}
			v.problem(path, `does not belong to a source of type "`+kind+`"`, hint)
		}
	}
	return s
}

func (v *validation) trustMode() string {
	mode := v.text("trust.mode")
	if mode == TrustTUF && !v.written("trust.product") {
		v.missing("trust.product", "the signed releases of another program must not pass as this one's")
	}
	return mode
}

// trustFile returns the file that the operator vouches for in this mode, and its name in
// the directory of such files if the key is not written. If the file is missing, attempts
// fail, but the target loads, so that its status can be shown.
func (v *validation) trustFile(key, mode, name string) string {
	if v.written(key) {
		return v.text(key)
	}
	file := filepath.Join(filepath.Dir(v.dirs.Admin), "trust", name)
	if v.text("trust.mode") == mode {
		v.rootOnly(key, file)
	}
	return file
}

// signed refuses a target whose signed releases could not be told from others that the
// same key has signed.
func (v *validation) signed(t *Target) {
	if isAddress(t.Source.Asset) && t.Trust.Product != "" {
		v.problem("trust.product", "means nothing beside source.asset, which is an address: no manifest names a product", "")
		return
	}
	if t.Trust.Mode != TrustSigned || t.Trust.Product != "" || t.Source.Type == SourceNone {
		return
	}
	if t.Source.Repo == "" {
		v.missing("trust.product", "a source of type "+t.Source.Type+" needs a signed manifest, and the signed releases of another program must not pass as this one's")
		return
	}
	if t.Source.VersionIn(t.Source.AssetPattern("linux-amd64", "1.2.3"), "linux-amd64") == "" {
		v.problem("source.asset", `must be the archive's whole name, with {version} or {number} and without * ? [, if trust.mode is "signature" and trust.product is not set`,
			"the signed name is all that says which version an archive is")
	}
}

// These hints name the cures that keep authentication. The manual page describes
// trust.allow_unauthenticated, which gives it up.
const (
	githubHint   = "use https, with source.ca_file for a certificate authority of your own"
	plainHint    = githubHint + `; or signed releases, trust.mode = "tuf"`
	insecureHint = `set source.ca_file to the server's certificate authority instead; or use signed releases, trust.mode = "tuf"`
	// The program's own configuration says so, and its author may need it.
	derivedHint = `set source.url, and source.ca_file to the server's certificate authority; or use signed releases, trust.mode = "tuf"`
)

// authenticated refuses a transport that proves nothing, except under tuf: signatures alone
// do not show that there is a newer release. Any local user
// can listen on a free loopback port, so plain http to loopback is accepted only if the
// administrator wrote the URL.
func (v *validation) authenticated(t *Target) {
	u, err := url.Parse(t.Source.URL)
	if err != nil || t.Source.URL == "" || t.Trust.AnyTransport() {
		return // source has reported the error, and Derive checks a derived URL
	}
	key, hint := "source.url", plainHint
	if t.Source.Repo != "" {
		key, hint = "source.api_url", githubHint
	}
	switch {
	case t.Source.InsecureSkipTLS:
		v.problem("source.insecure_skip_tls", t.Trust.Mode+" trust needs a server that proves its identity", insecureHint)
	case u.Scheme == "https":
	case !Loopback(u.Hostname()):
		v.problem(key, t.Trust.Mode+" trust is refused over plain http", hint)
	case !within(v.settings[key].file, filepath.Clean(v.dirs.Admin)):
		v.problem(key, t.Trust.Mode+" trust is refused over plain http; a loopback server is trusted only when written in "+v.dirs.Admin, hint)
	}
}

// Loopback reports whether host is this machine.
func Loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
