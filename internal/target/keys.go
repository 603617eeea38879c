package target

import (
	"maps"
	"slices"
	"strings"
)

// A key is a key that a target file may hold. Its row in keys is the only place that has
// its type, bounds and default: parsing, merging and validation follow the row, and
// TestManual compares the manual with it.
type key struct {
	name string
	values
	otherwise any    // the default, of the type that kind says; nil: none; or required
	help      string // the beginning of the description in the manual
}

// required takes the place of the default of a key that must be written. It is the hint
// of the error about its absence.
type required string

// keys are all keys of a target file, in the order in which errors list them.
var keys = append([]key{
	{"description", textOf("text on one line", "1 to 200 characters", shortLine), nil, "What people call the program"},
	{"unit", textOf("the name of a service", `"NAME.service" or "NAME@INSTANCE.service"`, serviceName), required("is the package installed that brings this target?"), "The service that runs it"},
	{"auto_update_enabled", yesOrNo, false, "Whether scheduled runs install what they find"},
	{"auto_update_check_every_seconds", seconds(60, 31536000), int64(3600), "Time between scheduled checks"},

	{"source", tableOf("[source]"), nil, ""},
	{"source.type", oneOf("a type of source", SourceManifest, SourceGitHub, SourceFile), SourceManifest, "Where releases are"},
	{"source.url", textOf("a URL", urlAllowed, webURL), nil, "The manifest's address"},
	{"source.url_from", tableOf(`{ file = "/DIR/NAME", key = "NAME", append = "/PATH" }`), nil, "Where the address stands"},
	{"source.url_from.file", absolutePath, required(""), "A TOML file of at most 64 KiB"},
	{"source.url_from.option", textOf("an option of the unit's command", `"--NAME" or "-NAME" of A-Z a-z 0-9 -`, matching(`^--?[A-Za-z0-9][A-Za-z0-9-]{0,61}$`)), nil, "An option of the unit's command"},
	{"source.url_from.key", textOf("the name of a key of that file", "1 to 100 of A-Z a-z 0-9 _ -", matching(`^[A-Za-z0-9_-]{1,100}$`)), required(""), "The key that holds an address"},
	{"source.url_from.append", textOf("the manifest's path below that URL", `"/PATH", of A-Z a-z 0-9 . _ ~ - /, without . and .. elements and double slashes`, appendable), required(""), "The manifest's path below that address"},
	{"source.path", rootOnly(absolutePath), nil, "Releases on this machine"},
	{"source.arch", tableOf("names of " + strings.Join(slices.Sorted(maps.Keys(architectures)), ", ") + `, as { amd64 = "x86_64" }`), nil, "The publisher's names of architectures"},
	{"source.versions", textOf("a range of versions", `conditions such as ">=3, <4", with = != > < >= <= ~>; at most 200 characters`, versionRange), nil, "Which versions are taken from the source"},
	{"source.downgrade", yesOrNo, false, "Whether scheduled runs and directives may go to a lower version"},
	{"source.insecure_skip_tls", yesOrNo, false, "Whether any certificate is accepted"},
	{"source.ca_file", rootOnly(absolutePath), nil, "A file with certificates in PEM"},
	{"source.proxy", textOf("a proxy", `"http://HOST:PORT" or "https://HOST:PORT", without user and password`, proxyURL), nil, "The proxy"},
	{"source.repo", textOf("a repository on GitHub", `"OWNER/NAME"`, repositoryName), nil, "The repository"},
	{"source.asset", textOf("a file's name in the release, or a glob", "a plain name with * ? [ ]; "+filledIn, assetGlob), "*.tar.gz", "The archive among the files of a release"},
	{"source.tag", textOf("a release's tag", wordAllowed, word.MatchString), nil, "The release with this tag"}, // a tag is a version, in the same characters as a product
	{"source.api_url", textOf("a URL", urlAllowed+", and without query", apiURL), "https://api.github.com", "The API"},
	{"source.token_file", rootOnly(textOf("an absolute path", `"/DIR/NAME" of A-Z a-z 0-9 . _ @ + -`, unquotedPath)), nil, "A file with a token"},

	{"trust", tableOf("[trust]"), nil, ""},
	{"trust.mode", oneOf("a mode of trust", TrustChecksum, TrustTUF), TrustChecksum, "How a release is authenticated"},
	{"trust.root", rootOnly(absolutePath), nil, "The publisher's root file"},
	{"trust.product", textOf("a product's name", wordAllowed, word.MatchString), nil, "The manifest's product must be this"},
	{"trust.allow_unauthenticated", yesOrNo, false, "Whether to accept what anybody on the path can change"},

	{"install", tablesOf("[[install]] tables with from and to", 1, 64), nil, ""},
	{"install.from", archiveGlob, required(""), "The file's name in the archive"},
	{"install.to", absolutePath, required(""), "Where it goes"},
	{"install.mode", octalMode, nil, "Its permissions"},
	{"install.owner", textOf("root, the only user that may write what is installed", `"root"`, rootName), nil, "Its owner"},
	{"install.group", textOf("a group", "a name or a number, in quotes", matching(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$`)), nil, "Its group"},
	{"install.optional", yesOrNo, false, "Whether a release without this file is complete"},

	{"install_manifest", tableOf("[install_manifest]"), nil, ""},
	{"install_manifest.file", archiveEntry, required(""), "The list's name in the archive"},
	{"install_manifest.optional", yesOrNo, false, "Whether a release without the list is complete"},
	{"install_manifest.type", tablesOf("[[install_manifest.type]] tables with name, directory and allow", 1, 16), nil, ""},
	{"install_manifest.type.name", textOf("the name of a type", "1 to 32 of a-z 0-9 _ -, the first a letter", matching(`^[a-z][a-z0-9_-]{0,31}$`)), required(""), "The type's name in the list"},
	{"install_manifest.type.directory", anyDirectory, required(""), "Where its files go"},
	{"install_manifest.type.mode", octalMode, "0755", "Their permissions"},
	{"install_manifest.type.allow", nameGlobs(1), required(""), "Globs (* ? [a-z]) for the names that may be listed"},
	{"install_manifest.type.exclude", nameGlobs(0), []string{}, "Of these, the names that are left alone"},

	{"rollback", tableOf("[rollback]"), nil, ""},
	{"rollback.snapshot", listOf("a list of absolute paths", "each "+pathAllowed, each(cleanPath)), nil, "Absolute paths of files and directories that are saved before the swap"},
	{"rollback.snapshot_max_bytes", integerOf("a whole number of bytes", 1, 1<<40, ""), int64(1 << 30), "How many bytes all of them together may take on the disk"},
	{"rollback.stop", yesOrNo, false, "Whether the unit is stopped before the snapshot is taken"},

	{"hooks", tableOf("[hooks]"), nil, ""},
	{"hooks.from_release", releaseCommand, nil, "A program of the release that root runs before anything is replaced"},
	{"hooks.from_release_unsigned", yesOrNo, false, "Whether from_release may run a program of a release that is not signed"},
	{"hooks.pre_swap", commandLine(0), nil, "A program that root runs before anything is replaced"},
	{"hooks.post_commit", commandLine(0), nil, "A program that root runs when the update is committed"},

	{"health", tableOf("[health]"), nil, ""},
	{"health.timeout_seconds", seconds(1, 3600), int64(30), "The new version has this long to start, to run and to pass all probes"},
	{"health.settle_seconds", seconds(0, 3600), int64(5), "It must then go on so, without a restart, this long"},
	{"health.main", textOf("one of the installed files", `a "to" of [[install]], or "" when the main process is a wrapper`, anyText), nil, "The installed file that a process of the unit must run"},
	{"health.version_command", commandLine(0), nil, "A program by its absolute path, and its arguments"},
	{"health.probe", tablesOf("[[health.probe]] tables, each with one of http, tcp, unix, command, journal", 0, 16), nil, ""},
	{"health.probe.http", textOf("a URL", urlAllowed, webURL), nil, "A URL"},
	{"health.probe.expect_status", integerOf("an HTTP status", 100, 599, ", only beside http"), int64(200), "Beside http: the answer's status"},
	{"health.probe.expect_body", textOf("text that the answer contains", "1 to 1024 characters, only beside http", bodyPart), nil, "Beside http: a text in the first MiB of the answer"},
	{"health.probe.tcp", textOf("a host and a port", `"HOST:PORT"`, hostPort), nil, `"HOST:PORT" accepts a connection`},
	{"health.probe.unix", textOf("an absolute path", pathAllowed, socketPath), nil, "The socket with this absolute path"},
	{"health.probe.foreign", besideSocket, false, "Beside http, tcp, unix: whether a program outside of the unit may answer"},
	{"health.probe.command", commandLine(1), nil, "The command exits with 0"},
	{"health.probe.journal", textOf("text that a line of the unit's journal contains", "1 to 200 printable characters", onOneLine), nil, "A line that a process of the unit has logged since the unit was started last"},
}, archKeys()...)

// archKeys are the keys of source.arch. The manual has one row for all of them.
func archKeys() (all []key) {
	for _, arch := range slices.Sorted(maps.Keys(architectures)) {
		all = append(all, key{"source.arch." + arch, archName, nil, ""})
	}
	return all
}

var keyByName = func() map[string]key {
	byName := make(map[string]key, len(keys))
	for _, k := range keys {
		byName[k.name] = k
	}
	return byName
}()

// unknown returns the problem with a key of the table parent that is not in keys. parent
// "" is the top of the file.
func unknown(parent string) string {
	var allowed []string
	for _, k := range keys {
		if rest, ok := strings.CutPrefix(k.name, dot(parent, "")); ok && !strings.Contains(rest, ".") {
			allowed = append(allowed, rest)
		}
	}
	return "is not a known key (allowed: " + strings.Join(allowed, ", ") + ")"
}

// dot joins the name of a table and of a key in it. table "" is the top of the file.
func dot(table, name string) string {
	if table == "" {
		return name
	}
	return table + "." + name
}
