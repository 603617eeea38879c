package target

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

const (
	vendorFile = "/usr/lib/machinemon-update/targets.d/agent.toml"
	adminFile  = "/etc/machinemon-update/targets.d/agent.toml"
)

// minimal is the shortest valid target file.
const minimal = `unit = "agent.service"
[[install]]
from = "agent"
to = "/usr/local/bin/agent"
`

// tree writes files, and the directories that targets need, to a new Dirs.Root.
func tree(t *testing.T, files map[string]string) Dirs {
	t.Helper()
	d := DefaultDirs
	d.Root = t.TempDir()
	for _, dir := range []string{d.Vendor, d.Admin, "/usr/local/bin", "/usr/bin", "/opt/agent", "/srv/releases"} {
		if err := os.MkdirAll(d.Root+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range files {
		put(t, d.Root+name, content)
	}
	return d
}

var (
	must = testkit.Must
	put  = testkit.Put
)

func pointer[T any](v T) *T { return &v }

func TestLoadDefaults(t *testing.T) {
	got, err := tree(t, map[string]string{adminFile: minimal}).Load("agent")
	must(t, err)
	got.check, got.where = checker{}, nil
	want := &Target{
		Name:        "agent",
		Description: "agent",
		Unit:        "agent.service",
		CheckEvery:  time.Hour,
		SnapshotMax: 1 << 30,
		Trust:       Trust{Mode: "checksum", Root: "/etc/machinemon-update/trust/agent.root.json", Key: "/etc/machinemon-update/trust/agent.key"},
		Install:     []Install{{From: "agent", To: "/usr/local/bin/agent"}},
		Health:      Health{Timeout: 30 * time.Second, Settle: 5 * time.Second, Main: "/usr/local/bin/agent"},
		Fragments:   []string{adminFile},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestLoadEveryKey(t *testing.T) {
	d := tree(t, map[string]string{adminFile: `
description = "Agent, the first"
unit = "agent@1.service"
auto_update_enabled = true
auto_update_check_every_seconds = 60
source = { type = "manifest", url = "https://example.com/m.json?x=1", insecure_skip_tls = true, ca_file = "/etc/agent/ca.pem", proxy = "http://proxy:3128" }
trust.mode = "checksum"
trust.product = "agent"
trust.allow_unauthenticated = true
install = [
  { from = "agent-{version}/agent-{os}-{arch}", to = "/usr/local/bin/agent", mode = "0755", owner = "root", group = "adm" },
  { from = "agent.service", to = "/opt/agent/agent.service", mode = "644", optional = true },
]
[rollback]
snapshot = ["/etc/agent/config"]
snapshot_max_bytes = 1099511627776
stop = true
[health]
timeout_seconds = 3600
settle_seconds = 0
main = ""
version_command = ["/usr/local/bin/agent", "--version"]
version_pattern = 'agent v([^ ]+)'
[[health.probe]]
http = "http://[::1]:8080/healthz"
[[health.probe]]
http = "https://example.com"
expect_status = 401
expect_body = "no"
[[health.probe]]
http = "https://localhost:8443/x?y"
expect_status = "2xx"
ca_file = "/etc/agent/ca.pem"
headers_file = "/etc/agent/headers"
timeout_seconds = 3600
[[health.probe]]
http = "https://localhost"
unix = "/run/agent.sock"
insecure_skip_tls = true
headers_file = "/etc/agent/headers"
[[health.probe]]
grpc = "http://127.0.0.1:50051/agent.v1.Agent"
[[health.probe]]
grpc = "https://example.com:50051/"
foreign = true
headers_file = "/etc/agent/headers"
[[health.probe]]
tcp = "[::1]:80"
[[health.probe]]
unix = "/run/agent.sock"
[[health.probe]]
command = ["/usr/local/bin/agent", "ping"]
[[health.probe]]
journal = 'it says "ready"'
`})
	got, err := d.Load("agent")
	must(t, err)
	got.check, got.where = checker{}, nil
	want := &Target{
		Name:              "agent",
		Description:       "Agent, the first",
		Unit:              "agent@1.service",
		AutoUpdateEnabled: true,
		CheckEvery:        time.Minute,
		Source:            Source{Type: "manifest", URL: "https://example.com/m.json?x=1", InsecureSkipTLS: true, CAFile: "/etc/agent/ca.pem", Proxy: "http://proxy:3128"},
		Trust:             Trust{Mode: "checksum", Root: "/etc/machinemon-update/trust/agent.root.json", Key: "/etc/machinemon-update/trust/agent.key", Product: "agent", AllowUnauthenticated: true},
		Install: []Install{
			{From: "agent-{version}/agent-{os}-{arch}", To: "/usr/local/bin/agent", Mode: pointer(fs.FileMode(0o755)), Owner: pointer("root"), Group: pointer("adm")},
			{From: "agent.service", To: "/opt/agent/agent.service", Mode: pointer(fs.FileMode(0o644)), Optional: true},
		},
		Snapshot:    []string{"/etc/agent/config"},
		SnapshotMax: 1 << 40,
		StopFirst:   true,
		Health: Health{
			Timeout:        time.Hour,
			VersionCommand: []string{"/usr/local/bin/agent", "--version"},
			VersionPattern: "agent v([^ ]+)",
			Probes: []Probe{
				{HTTP: "http://[::1]:8080/healthz", ExpectStatus: 200},
				{HTTP: "https://example.com", ExpectStatus: 401, ExpectBody: "no"},
				{HTTP: "https://localhost:8443/x?y", ExpectClass: 2, CAFile: "/etc/agent/ca.pem", HeadersFile: "/etc/agent/headers", Timeout: time.Hour},
				{HTTP: "https://localhost", Unix: "/run/agent.sock", ExpectStatus: 200, InsecureSkipTLS: true, HeadersFile: "/etc/agent/headers"},
				{GRPC: "http://127.0.0.1:50051/agent.v1.Agent"},
				{GRPC: "https://example.com:50051/", Foreign: true, HeadersFile: "/etc/agent/headers"},
				{TCP: "[::1]:80"},
				{Unix: "/run/agent.sock"},
				{Command: []string{"/usr/local/bin/agent", "ping"}},
				{Journal: `it says "ready"`},
			},
		},
		Fragments: []string{adminFile},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got, want := got.Install[0].Name("linux-armv7", "v1.2"), "agent-v1.2/agent-linux-armv7"; got != want {
		t.Errorf("Name = %q, want %q", got, want)
	}
	for version, want := range map[string]string{"v1.9.1": "a-1.9.1-v1.9.1", "1.9.1": "a-1.9.1-1.9.1", "vanilla": "a-vanilla-vanilla"} {
		if got := (Install{From: "a-{number}-{version}"}).Name("linux-amd64", version); got != want {
			t.Errorf("Name = %q, want %q", got, want)
		}
	}
}

func TestProbeString(t *testing.T) {
	for _, row := range []struct {
		probe Probe
		want  string
	}{
		{Probe{HTTP: "http://127.0.0.1:8080/healthz?token=secret"}, "http http://127.0.0.1:8080/healthz"},
		{Probe{HTTP: "http://localhost/healthz?token=secret", Unix: "/run/x.sock"}, "http http://localhost/healthz at /run/x.sock"},
		{Probe{GRPC: "https://[::1]:443/my.Service"}, "grpc https://[::1]:443/my.Service"},
		{Probe{GRPC: "http://localhost", Unix: "/run/x.sock", HeadersFile: "/x"}, "grpc http://localhost at /run/x.sock"},
		{Probe{TCP: "[::1]:80"}, "tcp [::1]:80"},
		{Probe{Unix: "/run/x.sock"}, "unix /run/x.sock"},
		{Probe{Command: []string{"/usr/bin/x", "--password=secret"}}, "command /usr/bin/x"},
		{Probe{Journal: "check-in successful"}, `journal "check-in successful"`},
		{Probe{Journal: `it says "ready"`}, `journal "it says \"ready\""`},
	} {
		if got := row.probe.String(); got != row.want {
			t.Errorf("got %q, want %q", got, row.want)
		}
	}
}

// TestPrecedence: each of four keys has the value of the highest fragment that sets it.
func TestPrecedence(t *testing.T) {
	d := tree(t, map[string]string{
		vendorFile: minimal + `[health]
timeout_seconds = 1
settle_seconds = 1
version_command = ["/bin/a"]
[[health.probe]]
tcp = "localhost:1"
[[health.probe]]
tcp = "localhost:2"
[rollback]
snapshot = ["/etc/a"]
[source]
url = "https://vendor.example.com/"
[trust]
product = "vendor"
`,
		adminFile:                     "[health]\ntimeout_seconds = 2\nsettle_seconds = 2\nversion_command = []\n[source]\nurl='https://admin.example.com/'\n",
		vendorFile + ".d/50-b.toml":   "[health]\nsettle_seconds = 3\n[rollback]\nsnapshot = []\n",
		adminFile + ".d/10-a.toml":    "[health]\nsettle_seconds = 4\n[trust]\nproduct = 'ten'\n",
		adminFile + ".d/20-b.toml":    "trust.product = 'twenty'\n[[health.probe]]\ntcp = 'localhost:3'\n",
		adminFile + ".d/30.toml.bak":  "broken",
		adminFile + ".d/.hidden.toml": "broken",
	})
	got, err := d.Load("agent")
	must(t, err)
	want := Health{Timeout: 2 * time.Second, Settle: 4 * time.Second, Main: "/usr/local/bin/agent", VersionCommand: []string{}, Probes: []Probe{{TCP: "localhost:3"}}}
	if !reflect.DeepEqual(got.Health, want) {
		t.Errorf("health: got %+v, want %+v", got.Health, want)
	}
	if len(got.Snapshot) != 0 || got.Trust.Product != "twenty" || got.Source.URL != "https://admin.example.com/" {
		t.Errorf("got %+v %+v %+v", got.Snapshot, got.Trust, got.Source)
	}
	files := []string{vendorFile, adminFile, vendorFile + ".d/50-b.toml", adminFile + ".d/10-a.toml", adminFile + ".d/20-b.toml"}
	if !reflect.DeepEqual(got.Fragments, files) {
		t.Errorf("fragments: got %q, want %q", got.Fragments, files)
	}
}

// TestSourceTypeOverride: an administrator can turn a manifest source into a file source,
// although no key unsets the package's url.
func TestSourceTypeOverride(t *testing.T) {
	d := tree(t, map[string]string{
		vendorFile: minimal + "[source]\nurl = 'https://example.com/'\n",
		adminFile:  "[source]\ntype = 'file'\npath = '/srv/releases'\n",
	})
	got, err := d.Load("agent")
	must(t, err)
	if want := (Source{Type: "file", Path: "/srv/releases"}); !reflect.DeepEqual(got.Source, want) {
		t.Errorf("got %+v, want %+v", got.Source, want)
	}
}

// TestVersions: source.versions means the same for each type of source, and is overridden
// like every other key.
func TestVersions(t *testing.T) {
	for _, source := range []string{"url = 'https://example.com/'", "type = 'file'\npath = '/srv/releases'", "type = 'github'\nrepo = 'o/n'", ""} {
		d := tree(t, map[string]string{
			vendorFile: minimal + "[source]\nversions = '<3'\ndowngrade = true\n" + source,
			adminFile:  "[source]\nversions = '>=3, <4'\ndowngrade = false\n",
		})
		got, err := d.Load("agent")
		must(t, err)
		if got.Source.Versions != versions(t, ">=3, <4") || got.Source.Downgrade {
			t.Errorf("%s: got %+v", source, got.Source)
		}
	}
}

func TestNames(t *testing.T) {
	d := tree(t, map[string]string{
		"/usr/lib/machinemon-update/targets.d/b.toml":          "",
		"/usr/lib/machinemon-update/targets.d/a.toml":          "",
		"/etc/machinemon-update/targets.d/a.toml":              "",
		"/etc/machinemon-update/targets.d/c.toml.d/50.toml":    "",
		"/etc/machinemon-update/targets.d/Bad Name.toml":       "",
		"/etc/machinemon-update/targets.d/README":              "",
		"/etc/machinemon-update/targets.d/.hidden.toml":        "",
		"/etc/machinemon-update/targets.d/d.toml.dpkg-old":     "",
		"/etc/machinemon-update/targets.d/not-a-directory.d/x": "",

		// The drop-in that enable left of a target whose package was removed, the
		// temporary file that a crash left of such a drop-in, and the drop-in of a target
		// that exists.
		"/etc/machinemon-update/targets.d/gone.toml.d/90-auto-update.toml":      "",
		"/etc/machinemon-update/targets.d/gone.toml.d/.90-auto-update.toml.new": "",
		"/etc/machinemon-update/targets.d/b.toml.d/90-auto-update.toml":         "",
		// A target without its main file: Load reports it.
		"/usr/lib/machinemon-update/targets.d/e.toml.d/50.toml":         "",
		"/etc/machinemon-update/targets.d/e.toml.d/90-auto-update.toml": "",
	})
	got, err := d.Names()
	must(t, err)
	if want := []string{"Bad Name", "a", "b", "c", "e"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	got, err = Dirs{Root: d.Root, Vendor: "/none", Admin: "/none"}.Names()
	if err != nil || len(got) != 0 {
		t.Errorf("missing directories: got %q, %v", got, err)
	}
}

// TestFragmentFile: Load refuses all but small regular files, and does not block on them.
func TestFragmentFile(t *testing.T) {
	for _, row := range []struct {
		name  string
		plant func(t *testing.T, file string)
		want  string
		hint  string
	}{
		{"fifo", func(t *testing.T, file string) { must(t, syscall.Mkfifo(file, 0o644)) }, adminFile + ": must be a regular file", ""},
		{"symlink", func(t *testing.T, file string) { must(t, os.Symlink("/etc/passwd", file)) }, adminFile + ": must be a regular file, not a symlink", ""},
		{"device", func(t *testing.T, file string) { must(t, os.Symlink("/dev/zero", file)) }, adminFile + ": must be a regular file, not a symlink", ""},
		{"directory", func(t *testing.T, file string) { must(t, os.Mkdir(file, 0o755)) }, adminFile + ": must be a regular file", ""},
		{"huge", func(t *testing.T, file string) { put(t, file, strings.Repeat("#", 64<<10+1)) }, adminFile + ": is larger than 64 KiB", ""},
		{"writable", func(t *testing.T, file string) { put(t, file, minimal); must(t, os.Chmod(file, 0o646)) }, adminFile + ": " + adminFile + " is writable by everyone", rootOnlyHint},
		{"group", func(t *testing.T, file string) { put(t, file, minimal); must(t, os.Chmod(file, 0o664)) }, adminFile + ": " + adminFile + " is writable by its group " + gid(), rootOnlyHint},
		{"directory writable", func(t *testing.T, file string) {
			put(t, file, minimal)
			must(t, os.Chmod(filepath.Dir(file), 0o777))
		}, adminFile + ": /etc/machinemon-update/targets.d is writable by everyone", rootOnlyHint},
		{"parent writable", func(t *testing.T, file string) {
			put(t, file, minimal)
			must(t, os.Chmod(filepath.Dir(filepath.Dir(file)), 0o757))
		}, adminFile + ": /etc/machinemon-update is writable by everyone", rootOnlyHint},
		{"drop-ins are a fifo", func(t *testing.T, file string) {
			put(t, file, minimal)
			must(t, syscall.Mkfifo(file+".d", 0o644))
		}, adminFile + ".d: cannot be read: not a directory", ""},
		{"drop-in with a newline", func(t *testing.T, file string) { put(t, file+".d/a\nb.toml", "") }, adminFile + ".d: holds a file with control characters in its name", ""},
		{"drop-in is a fifo", func(t *testing.T, file string) {
			put(t, file, minimal)
			must(t, os.Mkdir(file+".d", 0o755))
			must(t, syscall.Mkfifo(file+".d/x.toml", 0o644))
		}, adminFile + ".d/x.toml: must be a regular file", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := tree(t, nil)
			row.plant(t, d.Root+adminFile)
			refused(t, d, "agent", row.want, row.hint)
		})
	}
}

// TestFragmentOwner is TestFragmentFile for a file that only root can create.
func TestFragmentOwner(t *testing.T) {
	d := tree(t, map[string]string{adminFile: minimal})
	giveAway(t, d.Root+adminFile)
	refused(t, d, "agent", adminFile+": "+adminFile+" is owned by user 1000, not by root", rootOnlyHint)
}

// giveAway makes another user the owner of a file.
func giveAway(t *testing.T, file string) {
	t.Helper()
	testkit.NeedRoot(t, "it gives files away")
	must(t, os.Chown(file, 1000, 0))
}

func TestLoadName(t *testing.T) {
	const rule = "is no name for a target (allowed: 1 to 64 of a-z 0-9 . _ -, the first a letter or digit)"
	for _, row := range []struct{ name, want string }{
		{"none", "cannot use target none: no none.toml in /etc/machinemon-update/targets.d or /usr/lib/machinemon-update/targets.d (hint: `machinemon-update status` lists the targets)"},
		{"", `cannot use target "": ` + rule},
		{"Agent", `cannot use target "Agent": ` + rule + " (hint: rename it to agent)"},
		{"../agent", `cannot use target "../agent": ` + rule},
		{"-x", `cannot use target "-x": ` + rule},
		{"a\nb", `cannot use target "a\nb": ` + rule},
		{strings.Repeat("a", 65), `cannot use target "` + strings.Repeat("a", 65) + `": ` + rule},
		{"rollback", "cannot use target rollback: is no name for a target, as it is a verb of the command"},
		{"probe", "cannot use target probe: is no name for a target, as it is a verb of the command"},
		{"check-config", "cannot use target check-config: is no name for a target, as it is a verb of the command"},
		{"drill", "cannot use target drill: is no name for a target, as it is a verb of the command"},
	} {
		_, err := tree(t, nil).Load(row.name)
		if err == nil || err.Error() != row.want {
			t.Errorf("Load(%q)\n got %v\nwant %s", row.name, err, row.want)
		}
	}
}

// TestUnread: what looks like a target file by another name is reported, and not read.
func TestUnread(t *testing.T) {
	d := tree(t, map[string]string{adminFile: minimal, "/etc/machinemon-update/targets.d/caddy.conf": "", "/etc/machinemon-update/targets.d/dns.yaml": "",
		"/etc/machinemon-update/targets.d/old.TOML": "", "/etc/machinemon-update/targets.d/README": "", "/etc/machinemon-update/targets.d/a.toml.dpkg-old": ""})
	const is = "/etc/machinemon-update/targets.d/%s is not read (hint: a target file is NAME.toml: sudo mv /etc/machinemon-update/targets.d/%[1]s /etc/machinemon-update/targets.d/%s.toml)"
	want := []string{fmt.Sprintf(is, "caddy.conf", "caddy"), fmt.Sprintf(is, "dns.yaml", "dns"), fmt.Sprintf(is, "old.TOML", "old")}
	if got := d.Unread(); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// refused asserts the whole text of Load's error.
func refused(t *testing.T, d Dirs, name, want, hint string) {
	t.Helper()
	_, err := d.Load(name)
	var ce *ConfigError
	if !errors.As(err, &ce) {
		t.Fatalf("got %v, want a ConfigError: %s", err, want)
	}
	if want = "cannot use target " + name + ": " + withHint(want, hint); ce.Error() != want {
		t.Errorf("\n got %s\nwant %s", ce, want)
	}
	if ce.Hint != hint {
		t.Errorf("\n got hint %q\nwant hint %q", ce.Hint, hint)
	}
}

// withHint returns an error's text with its hint.
func withHint(text, hint string) string {
	if hint == "" {
		return text
	}
	return text + " (hint: " + hint + ")"
}
