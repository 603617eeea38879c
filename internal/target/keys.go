package target

import "strings"

// A kind is the TOML type of a key.
type kind int

const (
	text kind = iota
	integer
	boolean
	texts
	table
	tables
)

// A key is one that a target file may hold. Its problem is told in the same
// words whether the type or the value is wrong: `must be` must (allowed:
// allowed).
type key struct {
	name    string
	kind    kind
	must    string
	allowed string
}

func (k key) problem() string {
	return "must be " + k.must + " (allowed: " + k.allowed + ")"
}

const (
	pathMust       = "an absolute path"
	pathAllowed    = `"/DIR/NAME", without . and .. elements, double slashes and control characters`
	commandMust    = "a command as a list of strings"
	commandAllowed = `["/DIR/PROGRAM", "ARGUMENT", …], without NUL characters`
	modeMust       = "an octal mode in quotes, without write permission for group and others"
	modeAllowed    = `"0400" to "0755"`
	globsMust      = "a list of names or globs"
	globsAllowed   = `at most 64 plain names with * ? [ ]`
	urlAllowed     = `"https://HOST/PATH" or "http://HOST/PATH", without user, password and fragment`
	installAllowed = "[[install]] tables with from and to, at least one, at most 64"
	probeAllowed   = "[[health.probe]] tables, at most 16, each with one of http, tcp, unix, command, journal"
)

// keys is the contract of a target file, in the order of its documentation.
var keys = []key{
	{"description", text, "text on one line", "1 to 200 characters"},
	{"unit", text, "the name of a service", `"NAME.service" or "NAME@INSTANCE.service"`},
	{"auto_update_enabled", boolean, "a boolean", "true, false"},
	{"auto_update_check_every_seconds", integer, "a whole number of seconds", "60 to 31536000"},

	{"source", table, "a table", "[source]"},
	{"source.type", text, "a type of source", `"manifest", "github", "file"`},
	{"source.url", text, "a URL", urlAllowed},
	{"source.url_from", table, "a table", `{ file = "/DIR/NAME", key = "NAME", append = "/PATH" }`},
	{"source.url_from.file", text, pathMust, pathAllowed},
	{"source.url_from.key", text, "the name of a key of that file", "1 to 100 of A-Z a-z 0-9 _ -"},
	{"source.url_from.append", text, "the manifest's path below that URL", `"/PATH", of A-Z a-z 0-9 . _ ~ - /, without . and .. elements and double slashes`},
	{"source.path", text, pathMust, pathAllowed},
	{"source.versions", text, "a range of versions", `conditions such as ">=3, <4", with = != > < >= <= ~>; at most 200 characters`},
	{"source.downgrade", boolean, "a boolean", "true, false"},
	{"source.insecure_skip_tls", boolean, "a boolean", "true, false"},
	{"source.ca_file", text, pathMust, pathAllowed},
	{"source.proxy", text, "a proxy", `"http://HOST:PORT" or "https://HOST:PORT", without user and password`},
	{"source.repo", text, "a repository on GitHub", `"OWNER/NAME"`},
	{"source.asset", text, "a file's name in the release, or a glob", `a plain name with * ? [ ]; {os} {arch} {version} {number} are filled in`},
	{"source.tag", text, "a release's tag", "1 to 64 of A-Z a-z 0-9 . + _ ~ -, the first a letter or digit"},
	{"source.api_url", text, "a URL", urlAllowed + ", and without query"},
	{"source.token_file", text, pathMust, `"/DIR/NAME" of A-Z a-z 0-9 . _ @ + -`},

	{"trust", table, "a table", "[trust]"},
	{"trust.mode", text, "a mode of trust", `"checksum", "tuf"`},
	{"trust.root", text, pathMust, pathAllowed},
	{"trust.product", text, "a product's name", "1 to 64 of A-Z a-z 0-9 . + _ ~ -, the first a letter or digit"},
	{"trust.allow_unauthenticated", boolean, "a boolean", "true, false"},

	{"install", tables, "a list of tables", installAllowed},
	{"install.from", text, "a file's name in the archive", `a relative path without . and .. elements; {os} {arch} {version} {number} are filled in`},
	{"install.to", text, pathMust, pathAllowed},
	{"install.mode", text, modeMust, modeAllowed},
	{"install.owner", text, "root, who alone may write what is installed", `"root"`},
	{"install.group", text, "a group", "a name or a number, in quotes"},
	{"install.optional", boolean, "a boolean", "true, false"},

	{"install_manifest", table, "a table", "[install_manifest]"},
	{"install_manifest.file", text, "a file's name in the archive", `a relative path without . and .. elements; {os} {arch} {version} {number} are filled in`},
	{"install_manifest.optional", boolean, "a boolean", "true, false"},
	{"install_manifest.type", tables, "a list of tables", "[[install_manifest.type]] tables with name, directory and allow, at least one, at most 16"},
	{"install_manifest.type.name", text, "the name of a type", "1 to 32 of a-z 0-9 _ -, the first a letter"},
	{"install_manifest.type.directory", text, pathMust, pathAllowed},
	{"install_manifest.type.mode", text, modeMust, modeAllowed},
	{"install_manifest.type.allow", texts, globsMust, globsAllowed},
	{"install_manifest.type.exclude", texts, globsMust, globsAllowed},

	{"rollback", table, "a table", "[rollback]"},
	{"rollback.snapshot", texts, "a list of absolute paths", "each " + pathAllowed},
	{"rollback.snapshot_max_bytes", integer, "a whole number of bytes", "1 to 1099511627776"},
	{"rollback.stop", boolean, "a boolean", "true, false"},

	{"hooks", table, "a table", "[hooks]"},
	{"hooks.pre_swap", texts, commandMust, commandAllowed},
	{"hooks.post_commit", texts, commandMust, commandAllowed},

	{"health", table, "a table", "[health]"},
	{"health.timeout_seconds", integer, "a whole number of seconds", "1 to 3600"},
	{"health.settle_seconds", integer, "a whole number of seconds", "0 to 3600"},
	{"health.main", text, "one of the installed files", `a "to" of [[install]], or "" when the main process is a wrapper`},
	{"health.version_command", texts, commandMust, commandAllowed},
	{"health.probe", tables, "a list of tables", probeAllowed},
	{"health.probe.http", text, "a URL", urlAllowed},
	{"health.probe.expect_status", integer, "an HTTP status", "100 to 599, only beside http"},
	{"health.probe.expect_body", text, "text that the answer contains", "1 to 1024 characters, only beside http"},
	{"health.probe.tcp", text, "a host and a port", `"HOST:PORT"`},
	{"health.probe.unix", text, pathMust, pathAllowed},
	{"health.probe.command", texts, commandMust, commandAllowed},
	{"health.probe.journal", text, "text that a line of the unit's journal contains", "1 to 200 printable characters"},
}

var keyByName = func() map[string]key {
	byName := make(map[string]key, len(keys))
	for _, k := range keys {
		byName[k.name] = k
	}
	return byName
}()

// unknown is the problem with a key of table parent ("" is the top) that is
// not in keys.
func unknown(parent, name string) string {
	var allowed []string
	for _, k := range keys {
		if rest, ok := strings.CutPrefix(k.name, dot(parent, "")); ok && !strings.Contains(rest, ".") {
			allowed = append(allowed, rest)
		}
	}
	return "is not a known key (allowed: " + strings.Join(allowed, ", ") + ")"
}

// dot joins the name of a table, "" for the top, and a key in it.
func dot(table, name string) string {
	if table == "" {
		return name
	}
	return table + "." + name
}
