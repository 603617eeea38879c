package target

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

func gid() string { return strconv.Itoa(os.Getgid()) }

// TestConfigErrors: each row is a whole file, in which %M is the minimal one (4 lines).
func TestConfigErrors(t *testing.T) {
	testkit.Slow(t)
	const (
		url      = `must be a URL (allowed: "https://HOST/PATH" or "http://HOST/PATH", without user, password and fragment)`
		path     = `must be an absolute path (allowed: "/DIR/NAME", without . and .. elements, double slashes and control characters)`
		service  = `must be the name of a service (allowed: "NAME.service", "NAME@INSTANCE.service", "NAME@.service" for all running instances, or "" for none)`
		services = `must be a list of services (allowed: 1 to 16 as in unit)`
		install  = `must be a list of tables (allowed: [[install]] tables with from and to, at least one, at most 64)`
		from     = `must be a file's name in the archive, or a glob that matches one (allowed: a relative path with * ? [ ], without . and .. elements, or "." for an asset that is the program; with / at its end, a directory, "./" for all of the archive; {os} {arch} {machine} {version} {number} are filled in)`
		mode     = `must be an octal mode in quotes, without write permission for group and others (allowed: "0400" to "0755")`
		command  = `must be a command as a list of strings (allowed: ["/DIR/PROGRAM", "ARGUMENT", …], without NUL characters)`
		top      = `(allowed: description, unit, units, restart, auto_update_enabled, auto_update_check_every_seconds, schedule, source, trust, install, install_manifest, rollback, hooks, health, notify)`
		source   = `(allowed: type, url, url_from, path, arch, versions, downgrade, insecure_skip_tls, ca_file, proxy, proxy_login_file, no_proxy, repo, asset, tag, tag_prefix, prereleases, checksums, api_url, token_file)`
		github   = "%M[source]\ntype = 'github'\nrepo = 'o/n'\n" // 7 lines
		repo     = `must be a repository (allowed: "OWNER/NAME"; of GitLab also "GROUP/SUBGROUP/NAME")`
		asset    = `must be a file's name in the release, a glob, or an address (allowed: a plain name with * ? [ ], or "https://HOST/PATH/NAME" without these and without a query; {os} {arch} {machine} {version} {number} are filled in)`
		tag      = `must be a release's tag (allowed: 1 to 128 of A-Z a-z 0-9 . + _ ~ - / @, the first a letter or digit)`
		prefix   = `must be what the tags of this program begin with (allowed: 1 to 128 of A-Z a-z 0-9 . + _ ~ - / @, the first a letter or digit)`
		sums     = `must be "auto", a file's name in the release, a glob, or an address (allowed: a plain name with * ? [ ], or "https://HOST/PATH/NAME" without these and without a query; {os} {arch} {machine} {version} {number} are filled in)`
		api      = `must be a URL (allowed: "https://HOST/PATH" or "http://HOST/PATH", without user, password and fragment, and without query)`
		token    = `must be an absolute path (allowed: "/DIR/NAME" of A-Z a-z 0-9 . _ @ + -)`
		versions = `:8: source.versions: must be a range of versions (allowed: conditions such as ">=3, <4", with = != > < >= <= ~>; at most 200 characters)`
		proxy    = `:8: source.proxy: must be a proxy (allowed: "http://HOST:PORT" or "https://HOST:PORT", without user and password)`
		noProxy  = `:9: source.no_proxy: must be a list of hosts that are reached without the proxy (allowed: at most 64 names, ".DOMAIN", addresses, or networks as "10.0.0.0/8", each with or without a port)`
		oneKind  = `must have exactly one kind (allowed: http, grpc, tcp, unix, command, journal; beside http or grpc, unix is the socket)`
		fileKey  = `must be the name of a key of that file (allowed: 1 to 100 of A-Z a-z 0-9 _ -)`
		below    = `must be the manifest's path below that URL (allowed: "/PATH", of A-Z a-z 0-9 . _ ~ - /, without . and .. elements and double slashes)`
		status   = `must be an HTTP status or a class of them (allowed: 100 to 599, or "1xx" to "5xx"; only beside http)`
		server   = `must be a URL with the name of a service as its path, or none (allowed: "https://HOST:PORT/SERVICE" or "http://HOST:PORT/SERVICE", SERVICE of A-Z a-z 0-9 . _)`
		pattern  = `must be a regular expression with one group, beside version_command (allowed: RE2 syntax, 1 to 200 characters)`
		hostport = `must be a host and a port (allowed: "HOST:PORT")`
		boolean  = `must be a boolean (allowed: true, false)`
		main     = `must be one of the installed files (allowed: a "to" of [[install]], a file below such a directory, or "" when the main process is a wrapper)`
		window   = `must be a time of the week (allowed: "[DAYS] HH:MM-HH:MM [ZONE]", DAYS as in Mon,Wed..Fri, ZONE "UTC" or as in "Europe/Vienna")`
		lines    = `must be text on one line (allowed: 1 to 200 characters)`
		prod     = `must be a product's name (allowed: 1 to 64 of A-Z a-z 0-9 . + _ ~ -, the first a letter or digit)`
		keep     = `must be a list of names below the directory that is installed (allowed: at most 32 relative paths without . and .. elements, none below another; only beside a from that ends with /)`
		mainFile = `must be one of the installed files (allowed: a "to" of [[install]], a file below such a directory, or "" when the main process is a wrapper)`
		most     = `must be a whole number of bytes (allowed: 1 to 1099511627776)`
		snaps    = `must be a list of absolute paths (allowed: each "/DIR/NAME", without . and .. elements, double slashes and control characters)`
	)
	rows := map[string][]testkit.Row{}
	for _, row := range []struct{ file, want, hint string }{
		// Syntax. Messages must not show what the file contains.
		{"unit = hunter2", ":1: is not valid TOML: a text has no quotes", `as in unit = "NAME.service"`},
		{"%M[health]\nmain = true.hunter2", ":6: is not valid TOML: a text has no quotes", `as in unit = "NAME.service"`},
		{"unit = # hunter2", ":1: is not valid TOML: unexpected character at start of value", ""},
		{"%Msource.url = \"https://x\" hunter2", ":5: is not valid TOML: expected newline", ""},
		{"%M[source]\nurl = \"https://user:hunter2", ":6: is not valid TOML: unterminated basic string", ""},
		{"unit = 'a.service'\nunit = 'b.service'", ":2: is not valid TOML: key unit is already defined", ""},
		{"%M[health]\n[health]", ":6: is not valid TOML: table health already exists", ""},
		{"auto_update_check_every_seconds = 99999999999999999999\n%M", ":1: is not valid TOML: decimal number is too large to fit in a 64-bit signed integer", ""},
		{"description = '\xff'", ":1: is not valid TOML: invalid UTF-8 character in literal string", ""},
		{"\xff", ":1: is not valid TOML: invalid character at start of key", ""},
		{"hunter2", ":1: is not valid TOML: expected '=' after key", ""},
		{"\n<html>", ":2: is not valid TOML: invalid character at start of key", ""},
		{"", ": unit: is missing; it " + service, "is the package installed that brings this target?"},

		// Keys.
		{"%M[helth]\n", ":5: helth: is not a known key " + top, `did you mean "health"?`},
		{"Unit = 'x.service'", ":1: Unit: is not a known key " + top, `did you mean "unit"?`},
		{`"unit " = 'x'`, `:1: "unit ": is not a known key ` + top, ""},
		{`"source.url" = 'x'`, `:1: "source.url": is not a known key ` + top, ""},
		{`"a\nb" = 'x'`, `:1: "a\nb": is not a known key ` + top, ""},
		{"%M[source]\n\nulr = 'x'", ":7: source.ulr: is not a known key " + source, `did you mean "url"?`},
		{"source = { ulr = 'x' }", ":1: source.ulr: is not a known key " + source, `did you mean "url"?`},
		{"%M[[health.probe]]\nhttp = 'http://x'\nport = 1", ":7: health.probe.port: is not a known key (allowed: http, expect_status, expect_body, grpc, tcp, unix, foreign, ca_file, insecure_skip_tls, headers_file, timeout_seconds, command, journal)", ""},
		{"%Mfile = 'x'", ":5: install.file: is not a known key (allowed: from, to, mode, owner, group, optional, keep, releases)", ""},
		{strings.Repeat("k", 300) + " = 1", ":1: " + strings.Repeat("k", 100) + "…: is not a known key " + top, ""},

		{"%M[hooks]\npre_swap = 'x'", ":6: hooks.pre_swap: must be a command as a list of strings (allowed: [\"/DIR/PROGRAM\", \"ARGUMENT\", …], without NUL characters)", ""},
		{"%M[hooks]\npost_commit = ['x']", ":6: hooks.post_commit: must be a command as a list of strings (allowed: [\"/DIR/PROGRAM\", \"ARGUMENT\", …], without NUL characters)", ""},
		{"%Mt.x=1\n[source]\nca_file = '/x'", ":5: install.t: is not a known key (allowed: from, to, mode, owner, group, optional, keep, releases)", `did you mean "to"?`},

		// Types.
		{"unit = 5", ":1: unit: " + service, ""},
		{"unit.name = 'x'", ":1: unit: " + service, ""},
		{"%M[health]\ntimeout_seconds = 2.5", ":6: health.timeout_seconds: must be a whole number of seconds (allowed: 1 to 3600)", ""},
		{"%M[health]\ntimeout_seconds = '30'", ":6: health.timeout_seconds: must be a whole number of seconds (allowed: 1 to 3600)", ""},
		{"auto_update_enabled = 'yes'", ":1: auto_update_enabled: " + boolean, ""},
		{"source = 'x'", ":1: source: must be a table (allowed: [source])", ""},
		{"[[source]]", ":1: source: must be a table (allowed: [source])", ""},
		{"[install]", ":1: install: " + install, ""},
		{"%M[install.x]", ":5: install: " + install, ""},
		{"install = {}", ":1: install: " + install, ""},
		{"install = ['x']", ":1: install: " + install, ""},
		{"install.to = 'x'", ":1: install: " + install, ""},
		{"%M[rollback]\nsnapshot = '/x'", ":6: rollback.snapshot: " + snaps, ""},
		{"%M[rollback]\nsnapshot = ['/x', 1]", ":6: rollback.snapshot: " + snaps, ""},

		// Values.
		{"%M[health]\ntimeout_seconds = 0", ":6: health.timeout_seconds: must be a whole number of seconds (allowed: 1 to 3600)", ""},
		{"%M[health]\nsettle_seconds = -1", ":6: health.settle_seconds: must be a whole number of seconds (allowed: 0 to 3600)", ""},
		{"%M[schedule]\nwindow = 'Mon 02:00'", ":6: schedule.window: " + window, ""},
		{"%M[schedule]\nwindow = '02:00-04:00 Mars/Base'", ":6: schedule.window: " + window, ""},
		{"%M[schedule]\nafter = ['Db']", ":6: schedule.after: must be a list of targets (allowed: at most 16 names of other targets)", ""},
		{"%M[schedule]\nafter = ['db', 'agent']", ":6: schedule.after: names the target itself", "remove it"},
		{"%M[schedule]\ninhibits = true", ":6: schedule.inhibits: is not a known key (allowed: window, after, inhibit, shutdown_inhibitors, fleetlock_url, fleetlock_group)", `did you mean "inhibit"?`},
		{"%M[schedule]\ninhibit = ['not-now']", `:6: schedule.inhibit: must be a command as a list of strings (allowed: ["/DIR/PROGRAM", "ARGUMENT", …], without NUL characters)`, ""},
		{"%M[schedule]\nfleetlock_url = 'https://lock.example.com/?a=b'", ":6: schedule.fleetlock_url: must be a URL (allowed: " + urlAllowed + ", and without query)", ""},
		{"%M[schedule]\nfleetlock_group = 'web'", ":6: schedule.fleetlock_group: stands without schedule.fleetlock_url", "remove it, or name the server of the lock"},
		{"%M[schedule]\nfleetlock_url = 'http://lock'\nfleetlock_group = 'a b'", ":7: schedule.fleetlock_group: must be a group of FleetLock (allowed: 1 to 64 of A-Z a-z 0-9 . -)", ""},
		{"auto_update_check_every_seconds = 59\n%M", ":1: auto_update_check_every_seconds: must be a whole number of seconds (allowed: 60 to 31536000)", ""},
		{"auto_update_check_every_seconds = 9223372036854775807\n%M", ":1: auto_update_check_every_seconds: must be a whole number of seconds (allowed: 60 to 31536000)", ""},
		{"description = ''\n%M", ":1: description: " + lines, ""},
		{"description = \"a\\nb\"\n%M", ":1: description: " + lines, ""},
		{"unit = 'agent'", ":1: unit: " + service, ""},
		{"unit = 'agent.timer'", ":1: unit: " + service, ""},
		{"unit = '../x.service'", ":1: unit: " + service, ""},
		// Kinds of units: %I is the [[install]] of %M (3 lines), %V a [health] with a
		// version_command (2 lines).
		{"unit = ''\n%I", ":1: unit: is \"\" without health.version_command", "no unit shows whether the release works, so its version_command must"},
		{"unit = ''\nunits = ['a.service']\n%I", `:2: units: stands beside unit = ""`, "remove one of them"},
		{"unit = 'a@.service'\nunits = ['b.service']\n%I", `:2: units: stands beside unit = "a@.service"`, "remove one of them"},
		{"units = ['a@.service']\n%I", ":1: units: must not have a template", `unit = "a@.service" means its running instances`},
		{"units = []\n%I", ":1: units: " + services, ""},
		{"units = ['a']\n%I", ":1: units: " + services, ""},
		{"units = ['']\n%I", ":1: units: " + services, ""},
		{"units = ['a.service', 'machinemon-swap@x.service']\n%I", ":1: units: must not be a unit of machinemon-update itself", ""},
		{"unit = ''\nrestart = 'reload'\n%I%V", `:2: restart: means nothing beside unit = ""`, "remove it"},
		{"unit = ''\n%I%Vmain = '/usr/local/bin/agent'", `:7: health.main: means nothing beside unit = ""`, "remove it"},
		{"unit = ''\n%I%Vsettle_seconds = 5", `:7: health.settle_seconds: means nothing beside unit = ""`, "remove it"},
		{"unit = ''\n%I%V[rollback]\nstop = true", `:8: rollback.stop: means nothing beside unit = ""`, "remove it"},
		{"unit = ''\n%I%V[[health.probe]]\ntcp = 'x:1'", `:7: health.probe: must be a command beside unit = ""`, "no unit could give another answer"},
		{"unit = ''\nsource.url_from = { file = '/etc/x', option = '--config', key = 'x', append = '/x' }\n%I%V", `:2: source.url_from.option: means nothing beside unit = ""`, "remove it"},
		{"restart = 'signal'\n%M", `:1: restart: must be a way to start the new version (allowed: "restart", "reload")`, ""},
		{"restart = 'reload'\n%M[health]\nmain = ''", `:1: restart: is "reload" without health.main`, "health.main names the file that the unit must run after the reload"},
		{"restart = 'reload'\n%M[rollback]\nstop = true", `:1: restart: is "reload" beside rollback.stop = true`, "a unit that is stopped cannot be reloaded: remove one of them"},
		{"restart = 'reload'\n%M[[install]]\nfrom = 'web/'\nto = '/opt/agent/web'\nkeep = ['data']", `:1: restart: is "reload" beside a keep of [[install]]`, "what is kept moves while the unit is stopped: remove one of them"},
		{"unit = 'machinemon-swap@agent.service'", ":1: unit: must not be a unit of machinemon-update itself", ""},
		{"unit = 'machinemon-directive@agent.service'", ":1: unit: must not be a unit of machinemon-update itself", ""},
		{"unit = 'machinemon-directive-over@agent.service'", ":1: unit: must not be a unit of machinemon-update itself", ""},
		{"unit = 'machinemon-preflight@agent.service'", ":1: unit: must not be a unit of machinemon-update itself", ""},
		{"unit = 'machinemon-hook@agent.service'", ":1: unit: must not be a unit of machinemon-update itself", ""},
		{"unit = 'machinemon-update.service'", ":1: unit: must not be a unit of machinemon-update itself", ""},
		{"unit = 'machinemon-update-recover.service'", ":1: unit: must not be a unit of machinemon-update itself", ""},
		{"unit = 'a.service'", ": install: " + install, ""},
		{"unit = 'a.service'\ninstall = []", ":2: install: " + install, ""},
		{"%M\n[[install]]\nfrom = 'x'", ":6: install.to: is missing; it " + path, ""},
		{"%M[[install]]\nto = '/opt/x'", ":5: install.from: is missing; it " + from, ""},
		{"%M[[install]]\nfrom = 'x'\nto = '/usr/local/bin/agent'", ":7: install.to: is installed twice", ""},
		{"%M[[install]]\nfrom = '../x'\nto = '/opt/x'", ":6: install.from: " + from, ""},
		{"%M[[install]]\nfrom = '/x'\nto = '/opt/x'", ":6: install.from: " + from, ""},
		{"%M[[install]]\nfrom = '-rf'\nto = '/opt/x'", ":6: install.from: " + from, ""},
		{"%M[[install]]\nfrom = ''\nto = '/opt/x'", ":6: install.from: " + from, ""},
		{"%M[[install]]\nfrom = 'x-{arc}'\nto = '/opt/x'", ":6: install.from: " + from, ""},
		{"%M[source]\narch = { amd64 = 'x/y' }", ":6: source.arch.amd64: must be the publisher's name of an architecture (allowed: 1 to 32 of A-Z a-z 0-9 . _ -, the first a letter or digit)", ""},
		{"%M[source]\narch = { x86_64 = 'x' }", ":6: source.arch.x86_64: is not a known key (allowed: 386, amd64, arm64, armv5, armv6, armv7, loong64, mips64le, ppc64le, riscv64, s390x)", ""},
		{"%M[source]\narch = 'amd64'", ":6: source.arch: must be a table (allowed: names of 386, amd64, arm64, armv5, armv6, armv7, loong64, mips64le, ppc64le, riscv64, s390x, as { amd64 = \"x86_64\" })", ""},
		{"%M[[install]]\nfrom = 'x/[a'\nto = '/opt/x'", ":6: install.from: " + from, ""},
		{"%M[[install]]\nfrom = 'x//'\nto = '/opt/x'", ":6: install.from: " + from, ""},
		{"%M[[install]]\nfrom = '../'\nto = '/opt/x'", ":6: install.from: " + from, ""},
		{"%M[[install]]\nfrom = 'x'\nto = '/opt/x'\nkeep = ['data']", ":8: install.keep: " + keep, ""},
		{"%M[[install]]\nfrom = 'x/'\nto = '/opt/x'\nkeep = ['../data']", ":8: install.keep: " + keep, ""},
		{"%M[[install]]\nfrom = 'x/'\nto = '/opt/x'\nkeep = ['/data']", ":8: install.keep: " + keep, ""},
		{"%M[[install]]\nfrom = 'x/'\nto = '/opt/x'\nkeep = ['.']", ":8: install.keep: " + keep, ""},
		{"%M[[install]]\nfrom = 'x/'\nto = '/opt/x'\nkeep = ['data/a', 'data']", ":8: install.keep: " + keep, ""},
		{"%M[[install]]\nfrom = 'x/'\nto = '/opt/x'\nkeep = ['data', 'data']", ":8: install.keep: " + keep, ""},
		{"%M[[install]]\nfrom = 'x/'\nto = '/opt/x/now'\nreleases = 'releases'", ":8: install.releases: " + path, ""},
		{"%M[[install]]\nfrom = 'x'\nto = '/opt/x/now'\nreleases = '/opt/x/all'", ":8: install.releases: stands beside a file", "the name of a directory in from ends with /"},
		{"%M[[install]]\nfrom = 'x/'\nto = '/opt/x/now'\nkeep = ['data']\nreleases = '/opt/x/all'", ":9: install.releases: stands beside keep",
			"each release has a directory of its own, so keep the data elsewhere, such as in /var/lib"},
		{"%M[[install]]\nfrom = 'x/'\nto = '/opt/x'\nreleases = '/opt/x/all'", ":8: install.releases: overlaps to, which is the link to one of the releases",
			`as in to = "/opt/NAME/current" and releases = "/opt/NAME/releases"`},
		{"%M[[install]]\nfrom = 'x/'\nto = '/opt/x/all/now'\nreleases = '/opt/x/all'", ":8: install.releases: overlaps to, which is the link to one of the releases",
			`as in to = "/opt/NAME/current" and releases = "/opt/NAME/releases"`},
		{"%M[[install]]\nfrom = 'x/'\nto = '/opt/now'\nreleases = '/opt'", ":8: install.releases: overlaps to, which is the link to one of the releases",
			`as in to = "/opt/NAME/current" and releases = "/opt/NAME/releases"`},
		{"%M[[install]]\nfrom = 'x/'\nto = '/opt/now'\nreleases = '/usr/local/lib'", ":8: install.releases: is a directory of many programs, which a release would replace", "name a directory of its own, such as /opt/NAME"},
		{"%M[[install]]\nfrom = 'x/'\nto = '/opt/now'\nreleases = '/root/all'", ":8: install.releases: must not be in /root", ""},
		{"%M[[install]]\nfrom = 'x/'\nto = '/opt/a'\nreleases = '/opt/all'\n[[install]]\nfrom = 'y/'\nto = '/opt/b'\nreleases = '/opt/all'", ":12: install.releases: overlaps /opt/all, which is installed, too", ""},
		{"%M[[install]]\nfrom = 'x/'\nto = '/opt/a'\nreleases = '/opt/all'\n[[install]]\nfrom = 'y'\nto = '/opt/all/y'", ":11: install.to: overlaps /opt/all, which is installed, too", ""},
		{"%M[[install]]\nfrom = 'x/'\nto = '/opt/x/now'\nreleases = '/opt/x/all'\n[rollback]\nsnapshot = ['/opt/x/all/1/data']", ":10: rollback.snapshot: /opt/x/all/1/data overlaps the installed file /opt/x/all", ""},
		{"%M[[install]]\nfrom = 'x/'\nto = '/usr/local/lib'", ":7: install.to: is a directory of many programs, which a release would replace", "name a directory of its own, such as /opt/NAME"},
		{"%M[[install]]\nfrom = 'x/'\nto = '/usr/local/bin'", ":7: install.to: is a directory of many programs, which a release would replace", "name a directory of its own, such as /opt/NAME"},
		{"%M[[install]]\nfrom = 'x/'\nto = '/opt/x'\n[[install]]\nfrom = 'y'\nto = '/opt/x/y'", ":10: install.to: overlaps /opt/x, which is installed, too", ""},
		{"%M[[install]]\nfrom = 'y'\nto = '/opt/x/y'\n[[install]]\nfrom = 'x/'\nto = '/opt/x'", ":10: install.to: overlaps /opt/x/y, which is installed, too", ""},
		{"%M[[install]]\nfrom = 'x/'\nto = '/opt/x'\n[rollback]\nsnapshot = ['/opt/x/data']", ":9: rollback.snapshot: /opt/x/data overlaps the installed file /opt/x", ""},
		{"unit = 'x.service'\n[[install]]\nfrom = 'x/'\nto = '/opt/x'", ": health.main: is missing; it " + mainFile, "the first [[install]] is a directory: which of its files does the unit run?"},
		{"%M[[install]]\nfrom = 'x/'\nto = '/opt/x'\n[health]\nmain = '/opt/x'", ":9: health.main: " + mainFile, ""},
		{"%M[[install]]\nfrom = \"x\\u0000\"\nto = '/opt/x'", ":6: install.from: " + from, ""},
		{"%M[[install]]\nfrom = 'x'\nto = 'opt/x'", ":7: install.to: " + path, ""},
		{"%M[[install]]\nfrom = 'x'\nto = '/opt/../x'", ":7: install.to: " + path, ""},
		{"%M[[install]]\nfrom = 'x'\nto = '/opt//x'", ":7: install.to: " + path, ""},
		{"%M[[install]]\nfrom = 'x'\nto = '/opt/x/'", ":7: install.to: " + path, ""},
		{"%M[[install]]\nfrom = 'x'\nto = \"/opt/\\nx\"", ":7: install.to: " + path, ""},
		{"%M[[install]]\nfrom = 'x'\nto = '/root/x'", ":7: install.to: must not be in /root",
			`write to = "/usr/local/bin/x" here and ExecStart=/usr/local/bin/x in the unit, which may keep its User=; root installs nothing where a user can write`},
		{"%M[[install]]\nfrom = 'x'\nto = '/home'", ":7: install.to: must not be in /home",
			`write to = "/usr/local/bin/home" here and ExecStart=/usr/local/bin/home in the unit, which may keep its User=; root installs nothing where a user can write`},
		{"%M[[install]]\nfrom = 'x/'\nto = '/home/a/x'", ":7: install.to: must not be a directory in /home",
			`write to = "/usr/local/bin/x" here and ExecStart=/usr/local/bin/x in the unit, which may keep its User=; root installs nothing where a user can write`},
		{"unit = 'x@.service'\n[[install]]\nfrom = 'x'\nto = '/home/a/x'", `:4: install.to: must not be in /home beside unit = "x@.service"`,
			`write to = "/usr/local/bin/x" here and ExecStart=/usr/local/bin/x in the unit, which may keep its User=; root installs nothing where a user can write`},
		{"unit = ''\n[[install]]\nfrom = 'x'\nto = '/home/a/x'", `:4: install.to: must not be in /home beside unit = ""`,
			`write to = "/usr/local/bin/x" here and ExecStart=/usr/local/bin/x in the unit, which may keep its User=; root installs nothing where a user can write`},
		{"%M[[install]]\nfrom = 'x'\nto = '/home/a/x'\nmode = '0755'", ":8: install.mode: means nothing for a file in /home, which keeps what it has", "remove it"},
		{"%M[[install]]\nfrom = 'x'\nto = '/home/a/x'\nowner = 'root'", ":8: install.owner: means nothing for a file in /home, which keeps what it has", "remove it"},
		{"%M[[install]]\nfrom = 'x'\nto = '/home/a/x'\ngroup = 'a'", ":8: install.group: means nothing for a file in /home, which keeps what it has", "remove it"},
		{"%M[[install]]\nfrom = 'x'\nto = '/home/a/x'\noptional = true", ":8: install.optional: means nothing for a file in /home, which keeps what it has", "remove it"},
		{"%M[[install]]\nfrom = 'x'\nto = '/tmp/x'", ":7: install.to: must not be in /tmp", ""},
		{"%M[[install]]\nfrom = 'x'\nto = '/x'", ":7: install.to: must not be in / itself", ""},
		{"%M[[install]]\nfrom = 'x'\nto = '/usr/lib/machinemon-update/swapper'", ":7: install.to: must not be in /usr/lib/machinemon-update", ""},
		{"%M[[install]]\nfrom = 'x'\nto = '/opt/.machinemon-update/x'", ":7: install.to: must not be in .machinemon-update", ""},
		{"%Mmode = '04755'", ":5: install.mode: " + mode, ""},
		{"%Mmode = '0777'", ":5: install.mode: " + mode, ""},
		{"%Mmode = '0x1'", ":5: install.mode: " + mode, ""},
		{"%Mmode = 0o755", ":5: install.mode: " + mode, ""},
		{"%Mowner = 'agent'", `:5: install.owner: must be root, the only user that may write what is installed (allowed: "root")`, ""},
		{"%Mgroup = '-x'", ":5: install.group: must be a group (allowed: a name or a number, in quotes)", ""},
		{"%M[rollback]\nsnapshot = ['x']", ":6: rollback.snapshot: " + snaps, ""},
		{"%M[hooks]\nfrom_release = ['migrate-*']\nfrom_release_unsigned = true", ":6: hooks.from_release: must be a command as a list of strings (allowed: [\"NAME\", \"ARGUMENT\", …], NAME as in install.from but no glob, without NUL characters)", ""},
		{"%M[rollback]\nsnapshot = ['/etc/x', '/etc/x']", ":6: rollback.snapshot: names a file twice", ""},
		{"%M[rollback]\nsnapshot = ['/home/x/y']", ":6: rollback.snapshot: must not be in /home", ""},
		{"%M[rollback]\nsnapshot = ['/etc/x', '/etc/y/z', '/etc/x/z']", ":6: rollback.snapshot: /etc/x/z overlaps /etc/x", ""},
		{"%M[rollback]\nsnapshot = ['/etc/x/z', '/etc/x']", ":6: rollback.snapshot: /etc/x overlaps /etc/x/z", ""},
		{"%M[rollback]\nsnapshot = ['/usr/local']", ":6: rollback.snapshot: /usr/local overlaps the installed file /usr/local/bin/agent", ""},
		{"%M[rollback]\nsnapshot = ['/var/lib']", ":6: rollback.snapshot: must not contain /var/lib/machinemon-update", ""},
		{"%M[install_manifest]\nfile = 'x'\n[[install_manifest.type]]\nname = 'x'\ndirectory = '/opt/x/bin'\nallow = ['*']\n[rollback]\nsnapshot = ['/opt/x']",
			":12: rollback.snapshot: /opt/x overlaps /opt/x/bin, where a release may install files", ""},
		{"%M[rollback]\nsnapshot_max_bytes = 0", ":6: rollback.snapshot_max_bytes: " + most, ""},
		{"%M[rollback]\nsnapshot_max_bytes = 1099511627777", ":6: rollback.snapshot_max_bytes: " + most, ""},
		{"%M[rollback]\nsnapshot_max_bytes = '1 GiB'", ":6: rollback.snapshot_max_bytes: " + most, ""},
		{"%M[rollback]\nstop = 'yes'", ":6: rollback.stop: " + boolean, ""},
		{"%M[rollback]\nkeep_previous = 1", ":6: rollback.keep_previous: " + boolean, ""},
		{"%M[rollback]\nsnapshot = ['/usr/local/bin/agent']", ":6: rollback.snapshot: names an installed file, which a rollback restores anyway", ""},
		{"%M[health]\nmain = '/usr/bin/python3'", ":6: health.main: " + main, ""},
		{"%M[health]\nversion_command = ['agent', '--version']", ":6: health.version_command: " + command, ""},
		{"%M[health]\nversion_command = [\"/bin/x\", \"\\u0000\"]", ":6: health.version_command: " + command, ""},
		{"%M[health]\nversion_command = ['/open/x']", ":6: health.version_command: /open is writable by everyone", rootOnlyHint},
		{"%M[[health.probe]]", ":5: health.probe: " + oneKind, ""},
		{"%M[[health.probe]]\ntcp='x:1'\nunix='/x'", ":5: health.probe: " + oneKind, ""},
		{"%M[[health.probe]]\ntcp='x:1'\n[[health.probe]]\nexpect_status=200", ":7: health.probe: " + oneKind, ""},
		{"%M[[health.probe]]\nhttp='ftp://x'", ":6: health.probe.http: " + url, ""},
		{"%M[[health.probe]]\nhttp='http://u:hunter2@x'", ":6: health.probe.http: " + url, ""},
		{"%M[[health.probe]]\nhttp='http://x:0/'", ":6: health.probe.http: " + url, ""},
		{"%M[[health.probe]]\nhttp='http:///x'", ":6: health.probe.http: " + url, ""},
		{"%M[[health.probe]]\nhttp='http://x'\nexpect_status=99", ":7: health.probe.expect_status: must be an HTTP status or a class of them (allowed: 100 to 599, or \"1xx\" to \"5xx\"; only beside http)", ""},
		{"%M[[health.probe]]\ntcp='x:1'\nexpect_status=200", ":7: health.probe.expect_status: must be an HTTP status or a class of them (allowed: 100 to 599, or \"1xx\" to \"5xx\"; only beside http)", ""},
		{"%M[[health.probe]]\nhttp='http://x'\nexpect_body=''", ":7: health.probe.expect_body: must be text that the answer contains (allowed: 1 to 1024 characters, only beside http)", ""},
		{"%M[[health.probe]]\ntcp='x'", ":6: health.probe.tcp: " + hostport, ""},
		{"%M[[health.probe]]\ntcp=':80'", ":6: health.probe.tcp: " + hostport, ""},
		{"%M[[health.probe]]\ntcp='x:http'", ":6: health.probe.tcp: " + hostport, ""},
		{"%M[[health.probe]]\nunix='run/x'", ":6: health.probe.unix: " + path, ""},
		{"%M[[health.probe]]\ncommand=[]", ":6: health.probe.command: " + command, ""},
		{"%M[[health.probe]]\njournal=''", ":6: health.probe.journal: must be text that a line of the unit's journal contains (allowed: 1 to 200 printable characters)", ""},
		{"%M[[health.probe]]\njournal=\"a\\tb\"", ":6: health.probe.journal: must be text that a line of the unit's journal contains (allowed: 1 to 200 printable characters)", ""},
		{"%M[[health.probe]]\njournal='" + strings.Repeat("ä", 201) + "'", ":6: health.probe.journal: must be text that a line of the unit's journal contains (allowed: 1 to 200 printable characters)", ""},
		{"%M[[health.probe]]\njournal='x'\ntcp='x:1'", ":5: health.probe: " + oneKind, ""},
		{"%M[[health.probe]]\njournal='x'\nexpect_body='y'", ":7: health.probe.expect_body: must be text that the answer contains (allowed: 1 to 1024 characters, only beside http)", ""},
		{"%M[[health.probe]]\njournal='x'\nforeign=true", ":7: health.probe.foreign: must be a boolean (allowed: true, false; only beside http, grpc, tcp or unix)", ""},
		{"%M[[health.probe]]\ntcp='x:1'\nforeign='yes'", ":7: health.probe.foreign: must be a boolean (allowed: true, false; only beside http, grpc, tcp or unix)", ""},
		{"%M[[health.probe]]\nhttp='http://x'\nexpect_status='6xx'", ":7: health.probe.expect_status: " + status, ""},
		{"%M[[health.probe]]\nhttp='http://x'\nexpect_status='200'", ":7: health.probe.expect_status: " + status, ""},
		{"%M[[health.probe]]\nhttp='http://x'\nexpect_status=true", ":7: health.probe.expect_status: " + status, ""},
		{"%M[[health.probe]]\ngrpc='http://x'\nexpect_status='2xx'", ":7: health.probe.expect_status: " + status, ""},
		{"%M[[health.probe]]\ngrpc='x:1'", ":6: health.probe.grpc: " + server, ""},
		{"%M[[health.probe]]\ngrpc='http://x:1/a/b'", ":6: health.probe.grpc: " + server, ""},
		{"%M[[health.probe]]\ngrpc='http://x:1/a?b'", ":6: health.probe.grpc: " + server, ""},
		{"%M[[health.probe]]\ngrpc='http://x:1'\nhttp='http://x'", ":5: health.probe: " + oneKind, ""},
		{"%M[[health.probe]]\nhttp='http://x'\nunix='/x'\ntcp='x:1'", ":5: health.probe: " + oneKind, ""},
		{"%M[[health.probe]]\nunix='/x'\ncommand=['/x']", ":5: health.probe: " + oneKind, ""},
		{"%M[[health.probe]]\nhttp='http://x'\nca_file='/x'", ":7: health.probe.ca_file: must be an absolute path, beside a URL that begins with https (allowed: " + unquotedAllowed + ")", ""},
		{"%M[[health.probe]]\nhttp='https://x'\nca_file='/x y'", ":7: health.probe.ca_file: must be an absolute path, beside a URL that begins with https (allowed: " + unquotedAllowed + ")", ""},
		{"%M[[health.probe]]\ntcp='x:1'\ninsecure_skip_tls=true", ":7: health.probe.insecure_skip_tls: must be a boolean (allowed: true, false; only beside a URL that begins with https)", ""},
		{"%M[[health.probe]]\nhttp='https://x'\nca_file='/x'\ninsecure_skip_tls=true", ":8: health.probe.insecure_skip_tls: means nothing beside ca_file", "leave insecure_skip_tls out"},
		{"%M[[health.probe]]\nhttp='https://x'\nca_file='/open/x'", ":7: health.probe.ca_file: /open is writable by everyone", rootOnlyHint},
		{"%M[[health.probe]]\ntcp='x:1'\nheaders_file='/x'", ":7: health.probe.headers_file: must be an absolute path, beside http or grpc (allowed: " + unquotedAllowed + ")", ""},
		{"%M[[health.probe]]\nhttp='http://x'\nheaders_file='/open/x'", ":7: health.probe.headers_file: /open is writable by everyone", rootOnlyHint},
		{"%M[[health.probe]]\nhttp='http://x'\nheaders_file='/shown'", ":7: health.probe.headers_file: /shown may be read by others than root", "chmod 0600 /shown"},
		{"%M[[health.probe]]\nhttp='http://x'\nforeign=true\nheaders_file='/x'", ":8: health.probe.headers_file: would be sent to any program that answers", "beside foreign, use https and a certificate that is verified"},
		{"%M[[health.probe]]\nhttp='https://x'\nforeign=true\ninsecure_skip_tls=true\nheaders_file='/x'", ":9: health.probe.headers_file: would be sent to any program that answers", "beside foreign, use https and a certificate that is verified"},
		{"%M[[health.probe]]\ntcp='x:1'\ntimeout_seconds=0", ":7: health.probe.timeout_seconds: must be a whole number of seconds (allowed: 1 to 3600, at most health.timeout_seconds)", ""},
		{"%M[[health.probe]]\ntcp='x:1'\ntimeout_seconds=31", ":7: health.probe.timeout_seconds: must not be longer than the whole trial has", "raise health.timeout_seconds"},
		{"%M[health]\nversion_command=['/x']\nversion_pattern='v[0-9]+'", ":7: health.version_pattern: " + pattern, ""},
		{"%M[health]\nversion_command=['/x']\nversion_pattern='(hunter2'", ":7: health.version_pattern: " + pattern, ""},
		{"%M[health]\nversion_pattern='v(.*)'", ":6: health.version_pattern: " + pattern, ""},
		{"%M[[health.probe]]\ncommand=['ping']", ":6: health.probe.command: " + command, ""},
		{"%M[[health.probe]]\ncommand=['/open/x']", ":6: health.probe.command: /open is writable by everyone", rootOnlyHint},

		// Source and trust.
		{"%M[source]\ntype = 'ftp'", `:6: source.type: must be a type of source (allowed: "manifest", "github", "forgejo", "gitlab", "file")`, ""},
		{"%M[source]\nurl = 'https://u:hunter2@example.com/'", ":6: source.url: " + url, ""},
		{"%M[source]\nurl = 'https:/x'", ":6: source.url: " + url, ""},
		{"%M[source]\nurl = 'https://x/#y'", ":6: source.url: " + url, ""},
		{"%M[source]\nurl = 'https://x:/'", ":6: source.url: " + url, ""},
		{"%M[source]\npath = '/srv/releases'", `:6: source.path: does not belong to a source of type "manifest"`, "set source.type as well"},
		{"%M[source]\ntype = 'file'\nurl = 'https://x'", `:7: source.url: does not belong to a source of type "file"`, "remove it, or set another source.type"},
		{"%M[source]\ntype = 'file'\npath = 'releases'", ":7: source.path: " + path, ""},
		{"%M[source]\ntype = 'file'\npath = '/open/x'", ":7: source.path: /open is writable by everyone", rootOnlyHint},
		{"%M[source]\nurl = 'http://example.com/m.json'", ":6: source.url: checksum trust is refused over plain http", plainHint},
		{"%M[source]\nurl = 'http://127.0.0.1.example.com/'", ":6: source.url: checksum trust is refused over plain http", plainHint},
		{"%M[source]\nurl = 'https://example.com/'\ninsecure_skip_tls = true", ":7: source.insecure_skip_tls: checksum trust needs a server that proves its identity", insecureHint},
		{"%M[source]\nurl_from = '/x'", `:6: source.url_from: must be a table (allowed: { file = "/DIR/NAME", key = "NAME", append = "/PATH" })`, ""},
		{"%M[source.url_from]\nkey = 'x'\nappend = '/x'", ":5: source.url_from.file: is missing; it " + path, ""},
		{"%M[source.url_from]\nfile = '/x'\nappend = '/x'", ":5: source.url_from.key: is missing; it " + fileKey, ""},
		{"%M[source.url_from]\nfile = '/x'\nkey = 'x'", ":5: source.url_from.append: is missing; it " + below, ""},
		{"%M[source.url_from]\nfile = '../x'\nkey = 'x'\nappend = '/x'", ":6: source.url_from.file: " + path, ""},
		{"%M[source.url_from]\nfile = '/x'\nkey = 'x.y'\nappend = '/x'", ":7: source.url_from.key: " + fileKey, ""},
		{"%M[source.url_from]\nfile = '/x'\nkey = 'x'\nappend = 'x'", ":8: source.url_from.append: " + below, ""},
		{"%M[source.url_from]\nfile = '/x'\nkey = 'x'\nappend = '/../x'", ":8: source.url_from.append: " + below, ""},
		{"%M[source.url_from]\nfile = '/x'\nkey = 'x'\nappend = '/x?y'", ":8: source.url_from.append: " + below, ""},
		{"%M[source.url_from]\nfile = '/x'\nkey = 'x'\nurl = 'x'", ":8: source.url_from.url: is not a known key (allowed: file, option, key, append)", ""},
		{"%M[source]\nurl = 'https://x'\nurl_from = { file = '/x', key = 'x', append = '/x' }", ":7: source.url_from: stands beside source.url", "remove one of them"},
		{"%M[source]\ninsecure_skip_tls = false\nurl_from = { file = '/x', key = 'x', append = '/x' }", ":6: source.insecure_skip_tls: does not belong to source.url_from, whose file says it", "set source.url as well"},
		{"%M[source]\ntype = 'file'\nurl_from = { file = '/x', key = 'x', append = '/x' }", `:7: source.url_from: does not belong to a source of type "file"`, "remove it, or set another source.type"},
		{"%M[source]\nrepo = 'o/n'", `:6: source.repo: does not belong to a source of type "manifest"`, "set source.type as well"},
		{"%M[source]\ntype = 'file'\npath = '/srv/releases'\ntag = 'x'", `:8: source.tag: does not belong to a source of type "file"`, "remove it, or set another source.type"},
		{github + "url = 'https://x'", `:8: source.url: does not belong to a source of type "github"`, "remove it, or set another source.type"},
		{github + "url_from = { file = '/x', key = 'x', append = '/x' }", `:8: source.url_from: does not belong to a source of type "github"`, "remove it, or set another source.type"},
		{github + "path = '/srv/releases'", `:8: source.path: does not belong to a source of type "github"`, "remove it, or set another source.type"},
		{"%M[source]\ntype = 'file'\npath = '/srv/x'\nproxy = 'http://x:1'", `:8: source.proxy: does not belong to a source of type "file"`, "remove it, or set another source.type"},
		{"%M[source]\ntype = 'file'\npath = '/srv/x'\nca_file = '/x'", `:8: source.ca_file: does not belong to a source of type "file"`, "remove it, or set another source.type"},
		{github + "ca_file = 'x.pem'", ":8: source.ca_file: " + path, ""},
		{github + "ca_file = '/open/x'", ":8: source.ca_file: /open is writable by everyone", rootOnlyHint},
		{github + "versions = ''", versions, ""},
		{github + "versions = '^3'", versions, ""},
		{github + "versions = '>=3 <4'", versions, ""},
		{github + "versions = 'latest'", versions, ""},
		{github + "versions = \">3\\n\"", versions, ""},
		{github + "versions = 3", versions, ""},
		{github + "downgrade = 'yes'", ":8: source.downgrade: must be a boolean (allowed: true, false)", ""},
		{github + "proxy = 'x:3128'", proxy, ""},
		{github + "proxy = 'http://x'", proxy, ""},
		{github + "proxy = 'http://x:0'", proxy, ""},
		{github + "proxy = 'http://x:3128/'", proxy, ""},
		{github + "proxy = 'http://user:hunter2@x:3128'", proxy, ""},
		{github + "proxy = 'socks5://x:3128'", proxy, ""},
		{github + "proxy = ''", proxy, ""},
		{github + "insecure_skip_tls = true", `:8: source.insecure_skip_tls: does not belong to a source of type "github"`, "remove it, or set another source.type"},
		{"%M[source]\ntype = 'github'\nrepo = 'n'", ":7: source.repo: " + repo, ""},
		{"%M[source]\ntype = 'github'\nrepo = 'o/n/x'", `:7: source.repo: must be "OWNER/NAME"`, "only GitLab has groups within groups"},
		{"%M[source]\ntype = 'forgejo'\nrepo = 'o/n/x'\napi_url = 'https://codeberg.org/api/v1'", `:7: source.repo: must be "OWNER/NAME"`, "only GitLab has groups within groups"},
		{"%M[source]\ntype = 'gitlab'\nrepo = 'o/../x'", ":7: source.repo: " + repo, ""},
		{"%M[source]\ntype = 'gitlab'\nrepo = 'o//x'", ":7: source.repo: " + repo, ""},
		{"%M[source]\ntype = 'forgejo'\nrepo = 'o/n'", ":5: source.api_url: is missing; it " + api, `of Codeberg it is "https://codeberg.org/api/v1"`},
		{"%M[source]\ntype = 'forgejo'\nrepo = 'o/n'\napi_url = 'https://codeberg.org'", `:8: source.api_url: of a source of type "forgejo" ends with /api/v1`, "add /api/v1 to the server's address"},
		{"%M[source]\ntype = 'gitlab'\nrepo = 'o/n'\napi_url = 'https://gitlab.com/'", `:8: source.api_url: of a source of type "gitlab" ends with /api/v4`, "add /api/v4 to the server's address"},
		{"%M[source]\ntype = 'gitlab'\nrepo = 'o/n'\napi_url = 'http://gitlab.example.com/api/v4'", `:8: source.api_url: checksum trust is refused over plain http`, "use https, with source.ca_file for a certificate authority of your own"},
		{"%M[source]\ntype = 'gitlab'\nrepo = 'o/n'\napi_url = 'http://x.test/api/v4'\ntoken_file = '/etc/x'", `:9: source.token_file: must not be sent over plain http`, ""},
		{"%M[source]\ntype = 'gitlab'\nrepo = 'o/n'\nurl = 'https://x'", `:8: source.url: does not belong to a source of type "gitlab"`, "remove it, or set another source.type"},
		{github + "proxy_login_file = '/etc/x'", ":8: source.proxy_login_file: stands without source.proxy", "the variables of the environment are not used; set source.proxy as well"},
		{github + "no_proxy = ['x']", ":8: source.no_proxy: stands without source.proxy", "the variables of the environment are not used; set source.proxy as well"},
		{github + "proxy = 'http://x:1'\nproxy_login_file = 'x'", ":9: source.proxy_login_file: " + token, ""},
		{github + "proxy = 'http://x:1'\nproxy_login_file = '/open/x'", ":9: source.proxy_login_file: /open is writable by everyone", rootOnlyHint},
		{github + "proxy = 'http://x:1'\nno_proxy = []", noProxy, ""},
		{github + "proxy = 'http://x:1'\nno_proxy = ['']", noProxy, ""},
		{github + "proxy = 'http://x:1'\nno_proxy = ['*']", noProxy, ""},
		{github + "proxy = 'http://x:1'\nno_proxy = ['a,b']", noProxy, ""},
		{github + "proxy = 'http://x:1'\nno_proxy = ['a b']", noProxy, ""},
		{github + "proxy = 'http://x:1'\nno_proxy = ['x:0']", noProxy, ""},
		{github + "proxy = 'http://x:1'\nno_proxy = ['10.0.0.0/33']", noProxy, ""},
		{github + "proxy = 'http://x:1'\nno_proxy = ['https://x']", noProxy, ""},
		{"%M[source]\ntype = 'github'\nrepo = 'o/..'", ":7: source.repo: " + repo, ""},
		{"%M[source]\ntype = 'github'\nrepo = 'https://github.com/o/n'", ":7: source.repo: " + repo, ""},
		{"%M[source]\ntype = 'github'\nrepo = 'o/n?x'", ":7: source.repo: " + repo, ""},
		{"%M[source]\ntype = 'github'\nrepo = ['o/n']", ":7: source.repo: " + repo, ""},
		{github + "asset = ''", ":8: source.asset: " + asset, ""},
		{github + "asset = 'x/*.tar.gz'", ":8: source.asset: " + asset, ""},
		{github + "asset = '[a'", ":8: source.asset: " + asset, ""},
		{github + "asset = 'a-{platform}.tar.gz'", ":8: source.asset: " + asset, ""},
		{github + "asset = 'a\\*'", ":8: source.asset: " + asset, ""},
		{github + "asset = 'http://example.com/a.tar.gz'", ":8: source.asset: " + asset, ""},
		{github + "asset = 'https://example.com/*.tar.gz'", ":8: source.asset: " + asset, ""},
		{github + "asset = 'https://example.com/a.tar.gz?token=x'", ":8: source.asset: " + asset, ""},
		{github + "asset = 'https://example.com/{platform}/a.tar.gz'", ":8: source.asset: " + asset, ""},
		{github + "asset = 'https://{version}.example.com/a.tar.gz'", ":8: source.asset: " + asset, ""},
		{github + "asset = 'https://user@example.com/a.tar.gz'", ":8: source.asset: " + asset, ""},
		{github + "asset = 'https://example.com/../a.tar.gz'", ":8: source.asset: " + asset, ""},
		{github + "asset = 'https://example.com/a/'", ":8: source.asset: " + asset, ""},
		{github + "asset = 'https://example.com'", ":8: source.asset: " + asset, ""},
		{github + "asset = 'https://example.com/a.tar.gz'\n[trust]\nproduct = 'a'\n", ":10: trust.product: means nothing beside source.asset, which is an address: no manifest names a product", ""},
		{github + "asset = 'https://example.com/{version}/app.tar.gz'\n[trust]\nmode = 'signature'\n", ":8: source.asset: must be the archive's whole name, with {version} or {number} and without * ? [, if trust.mode is \"signature\" and trust.product is not set",
			"the signed name is all that says which version an archive is"},
		{github + "tag = ''", ":8: source.tag: " + tag, ""},
		{github + "tag = '../x'", ":8: source.tag: " + tag, ""},
		{github + "tag = 'a//b'", ":8: source.tag: " + tag, ""},
		{github + "tag = 'a/../b'", ":8: source.tag: " + tag, ""},
		{github + "tag = 'app/v1.2.3'", ":8: source.tag: must be a version (1 to 64 of A-Z a-z 0-9 . + _ ~ -, the first a letter or digit)", "set source.tag_prefix to what stands before the version"},
		{github + "tag = 'v1.2.3'\ntag_prefix = 'app/'", ":8: source.tag: must be source.tag_prefix and a version, which begins with a digit, or with v and a digit", ""},
		{github + "tag = 'app/cli/v1.2.3'\ntag_prefix = 'app/'", ":8: source.tag: must be source.tag_prefix and a version, which begins with a digit, or with v and a digit", ""},
		{github + "tag = 'v1.2.3'\nprereleases = true", ":9: source.prereleases: means nothing with source.tag, which names one release", ""},
		{github + "tag_prefix = ''", ":8: source.tag_prefix: " + prefix, ""},
		{github + "tag_prefix = '/app/'", ":8: source.tag_prefix: " + prefix, ""},
		{github + "tag_prefix = 'app//'", ":8: source.tag_prefix: " + prefix, ""},
		{github + "tag_prefix = '../'", ":8: source.tag_prefix: " + prefix, ""},
		{github + "tag_prefix = 'app '", ":8: source.tag_prefix: " + prefix, ""},
		{github + "prereleases = 'rc'", ":8: source.prereleases: " + boolean, ""},
		{github + "checksums = ''", ":8: source.checksums: " + sums, ""},
		{github + "checksums = 'x/SHA256SUMS'", ":8: source.checksums: " + sums, ""},
		{github + "checksums = true", ":8: source.checksums: " + sums, ""},
		{"%M[source]\nurl = 'https://x/'\ntag_prefix = 'app/'", `:7: source.tag_prefix: does not belong to a source of type "manifest"`, "set source.type as well"},
		{"%M[source]\nurl = 'https://x/'\nprereleases = true", `:7: source.prereleases: does not belong to a source of type "manifest"`, "set source.type as well"},
		{"%M[source]\ntype = 'file'\npath = '/srv/releases'\nchecksums = 'auto'", `:8: source.checksums: does not belong to a source of type "file"`, "remove it, or set another source.type"},
		{github + "api_url = 'ftp://x'", ":8: source.api_url: " + api, ""},
		{github + "api_url = 'https://x/?y'", ":8: source.api_url: " + api, ""},
		{github + "api_url = 'https://u:hunter2@x/'", ":8: source.api_url: " + api, ""},
		{github + "api_url = 'http://example.com'", ":8: source.api_url: checksum trust is refused over plain http", githubHint},
		{github + "token_file = 'token'", ":8: source.token_file: " + token, ""},
		{github + "token_file = '/etc/a b'", ":8: source.token_file: " + token, ""},
		{github + "token_file = '/etc/%h'", ":8: source.token_file: " + token, ""},
		{github + "token_file = '/etc/../x'", ":8: source.token_file: " + token, ""},
		{github + "token_file = '/open/x'", ":8: source.token_file: /open is writable by everyone", rootOnlyHint},
		{github + "token_file = '/etc/x'\napi_url = 'http://example.com'\n[trust]\nallow_unauthenticated = true", ":8: source.token_file: must not be sent over plain http", ""},
		{"%M[trust]\nmode = ''", `:6: trust.mode: must be a mode of trust (allowed: "checksum", "tuf", "signature")`, ""},
		{github + "[trust]\nmode = 'signature'\n", ": source.asset: must be the archive's whole name, with {version} or {number} and without * ? [, if trust.mode is \"signature\" and trust.product is not set",
			"the signed name is all that says which version an archive is"},
		{github + "asset = 'app-{number}-*.tar.gz'\n[trust]\nmode = 'signature'\n", ":8: source.asset: must be the archive's whole name, with {version} or {number} and without * ? [, if trust.mode is \"signature\" and trust.product is not set",
			"the signed name is all that says which version an archive is"},
		{github + "asset = 'app-{number}.tar.gz'\napi_url = 'http://example.com'\n[trust]\nmode = 'signature'\n", ":9: source.api_url: signature trust is refused over plain http", githubHint},
		{"%M[source]\nurl = 'https://example.com/'\n[trust]\nmode = 'signature'\n", ":7: trust.product: is missing; it must be a product's name (allowed: 1 to 64 of A-Z a-z 0-9 . + _ ~ -, the first a letter or digit)",
			"a source of type manifest needs a signed manifest, and the signed releases of another program must not pass as this one's"},
		{"%M[trust]\nkey = 'x.pub'", `:6: trust.key: must be an absolute path (allowed: "/DIR/NAME", without . and .. elements, double slashes and control characters)`, ""},
		{"%M[trust]\nmode = 'tuf'\n", ":5: trust.product: is missing; it must be a product's name (allowed: 1 to 64 of A-Z a-z 0-9 . + _ ~ -, the first a letter or digit)",
			"the signed releases of another program must not pass as this one's"},
		{"%M[trust]\nroot = 'x.json'", `:6: trust.root: must be an absolute path (allowed: "/DIR/NAME", without . and .. elements, double slashes and control characters)`, ""},
		{"%M[trust]\nproduct = ''", ":6: trust.product: " + prod, ""},
		{"%M[trust]\nproduct = '-x'", ":6: trust.product: " + prod, ""},
	} {
		key, problem := keyOf(row.want)
		for section, of := range map[string]string{"Target files: units": `unit|units|restart`, "Target files: probes": `health\.probe.*`} {
			if regexp.MustCompile(`^(` + of + `)$`).MatchString(key) {
				lines := strings.NewReplacer("%M", "", "%I", "", "%V", "", "\n", "; ").Replace(strings.TrimSpace(row.file))
				rows[section] = append(rows[section], testkit.Row{What: strings.Trim(lines, "; "), Refused: key + ": " + problem})
			}
		}
		t.Run("", func(t *testing.T) {
			install, version := strings.SplitN(minimal, "\n", 2)[1], "[health]\nversion_command = ['/usr/local/bin/agent']\n"
			file := strings.NewReplacer("%M", minimal, "%I", install, "%V", version).Replace(row.file)
			d := tree(t, map[string]string{adminFile: file, "/open/x": "", "/shown": ""})
			must(t, os.Chmod(d.Root+"/shown", 0o640))
			must(t, os.Chmod(d.Root+"/open", 0o777))
			refused(t, d, "agent", adminFile+row.want, row.hint)
			if t.Failed() {
				t.Logf("file:\n%s", file)
			}
		})
	}
	for section, of := range rows {
		testkit.Accepted(t, section, of)
	}
}

