//go:build systemd

package systemtest

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestCheckinRelay: with gate and relays between them, unmodified agents follow the directives
// of an unmodified server, which sees the results and can stop them.
func TestCheckinRelay(t *testing.T) {
	once(t)
	t.Parallel()
	f := newFleet(t)
	const old, good, broken, last = "v0.1.11", "v0.1.12", "v0.1.13", "v0.1.14"
	first := f.join("root", old)
	if got := first.must("stat", "--format=%U %a", "/run/machinemon-update/directive/agent"); got != "root 755\n" {
		t.Errorf("before the relay ran, the directory is %s", got)
	}
	first.must("systemctl", "start", "machinemon-client.service")
	f.await(first, old, func(h heard) bool { return h.version == old && h.status.Target == "agent" && h.status.Installed == old })

	f.step("a good release", func() {
		f.publish(releases.Client{Version: good})
		f.await(first, good, updated(good))
		f.shows(first, good, done, good, "")
		(&agent{box: first.box}).uses("https://"+monitor+"/download/client-manifest.json", "")
		if got := first.must(clientPath, "--version"); got != "machinemon "+good+" (commit none, built never)\n" {
			f.t.Errorf("installed is %s", got)
		}
	})
	f.step("a broken release", func() {
		f.publish(releases.Client{Version: broken, Behaviour: "exit1-at-once"})
		f.await(first, "a rollback", func(h heard) bool {
			return h.version == good && h.status.Result == "rolled back" && h.status.Rejected == broken
		})
		f.shows(first, good, "rolled back", broken, "its main process exited with status 1")
	})

	second := f.join("monitor", old) // its client does not run as root
	f.step("the switch", func() {
		f.admin("PUT", "/api/v1/admin/updates/settings", `{"directives": false}`)
		f.publish(releases.Client{Version: last})
		since := second.cursor()
		second.must("systemctl", "start", "machinemon-client.service")
		for range 3 {
			f.await(second, old, func(h heard) bool { return h.version == old && h.status.Installed == old })
		}
		if status, got, err := f.post(first, good); status != 200 || got != answer("c-1") || err != nil {
			f.t.Errorf("the answer is %d %s, %v", status, got, err)
		}
		if r := second.run("machinemon-update", "check", "agent"); r.Code != 8 || !strings.Contains(r.Stdout, "the publisher has disabled updates") {
			f.t.Errorf("check: %+v", r)
		}
		entries, err := second.JournalSince(f.t.Context(), since)
		f.ok(err)
		for _, e := range entries {
			if strings.Contains(e["MESSAGE"], "directive") {
				f.t.Errorf("stopped, and yet: %s", e)
			}
			if e["UNIT"] == "machinemon-checkin-relay.service" || strings.HasPrefix(e["MESSAGE"], "Started machinemon-checkin-relay") {
				f.t.Errorf("a check-in is news: %s", e)
			}
		}
		if got := second.must(clientPath, "--version"); !strings.Contains(got, old) {
			f.t.Errorf("installed is %s", got)
		}
	})
	f.step("another user", func() {
		for _, who := range []string{"nobody", "root"} { // root is not the agent's user here
			r := second.run("setpriv", "--reuid="+who, "--clear-groups", "bash", "-c",
				`exec 3<>/dev/tcp/127.0.0.1/478; printf 'POST /api/v1/checkin HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}' >&3; cat <&3`)
			if !strings.HasPrefix(r.Stdout, "HTTP/1.0 403 ") {
				f.t.Errorf("%s: %+v", who, r)
			}
		}
	})
	second.must("systemctl", "stop", "machinemon-client.service")
	f.step("no check-in is lost", func() { f.restarts(first, good) })
	const service, config = "machinemon-checkin-relay.service", "/etc/machinemon-update/checkin-relay.toml"
	f.step("nothing stays", func() {
		second.awaitProperty(service, "ActiveState", func(s string) bool { return s == "inactive" })
		if got := second.property(service, "Result"); got != "success" {
			f.t.Errorf("it ended with %s", got)
		}
	})
	f.step("a configuration that cannot be used", func() {
		good := second.readFile(config)
		second.writeFile(config, "server = \"x\"\n", 0o644)
		since := second.cursor()
		if status, got, err := f.post(second, old); status != 503 || !strings.Contains(got, "the relay cannot use its configuration") || err != nil {
			f.t.Errorf("%d %s, %v", status, got, err)
		}
		second.await(since, func(e machine.Entry) bool {
			return e["MESSAGE"] == "cannot use "+config+`: line 1: "server" is not a known key (allowed: server_url, insecure_skip_tls, ca_file, target)`
		})
		second.awaitProperty(service, "ActiveState", func(s string) bool { return s == "failed" })
		second.writeFile(config, good, 0o644)
		second.must("systemctl", "start", "machinemon-client.service")
	})
	f.step("the switch back", func() {
		f.admin("PUT", "/api/v1/admin/updates/settings", `{"directives": true}`)
		for _, a := range f.agents {
			f.await(a, last, updated(last))
			f.shows(a, last, done, last, "")
		}
	})
	f.step("the password", func() {
		for _, b := range []*box{f.box, first.box, second.box} {
			for _, where := range []string{"grep -rl " + password + " /var /run /etc /tmp", "journalctl --output=export | grep " + password} {
				if r := b.run("sh", "-c", where); r.Stdout != "" || r.Code != 1 {
					f.t.Errorf("%s: %s: %+v", b.Name, where, r)
				}
			}
		}
	})
	f.step("gone", func() {
		second.must("systemctl", "stop", "machinemon-client.service")
		second.aptGet("purge", "machinemon-checkin")
		if got := second.must("stat", "--format=%U", "/run/machinemon-update/directive/agent"); got != "root\n" {
			f.t.Errorf("the directory is %s's", got)
		}
		left := second.find("-name", "*checkin*", "!", "-path", "/var/lib/dpkg/*", "!", "-path", debsInside+"*")
		if len(left) > 0 || strings.Contains(second.accounts(), "machinemon-relay") {
			f.t.Errorf("left behind: %q", left)
		}
		for _, b := range []*box{f.box, first.box, second.box} {
			if got := b.must("systemctl", "list-units", "--failed", "--plain", "--no-legend"); got != "" {
				f.t.Errorf("%s: failed: %s", b.Name, got)
			}
		}
	})
}

