package target

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

func gid() string { return strconv.Itoa(os.Getgid()) }

// TestConfigErrors: each row is a whole file, in which %M is the minimal one (4 lines).
func TestConfigErrors(t *testing.T) {
	const (
		url      = `must be a URL (allowed: "https://HOST/PATH" or "http://HOST/PATH", without user, password and fragment)`
		path     = `must be an absolute path (allowed: "/DIR/NAME", without . and .. elements, double slashes and control characters)`
		service  = `must be the name of a service (allowed: "NAME.service" or "NAME@INSTANCE.service")`
		install  = `must be a list of tables (allowed: [[install]] tables with from and to, at least one, at most 64)`
		from     = `must be a file's name in the archive, or a glob that matches one (allowed: a relative path with * ? [ ], without . and .. elements, or "." for an asset that is the program; {os} {arch} {machine} {version} {number} are filled in)`
		mode     = `must be an octal mode in quotes, without write permission for group and others (allowed: "0400" to "0755")`
		command  = `must be a command as a list of strings (allowed: ["/DIR/PROGRAM", "ARGUMENT", …], without NUL characters)`
		top      = `(allowed: description, unit, auto_update_enabled, auto_update_check_every_seconds, source, trust, install, install_manifest, rollback, hooks, health)`
		source   = `(allowed: type, url, url_from, path, arch, versions, downgrade, insecure_skip_tls, ca_file, proxy, repo, asset, tag, api_url, token_file)`
		github   = "%M[source]\ntype = 'github'\nrepo = 'o/n'\n" // 7 lines
		repo     = `must be a repository on GitHub (allowed: "OWNER/NAME")`
		asset    = `must be a file's name in the release, or a glob (allowed: a plain name with * ? [ ]; {os} {arch} {machine} {version} {number} are filled in)`
		tag      = `must be a release's tag (allowed: 1 to 64 of A-Z a-z 0-9 . + _ ~ -, the first a letter or digit)`
		api      = `must be a URL (allowed: "https://HOST/PATH" or "http://HOST/PATH", without user, password and fragment, and without query)`
		token    = `must be an absolute path (allowed: "/DIR/NAME" of A-Z a-z 0-9 . _ @ + -)`
		versions = `:8: source.versions: must be a range of versions (allowed: conditions such as ">=3, <4", with = != > < >= <= ~>; at most 200 characters)`
		proxy    = `:8: source.proxy: must be a proxy (allowed: "http://HOST:PORT" or "https://HOST:PORT", without user and password)`
		oneKind  = `must have exactly one kind (allowed: http, tcp, unix, command, journal)`
		fileKey  = `must be the name of a key of that file (allowed: 1 to 100 of A-Z a-z 0-9 _ -)`
		below    = `must be the manifest's path below that URL (allowed: "/PATH", of A-Z a-z 0-9 . _ ~ - /, without . and .. elements and double slashes)`
		hostport = `must be a host and a port (allowed: "HOST:PORT")`
		boolean  = `must be a boolean (allowed: true, false)`
		main     = `must be one of the installed files (allowed: a "to" of [[install]], or "" when the main process is a wrapper)`
		lines    = `must be text on one line (allowed: 1 to 200 characters)`
		prod     = `must be a product's name (allowed: 1 to 64 of A-Z a-z 0-9 . + _ ~ -, the first a letter or digit)`
		most     = `must be a whole number of bytes (allowed: 1 to 1099511627776)`
		snaps    = `must be a list of absolute paths (allowed: each "/DIR/NAME", without . and .. elements, double slashes and control characters)`
	)
	for _, row := range []struct{ file, want, hint string }{
		// Syntax. Messages must not show what the file contains.
		{"unit = hunter2", ":1: is not valid TOML: unexpected character at start of value", ""},
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
		{"%M[helth]\n", ":5: helth: is not a known key " + top, ""},
		{"Unit = 'x.service'", ":1: Unit: is not a known key " + top, ""},
		{`"unit " = 'x'`, `:1: "unit ": is not a known key ` + top, ""},
		{`"source.url" = 'x'`, `:1: "source.url": is not a known key ` + top, ""},
		{`"a\nb" = 'x'`, `:1: "a\nb": is not a known key ` + top, ""},
		{"%M[source]\n\nulr = 'x'", ":7: source.ulr: is not a known key " + source, ""},
		{"source = { ulr = 'x' }", ":1: source.ulr: is not a known key " + source, ""},
		{"%M[[health.probe]]\nhttp = 'http://x'\nport = 1", ":7: health.probe.port: is not a known key (allowed: http, expect_status, expect_body, tcp, unix, foreign, command, journal)", ""},
		{"%Mfile = 'x'", ":5: install.file: is not a known key (allowed: from, to, mode, owner, group, optional)", ""},
		{strings.Repeat("k", 300) + " = 1", ":1: " + strings.Repeat("k", 100) + "…: is not a known key " + top, ""},

		{"%M[hooks]\npre_swap = 'x'", ":6: hooks.pre_swap: must be a command as a list of strings (allowed: [\"/DIR/PROGRAM\", \"ARGUMENT\", …], without NUL characters)", ""},
		{"%M[hooks]\npost_commit = ['x']", ":6: hooks.post_commit: must be a command as a list of strings (allowed: [\"/DIR/PROGRAM\", \"ARGUMENT\", …], without NUL characters)", ""},
		{"%Mt.x=1\n[source]\nca_file = '/x'", ":5: install.t: is not a known key (allowed: from, to, mode, owner, group, optional)", ""},

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
		{"auto_update_check_every_seconds = 59\n%M", ":1: auto_update_check_every_seconds: must be a whole number of seconds (allowed: 60 to 31536000)", ""},
		{"auto_update_check_every_seconds = 9223372036854775807\n%M", ":1: auto_update_check_every_seconds: must be a whole number of seconds (allowed: 60 to 31536000)", ""},
		{"description = ''\n%M", ":1: description: " + lines, ""},
		{"description = \"a\\nb\"\n%M", ":1: description: " + lines, ""},
		{"unit = 'agent'", ":1: unit: " + service, ""},
		{"unit = 'agent.timer'", ":1: unit: " + service, ""},
		{"unit = '../x.service'", ":1: unit: " + service, ""},
		{"unit = 'agent@.service'", ":1: unit: " + service, ""},
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
		{"%M[[install]]\nfrom = './'\nto = '/opt/x'", ":6: install.from: " + from, ""},
		{"%M[[install]]\nfrom = \"x\\u0000\"\nto = '/opt/x'", ":6: install.from: " + from, ""},
		{"%M[[install]]\nfrom = 'x'\nto = 'opt/x'", ":7: install.to: " + path, ""},
		{"%M[[install]]\nfrom = 'x'\nto = '/opt/../x'", ":7: install.to: " + path, ""},
		{"%M[[install]]\nfrom = 'x'\nto = '/opt//x'", ":7: install.to: " + path, ""},
		{"%M[[install]]\nfrom = 'x'\nto = '/opt/x/'", ":7: install.to: " + path, ""},
		{"%M[[install]]\nfrom = 'x'\nto = \"/opt/\\nx\"", ":7: install.to: " + path, ""},
		{"%M[[install]]\nfrom = 'x'\nto = '/root/x'", ":7: install.to: must not be in /root", ""},
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
		{"%M[[health.probe]]\nhttp='http://x'\nexpect_status=99", ":7: health.probe.expect_status: must be an HTTP status (allowed: 100 to 599, only beside http)", ""},
		{"%M[[health.probe]]\ntcp='x:1'\nexpect_status=200", ":7: health.probe.expect_status: must be an HTTP status (allowed: 100 to 599, only beside http)", ""},
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
		{"%M[[health.probe]]\njournal='x'\nforeign=true", ":7: health.probe.foreign: must be a boolean (allowed: true, false; only beside http, tcp or unix)", ""},
		{"%M[[health.probe]]\ntcp='x:1'\nforeign='yes'", ":7: health.probe.foreign: must be a boolean (allowed: true, false; only beside http, tcp or unix)", ""},
		{"%M[[health.probe]]\ncommand=['ping']", ":6: health.probe.command: " + command, ""},
		{"%M[[health.probe]]\ncommand=['/open/x']", ":6: health.probe.command: /open is writable by everyone", rootOnlyHint},

		// Source and trust.
		{"%M[source]\ntype = 'ftp'", `:6: source.type: must be a type of source (allowed: "manifest", "github", "file")`, ""},
		{"%M[source]\nurl = 'https://u:hunter2@example.com/'", ":6: source.url: " + url, ""},
		{"%M[source]\nurl = 'https:/x'", ":6: source.url: " + url, ""},
		{"%M[source]\nurl = 'https://x/#y'", ":6: source.url: " + url, ""},
		{"%M[source]\nurl = 'https://x:/'", ":6: source.url: " + url, ""},
		{"%M[source]\npath = '/srv/releases'", `:6: source.path: does not belong to a source of type "manifest"`, "set source.type as well"},
		{"%M[source]\ntype = 'file'\nurl = 'https://x'", `:7: source.url: does not belong to a source of type "file"`, "set source.type as well"},
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
		{"%M[source]\ntype = 'file'\nurl_from = { file = '/x', key = 'x', append = '/x' }", `:7: source.url_from: does not belong to a source of type "file"`, "set source.type as well"},
		{"%M[source]\nrepo = 'o/n'", `:6: source.repo: does not belong to a source of type "manifest"`, "set source.type as well"},
		{"%M[source]\ntype = 'file'\npath = '/srv/releases'\ntag = 'x'", `:8: source.tag: does not belong to a source of type "file"`, "set source.type as well"},
		{github + "url = 'https://x'", `:8: source.url: does not belong to a source of type "github"`, "set source.type as well"},
		{github + "url_from = { file = '/x', key = 'x', append = '/x' }", `:8: source.url_from: does not belong to a source of type "github"`, "set source.type as well"},
		{github + "path = '/srv/releases'", `:8: source.path: does not belong to a source of type "github"`, "set source.type as well"},
		{"%M[source]\ntype = 'file'\npath = '/srv/x'\nproxy = 'http://x:1'", `:8: source.proxy: does not belong to a source of type "file"`, "set source.type as well"},
		{"%M[source]\ntype = 'file'\npath = '/srv/x'\nca_file = '/x'", `:8: source.ca_file: does not belong to a source of type "file"`, "set source.type as well"},
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
		{github + "insecure_skip_tls = true", `:8: source.insecure_skip_tls: does not belong to a source of type "github"`, "set source.type as well"},
		{"%M[source]\ntype = 'github'\nrepo = 'n'", ":7: source.repo: " + repo, ""},
		{"%M[source]\ntype = 'github'\nrepo = 'o/n/x'", ":7: source.repo: " + repo, ""},
		{"%M[source]\ntype = 'github'\nrepo = 'o/..'", ":7: source.repo: " + repo, ""},
		{"%M[source]\ntype = 'github'\nrepo = 'https://github.com/o/n'", ":7: source.repo: " + repo, ""},
		{"%M[source]\ntype = 'github'\nrepo = 'o/n?x'", ":7: source.repo: " + repo, ""},
		{"%M[source]\ntype = 'github'\nrepo = ['o/n']", ":7: source.repo: " + repo, ""},
		{github + "asset = ''", ":8: source.asset: " + asset, ""},
		{github + "asset = 'x/*.tar.gz'", ":8: source.asset: " + asset, ""},
		{github + "asset = '[a'", ":8: source.asset: " + asset, ""},
		{github + "asset = 'a-{platform}.tar.gz'", ":8: source.asset: " + asset, ""},
		{github + "asset = 'a\\*'", ":8: source.asset: " + asset, ""},
		{github + "tag = ''", ":8: source.tag: " + tag, ""},
		{github + "tag = '../x'", ":8: source.tag: " + tag, ""},
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
		{"%M[trust]\nmode = ''", `:6: trust.mode: must be a mode of trust (allowed: "checksum", "tuf")`, ""},
		{"%M[trust]\nmode = 'tuf'\n", ":5: trust.product: is missing; it must be a product's name (allowed: 1 to 64 of A-Z a-z 0-9 . + _ ~ -, the first a letter or digit)",
			"the signed releases of another program must not pass as this one's"},
		{"%M[trust]\nroot = 'x.json'", `:6: trust.root: must be an absolute path (allowed: "/DIR/NAME", without . and .. elements, double slashes and control characters)`, ""},
		{"%M[trust]\nproduct = ''", ":6: trust.product: " + prod, ""},
		{"%M[trust]\nproduct = '-x'", ":6: trust.product: " + prod, ""},
	} {
		t.Run("", func(t *testing.T) {
			file := strings.Replace(row.file, "%M", minimal, 1)
			d := tree(t, map[string]string{adminFile: file, "/open/x": ""})
			must(t, os.Chmod(d.Root+"/open", 0o777))
			refused(t, d, "agent", adminFile+row.want, row.hint)
			if t.Failed() {
				t.Logf("file:\n%s", file)
			}
		})
	}
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