// keyOf returns the key of an error and what is wrong with it, without the line.
func keyOf(text string) (key, problem string) {
	_, text, _ = strings.Cut(strings.TrimPrefix(text, ":"), ": ")
	key, problem, _ = strings.Cut(text, ": ")
	return key, problem
}

// TestErrorPosition: the error about a value names the fragment that contains it.
func TestErrorPosition(t *testing.T) {
	for _, row := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"value of a drop-in", map[string]string{adminFile + ".d/x.toml": "\n[health]\nsettle_seconds = -1"}, adminFile + ".d/x.toml:3: health.settle_seconds: must be a whole number of seconds (allowed: 0 to 3600)"},
		{"element of a replaced list", map[string]string{adminFile: "[[install]]\nfrom = 'x'\n"}, adminFile + ":1: install.to: is missing; it must be an absolute path (allowed: \"/DIR/NAME\", without . and .. elements, double slashes and control characters)"},
		{"loopback of the vendor", map[string]string{adminFile: "[trust]\nproduct = 'x'", vendorFile + ".d/x.toml": "[source]\nurl='http://localhost/'"}, vendorFile + ".d/x.toml:2: source.url: checksum trust is refused over plain http; a loopback server is trusted only when written in /etc/machinemon-update/targets.d (hint: " + plainHint + ")"},
		{"loopback API of the vendor", map[string]string{vendorFile + ".d/x.toml": "[source]\ntype='github'\nrepo='o/n'\napi_url='http://localhost/'"}, vendorFile + ".d/x.toml:4: source.api_url: checksum trust is refused over plain http; a loopback server is trusted only when written in /etc/machinemon-update/targets.d (hint: " + githubHint + ")"},
		{"type set below", map[string]string{adminFile: "source.type = 'file'", adminFile + ".d/x.toml": "source.url = 'https://x'"}, adminFile + ".d/x.toml:1: source.url: does not belong to a source of type \"file\" (hint: set source.type as well)"},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.files[vendorFile] = minimal
			_, err := tree(t, row.files).Load("agent")
			if want := "cannot use target agent: " + row.want; err == nil || err.Error() != want {
				t.Errorf("\n got %v\nwant %s", err, want)
			}
		})
	}
}

