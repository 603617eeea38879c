package command

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/systemtest/programs"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// listeningMachine is a systemd whose units have this test's processes.
type listeningMachine struct{ unitsMachine }

func (listeningMachine) Processes(context.Context, string) ([]int, error) {
	return []int{os.Getpid()}, nil
}

func (listeningMachine) Alive(context.Context, ...string) ([]string, error) {
	return []string{"true.service"}, nil
}

// Try answers as the fetcher and the verifier do in their sandboxes.
func (listeningMachine) Try(_ context.Context, s systemd.Sandbox) (r systemd.SandboxResult, err error) {
	answers := map[string]string{
		"survey github owner/true": `{"version":"v1.2.0","names":["true_1.2.0_linux_` + runtime.GOARCH + `.tar.gz","sums"]}`,
		"survey github owner/true true_1.2.0_linux_" + runtime.GOARCH + ".tar.gz": `{"version":"v1.2.0","file":"true_1.2.0_linux_` + runtime.GOARCH + `.tar.gz","size":5}`,
		"survey github owner/private with /etc/hosts":                             `{"version":"2","names":["source.tar.gz"]}`,
		"survey github owner/other":                                               `{"version":"2","names":["source.tar.gz"]}`,
		"survey github owner/gone":                                                `{"result":"not downloaded","error":"cannot download it: 404"}`,
		"survey manifest https://example.com/m.json":                              `{"version":"1.2.0","product":"truth","file":"a.zip","size":5}`,
		"survey file /srv/releases":                                               `{"version":"1.2.0","file":"a.zip","size":5}`,
		"survey file /srv/large":                                                  `{"version":"1.2.0","file":"a.zip","size":4611686018427387904}`,
		"--list archive of github":                                                `{"contents":{"true-1.2.0/bin/true":{},"true-1.2.0/README":{}}}`,
		"--list archive of manifest":                                              `{"contents":{"bin/false":{}, "a":{}}}`,
		"--list archive of file":                                                  `{"error":"it is no archive\u001b[31m"}`,
	}
	input, _ := os.ReadFile(s.Input)
	said := strings.TrimSpace(strings.Join(s.Argv[1:], " ") + " " + string(input))
	if s.Token != "" {
		said += " with " + s.Token
	}
	if s.Argv[1] == "archive" {
		return r, os.WriteFile(s.Output, []byte("archive of "+s.Argv[2]), 0o600)
	}
	if s.Network == (s.Argv[1] == "--list") {
		return r, errors.New("the verifier has a network, or the fetcher none")
	}
	r.Output = answers[said]
	if r.Output == "" {
		return r, errors.New("unexpected: " + said)
	}
	return r, nil
}

