package target

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// URLFrom says where the URL of a source is found: in the configuration of the updated
// program, which already knows its server.
//
// That file may contain passwords. So only root reads it, and only two of its keys: Key
// and insecure_skip_tls. Their values are stored for the other roles.
type URLFrom struct {
	File   string // TOML; absolute
	Option string // of the unit's command, which may name another file; "" for none
	Key    string // at its top
	Append string // path of the manifest below the URL
}

// String returns the fields that say what a stored address was made from, in one line.
// What the unit's command says is no part of it, as the content of the file is not.
func (f *URLFrom) String() string { return f.File + ": " + f.Key + " + " + f.Append }

// insecureKey is the key of the program's configuration that says whether the program
// skips the verification of its server's certificate.
const insecureKey = "insecure_skip_tls"

// urlFrom returns source.url_from. It returns nil if there is none, or if a higher
// fragment has a source.url.
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
	option := v.text(path + ".option")
	if v.settings[path+".file"].order > v.settings[path+".option"].order {
		option = "" // a later file replaces what the option names, too
	}
	return &URLFrom{File: v.text(path + ".file"), Option: option, Key: v.text(path + ".key"), Append: v.text(path + ".append")}
}

// A Command is how systemd starts the program of a target.
type Command struct {
	Args    []string // with the program's path; nil if there is no unit
	User    string   // User= of the unit; "" is root, unless Dynamic
	Dynamic bool     // DynamicUser= of the unit
}

// runsAsRoot reports whether the command runs the target's own program as root. What that
// runs may then depend on its configuration anyway, so the owner of that may also say where
// its updates come from. Another program, such as setpriv, may run it as somebody else.
func (t *Target) runsAsRoot(c Command) bool {
	return len(c.Args) > 0 && c.Args[0] == t.Health.Main && !c.Dynamic && (c.User == "" || c.User == "root" || c.User == "0")
}

// named returns the file that the option of a command names; "" if there is none.
func (f *URLFrom) named(args []string) (file string, err error) {
	if f.Option == "" || len(args) == 0 {
		return "", nil
	}
	option := strings.TrimLeft(f.Option, "-") // --config is also -config, as for Go's flags
	for i, arg := range args[1:] {
		name, value, joined := strings.Cut(arg, "=")
		if !strings.HasPrefix(arg, "-") || strings.TrimLeft(name, "-") != option {
			continue
		}
		if !joined && i+2 < len(args) {
			value = args[i+2]
		}
		if file = value; !cleanPath(file) {
			return "", errors.New("the unit's command has " + f.Option + " without an absolute path")
		}
	}
	return file, nil
}

// Resolve reads the current values from the file of source.url_from and completes the
// source as Derive does. It needs root. The error is a *ConfigError.
func (t *Target) Resolve(c Command) error {
	server, insecure, err := t.Find(c)
	if err != nil {
		return err
	}
	return t.Derive(server+t.Source.From.Append, insecure)
}

// Find returns the values of the file of source.url_from, without a slash at the server's
// end, and whether the updated program skips the verification of the server's certificate.
// It needs root. The error is a *ConfigError.
func (t *Target) Find(c Command) (server string, insecure bool, err error) {
	from := t.Source.From
	t.Source.Read = from.File
	named, err := from.named(c.Args)
	if err != nil {
		return "", false, t.derived("", err.Error(), t.urlHint())
	}
	if named != "" {
		t.Source.Read = named
	}
	if _, err := os.Lstat(filepath.Join(t.check.root, t.Source.Read)); errors.Is(err, fs.ErrNotExist) {
		return "", false, t.derived("", "does not exist", "configure the program of "+t.Unit+", or set source.url")
	}
	data, wrong := t.check.read(t.Source.Read, maxFragment, "")
	if wrong.aboutWriters() && named != "" && t.runsAsRoot(c) {
		data, wrong = t.check.readOfUser(named)
	}
	if wrong != nil {
		if wrong.Target = t.Name; wrong.aboutWriters() {
			wrong.Hint = t.urlHint()
		}
		return "", false, wrong
	}
	var keys map[string]any
	if err := toml.Unmarshal(data, &keys); err != nil {
		// The decoder's message may quote the file, or name a key that is a password.
		problem := t.derived("", "is not valid TOML", "")
		if de, ok := errors.AsType[*toml.DecodeError](err); ok {
			problem.Line, _ = de.Position()
		}
		return "", false, problem
	}
	base, text := keys[from.Key].(string)
	if _, there := keys[from.Key]; !there {
		return "", false, t.derived(from.Key, "is missing; it must be a URL (allowed: "+baseAllowed+")", "")
	}
	if u, err := url.Parse(base); !text || err != nil || u.RawQuery != "" || u.ForceQuery {
		return "", false, t.derived(from.Key, "must be a URL (allowed: "+baseAllowed+")", "")
	}
	insecure, boolean := keys[insecureKey].(bool)
	if _, there := keys[insecureKey]; there && !boolean {
		return "", false, t.derived(insecureKey, "must be a boolean (allowed: true, false)", "")
	}
	return strings.TrimRight(base, "/"), insecure, nil
}

const baseAllowed = `"https://HOST/PATH" or "http://HOST/PATH", without user, password, query and fragment`

// Derive completes a source with From by the values that Resolve found, now or earlier.
// It refuses an address that could not be a source.url, and checksum trust if the
// transport proves nothing. Unlike a source.url that the administrator wrote, an address
// on loopback is not trusted here. The error is a *ConfigError.
func (t *Target) Derive(address string, insecure bool) error {
	u, err := url.Parse(address)
	if err != nil || !webURL(address) {
		return t.derived(t.Source.From.Key, "must be a URL (allowed: "+baseAllowed+")", "")
	}
	switch {
	case t.Trust.AnyTransport():
	case insecure:
		return t.derived(insecureKey, "checksum trust needs a server that proves its identity", derivedHint)
	case u.Scheme != "https" && Loopback(u.Hostname()):
		return t.derived(t.Source.From.Key, "checksum trust is refused over plain http; a loopback server is trusted only as source.url", plainHint)
	case u.Scheme != "https":
		return t.derived(t.Source.From.Key, "checksum trust is refused over plain http", plainHint)
	}
	t.Source.URL, t.Source.InsecureSkipTLS = address, insecure
	return nil
}

// urlHint returns the line that takes the place of a file that is not to be believed. It
// does not propose to give the file to root: that may be a user's home.
func (t *Target) urlHint() string {
	return fmt.Sprintf(`write source.url = "https://SERVER%s", with the server's name, to %s.d/source.toml`, t.Source.From.Append, filepath.Join(DefaultDirs.Admin, t.Name+".toml"))
}

// derived returns an error about the file of source.url_from.
func (t *Target) derived(key, problem, hint string) *ConfigError {
	return &ConfigError{Target: t.Name, File: cmp.Or(t.Source.Read, t.Source.From.File), Key: key, Problem: problem, Hint: hint}
}
