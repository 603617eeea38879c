package generate

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

const agent = `unit = "agent.service"
[[install]]
from = "agent"
to = "/usr/local/bin/agent"
`

// agentUnits is the output of list for the units of agent.
const agentUnits = `agent.service.d/50-machinemon-update.conf
	# After a crash, recovery undoes an unfinished update before the program starts.
	[Unit]
	After=machinemon-update-recover.service
machinemon-swap@agent.service.d/50-target.conf
	# The directories that an update of target agent writes, from /etc/machinemon-update/targets.d/agent.toml.
	[Service]
	ReadWritePaths="-/usr/local/bin"
multi-user.target.wants/machinemon-inform@agent.service -> /usr/lib/systemd/system/machinemon-inform@.service
paths.target.wants/machinemon-swap@agent.path -> /usr/lib/systemd/system/machinemon-swap@.path
paths.target.wants/machinemon-verify@agent.path -> /usr/lib/systemd/system/machinemon-verify@.path
`

// scheduled returns agentUnits with a source, which a drop-in adds.
func scheduled(every, delay int) string {
	const from = "/etc/machinemon-update/targets.d/agent.toml"
	units := strings.ReplaceAll(agentUnits, from, from+", "+from+".d/x.toml")
	timer := fmt.Sprintf("machinemon-fetch@agent.timer.d/50-target.conf\n\t# The schedule of target agent, from %s, %s.d/x.toml.\n\t[Timer]\n\tOnUnitInactiveSec=%ds\n\tRandomizedDelaySec=%ds\n", from, from, every, delay)
	units = strings.Replace(units, "paths.target.wants/", "paths.target.wants/machinemon-directive@agent.path -> /usr/lib/systemd/system/machinemon-directive@.path\npaths.target.wants/", 1)
	return strings.Replace(units, "machinemon-swap@agent.service.d", timer+"machinemon-swap@agent.service.d", 1) +
		"timers.target.wants/machinemon-fetch@agent.timer -> /usr/lib/systemd/system/machinemon-fetch@.timer\n"
}

// tree creates a file system with target files in /etc and installed units in /usr/lib.
func tree(t testing.TB, targets map[string]string) target.Dirs {
	t.Helper()
	d := target.DefaultDirs
	d.Root = t.TempDir()
	for _, template := range []string{"machinemon-verify@.path", "machinemon-swap@.path", "machinemon-directive@.path", "machinemon-fetch@.timer", "machinemon-inform@.service"} {
		put(t, d.Root+unitDir+"/"+template, "")
	}
	for name, content := range targets {
		put(t, d.Root+d.Admin+"/"+name, content)
	}
	return d
}

var (
	must = testkit.Must
	put  = testkit.Put
)

// ofAccount matches the drop-ins that TestAccounts examines.
var ofAccount = regexp.MustCompile(`^machinemon-(fetch|fetch-full|unlock|verify|baseline|health-gate|command|notify)@.*[.](service|socket)[.]d/`)

// list returns a directory's files with their indented lines, and links with their targets.
func list(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || ofAccount.MatchString(name) {
			return err
		}
		if e.Type() == fs.ModeSymlink {
			to, err := os.Readlink(path)
			fmt.Fprintf(&b, "%s -> %s\n", name, to)
			return err
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s\n", name)
		for line := range strings.Lines(string(content)) {
			b.WriteString("\t" + line)
		}
		return err
	}))
	return b.String()
}

