//go:build systemd

package systemtest

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// intrusion is what the intruder prints.
type intrusion struct {
	Unit     string
	UID      int
	Attempts map[string]string
}

const intruderPath = "/usr/local/sbin/intruder"

// notSandbox matches the lines of a service that are about its own program.
var notSandbox = regexp.MustCompile(`^(Type|Exec\w+|Standard\w+|Restart\w*|NotifyAccess|Sockets|SuccessExitStatus|TimeoutStartSec)=`)

// intruded returns a service whose sandbox the intruder is in, without the relations of
// its unit: starting it starts no other one.
func intruded(unit string) string {
	_, service, _ := strings.Cut(unit, "\n[Service]\n")
	text := "[Service]\n" + intruder
	for line := range strings.Lines(service) {
		if !notSandbox.MatchString(line) {
			text += line
		}
	}
	return text
}

// intruder replaces the program of a service.
const intruder = "ExecStart=\nExecStart=" + intruderPath + " %n\nType=oneshot\nStandardOutput=journal\nStandardError=journal\nSyslogIdentifier=intruder\n"

// intrude makes what the intruder looks for: a user's files, listeners, a second target,
// and what is in temporary directories.
func (b *box) intrude() {
	b.t.Helper()
	program, err := releases.Intruder(b.t.Context())
	b.ok(err)
	b.writeFile(intruderPath, string(program), 0o755)
	const units = "/etc/systemd/system/"
	b.writeFile(units+"planted.socket", "[Socket]\nListenStream=127.0.0.1:9300\nListenStream=[::1]:9300\nListenStream=/run/planted\nListenStream=@planted\n", 0o644)
	b.writeFile(units+"planted.service", "[Service]\nExecStart=/bin/sleep infinity\n", 0o644)
	b.writeFile("/etc/machinemon-update/targets.d/other.toml", strings.ReplaceAll(testdTarget, "testd", "other"), 0o644)
	b.must("systemctl", "daemon-reload")
	b.must("systemctl", "start", "planted.socket", "machinemon-accounts@testd.service", "machinemon-accounts@other.service")
	b.must("install", "-d", "-m", "755", "/home/alice", "/srv/download", "/etc/machinemon-release/srv-download",
		"/var/lib/machinemon-update/checkin", "/run/machinemon-update/directive/testd", "/run/machinemon-update/directive/other")
	b.must("chown", "machinemon-checkin:", "/var/lib/machinemon-update/checkin")
	for _, file := range []string{"/home/alice/planted", "/root/planted", "/tmp/planted", "/var/tmp/planted"} {
		b.writeFile(file, "x", 0o644)
	}
	b.writeFile("/etc/machinemon-release/srv-download/online.pem", "x", 0o600)
	for _, target := range []string{"testd", "other"} {
		for _, role := range []string{"fetch", "verify"} {
			user := "mm-" + role + "-" + target
			at := "/var/lib/machinemon-update/" + role + "/" + target
			b.must("install", "-d", "-m", "755", "-o", user, "-g", user, at)
			b.must("install", "-d", "-m", "770", "-o", user, "-g", user, at+"/ready")
		}
		b.must("install", "-d", "-m", "755", "/var/lib/machinemon-update/swap/"+target)
	}
	b.must(intruderPath, "plant")
	// nspawn makes these read-only, and root of a real machine can write them.
	b.must("mount", "-o", "remount,rw,bind", "/proc/sys")
	b.must("mount", "-o", "remount,rw", "/sys/kernel")
}

// intrusions returns what the intruder printed since, by unit.
func (b *box) intrusions(since machine.Cursor) map[string]intrusion {
	b.t.Helper()
	entries, err := b.JournalSince(b.t.Context(), since)
	b.ok(err)
	all := make(map[string]intrusion)
	for _, e := range entries {
		if e["SYSLOG_IDENTIFIER"] != "intruder" || !strings.HasPrefix(e["MESSAGE"], `{"Unit"`) { // or a unit's own program
			continue
		}
		var i intrusion
		if err := json.Unmarshal([]byte(e["MESSAGE"]), &i); err != nil {
			b.t.Fatalf("the intruder says %s: %v", e["MESSAGE"], err)
		}
		all[i.Unit] = i
	}
	return all
}

// ourServices returns the names of the packages' services, and their files.
func (b *box) ourServices() map[string]string {
	b.t.Helper()
	const at = "/usr/lib/systemd/system/"
	files := make(map[string]string)
	for line := range strings.Lines(b.must("dpkg-query", "--search", at+"*.service")) {
		owner, file, _ := strings.Cut(strings.TrimSpace(line), ": ")
		service := strings.TrimPrefix(file, at)
		ours := strings.HasPrefix(owner, "machinemon-") || strings.HasPrefix(owner, "scalebox-")
		if ours && !strings.Contains(service, "/") { // a link to a service, in *.wants/
			files[service] = file
		}
	}
	return files
}

