//go:build systemd

package systemtest

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
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
	for _, file := range []string{"/home/alice/planted", "/root/planted", "/tmp/planted", "/var/tmp/planted", "/etc/machinemon-release/srv-download/online.pem"} {
		b.writeFile(file, "x", 0o644)
	}
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
}

// intrusions returns what the intruder printed since, by unit.
func (b *box) intrusions(since machine.Cursor) map[string]intrusion {
	b.t.Helper()
	entries, err := b.JournalSince(b.t.Context(), since)
	b.ok(err)
	all := make(map[string]intrusion)
	for _, e := range entries {
		if e["SYSLOG_IDENTIFIER"] != "intruder" {
			continue
		}
		var i intrusion
		if err := json.Unmarshal([]byte(e["MESSAGE"]), &i); err != nil {
			b.t.Fatalf("the intruder says %q: %v", e["MESSAGE"], err)
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

// TestSandboxes starts the intruder in the sandbox of each service, and holds what is left
// open there against the table.
func TestSandboxes(t *testing.T) {
	t.Parallel()
	b := boot(t)
	b.writeTarget(testdTarget)
	b.must("systemctl", "daemon-reload")
	b.intrude()
	var units []string
	for service, file := range b.ourServices() {
		b.writeFile("/etc/systemd/system/"+service, intruded(b.readFile(file)), 0o644)
		instance := "@testd."
		if strings.HasPrefix(service, "machinemon-release-refresh@") {
			instance = "@srv-download."
		}
		units = append(units, strings.Replace(service, "@.", instance, 1))
	}
	const control = "no-sandbox.service"
	b.writeFile("/etc/systemd/system/"+control, "[Service]\n"+intruder, 0o644)
	b.must("systemctl", "daemon-reload")
	slices.Sort(units)
	since := b.cursor()
	for _, unit := range append(units, control) {
		b.must("systemctl", "restart", unit)
	}
	all := b.intrusions(since)
	for _, unit := range append(units, control) {
		i, ok := all[unit]
		if !ok {
			t.Errorf("%s: the intruder did not run", unit)
		}
		var open, closed []string
		for _, a := range slices.Sorted(maps.Keys(i.Attempts)) {
			if i.Attempts[a] == "" {
				open = append(open, a)
			} else {
				closed = append(closed, a+"="+i.Attempts[a])
			}
		}
		fmt.Fprintf(os.Stderr, "%s %d OPEN: %s\n", unit, i.UID, strings.Join(open, ", "))
		if unit == control || os.Getenv("CLOSED") != "" {
			fmt.Fprintf(os.Stderr, "  CLOSED: %s\n", strings.Join(closed, ", "))
		}
	}
}