// TestAccounts shows that each step of each target gets an account of its own, that only
// its fetcher gets the secrets of its source, and only its gate the files of probes.
func TestAccounts(t *testing.T) {
	const token = "source = { type = 'github', repo = 'o/n', token_file = '/etc/agent/token', proxy = 'http://x:1', proxy_login_file = '/etc/agent/proxy' }\n"
	const probes = "[[health.probe]]\nhttp = 'https://x'\nca_file = '/etc/b/ca'\nheaders_file = '/etc/b/h'\n[[health.probe]]\ngrpc = 'http://x'\nheaders_file = '/etc/b/h'\n"
	d := tree(t, map[string]string{"agent.toml": token + agent + "[notify]\nwebhook = 'https://x'\ntoken_file = '/etc/agent/notify'\n",
		"a.b.toml": strings.ReplaceAll(agent, "agent", "b") + "[health]\nversion_command = ['/usr/local/bin/b']\n" + probes})
	out := t.TempDir()
	must(t, Run(d, out, t.Output()))
	const b = "_2e7336dc8eba87ef"
	credential := "SetCredential=token:no such file\nLoadCredential=token:/etc/agent/token\n" +
		"SetCredential=proxy-login:no such file\nLoadCredential=proxy-login:/etc/agent/proxy\n"
	var files string
	for _, file := range []string{"/etc/b/ca", "/etc/b/h"} {
		id := target.Credential(file)
		files += "SetCredential=" + id + ":no such file\nLoadCredential=" + id + ":" + file + "\n"
	}
	files += "IPAddressAllow=any\n" // x is not on the loopback
	commands := "[Unit]\nWants=machinemon-command@a.b.socket\nAfter=machinemon-command@a.b.socket\n"
	for unit, want := range map[string]string{
		"fetch@agent": "User=mm-fetch-agent\n" + credential, "fetch-full@agent": "User=mm-fetch-agent\n" + credential,
		"unlock@agent": "User=mm-fetch-agent\n", "unlock@a.b": "User=mm-fetch" + b + "\n",
		"verify@agent":   "User=mm-verify-agent\nSupplementaryGroups=\nSupplementaryGroups=mm-fetch-agent\n",
		"baseline@agent": "User=mm-gate-agent\n", "health-gate@agent": "User=mm-gate-agent\n", "command@agent": "User=mm-command-agent\n",
		"notify@agent": "User=mm-notify-agent\nSetCredential=" + target.Credential("/etc/agent/notify") + ":no such file\nLoadCredential=" + target.Credential("/etc/agent/notify") + ":/etc/agent/notify\n",
		"notify@a.b":   "User=mm-notify" + b + "\n",
		"fetch@a.b":    "User=mm-fetch" + b + "\n", "verify@a.b": "User=mm-verify" + b + "\nSupplementaryGroups=\nSupplementaryGroups=mm-fetch" + b + "\n",
		"baseline@a.b": "User=mm-gate" + b + "\n" + files + commands, "health-gate@a.b": "User=mm-gate" + b + "\n" + files + commands, "command@a.b": "User=mm-command" + b + "\n",
	} {
		text, err := os.ReadFile(filepath.Join(out, "machinemon-"+unit+".service.d/50-target.conf"))
		must(t, err)
		if got := settings(string(text)); got != "[Service]\n"+want {
			t.Errorf("%s: %q, want %q", unit, got, want)
		}
	}
	text, err := os.ReadFile(filepath.Join(out, "machinemon-command@a.b.socket.d/50-target.conf"))
	must(t, err)
	if got, want := settings(string(text)), "[Socket]\nSocketUser=mm-gate"+b+"\n"; got != want {
		t.Errorf("the socket for commands: %q, want %q", got, want)
	}
}

