//go:build systemd

package systemtest

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// hosts copies the publisher's files into /srv/download, and the online key to the place
// where the unit reads it.
func (b *box) hosts(p *publisher) {
	b.t.Helper()
	b.ok(fs.WalkDir(os.DirFS(p.repo), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(p.repo, name))
		b.writeFile(path.Join("/srv/download", name), string(content), 0o644)
		return err
	}))
	key, err := os.ReadFile(only(b.t, p.keys+"/online/*.pem"))
	b.ok(err)
	b.writeFile("/etc/machinemon-release/srv-download/online.pem", string(key), 0o600)
}

// TestRefreshTimer shows that a publisher's machine signs its directory again every day,
// by the shipped timer, with the online key only.
func TestRefreshTimer(t *testing.T) {
	once(t)
	t.Parallel()
	b := boot(t)
	p := newPublisher(t)
	p.env = []string{fmt.Sprintf("SOURCE_DATE_EPOCH=%d", time.Now().Add(-8*24*time.Hour).Unix())}
	p.publish(releases.Daemon{Version: "1.1.0"})
	b.hosts(p)
	verify := []string{"machinemon-release", "verify", "/srv/download", "--root", "/srv/download/1.root.json"}
	if r := b.run(verify...); r.Code == 0 || !strings.Contains(r.Stderr, "expired") {
		t.Fatalf("signed eight days ago: %+v", r)
	}

	const of = "@srv-download"
	timer, service := "machinemon-release-refresh"+of+".timer", "machinemon-release-refresh"+of+".service"
	b.writeFile("/etc/systemd/system/"+timer+".d/test.conf", "[Timer]\nRandomizedDelaySec=0\n", 0o644)

	// The timer last ran two days ago, when the machine was on.
	stamp := "/var/lib/systemd/timers/stamp-" + timer
	b.must("systemctl", "daemon-reload")
	b.must("mkdir", "-p", path.Dir(stamp))
	b.must("touch", "--date=2 days ago", stamp)
	since := b.cursor()
	b.must("systemctl", "enable", "--now", timer)
	b.awaitEvent(since, service+" started")
	b.must(verify...)
	if next := b.property(timer, "NextElapseUSecRealtime"); next == "" {
		t.Error("the timer will not run again")
	}

	// Each run signs the existing content again, and writes nothing else.
	before := b.readFile("/srv/download/timestamp.json")
	b.must("systemctl", "start", service)
	if b.readFile("/srv/download/timestamp.json") == before {
		t.Error("the timestamp was not signed again")
	}
	b.must(verify...)

	b.step("without the key", func() {
		const key = "/etc/machinemon-release/srv-download/online.pem"
		b.must("mv", key, key+".1")
		if r := b.run("systemctl", "start", service); r.Code == 0 {
			b.t.Error("it signed")
		}
		if said := b.journal("--unit="+service, "--lines=9", "--output=cat"); !strings.Contains(said, "/online.pem: there is no such key (hint: ") {
			b.t.Errorf("it said %s", said)
		}
		b.must("mv", key+".1", key)
		b.must("systemctl", "reset-failed", service)
	})
	b.step("a key with a passphrase", func() {
		p.release("keygen", "online", "--keys", p.keys+"/2", "--passphrase-fd", "3")
		locked, err := os.ReadFile(only(b.t, p.keys+"/2/online/*.pem"))
		b.ok(err)
		b.writeFile("/etc/machinemon-release/srv-download/online.pem", string(locked), 0o600)
		if r := b.run("systemctl", "start", service); r.Code == 0 {
			b.t.Error("it signed without the passphrase")
		}
		b.writeFile("/etc/machinemon-release/srv-download/phrase", passphrase, 0o600)
		b.writeFile("/etc/systemd/system/"+service+".d/test.conf", "[Service]\nLoadCredential=passphrase:/etc/machinemon-release/srv-download/phrase\n", 0o644)
		b.must("systemctl", "daemon-reload")
		// The passphrase opens the key; after that the run finds that no root names it.
		since := b.cursor()
		if r := b.run("systemctl", "start", service); r.Code == 0 {
			b.t.Error("it signed with a key that the root does not name")
		}
		said := b.journal("--unit="+service, "--after-cursor="+string(since), "--output=cat")
		if strings.Contains(said, "passphrase") || !strings.Contains(said, "cannot ") {
			b.t.Errorf("it said %s", said)
		}
	})
}
