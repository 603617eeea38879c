//go:build systemd

package systemtest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/rollout"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestRolloutTimer shows that the shipped timer raises a rollout by what the real gate
// counts, in a signed directory with the online key only and in another one without a key;
// and that it stops a release that fails.
func TestRolloutTimer(t *testing.T) {
	t.Parallel()
	b := boot(t)
	b.mmServer()
	p := newPublisher(t)
	past := func() { p.env = []string{fmt.Sprintf("SOURCE_DATE_EPOCH=%d", time.Now().Add(-10*time.Minute).Unix())} }
	past()
	p.publish(releases.Daemon{Version: "1.1.0"})
	p.release("rollout", p.repo, "--plan", "1,100", "--after", "5m", "--keys", p.keys, "--passphrase-fd", "3")
	b.hosts(p)
	const (
		service  = "machinemon-release-rollout@srv-download.service"
		timer    = "machinemon-release-rollout@srv-download.timer"
		manifest = "/srv/download/client-manifest.json"
		config   = "/etc/machinemon-update/checkin-gate.toml"
	)
	b.writeFile(config, "download_dir = \"/srv/download\"\n", 0o644)
	b.writeFile("/etc/systemd/system/"+timer+".d/test.conf", "[Timer]\nRandomizedDelaySec=0\nOnCalendar=\nOnCalendar=*:*:0/10\nAccuracySec=1s\n", 0o644)
	b.must("systemctl", "daemon-reload")
	verify := []string{"machinemon-release", "verify", "/srv/download", "--root", "/srv/download/1.root.json"}

	b.step("without the gate nothing is raised", func() {
		if r := b.run("systemctl", "start", service); r.Code == 0 || !strings.Contains(b.readFile(manifest), `"percent": 1`) {
			b.t.Errorf("%+v, and the manifest is %s", r, b.readFile(manifest))
		}
		if said := b.journal("--unit="+service, "--output=cat"); !strings.Contains(said, "cannot go on with the rollout in /srv/download: cannot reach the gate: ") {
			b.t.Error(said)
		}
	})
	b.step("signed, by the timer", func() {
		b.must("systemctl", "enable", "--now", "machinemon-checkin-gate.socket", "machinemon-checkin-gate-local.socket")
		since := b.cursor()
		b.must("systemctl", "enable", "--now", timer)
		b.awaitEvent(since, service+" started")
		if got := b.readFile(manifest); strings.Contains(got, "rollout") {
			b.t.Errorf("it is not for all: %s", got)
		}
		b.must(verify...)
		if got := b.must("machinemon-release", "rollout", "/srv/download"); !strings.Contains(got, "1.1.0: 100 % since ") {
			b.t.Error(got)
		}
		b.must("systemctl", "disable", "--now", timer)
		if _, got := b.ask("GET", "/api/v1/admin/updates", "", true); !strings.Contains(got, `"max_failures_percent": 10`) {
			b.t.Errorf("the API has no rollout: %s", got)
		}
	})
	b.step("a release that fails", func() {
		past()
		p.publish(releases.Daemon{Version: "1.2.0"})
		p.release("rollout", p.repo, "--plan", "10,100", "--after", "5m", "--keys", p.keys, "--passphrase-fd", "3")
		b.hosts(p)
		said := `machinemon-update {\\\"target\\\":\\\"agent\\\",\\\"result\\\":\\\"rolled back\\\",\\\"version\\\":\\\"1.2.0\\\",\\\"time\\\":\\\"` + time.Now().UTC().Format(time.RFC3339) + `\\\"}\\n`
		request := `{"hostname":"web-1","os":"linux","arch":"amd64","client_version":"1.1.0","client_id":"","checks":[{"check_type":"script","state":"{\"output\":\"` + said + `\"}"}]}`
		if status, got := b.ask("POST", "/api/v1/checkin", request, false); status != 200 || !strings.Contains(got, "update_version") {
			b.t.Errorf("the check-in: %d %s", status, got)
		}
		b.must("systemctl", "restart", "machinemon-checkin-gate.service") // which completes pending writes
		if r := b.run("systemctl", "start", service); r.Code == 0 {
			b.t.Error("the run that stops the rollout does not fail")
		}
		if said := b.journal("--unit="+service, "--output=cat"); !strings.Contains(said, "stopped the rollout of 1.2.0 in /srv/download: 1 of 1 clients failed at the step of 10 %, and no more than 10 % of them may") {
			b.t.Error(said)
		}
		if got := b.readFile(manifest); !strings.Contains(got, `"percent": 0`) {
			b.t.Errorf("it is not stopped: %s", got)
		}
		b.must(verify...)
		b.must("systemctl", "start", service) // which has nothing to do
		if _, got := b.ask("POST", "/api/v1/checkin", request, false); strings.Contains(got, "update_version") {
			b.t.Errorf("agents are still told: %s", got)
		}
	})
	b.step("without signatures, and without a key", func() {
		b.must("rm", "-r", "/srv/download", "/etc/machinemon-release/srv-download")
		b.must("mkdir", "/srv/download")
		b.must("sh", "-c", "cd /root && echo 1 >testd && tar -czf testd-linux-amd64.tar.gz testd")
		env := p.env[0]
		b.must("env", env, "machinemon-release", "publish", "/srv/download", "--version", "1.3.0", "--rollout", "1", "/root/testd-linux-amd64.tar.gz")
		b.must("env", env, "machinemon-release", "rollout", "/srv/download", "--plan", "1,10", "--after", "5m")
		b.must("systemctl", "start", service)
		if got := b.readFile(manifest); !strings.Contains(got, `"percent": 10`) {
			b.t.Errorf("it was not raised: %s", got)
		}
	})
	b.step("of another user", func() {
		b.must("useradd", "alice")
		b.must("chown", "-R", "alice", "/srv/download")
		b.writeFile("/etc/systemd/system/"+service+".d/user.conf", "[Service]\nUser=alice\n", 0o644)
		b.must("systemctl", "daemon-reload")
		if r := b.run("systemctl", "start", service); r.Code == 0 {
			b.t.Error("it has asked the gate")
		}
		if said := b.journal("--unit="+service, "--output=cat"); !strings.Contains(said, "permission denied (hint: ask as root, or set SocketUser= of machinemon-checkin-gate-local.socket)") {
			b.t.Error(said)
		}
		b.writeFile("/etc/systemd/system/machinemon-checkin-gate-local.socket.d/user.conf", "[Socket]\nSocketUser=alice\n", 0o644)
		b.must("systemctl", "daemon-reload")
		b.must("systemctl", "restart", "machinemon-checkin-gate-local.socket")
		b.must("systemctl", "start", service)
	})
}