// TestProbesBeyondLoopback shows that the gate may reach other addresses only for a target
// with a probe that needs them.
func TestProbesBeyondLoopback(t *testing.T) {
	for probe, beyond := range map[string]bool{
		"":                                                  false,
		"http = 'http://127.0.0.1:8080/'":                   false,
		"http = 'https://[::1]:8080/'":                      false,
		"tcp = '127.9.9.9:1'":                               false,
		"tcp = '[::1]:1'":                                   false,
		"unix = '/run/x'":                                   false,
		"command = ['/usr/local/bin/agent']":                false,
		"journal = 'up'":                                    false,
		"http = 'http://192.0.2.1:8080/'":                   true,
		"http = 'http://[2001:db8::1]:8080/'":               true,
		"http = 'http://www.example.com/'":                  true,
		"tcp = 'localhost:1'":                               true, // what /etc/hosts lacks is asked of a server
		"tcp = '192.0.2.1:1'":                               true,
		"tcp = '0.0.0.0:1'":                                 true,
		"grpc = 'http://127.0.0.1:1'":                       false,
		"grpc = 'https://192.0.2.1:1'":                      true,
		"http = 'http://www.example.com/'\nunix = '/run/x'": false,
	} {
		text := agent + "[[health.probe]]\njournal = 'ready'\n"
		if probe != "" {
			text += "[[health.probe]]\n" + probe + "\n"
		}
		out := t.TempDir()
		must(t, Run(tree(t, map[string]string{"agent.toml": text}), out, t.Output()))
		for _, unit := range []string{"baseline", "health-gate"} {
			dropIn, err := os.ReadFile(filepath.Join(out, "machinemon-"+unit+"@agent.service.d/50-target.conf"))
			must(t, err)
			service, _, _ := strings.Cut(settings(string(dropIn)), "[Unit]")
			if got := strings.Contains(service, "\nIPAddressAllow=any\n"); got != beyond {
				t.Errorf("%s: %s: any address: %t, want %t", probe, unit, got, beyond)
			}
		}
	}
}

func TestRun(t *testing.T) {
	for _, row := range []struct {
		name    string
		targets map[string]string
		want    string
		log     string
	}{
		{name: "no targets"},
		{name: "one target", targets: map[string]string{"agent.toml": agent}, want: agentUnits},
		{name: "a source", targets: map[string]string{"agent.toml": agent, "agent.toml.d/x.toml": "source.url = 'https://x/m.json'\n"},
			want: scheduled(3600, 360)},
		{name: "a short interval", targets: map[string]string{"agent.toml": agent, "agent.toml.d/x.toml": "source.url = 'https://x/m.json'\nauto_update_check_every_seconds = 61\n"},
			want: scheduled(61, 6)},
		{name: "a long interval", targets: map[string]string{"agent.toml": agent, "agent.toml.d/x.toml": "source.url = 'https://x/m.json'\nauto_update_check_every_seconds = 604800\n"},
			want: scheduled(604800, 1800)},
		{name: "a window", targets: map[string]string{"agent.toml": agent, "agent.toml.d/x.toml": "source.url = 'https://x/m.json'\nschedule.window = 'Sun..Thu 02:00-02:10 UTC'\n"},
			want: strings.Replace(scheduled(3600, 300), "RandomizedDelaySec", "OnCalendar=Mon,Tue,Wed,Thu,Sun *-*-* 02:00:00 UTC\n\tRandomizedDelaySec", 1)},
		{name: "several directories", targets: map[string]string{"x.toml": `unit = "x@1.service"
install = [
  { from = "a", to = "/opt/x/bin/a" },
  { from = "b", to = "/opt/x/bin/b" },
  { from = "unit", to = "/etc/systemd/system/x@.service" },
]
rollback.snapshot = ["/etc/x/config", "/opt/x/bin/state"]
`, "x.toml.d/50-probe.toml": "[[health.probe]]\ntcp = 'localhost:1'"},
			want: `machinemon-swap@x.service.d/50-target.conf
	# The directories that an update of target x writes, from /etc/machinemon-update/targets.d/x.toml, /etc/machinemon-update/targets.d/x.toml.d/50-probe.toml.
	[Service]
	ReadWritePaths="-/etc/systemd/system"
	ReadWritePaths="-/etc/x"
	ReadWritePaths="-/opt/x/bin"
multi-user.target.wants/machinemon-inform@x.service -> /usr/lib/systemd/system/machinemon-inform@.service
paths.target.wants/machinemon-swap@x.path -> /usr/lib/systemd/system/machinemon-swap@.path
paths.target.wants/machinemon-verify@x.path -> /usr/lib/systemd/system/machinemon-verify@.path
x@1.service.d/50-machinemon-update.conf
	# After a crash, recovery undoes an unfinished update before the program starts.
	[Unit]
	After=machinemon-update-recover.service
`},
		{name: "special characters", targets: map[string]string{"agent.toml": `unit = "agent.service"
install = [{ from = "a", to = '/opt/50% "off"\x $HOME/a' }]
`},
			want: strings.ReplaceAll(agentUnits, `/usr/local/bin`, `/opt/50%% \"off\"\\x $HOME`)},
		{name: "broken targets beside a good one", targets: map[string]string{
			"agent.toml":  agent,
			"aaa.toml":    "unit = ",
			"zzz.toml":    agent + "colour = 'red'\n",
			"status.toml": agent,
			"A b.toml":    agent,
			"huge.toml":   strings.Repeat("[", 70000),
			"deep.toml":   "install = " + strings.Repeat("[", 60000),
			"bare.toml":   "",
		}, want: agentUnits,
			log: `cannot use target "A b": is no name for a target (allowed: 1 to 64 of a-z 0-9 . _ -, the first a letter or digit)
cannot use target aaa: /etc/machinemon-update/targets.d/aaa.toml:1: is not valid TOML: expected value, not end of input
cannot use target bare: /etc/machinemon-update/targets.d/bare.toml: unit: is missing; it must be the name of a service (allowed: "NAME.service", "NAME@INSTANCE.service", "NAME@.service" for all running instances, or "" for none) (hint: is the package installed that brings this target?)
cannot use target deep: /etc/machinemon-update/targets.d/deep.toml:1: is not valid TOML: arrays and inline tables are nested more than the maximum of 10000 levels deep
cannot use target huge: /etc/machinemon-update/targets.d/huge.toml: is larger than 64 KiB
cannot use target status: is no name for a target, as it is a verb of the command
cannot use target zzz: /etc/machinemon-update/targets.d/zzz.toml:5: install.colour: is not a known key (allowed: from, to, mode, owner, group, optional, keep, releases)
`},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := tree(t, row.targets)
			out := t.TempDir()
			var log bytes.Buffer
			must(t, Run(d, out, &log))
			if got := list(t, out); got != row.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, row.want)
			}
			if log.String() != row.log {
				t.Errorf("got log:\n%s\nwant log:\n%s", log.String(), row.log)
			}
		})
	}
}

