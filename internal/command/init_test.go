package command

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemd"
)

// listeningMachine is a systemd whose units have this test's processes.
type listeningMachine struct{ unitsMachine }

func (listeningMachine) Processes(context.Context, string) ([]int, error) {
	return []int{os.Getpid()}, nil
}

// TestInit: the target file of a running unit names its program, its version command and
// its port, and is one that check-config accepts.
func TestInit(t *testing.T) {
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
	for _, want := range []string{"unit = \"true.service\"\n", "type = \"github\"\nrepo = \"owner/true\"\n", "from = \"true\"\nto = \"/usr/bin/true\"\n",
		"version_command = [\"/usr/bin/true\", \"--version\"]\n", "[[health.probe]]\ntcp = \"" + l.Addr().String() + "\"\n"} {
		if !strings.Contains(said, want) {
			t.Errorf("lacks %q:\n%s", want, said)
		}
	}
	if names, err := a.targets.Names(); err != nil || len(names) > 0 {
		t.Errorf("without --write there are %q, %v", names, err)
	}
	for _, from := range [][]string{{"--manifest", "https://example.com/m.json"}, {"/srv/releases"}, nil} {
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
		"cannot describe none.service: it has no program (not-found)":                     {"none"},
		"cannot describe sleepy.service: its program /nonexistent/sleepy is not there":    {"sleepy"},
		"init needs a unit, and at most one source":                                       {"true", "--github", "a/b", "--manifest", "https://x/m.json"},
		"source.repo: must be a repository":                                               {"true", "--github", "https://github.com/a/b"},
		"source.url: must be a URL":                                                       {"true", "--manifest", "m.json"},
		"init needs a unit, and at most one source (hint: machinemon-update init --help)": {},
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