// leftOpen is what the sandboxes leave open; all else must be closed. Units are named
// without "machinemon-" and instance.
var leftOpen = []struct{ units, attempts, why string }{
	{"checkin-gate checkin-relay fetch fetch-full unlock verify baseline health-gate command accounts swap commit rollback deadline update-recover directive inform notify update data",
		"AF_UNIX, the journal, notifications", "every user may connect to these sockets: journald records the sender of a line, and systemd heeds only main processes"},
	{"checkin-gate checkin-relay fetch fetch-full unlock notify baseline health-gate command", "AF_INET, AF_INET6, AF_UNIX (abstract)", "downloads, webhooks, probes and proxies need the network"},
	{"baseline health-gate checkin-relay", "D-Bus", "they ask systemd about units and connections; it takes orders from root only"},
	{"command checkin-gate", "D-Bus", "a probe may be such as systemctl is-active; systemd takes orders from root only"},
	{"command", "writable code", "a command may be a program with a just-in-time compiler"},

	{"swap commit rollback deadline update-recover directive inform update", "PID 1's socket, orders to PID 1, D-Bus, orders by D-Bus", "root's steps start and stop units"},
	{"accounts swap commit rollback deadline update-recover directive inform update", "read /etc/shadow, read /etc/machinemon-release/srv-download/online.pem, read the journal", "these are root's, and the steps need root's access to files of all users"},
	{"accounts swap commit rollback deadline update-recover directive inform update release-refresh release-rollout", "see PID 1", "ProtectProc= does not hold for the group root"},
	{"baseline health-gate", "see PID 1, read /proc/1/root", "CAP_SYS_PTRACE, which only a child that talks to nothing keeps: without it, all of /proc is closed"},
	{"baseline health-gate", "read the journal", "for probes that wait for a line in it"},
	{"commit", "read /proc/1/root, write /proc/1/root", "CAP_SYS_PTRACE, to see which file a root daemon executes; it gives orders to PID 1 anyway"},
	{"swap rollback deadline update-recover", "a setuid file", "RestrictSUIDSGID= would block openat2, which keeps root out of links"},

	{"accounts", "write /etc, write /var/lib/machinemon-update/fetch/testd, write /var/lib/machinemon-update/fetch/testd/ready, write /var/lib/machinemon-update/fetch/other, write /var/lib/machinemon-update/fetch/other/ready, write /run/machinemon-update/gate/testd", "it makes accounts, hands the fetcher's files over and makes the directory of reports"},
	{"fetch fetch-full unlock", "write /var/lib/machinemon-update/fetch/testd, write /var/lib/machinemon-update/fetch/testd/ready", "its own directory"},
	{"verify", "write /var/lib/machinemon-update/verify/testd, write /var/lib/machinemon-update/fetch/testd/ready", "its own directory, and the bundles that it consumes"},
	{"swap", "write /usr/local/bin, write /var/lib/machinemon-update/swap/testd, write /var/lib/machinemon-update/verify/testd, write /run/machinemon-update/lock", "the target's files, its own directory, and the trees that it consumes"},
	{"commit rollback deadline update-recover", "write /run/machinemon-update/lock, write /etc, write /usr, write /usr/local/bin, write /opt, write /boot, write /srv/download, write /var, write /var/log, " +
		"write /var/lib/machinemon-update, write /var/lib/machinemon-update/checkin, write /var/lib/machinemon-update/fetch/testd, write /var/lib/machinemon-update/fetch/testd/ready, " +
		"write /var/lib/machinemon-update/fetch/other, write /var/lib/machinemon-update/fetch/other/ready, write /var/lib/machinemon-update/verify/testd, write /var/lib/machinemon-update/verify/other, " +
		"write /var/lib/machinemon-update/swap/testd, write /var/lib/machinemon-update/swap/other", "the journal alone says what they restore; the configuration may have changed since"},
	{"rollback deadline update-recover inform", "write /dev", "PrivateDevices= needs space in /tmp, and a release may have filled the disk; DevicePolicy= closes the devices"},
	{"directive", "write /run/machinemon-update/directive/testd, write /run/machinemon-update/directive/other", "what it discards; the relay's links must not be followed, so one directory is not enough"},
	{"update", "write /run/machinemon-update/lock", "the operator's lock"},
	{"release-refresh release-rollout", "write /srv/download", "the directory that it signs, or whose release it offers to more machines"},
	{"checkin-gate", "write /var/lib/machinemon-update/checkin", "its database"},
	{"checkin-gate", "fill temporary directories", "PrivateTmp= is on the disk"},
	{"checkin-gate checkin-relay", "the machine's /dev/shm, a message queue, shared memory, call keyctl, call process_vm_readv", "its users have nothing there"},

	{"baseline health-gate", "AF_NETLINK", "the kernel tells whose socket answers a probe"},
	{"preflight", "AF_NETLINK", "programs list network interfaces with it; there are none"},
	{"data", "read /home/alice/planted, call keyctl, call process_vm_readv", "the unit has only the rights of the managed unit's user, and a link to its data may lead into a home directory"},
	{"preflight", "call bpf, call chroot, call init_module, call keyctl, call open_by_handle_at, call perf_event_open, call pivot_root, call process_vm_readv, call ptrace, call reboot, writable code",
		"any program may be a release, so there is no filter; without capabilities, the kernel refuses what matters"},
	{"hook no-sandbox", everything, "a hook is the operator's program, and may do all that root may"},
}