// TestFIFO checks that a FIFO is not opened: that would wait for a writer, and the boot too.
func TestFIFO(t *testing.T) {
	d := tree(t, map[string]string{"agent.toml": agent})
	must(t, syscall.Mkfifo(d.Root+d.Admin+"/aaa.toml", 0o644))
	must(t, syscall.Mkfifo(d.Root+d.Admin+"/bbb.toml.d", 0o644))
	out := t.TempDir()
	done := make(chan error, 1)
	go func() { done <- Run(d, out, t.Output()) }()
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("the generator hangs")
	}
	if got := list(t, out); got != agentUnits {
		t.Errorf("got:\n%s\nwant:\n%s", got, agentUnits)
	}
}

// TestUnwritable checks that a failing write is an error, unlike an unusable target.
func TestUnwritable(t *testing.T) {
	d := tree(t, map[string]string{"agent.toml": agent, "x.toml": strings.ReplaceAll(agent, "agent", "x")})
	out := t.TempDir()
	put(t, out+"/machinemon-swap@agent.service.d", "a file in the way")
	err := Run(d, out, t.Output())
	if err == nil || !strings.HasPrefix(err.Error(), "cannot generate units of target agent: ") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(out + "/machinemon-swap@x.service.d/50-target.conf"); err != nil {
		t.Errorf("the other target: %v", err)
	}
	d = tree(t, map[string]string{"agent.toml": agent})
	must(t, os.RemoveAll(d.Root+unitDir))
	if err := Run(d, t.TempDir(), t.Output()); err == nil ||
		err.Error() != "cannot generate units of target agent: machinemon-inform@.service is not in /usr/lib/systemd/system" {
		t.Errorf("no units installed: got %v", err)
	}
}
