//go:build systemd

package systemtest

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// narrow returns a unit's filter as systemd 249 has it, with these calls instead of
// @system-service; "" if the unit has no filter.
func narrow(unit, calls string) (lines string, err error) {
	for line := range strings.Lines(unit) {
		value, ok := strings.CutPrefix(strings.TrimSpace(line), "SystemCallFilter=")
		if !ok {
			continue
		}
		if value == "@system-service" {
			value = calls
		}
		names, denied := strings.CutPrefix(value, "~")
		for name := range strings.FieldsSeq(names) {
			// Later systemd versions have more calls in these sets, and they are denied as well.
			known := denied && slices.Contains([]string{"@privileged", "@resources", "@keyring"}, name)
			if strings.ContainsAny(name, `@\`) && !known {
				return "", fmt.Errorf("cannot translate %s of SystemCallFilter=%s", name, value)
			}
		}
		lines += "SystemCallFilter=" + value + "\n"
	}
	return lines, nil
}

func TestNarrow(t *testing.T) {
	const own = "SystemCallFilter=~@privileged @resources mkdir\n"
	for unit, want := range map[string]string{
		"[Service]\nExecStart=x\n":                              "",
		"SystemCallFilter=@system-service\n" + own + "User=x\n": "SystemCallFilter=read write\n" + own,
	} {
		if got, err := narrow(unit, "read write"); got != want || err != nil {
			t.Errorf("%q became %q, %v", unit, got, err)
		}
	}
	for _, value := range []string{"@basic-io", "@system-service @mount", "~@debug", "~@privileged \\"} {
		if got, err := narrow("SystemCallFilter="+value+"\n", "read"); err == nil {
			t.Errorf("%s became %q", value, got)
		}
	}
}

// narrowFilters gives every service of the packages the filter of systemd 249, and
// returns their names.
func (b *box) narrowFilters() (services []string) {
	b.t.Helper()
	list, err := os.ReadFile("testdata/system-service-249")
	b.ok(err)
	calls := strings.Join(strings.Fields(regexp.MustCompile(`(?m)^#.*`).ReplaceAllString(string(list), "")), " ")
	const at = "/usr/lib/systemd/system/"
	for line := range strings.Lines(b.must("dpkg-query", "--search", at+"*.service")) {
		owner, file, _ := strings.Cut(strings.TrimSpace(line), ": ")
		service := strings.TrimPrefix(file, at)
		ours := strings.HasPrefix(owner, "machinemon-") || strings.HasPrefix(owner, "scalebox-")
		if !ours || strings.Contains(service, "/") { // a link to a service, in *.wants/
			continue
		}
		lines, err := narrow(b.readFile(file), calls)
		if err != nil {
			b.t.Fatalf("%s: %v", service, err)
		}
		if lines != "" {
			b.writeFile("/etc/systemd/system/"+service+".d/filter.conf", "[Service]\nSystemCallFilter=\n"+lines, 0o644)
			services = append(services, service)
		}
	}
	b.must("systemctl", "daemon-reload")
	for _, service := range services {
		allowed := strings.Fields(b.property(strings.Replace(service, "@.", "@testd.", 1), "SystemCallFilter"))
		if !slices.Contains(allowed, "fchmodat") || slices.Contains(allowed, "fchmodat2") {
			b.t.Errorf("%s may call %q", service, allowed)
		}
	}
	if len(services) < 15 {
		b.t.Errorf("only %q have filters", services)
	}
	return services
}

// denials matches what a service that its filter stopped, or systemd, logs about it.
var denials = regexp.MustCompile(`(?i)operation not permitted|function not implemented|seccomp|sigsys|status=31`)

// assertAllowed fails the test if the filter denied one of the services a system call
// since, or if one did not run, so that the test proves nothing for it.
func (b *box) assertAllowed(since machine.Cursor, services []string) {
	b.t.Helper()
	entries, err := b.JournalSince(b.t.Context(), since)
	b.ok(err)
	ran := make(map[string]bool)
	for _, e := range entries {
		// PID 1's entries name the unit in UNIT=, those of a service in _SYSTEMD_UNIT=.
		unit := e["UNIT"]
		if e["_PID"] != "1" {
			unit = e["_SYSTEMD_UNIT"]
		}
		service := regexp.MustCompile(`@.*\.service$`).ReplaceAllString(unit, "@.service")
		if !slices.Contains(services, service) {
			continue
		}
		if denials.MatchString(e["MESSAGE"]) || e["EXIT_STATUS"] == "31" {
			b.t.Errorf("%s: %s", unit, e)
		}
		if event, ok := e.UnitEvent(); ok && (event.What == "starting" || event.What == "started") { // a simple service is only started
			ran[service] = true
		}
	}
	for _, service := range services {
		// If systemd logs no starts of a service, its properties show whether it ran.
		if !ran[service] && (strings.Contains(service, "@") || b.property(service, "ExecMainStartTimestamp") == "") {
			b.t.Errorf("%s did not run", service)
		}
	}
}

// TestFilterOfSystemd249 shows that everything works with the system calls that systemd
// 249 (Ubuntu 22.04) allows: the programs do without newer calls that the kernel has.
func TestFilterOfSystemd249(t *testing.T) {
	once(t)
	t.Parallel()
	b := boot(t)
	services := b.narrowFilters()
	c := b.chain(testdUnit, testdTarget)
	version := func(v string) releases.Daemon { return releases.Daemon{Version: v} }
	// After a failed step the following steps would only wait.
	step := func(name string, f func()) {
		c.step(name, f)
		if t.Failed() {
			t.FailNow()
		}
	}
	c.publishDeltas(version("1.1.0"))

	step("the filter is in force", func() {
		const forbids = "/etc/systemd/system/machinemon-fetch@.service.d/forbid.conf"
		c.writeFile(forbids, "[Service]\nSystemCallErrorNumber=EPERM\n", 0o644)
		c.must("systemctl", "daemon-reload")
		c.apply(1, "/ready: operation not permitted")
		c.must("rm", forbids)
		c.must("systemctl", "daemon-reload")
		c.must("systemctl", "reset-failed", unitOf("fetch"))
	})
	since := c.cursor()
	step("update", func() {
		c.apply(0, "committed 1.1.0 (was 1.0.0)")
		c.assertRuns(version("1.1.0"))
		c.assertClosed("1.0.0")
	})
	step("automatic rollback", func() {
		c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "exit1-at-once"})
		c.apply(4, "rolled back 1.2.0", "1.1.0 runs again")
		c.assertRuns(version("1.1.0"))
		c.must("systemctl", "reset-failed", "testd.service")
	})
	step("operator's rollback", func() {
		c.said(c.run("machinemon-update", "rollback", "testd"), 0, "committed 1.0.0")
		c.assertRuns(version("1.0.0"))
	})
	step("schedule, with the lock of a fleet", func() {
		c.serveLock(&fleetLock{})
		c.target(testdTarget + "[schedule]\nfleetlock_url = \"http://" + fleetAt + "\"\n")
		c.must("machinemon-update", "enable", "testd")
		c.must("systemctl", "stop", "machinemon-fetch@testd.timer") // only the run below may start
		c.publish(c.dir, version("1.3.0"))
		since := c.cursor()
		c.installs("1.3.0")
		c.awaitEvent(since, "machinemon-unlock@testd.service started")
		c.target(testdTarget)
	})
	step("import", func() {
		c.publish(c.dir, version("1.4.0"))
		c.bringReleases("/root/usb")
		c.said(c.run("machinemon-update", "import", "testd", "/root/usb"), 0, "committed 1.4.0 (was 1.3.0)")
		c.assertRuns(version("1.4.0"))
	})
	step("a wrong delta", func() {
		c.publishDeltas(version("1.5.0"))
		c.spoilPatch()
		c.assertDownloads(version("1.5.0"), func() { c.apply(0, "committed 1.5.0 (was 1.4.0)") }, "patch", "archive")
	})
	step("umbrella", func() {
		c.publish(c.dir, version("1.6.0"))
		c.must("systemctl", "start", "machinemon-update.service")
		c.assertRuns(version("1.6.0"))
	})

	step("a notice", func() {
		c.target(testdTarget + "[notify]\ncommand = [\"/bin/true\"]\nwebhook = \"http://" + releasesAt + "/none\"\n")
		c.run("machinemon-update", "notify", "--test", "testd") // the webhook is none
	})

	c.target(longTrial)
	c.publish(c.dir, version("1.7.0"))
	step("deadline", func() {
		apply := c.startApply()
		c.awaitTrial()
		c.must("systemctl", "kill", "--signal=STOP", "--kill-who=main", unitOf("health-gate"))
		c.must("systemctl", "start", "machinemon-deadline@testd.service") // as the timer would
		c.said(c.wait(apply), 4, "interrupted 1.7.0: the trial was interrupted", "(1.6.0 runs again)")
		c.assertRuns(version("1.6.0"))
	})
	// Now the power fails. This is not a step of its own, because the server must outlive it.
	apply := c.startApply()
	c.awaitTrial()
	atCut := c.cursor() // the earlier entries are on the disk
	c.Yank()
	c.wait(apply)
	c.bootAndServe()
	c.assertOrder(atCut, recoverFirst...)
	c.assertRuns(version("1.6.0"))

	c.target(testdTarget)
	step("a directive by gate and relay", func() { c.byCheckIn("1.6.0", "1.7.0") })
	step("signed, by delta", func() {
		p := newPublisher(c.t)
		c.pin(p)
		c.target(signedTarget)
		for _, v := range []string{"1.8.0", "1.9.0"} {
			p.publish(version(v))
			c.show(p)
			c.assertDownloads(version(v), func() { c.apply(0, "committed "+v) }, map[string]string{"1.8.0": "archive", "1.9.0": "patch"}[v])
		}
		c.assertClosed("1.8.0")

		p.release("rollout", p.repo, "--plan", "1,100", "--after", "1h", "--keys", p.keys, "--passphrase-fd", "3")
		c.hosts(p)
		const signature = "/srv/download/timestamp.json"
		before := c.readFile(signature)
		c.must("systemctl", "start", "machinemon-release-refresh@srv-download.service")
		if c.readFile(signature) == before {
			c.t.Errorf("%s was not signed again", signature)
		}
		c.writeFile("/etc/machinemon-update/checkin-gate.toml", "download_dir = \"/srv/download\"\n", 0o644)
		c.must("systemctl", "restart", "machinemon-checkin-gate.service")
		c.must("systemctl", "start", "machinemon-release-rollout@srv-download.service")
	})
	c.assertAllowed(since, services)
}

// byCheckIn announces a version in the answer to testd's check-in, which passes the relay
// and the gate on this machine, and checks testd's update and what relay and gate write.
func (c *chain) byCheckIn(installed, announced string) {
	c.t.Helper()
	c.mmServer()
	c.publish(c.dir, releases.Daemon{Version: announced})
	c.writeFile(download+"/client-manifest.json", fmt.Sprintf(
		`{"schema":1,"version":%q,"platforms":{"linux-amd64":{"file":"a.tar.gz","sha256":%q,"size":7}}}`, announced, digest("a")), 0o644)
	c.writeFile("/etc/machinemon-update/checkin-relay.toml", "server_url = \"http://127.0.0.1:8079\"\ntarget = \"testd\"\n", 0o644)
	c.must("systemctl", "enable", "--quiet", "--now", "machinemon-checkin-gate.socket", "machinemon-checkin-gate-local.socket", "machinemon-checkin-relay.socket")

	since := c.cursor()
	request := fmt.Sprintf(`{"hostname":"web-1","os":"linux","arch":"amd64","client_version":%q,"client_id":"","checks":[]}`, installed)
	if status, got := c.askAt(relayAt, "", "POST", "/api/v1/checkin", request, false); status != 200 || !strings.Contains(got, `"update_version":"`+announced+`"`) {
		c.t.Errorf("the check-in is answered with %d %s", status, got)
	}
	c.awaitEvent(since, inChain("commit started")[0])
	c.assertRuns(releases.Daemon{Version: announced})
	if h := c.history(); h[0].Result != "committed" || h[0].Origin != "directive" {
		c.t.Errorf("history has %+v", h)
	}
	if got := c.must("stat", "--format=%U %a", directives); got != "root 755\n" {
		c.t.Errorf("the directory of directives is %s", got)
	}
	// A restart completes pending writes to the database.
	c.must("systemctl", "restart", "machinemon-checkin-gate.service")
	if status, got := c.ask("GET", "/api/v1/admin/updates", "", true); status != 200 || !strings.Contains(got, `"hostname": "web-1"`) || !strings.Contains(got, installed) {
		c.t.Errorf("the gate keeps %d %s", status, got)
	}
}
