package target

import (
	"maps"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/nearest"
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
	{"unit", textOf("the name of a service", `"NAME.service", "NAME@INSTANCE.service", "NAME@.service" for all running instances, or "" for none`, func(s string) bool { return s == "" || serviceName(s) }), required("is the package installed that brings this target?"), "The service that runs it"},
	{"units", listOf("a list of services", `1 to 16 as in unit`, func(s []string) bool { return len(s) >= 1 && len(s) <= 16 && each(serviceName)(s) }), nil, "More services that run it"},
	{"restart", oneOf("a way to start the new version", "restart", "reload"), "restart", "How its services get the new version"},
	{"auto_update_enabled", yesOrNo, false, "Whether scheduled runs install what they find"},
	{"auto_update_check_every_seconds", seconds(60, 31536000), int64(3600), "Time between scheduled checks"},

	{"schedule", tableOf("[schedule]"), nil, ""},
	{"schedule.window", textOf("a time of the week", `"[DAYS] HH:MM-HH:MM [ZONE]", DAYS as in Mon,Wed..Fri, ZONE "UTC" or as in "Europe/Vienna"`, window), nil, "When scheduled runs and directives may install"},
	{"schedule.after", listOf("a list of targets", "at most 16 names of other targets", func(s []string) bool { return len(s) <= 16 && each(ValidName)(s) }), nil, "Targets whose updates a scheduled one waits for"},

	{"schedule.inhibit", commandLine(0), nil, "A command that says whether scheduled runs and directives may install now"},
	{"schedule.shutdown_inhibitors", yesOrNo, false, "Whether those wait for locks against a shutdown"},
	{"schedule.fleetlock_url", textOf("a URL", urlAllowed+", and without query", apiURL), nil, "A server of FleetLock"},
	{"schedule.fleetlock_group", textOf("a group of FleetLock", "1 to 64 of A-Z a-z 0-9 . -", matching(`^[A-Za-z0-9.-]{1,64}$`)), "default", "The machines that share its lock"},

	{"source", tableOf("[source]"), nil, ""},
	{"source.type", oneOf("a type of source", SourceManifest, SourceGitHub, SourceForgejo, SourceGitLab, SourceFile), SourceManifest, "Where releases are"},
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
	{"source.proxy_login_file", rootOnly(textOf("an absolute path", `"/DIR/NAME" of A-Z a-z 0-9 . _ @ + -`, unquotedPath)), nil, "A file with the user and password for the proxy"},
	{"source.no_proxy", listOf("a list of hosts that are reached without the proxy", `at most 64 names, ".DOMAIN", addresses, or networks as "10.0.0.0/8", each with or without a port`, noProxy), nil, "What is reached without the proxy"},
	{"source.repo", textOf("a repository", `"OWNER/NAME"; of GitLab also "GROUP/SUBGROUP/NAME"`, repositoryName), nil, "The repository"},
	{"source.asset", textOf("a file's name in the release, a glob, or an address", fileAllowed, assetFile), "*.tar.gz", "The archive among the files of a release"},
	{"source.tag", textOf("a release's tag", tagAllowed, tagName), nil, "The release with this tag"},
	{"source.tag_prefix", textOf("what the tags of this program begin with", tagAllowed, tagName), nil, "What the tags of this program begin with"},
	{"source.prereleases", yesOrNo, false, "Whether prereleases are taken, too"},
	{"source.checksums", textOf("\"auto\", a file's name in the release, a glob, or an address", fileAllowed, assetFile), checksumsAuto, "The file of a release with the digests of the others"},
	{"source.api_url", textOf("a URL", urlAllowed+", and without query", apiURL), GitHubAPI, "The API"},
	{"source.token_file", rootOnly(textOf("an absolute path", unquotedAllowed, unquotedPath)), nil, "A file with a token"},

	{"trust", tableOf("[trust]"), nil, ""},
	{"trust.mode", oneOf("a mode of trust", TrustChecksum, TrustTUF, TrustSigned), TrustChecksum, "How a release is authenticated"},
	{"trust.root", rootOnly(absolutePath), nil, "The publisher's root file"},
	{"trust.key", rootOnly(absolutePath), nil, "The file of the publisher's public keys"},
	{"trust.product", textOf("a product's name", wordAllowed, word.MatchString), nil, "The manifest's product must be this"},
	{"trust.allow_unauthenticated", yesOrNo, false, "Whether to accept what anybody on the path can change"},

	{"install", tablesOf("[[install]] tables with from and to", 1, 64), nil, ""},
	{"install.from", archiveGlob, required(""), "The file's name in the archive"},
	{"install.to", absolutePath, required(""), "Where it goes"},
	{"install.mode", octalMode, nil, "Its permissions"},
	{"install.owner", textOf("root, the only user that may write what is installed", `"root"`, rootName), nil, "Its owner"},
	{"install.group", textOf("a group", "a name or a number, in quotes", matching(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$`)), nil, "Its group"},
	{"install.optional", yesOrNo, false, "Whether a release without this file is complete"},
	{"install.keep", listOf("a list of names below the directory that is installed", `at most 32 relative paths without . and .. elements, none below another; only beside a from that ends with /`, keepNames), nil, "The names below a directory that stay what they are"},
	{"install.releases", absolutePath, nil, "The directory of all releases"},

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
	{"rollback.keep_previous", yesOrNo, false, "Whether the previous release is kept even if the next one then does not fit on the disk"},
	{"rollback.stop", yesOrNo, false, "Whether the unit is stopped before the snapshot is taken"},

	{"hooks", tableOf("[hooks]"), nil, ""},
	{"hooks.from_release", releaseCommand, nil, "A program of the release that root runs before anything is replaced"},
	{"hooks.from_release_unsigned", yesOrNo, false, "Whether from_release may run a program of a release that is not signed"},
	{"hooks.pre_swap", commandLine(0), nil, "A program that root runs before anything is replaced"},
	{"hooks.post_commit", commandLine(0), nil, "A program that root runs when the update is committed"},

	{"health", tableOf("[health]"), nil, ""},
	{"health.timeout_seconds", seconds(1, 3600), int64(30), "The new version has this long to start, to run and to pass all probes"},
	{"health.settle_seconds", seconds(0, 3600), int64(5), "It must then go on so, without a restart, this long"},
	{"health.main", textOf("one of the installed files", `a "to" of [[install]], a file below such a directory, or "" when the main process is a wrapper`, anyText), nil, "The installed file that a process of the unit must run"},
	{"health.version_command", commandLine(0), nil, "A program by its absolute path, and its arguments"},
	{"health.version_pattern", textOf("a regular expression with one group, beside version_command", "RE2 syntax, 1 to 200 characters", versionPattern), nil, "A regular expression whose group matches the version"},
	{"health.probe", tablesOf("[[health.probe]] tables, each with one of http, grpc, tcp, unix, command, journal", 0, 16), nil, ""},
	{"health.probe.http", textOf("a URL", urlAllowed, webURL), nil, "A URL"},
	{"health.probe.expect_status", expectedStatus, int64(200), "Beside http: the answer's status"},
	{"health.probe.expect_body", textOf("text that the answer contains", "1 to 1024 characters, only beside http", bodyPart), nil, "Beside http: a text in the first MiB of the answer"},
	{"health.probe.grpc", textOf("a URL with the name of a service as its path, or none", `"https://HOST:PORT/SERVICE" or "http://HOST:PORT/SERVICE", SERVICE of A-Z a-z 0-9 . _`, grpcURL), nil, "A server that has the health service of gRPC"},
	{"health.probe.tcp", textOf("a host and a port", `"HOST:PORT"`, hostPort), nil, `"HOST:PORT" accepts a connection`},
	{"health.probe.unix", textOf("an absolute path", pathAllowed, socketPath), nil, "The socket with this absolute path"},
	{"health.probe.foreign", besideSocket, false, "Beside http, grpc, tcp, unix: whether a program outside of the unit may answer"},
	{"health.probe.ca_file", rootOnly(textOf("an absolute path, beside a URL that begins with https", unquotedAllowed, unquotedPath)), nil, "Beside a URL with https: a file with certificates in PEM"},
	{"health.probe.insecure_skip_tls", besideTLS, false, "Beside a URL with https: whether any certificate is accepted"},
	{"health.probe.headers_file", rootOnly(textOf("an absolute path, beside http or grpc", unquotedAllowed, unquotedPath)), nil, "Beside http and grpc: a file with headers of the request"},
	{"health.probe.timeout_seconds", integerOf("a whole number of seconds", 1, 3600, ", at most health.timeout_seconds"), nil, "How long a try may take"},
	{"health.probe.command", commandLine(1), nil, "The command exits with 0"},
	{"health.probe.journal", textOf("text that a line of the unit's journal contains", "1 to 200 printable characters", onOneLine), nil, "A line that a process of the unit has logged since the unit was started last"},

	{"notify", tableOf("[notify]"), nil, ""},
	{"notify.events", someOf("a list of events", events), events, "The events that are told"},
	{"notify.command", commandLine(0), nil, "A program that is run for each event"},
	{"notify.mail", listOf("a list of mail addresses", `at most 16 as "NAME@DOMAIN" or "NAME"`, func(list []string) bool { return len(list) <= 16 && each(mailAddress.MatchString)(list) }), nil, "The addresses that get a mail"},
	{"notify.webhook", textOf("a URL", urlAllowed+`, perhaps with {token} in the path`, webhookURL), nil, "The address to which each event is posted"},
	{"notify.token_file", rootOnly(textOf("an absolute path", unquotedAllowed, unquotedPath)), nil, "A file with a token for the server"},
	{"notify.format", oneOf("a format", formats...), FormatJSON, "What is posted"},
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

// unknown returns the problem with a key of the table parent that is not in keys, and a
// hint that may be "". parent "" is the top of the file.
func unknown(parent, name string) (problem, hint string) {
	var allowed []string
	for _, k := range keys {
		if rest, ok := strings.CutPrefix(k.name, dot(parent, "")); ok && !strings.Contains(rest, ".") {
			allowed = append(allowed, rest)
		}
	}
	return "is not a known key (allowed: " + strings.Join(allowed, ", ") + ")", nearest.Hint(name, allowed)
}

// dot joins the name of a table and of a key in it. table "" is the top of the file.
func dot(table, name string) string {
	if table == "" {
		return name
	}
	return table + "." + name
}
