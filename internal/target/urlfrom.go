package target

import (
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// URLFrom says where the URL of a source stands: in the configuration of the
// program that is updated, which knows its server already.
//
// That file may hold passwords, so root alone reads it, and only two of its
// keys: Key and insecure_skip_tls. What they say is kept for everybody else.
type URLFrom struct {
	File   string // TOML; absolute
	Key    string // at its top
	Append string // path of the manifest below the URL
}

// String is all of it, in one line.
func (f *URLFrom) String() string { return f.File + ": " + f.Key + " + " + f.Append }

// insecureKey is the key of the program's configuration that tells whether it
// talks to a server that it does not verify.
const insecureKey = "insecure_skip_tls"

// urlFrom takes source.url_from where no higher fragment has a source.url: nil
// where one has, or there is no url_from.
func (v *validation) urlFrom() *URLFrom {
	const path = "source.url_from"
	at, written := v.settings[path]
	if !written {
		return nil
	}
	if plain, both := v.settings["source.url"]; both && plain.order > at.order {
		return nil
	} else if both && plain.order == at.order {
		v.problem(path, "stands beside source.url", "remove one of them")
	}
	if v.written("source.insecure_skip_tls") {
		v.problem("source.insecure_skip_tls", "does not belong to source.url_from, whose file says it", "set source.url as well")
	}
	return &URLFrom{File: v.text(path + ".file"), Key: v.text(path + ".key"), Append: v.text(path + ".append")}
}

// Resolve reads what the file of source.url_from says now, and completes the
// source as Derive does. It needs root. The error is a *ConfigError.
func (t *Target) Resolve() error {
	from := t.Source.From
	if _, err := os.Lstat(filepath.Join(t.check.root, from.File)); errors.Is(err, fs.ErrNotExist) {
		return t.derived("", "does not exist", "configure the program of "+t.Unit+", or set source.url")
	}
	data, wrong := t.check.read(from.File, maxFragment, "")
	if wrong != nil {
		wrong.Target = t.Name
		return wrong
	}
	var keys map[string]any
	if err := toml.Unmarshal(data, &keys); err != nil {
		// Its message may quote the file, or name a key that is a password.
		problem := t.derived("", "is not valid TOML", "")
		if de, ok := errors.AsType[*toml.DecodeError](err); ok {
			problem.Line, _ = de.Position()
		}
		return problem
	}
	base, text := keys[from.Key].(string)
	if _, there := keys[from.Key]; !there {
		return t.derived(from.Key, "is missing; it must be a URL (allowed: "+baseAllowed+")", "")
	}
	if u, err := url.Parse(base); !text || err != nil || u.RawQuery != "" || u.ForceQuery {
		return t.derived(from.Key, "must be a URL (allowed: "+baseAllowed+")", "")
	}
	insecure, boolean := keys[insecureKey].(bool)
	if _, there := keys[insecureKey]; there && !boolean {
		return t.derived(insecureKey, "must be a boolean (allowed: true, false)", "")
	}
	return t.Derive(strings.TrimRight(base, "/")+from.Append, insecure)
}

const baseAllowed = `"https://HOST/PATH" or "http://HOST/PATH", without user, password, query and fragment`

// Derive completes a source that has From with what Resolve found earlier. It
// refuses what could not be a source.url, and checksum trust where the transport
// proves nothing: unlike a source.url in the administrator's directory, this one
// is not trusted for leading to this very machine. The error is a *ConfigError.
func (t *Target) Derive(address string, insecure bool) error {
	u, err := url.Parse(address)
	if err != nil || !webURL(address) {
		return t.derived(t.Source.From.Key, "must be a URL (allowed: "+baseAllowed+")", "")
	}
	switch {
	case t.Trust.AnyTransport():
	case insecure:
		return t.derived(insecureKey, "checksum trust needs a server that proves who it is", unauthenticatedHint)
	case u.Scheme != "https" && Loopback(u.Hostname()):
		return t.derived(t.Source.From.Key, "checksum trust is refused over plain http; a loopback server is trusted only as source.url", unauthenticatedHint)
	case u.Scheme != "https":
		return t.derived(t.Source.From.Key, "checksum trust is refused over plain http", unauthenticatedHint)
	}
	t.Source.URL, t.Source.InsecureSkipTLS = address, insecure
	return nil
}

// derived is what is wrong with the file of source.url_from.
func (t *Target) derived(key, problem, hint string) *ConfigError {
	return &ConfigError{Target: t.Name, File: t.Source.From.File, Key: key, Problem: problem, Hint: hint}
}