// TestRolloutLot shows that the gate does not tell a machine before the percentage at which
// the machine installs the release by itself, and tells it from there on.
func TestRolloutLot(t *testing.T) {
	once(t)
	t.Parallel()
	f := newFleet(t)
	const old, good = "v0.1.11", "v0.1.12"
	a := f.join("root", old)
	a.must("systemctl", "start", "machinemon-client.service")
	var lot string
	f.await(a, "its lot", func(h heard) bool { lot = h.status.Lot; return rollout.ValidID(lot) })
	id := strings.TrimSpace(a.readFile("/etc/machine-id"))
	if got := strings.TrimSpace(a.must("systemd-id128", "machine-id", "--app-specific=8c415d0e6a2b4f97b31c70e52d9846fa")); lot != got || lot == id {
		t.Fatalf("the lot is %s, want %s", lot, got)
	}
	place := rollout.Place(lot, good)

	f.publish(releases.Client{Version: good}, "--rollout", fmt.Sprint(place))
	since := a.cursor()
	for range 3 {
		f.await(a, old, func(h heard) bool { return h.version == old })
	}
	if status, got, err := f.post(a, old); status != 200 || strings.Contains(got, "update_version") || err != nil {
		t.Errorf("at %d %% it is told: %d %s, %v", place, status, got, err)
	}
	entries, err := a.JournalSince(t.Context(), since)
	f.ok(err)
	for _, e := range entries {
		if strings.Contains(e["MESSAGE"], "directive") {
			t.Errorf("at %d %%: %s", place, e["MESSAGE"])
		}
	}
	a.must("systemctl", "start", "machinemon-fetch@agent.service") // as its timer does
	if got := a.must("machinemon-update", "status", "agent"); !strings.Contains(got, fmt.Sprintf("not yet for this machine (rollout at %d %%)", place)) {
		t.Errorf("status: %s", got)
	}

	f.must("machinemon-release", "set", download, "--rollout", fmt.Sprint(place+1))
	f.await(a, good, updated(good))
	f.shows(a, good, done, good, "")
}