const everything = "*"

// expected returns what is left open in a unit.
func expected(unit string) (open []string) {
	for _, row := range leftOpen {
		if slices.Contains(strings.Fields(row.units), unit) {
			open = append(open, strings.Split(row.attempts, ", ")...)
		}
	}
	return open
}

// assertLeftOpen holds what succeeded in a sandbox against the table, and logs it.
func (b *box) assertLeftOpen(name string, i intrusion) {
	b.t.Helper()
	if len(i.Attempts) < 60 {
		b.t.Errorf("%s: the intruder made only %d attempts", name, len(i.Attempts))
	}
	want := expected(name)
	var open []string
	for _, attempt := range slices.Sorted(maps.Keys(i.Attempts)) {
		failure := i.Attempts[attempt]
		if failure == "" {
			open = append(open, attempt)
		}
		listed := slices.Contains(want, attempt) || slices.Contains(want, everything)
		switch {
		case attempt == "AF_VSOCK" && listed: // not every kernel has it
		case failure == "" && !listed:
			b.t.Errorf("%s leaves open: %s", name, attempt)
		case failure != "" && listed:
			b.t.Errorf("%s is listed as open in %s, and is closed: %s", attempt, name, failure)
		}
	}
	b.t.Logf("%s, uid %d, %d of %d open: %s", name, i.UID, len(open), len(i.Attempts), strings.Join(open, ", "))
}

// TestSandboxes starts the intruder in the sandbox of each service, and holds what is left
// open there against the table.
func TestSandboxes(t *testing.T) {
	t.Parallel()
	b := boot(t)
	b.writeTarget(testdTarget)
	b.must("systemctl", "daemon-reload")
	b.intrude()
	units := []string{"no-sandbox.service"}
	b.writeFile("/etc/systemd/system/no-sandbox.service", "[Service]\n"+intruder, 0o644)
	for service, file := range b.ourServices() {
		b.writeFile("/etc/systemd/system/"+service, intruded(b.readFile(file)), 0o644)
		instance := "@testd."
		if strings.HasPrefix(service, "machinemon-release-") {
			instance = "@srv-download."
		}
		units = append(units, strings.Replace(service, "@.", instance, 1))
	}
	if len(units) < 15 {
		t.Errorf("only %q are services", units)
	}
	b.must("systemctl", "daemon-reload")
	slices.Sort(units)
	since := b.cursor()
	b.must(append([]string{"systemctl", "restart"}, units...)...)
	all := b.intrusions(since)
	for _, unit := range units {
		name, _, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(unit, "machinemon-"), ".service"), "@")
		b.assertLeftOpen(name, all[unit])
	}
}

// TestSandboxesOfTransientUnits is TestSandboxes for the units that a swap makes: of the
// pre-flight, of a hook, and of what saves a user's data.
func TestSandboxesOfTransientUnits(t *testing.T) {
	t.Parallel()
	target := dbdTarget(wholeDir) + "[hooks]\npost_commit = [\"/bin/true\"]\n"
	c := newDataChain(t, dbdUnit, target)
	c.intrude()
	c.must("systemctl", "daemon-reload")
	const first = "[Service]\nExecStartPre=" + intruderPath + " %n\nSyslogIdentifier=intruder\n"
	for name, text := range map[string]string{"hook": first, "data": first, "preflight": first + "StandardOutput=journal\n"} {
		c.writeFile("/etc/systemd/system/"+unitOf(name)+".d/intruder.conf", text, 0o644)
	}
	c.must("systemctl", "daemon-reload")
	since := c.cursor()
	c.publishDatabase(releases.Database{Version: "1.1.0"})
	c.apply(2, "it prints no version, and must print 1.1.0") // which the journal has
	c.must("rm", "/etc/systemd/system/"+unitOf("preflight")+".d/intruder.conf")
	c.must("systemctl", "daemon-reload")
	c.publishDatabase(releases.Database{Version: "1.2.0"})
	c.apply(0, "committed 1.2.0")
	all := c.intrusions(since)
	for _, name := range []string{"preflight", "hook", "data"} {
		c.assertLeftOpen(name, all[unitOf(name)])
	}
}

// TestPreflightThatFillsDirectories: a program that fills all temporary directories when it is
// asked for its version hurts only itself, and may do so.
func TestPreflightThatFillsDirectories(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	fills := releases.Daemon{Version: "1.1.0", Behaviour: "fills-tmp"}
	c.publish(c.dir, fills)
	c.apply(0, "committed 1.1.0")
	c.assertRuns(fills)
}