// TestAccepted tests values that are close to a refused one.
func TestAccepted(t *testing.T) {
	for _, file := range []string{
		"%M[source]\nurl = 'http://127.0.0.1:8000/m.json'",
		"%M[source]\nurl = 'http://localhost/m.json'",
		"%M[source]\nurl = 'http://[::1]:8000/m.json'",
		"%M[source]\nurl = 'http://example.com/'\n[trust]\nallow_unauthenticated = true",
		"%M[source]\nurl = 'https://example.com/'\ninsecure_skip_tls = true\n[trust]\nallow_unauthenticated = true",
		"%M[source]\ntype = 'manifest'",
		"%M[source]\nurl_from = { file = '/root/not-there', key = 'x', append = '/x' }",
		"%M[source]\ntype = 'file'",
		"%M[source]\ntype = 'file'\npath = '/srv/not-mounted/x'",
		"%M[health]\nversion_command = ['/usr/local/bin/not-installed']",
		"%M[health]\nprobe = []",
		"%Mmode = '0500'",
		"install = [{from='x', to='/usr/local/bin/x'}]\nunit = 'machinemon-client.service'",
		"install = [{from='x', to='/usr/local/bin/x'}]\nunit = 'machinemon-server.service'",
		"install = [{from='x', to='/usr/local/bin/x'}]\nunit = 'a\\x2db@c:d.service'",
		"install = [{from='x', to='/var/tmpfiles/x'}]\nunit = 'a.service'",
	} {
		file = strings.ReplaceAll(file, "%M", minimal)
		if _, err := tree(t, map[string]string{adminFile: file}).Load("agent"); err != nil {
			t.Errorf("%s\n%v", file, err)
		}
	}
}

// FuzzParse: parse decodes each file or refuses it in one line. A panic would cost other
// targets their units.
func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte("source = { type = 'file', path = '/x' }\n[[health.probe]]\ntcp = 'x:1'\n[health]\nmain=''"))
	f.Add([]byte("install = [{from='{os}'}, {to=\"\\u0000\"}]\nrollback.snapshot = ['''x''']\n[hooks]"))
	f.Add([]byte("\"\\U0010ffff\" = 1979-05-27T07:32:00Z"))
	f.Fuzz(func(t *testing.T, data []byte) {
		found, err := parse(data)
		if err != nil {
			if hasControl(err.Error()) {
				t.Errorf("not one line: %q", err.Error())
			}
			return
		}
		v := validation{settings: settings{}, dirs: DefaultDirs, check: checker{}}
		v.settings.merge(found, "/etc/x.toml", 0)
		target, err := v.target("x", []string{"/etc/x.toml"})
		if (target == nil) == (err == nil) {
			t.Errorf("got %v and %v", target, err)
		}
		if err != nil && hasControl(err.Error()) {
			t.Errorf("not one line: %q", err.Error())
		}
	})
}