// limited is MachineMon's answer to more check-ins of an address than it takes.
const limited = `{"error":"rate limit exceeded"}` + "\n"

// done has the results of an attempt that installed the present version: a directive that
// came during it started another check.
const done = "committed|already current"

// updated matches a check-in of the new version whose status reports that version.
func updated(version string) func(heard) bool {
	return func(h heard) bool {
		return h.version == version && h.status.Installed == version && h.status.Version == version && strings.Contains(done, h.status.Result)
	}
}

// restarts restarts and reinstalls the relay and the gate, and checks that no check-in
// that passes through them meanwhile is lost.
func (f *fleet) restarts(a *edge, version string) {
	f.t.Helper()
	debs := a.bring(packages(f.t)...)
	f.bring(packages(f.t)...)
	var deb string
	for _, d := range debs {
		if strings.Contains(d, "machinemon-checkin_") {
			deb = d
		}
	}
	before := f.arrived.Load()
	enough := make(chan struct{})
	var wg sync.WaitGroup
	sent := make([]int, 3)
	for i := range sent {
		wg.Go(func() {
			for {
				select {
				case <-enough:
					return
				default:
				}
				sent[i]++
				status, got, err := f.post(a, version)
				if status == http.StatusTooManyRequests && got == limited { // more than MachineMon takes from an address
					continue
				}
				if status != 200 || got != answer(a.id) || err != nil {
					f.t.Errorf("lost: %d %q, %v", status, got, err)
				}
			}
		})
	}
	for range 3 {
		a.must("systemctl", "restart", "machinemon-checkin-relay.service")
		f.must("systemctl", "restart", "machinemon-checkin-gate.service")
	}
	onAgent, onServer := a.start(aptGet("install", "--reinstall", deb)...), f.start(aptGet("install", "--reinstall", deb)...)
	if r, s := a.wait(onAgent), f.wait(onServer); r.Code != 0 || s.Code != 0 {
		f.t.Errorf("installing again: %+v, %+v", r, s)
	}
	close(enough)
	wg.Wait()
	total := sent[0] + sent[1] + sent[2]
	if arrived := f.arrived.Load() - before; arrived < int64(total) {
		f.t.Errorf("%d of %d arrived", arrived, total)
	}
	f.t.Logf("%d check-ins", total)
}