// TestInit: the target file of a running unit names its program, its version command and
// its port, and is one that check-config accepts.
func TestInit(t *testing.T) {
	testkit.Slow(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	ok(t, err)
	defer l.Close()
	m := listeningMachine{unitsMachine{units: map[string]systemd.Unit{
		"true.service":   {Load: "loaded", Active: "active", Command: []string{"/bin/true", "-x"}}, // a link to /usr/bin
		"sleepy.service": {Load: "loaded", Active: "active", Command: []string{"/nonexistent/sleepy"}},
		"none.service":   {Load: "not-found"},
	}}}
	run := func(exit int, args ...string) (a *app, said string) {
		t.Helper()
		a, out, progress := newApp(t)
		a.root, a.reload = true, func() error { return nil }
		a.machine = func(context.Context) (machine, error) { return m, nil }
		if got := a.main(append([]string{"init"}, args...), ""); got != exit {
			t.Errorf("init %q: exit status %d, want %d: %s", args, got, exit, progress)
		}
		return a, out.String() + progress.String()
	}
	a, said := run(0, "true", "--github", "owner/true")
	for _, want := range []string{"unit = \"true.service\"\n", "type = \"github\"\nrepo = \"owner/true\"\n",
		"asset = \"true_{number}_{os}_{arch}.tar.gz\"\n", "from = \"true-{number}/bin/true\"\nto = \"/usr/bin/true\"\n",
		"version_command = [\"/usr/bin/true\", \"--version\"]\n", "[[health.probe]]\ntcp = \"" + l.Addr().String() + "\"\n"} {
		if !strings.Contains(said, want) {
			t.Errorf("lacks %q:\n%s", want, said)
		}
	}
	if strings.Contains(said, "warning") {
		t.Errorf("a program of no package:\n%s", said)
	}
	info := filepath.Join(a.targets.Root, "var/lib/dpkg/info")
	ok(t, os.MkdirAll(info, 0o755))
	ok(t, os.WriteFile(filepath.Join(info, "coreutils.list"), []byte("/.\n/bin\n/bin/true\n"), 0o644)) // from before /bin was a link
	warned := &strings.Builder{}
	a.err = warned
	if exit := a.main([]string{"init", "true"}, ""); exit != 0 || warned.String() != "true: warning: /usr/bin/true belongs to the Debian package coreutils, so no update will replace it "+
		"(hint: apt updates it; or let true.service run another copy, in /usr/local/bin)\n" {
		t.Errorf("a program of a package: exit status %d, %s", exit, warned)
	}
	if offers, _ := a.completeUnit(nil, nil, ""); !slices.Equal(offers, []string{"true.service"}) {
		t.Errorf("completion offers %q", offers)
	}
	if names, err := a.targets.Names(); err != nil || len(names) > 0 {
		t.Errorf("without --write there are %q, %v", names, err)
	}
	if _, said := run(0, "true", "--github", "owner/private", "--token-file", "/etc/hosts"); !strings.Contains(said, "repo = \"owner/private\"\ntoken_file = \"/etc/hosts\"\n") {
		t.Errorf("a private repository:\n%s", said)
	}
	for _, from := range [][]string{{"--manifest", "https://example.com/m.json"}, {"--github", "owner/other"}, nil} {
		a, said := run(0, append([]string{"true.service", "--write"}, from...)...)
		if loaded, err := a.targets.Load("true"); err != nil || loaded.Unit != "true.service" || len(from) > 0 && loaded.Source.Type == "" {
			t.Errorf("%q: %v", from, err)
		}
		if !strings.Contains(said, "true: written to /admin/true.toml (hint: sudo machinemon-update doctor true, then sudo machinemon-update apply --dry-run true)") {
			t.Errorf("said %s", said)
		}
		before := a.targets.Root + "/admin/true.toml"
		was, err := os.ReadFile(before)
		ok(t, err)
		a.out = &strings.Builder{}
		if exit := a.main([]string{"init", "true", "--write", "--github", "a/b"}, ""); exit != 2 {
			t.Errorf("over a target: exit status %d", exit)
		}
		if is, err := os.ReadFile(before); err != nil || !slices.Equal(is, was) {
			t.Error("the target's file was changed")
		}
	}
	for want, args := range map[string][]string{
		"[trust]\n# As the manifest says; those of other products are refused.\nproduct = \"truth\"\n": {"true", "--manifest", "https://example.com/m.json"},
		"# No file of the archive has its name. a.zip has a, bin/false.\nfrom = \"true\"\n":            {"true", "--manifest", "https://example.com/m.json"},
		"none of release 2 says " + manifest.Host() + ". It has source.tar.gz.\nasset = ":              {"true", "--github", "owner/other"},
	} {
		if _, said := run(0, args...); !strings.Contains(said, want) {
			t.Errorf("init %q said %s, want %s", args, said, want)
		}
	}
	for want, args := range map[string][]string{
		"cannot describe true.service: cannot download it: 404 (hint: sudo machinemon-update init true.service describes the unit without a source)": {"7", "true", "--github", "owner/gone"},
		"cannot describe true.service: cannot list a.zip: it is no archive [31m":                                                                     {"6", "true", "/srv/releases"},
		"bytes in ": {"1", "true", "/srv/large"},
	} {
		exit, err := strconv.Atoi(args[0])
		ok(t, err)
		if _, said := run(exit, args[1:]...); !strings.Contains(said, want) {
			t.Errorf("init %q said %s, want %s", args, said, want)
		}
	}
	for want, args := range map[string][]string{
		"cannot describe none.service: there is no such service (hint: systemctl":         {"none"},
		"cannot describe sleepy.service: its program /nonexistent/sleepy is not there":    {"sleepy"},
		"init needs a unit, and at most one source":                                       {"true", "--github", "a/b", "--manifest", "https://x/m.json"},
		"cannot describe true.service: --github: must be a repository":                    {"true", "--github", "https://github.com/a/b"},
		"cannot describe true.service: --manifest: must be a URL":                         {"true", "--manifest", "m.json"},
		"init needs a unit, and at most one source (hint: machinemon-update init --help)": {},
		"--token-file is that of a repository (hint: name it by --github)":                {"true", "--token-file", "/etc/hosts"},
		"cannot read /nonexistent: no such file or directory (hint: write the token to":   {"true", "--github", "a/b", "--token-file", "/nonexistent"},
	} {
		if _, said := run(2, args...); !strings.Contains(said, want) {
			t.Errorf("init %q said %s, want %s", args, said, want)
		}
	}
}

// TestParseSocket: addresses of /proc/net/tcp, as machines with little-endian words show them.
func TestParseSocket(t *testing.T) {
	for text, want := range map[string]string{"0100007F:238C": "127.0.0.1:9100", "00000000:0050": "127.0.0.1:80",
		"00000000000000000000000000000000:0050": "127.0.0.1:80", "00000000000000000000000001000000:0050": "[::1]:80",
		"0000000000000000FFFF00000100007F:0050": "127.0.0.1:80", "x:y": ""} {
		got, is := parseSocket(text)
		if is != (want != "") || is && got != netip.MustParseAddrPort(want) {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// TestInitNames: of the releases of programs that many people run, init chooses the same file
// and the same program as the examples, and replaces the same words by placeholders.
func TestInitNames(t *testing.T) {
	if manifest.Host() != "linux-amd64" {
		t.Skip("the archives' entries are those for linux-amd64")
	}
	for _, p := range programs.All {
		if p.SumsName != "" {
			continue // the archives are on the publisher's own server
		}
		example, err := os.ReadFile("../../packaging/examples/targets/" + p.Target + ".toml")
		ok(t, err)
		text := string(example)
		_, install, _ := strings.Cut(text, "[[install]]\n")
		to := key(install, "to")
		archive := chooseArchive(append(slices.Collect(maps.Values(p.Archives)), p.Files...), filepath.Base(to), p.Tag)
		if archive != p.Archives["linux-amd64"] {
			t.Errorf("%s: chose %q", p.Target, archive)
		}
		if got, want := generalize(archive, p.Tag), key(text, "asset"); got != want {
			t.Errorf("%s: asset = %q, want %q", p.Target, got, want)
		}
		entries := []string{}
		for _, e := range p.Entries {
			entries = append(entries, strings.TrimPrefix(e, "./")) // as the verifier lists them
		}
		if len(entries) == 0 {
			entries = []string{"."}
		}
		if got, want := chooseEntry(entries, filepath.Base(to), p.Tag), key(install, "from"); got != want {
			t.Errorf("%s: from = %q, want %q", p.Target, got, want)
		}
	}
	if got := chooseEntry([]string{"machinemon-server-linux-amd64"}, "machinemon-server", "1.2.0"); got != "machinemon-server-{os}-{arch}" {
		t.Errorf("MachineMon's server: %q", got)
	}
	for _, no := range []string{"a.tar.gz", "a_linux_arm64.tar.gz", "a_linux_amd64.deb", "a_linux_amd64.tar.gz.sig", "a_darwin_amd64.tar.gz", "a_linux_amd64[1].tar.gz"} {
		if got := chooseArchive([]string{no}, "a", "1.2.0"); got != "" {
			t.Errorf("chose %s", got)
		}
	}
}

// key returns the first value of a key in a target file.
func key(text, name string) string {
	_, rest, _ := strings.Cut(text, "\n"+name+" = \"")
	if value, ok := strings.CutPrefix(text, name+" = \""); ok {
		rest = value
	}
	value, _, _ := strings.Cut(rest, "\"")
	return value
}
