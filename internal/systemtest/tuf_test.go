//go:build systemd

package systemtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// publisher signs releases with the installed machinemon-release, as a publisher does
// that keeps the root keys on two USB sticks and types a passphrase.
type publisher struct {
	t    *testing.T
	repo string
	keys string // of targets and online
	usb  []string
	env  []string
}

const passphrase = "correct horse battery staple"

// signedTarget is a target whose releases must be signed.
const signedTarget = testdTarget + "[trust]\nmode = \"tuf\"\nproduct = \"testd\"\n"

func newPublisher(t *testing.T) *publisher {
	t.Helper()
	base := t.TempDir()
	p := &publisher{t: t, repo: filepath.Join(base, "repo"), keys: filepath.Join(base, "keys")}
	if err := os.Mkdir(p.repo, 0o755); err != nil {
		t.Fatal(err)
	}
	var args []string
	for range 2 {
		public := p.newRoot()
		args = append(args, "--key", strings.TrimSuffix(public, ".pub")+".pem")
	}
	p.release("keygen", "targets", "--keys", p.keys, "--passphrase-fd", "3")
	p.release("keygen", "online", "--keys", p.keys, "--no-passphrase")
	p.release(append([]string{"init", p.repo, "--keys", p.keys}, args...)...)
	return p
}

// release runs machinemon-release, with the passphrase at descriptor 3.
func (p *publisher) release(args ...string) string {
	p.t.Helper()
	phrase, err := os.CreateTemp(p.t.TempDir(), "")
	if err != nil {
		p.t.Fatal(err)
	}
	defer phrase.Close()
	if _, err := phrase.WriteString(passphrase + "\n"); err != nil {
		p.t.Fatal(err)
	}
	if _, err := phrase.Seek(0, 0); err != nil {
		p.t.Fatal(err)
	}
	c := exec.CommandContext(p.t.Context(), lab.Installed("/usr/bin/machinemon-release"), args...)
	c.ExtraFiles = []*os.File{phrase}
	c.Env = append(os.Environ(), p.env...)
	var said bytes.Buffer
	c.Stderr = &said
	out, err := c.Output()
	if err != nil {
		p.t.Fatalf("machinemon-release %q: %v\n%s", args, err, said.String())
	}
	return strings.TrimSpace(string(out))
}

// newRoot makes a root key on a stick of its own, and returns its public half.
func (p *publisher) newRoot() (public string) {
	p.t.Helper()
	usb := p.t.TempDir()
	p.usb = append(p.usb, usb)
	return p.release("keygen", "root", "--keys", usb, "--no-passphrase")
}

func (p *publisher) publish(d releases.Daemon) {
	p.t.Helper()
	archive := filepath.Join(p.t.TempDir(), "testd-linux-amd64.tar.gz")
	if err := releases.Pack(archive, releases.File{Name: "testd", Content: build(p.t, d)}); err != nil {
		p.t.Fatal(err)
	}
	p.release("publish", p.repo, "--version", d.Version, "--keys", p.keys, "--passphrase-fd", "3", archive)
}

func (p *publisher) refresh() {
	p.t.Helper()
	p.release("refresh", p.repo, "--keys", p.keys)
}

// only returns the only file that matches.
func only(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %q, %v", pattern, found, err)
	}
	return found[0]
}

// rotate replaces the online key and one of the root keys.
func (p *publisher) rotate() {
	p.t.Helper()
	id := func(public string) string { return strings.TrimSuffix(filepath.Base(public), ".pub") }
	oldOnline, oldRoot := only(p.t, p.keys+"/online/*.pub"), only(p.t, p.usb[1]+"/root/*.pub")
	if err := os.Remove(strings.TrimSuffix(oldOnline, ".pub") + ".pem"); err != nil {
		p.t.Fatal(err)
	}
	online := p.release("keygen", "online", "--keys", p.keys, "--no-passphrase")
	p.release("rotate", p.repo, "--keys", p.usb[0], "--add", "online="+online, "--remove", id(oldOnline),
		"--add", "root="+p.newRoot(), "--remove", id(oldRoot))
	p.refresh()
}

// stolen returns the publisher as a thief has it that stole keys and repository.
func (p *publisher) stolen() *publisher {
	p.t.Helper()
	base := p.t.TempDir()
	thief := &publisher{t: p.t, repo: filepath.Join(base, "repo"), keys: filepath.Join(base, "keys")}
	for to, from := range map[string]string{thief.repo: p.repo, thief.keys: p.keys} {
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			p.t.Fatal(err)
		}
	}
	for _, key := range []string{only(p.t, thief.keys+"/online/*.pem"), only(p.t, thief.keys+"/targets/*.pem")} {
		if err := os.Chmod(key, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
	return thief
}

// show copies the publisher's present files to the chain's server.
func (c *chain) show(p *publisher) {
	c.t.Helper()
	old, err := os.ReadDir(c.dir)
	c.ok(err)
	for _, e := range old {
		c.ok(os.Remove(filepath.Join(c.dir, e.Name())))
	}
	c.ok(os.CopyFS(c.dir, os.DirFS(p.repo)))
}

// pin pins the publisher's root file on the chain's machine.
func (c *chain) pin(p *publisher) {
	c.t.Helper()
	c.signed = true
	root, err := os.ReadFile(filepath.Join(p.repo, "1.root.json"))
	c.ok(err)
	c.writeFile("/root/root.json", string(root), 0o600)
	c.must("machinemon-update", "trust", "testd", "/root/root.json", "--sha256", digest(string(root)))
}

// TestTUF follows a target with signed releases: the pin, updates, changes of keys,
// thieves of the old keys, and a publisher that did not sign for a week.
func TestTUF(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, signedTarget)
	c.signed = true
	p := newPublisher(t)
	p.publish(releases.Daemon{Version: "1.1.0"})
	c.show(p)

	c.refused(6, "refused", "fetch", "", "there is no /etc/machinemon-update/trust/testd.root.json (hint: sudo machinemon-update trust testd FILE --sha256 HEX)")
	root, err := os.ReadFile(filepath.Join(p.repo, "1.root.json"))
	c.ok(err)
	c.writeFile("/root/root.json", string(root), 0o600)
	if r := c.run("machinemon-update", "trust", "testd", "/root/root.json"); r.Code != 2 || !strings.Contains(r.Stderr, digest(string(root))) {
		t.Errorf("trust without a digest: %+v", r)
	}
	if r := c.run("machinemon-update", "trust", "testd", "/root/root.json", "--sha256", digest("another")); r.Code != 6 {
		t.Errorf("trust with another digest: %+v", r)
	}
	c.must("machinemon-update", "trust", "testd", "/root/root.json", "--sha256", digest(string(root)))

	c.apply(0, "committed 1.1.0 (was 1.0.0)")
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	if s := c.status(); s.Unsigned {
		t.Errorf("status says unsigned: %+v", s)
	}
	if floor := c.readFile("/var/lib/machinemon-update/swap/testd/floor.json"); !strings.Contains(floor, `"sequence": 1`) {
		t.Errorf("the floor is %s", floor)
	}

	c.step("other keys", func() {
		thief := p.stolen()
		p.rotate()
		p.publish(releases.Daemon{Version: "1.2.0"})
		c.show(p)
		c.apply(0, "committed 1.2.0 (was 1.1.0)")
		c.assertRuns(releases.Daemon{Version: "1.2.0"})

		thief.publish(releases.Daemon{Version: "6.6.6"})
		thief.publish(releases.Daemon{Version: "6.6.7"})
		c.show(thief)
		c.apply(6, "too few valid signatures of the keys that a root names for it")
		c.assertRuns(releases.Daemon{Version: "1.2.0"})
		c.show(p)
		c.apply(0, "already current")
	})

	c.step("a publisher who was away", func() {
		p.publish(releases.Daemon{Version: "1.3.0"})
		p.env = []string{fmt.Sprintf("SOURCE_DATE_EPOCH=%d", time.Now().Add(-8*24*time.Hour).Unix())}
		p.refresh()
		p.env = nil
		c.show(p)
		pid, since := c.mainPID(), c.cursor()
		c.apply(6, "timestamp v", ": expired on ", "(hint: its publisher must sign it again; the next check will notice)")
		c.assertUntouched(since)
		for range 2 { // scheduled runs do not back off
			if r := c.run("systemctl", "start", "machinemon-fetch@testd.service"); r.Code == 0 {
				t.Errorf("a scheduled check: %+v", r)
			}
			if last := c.status().Last; last.Result != "refused" || last.Origin != "schedule" {
				t.Errorf("the last attempt is %+v", last)
			}
		}
		if now := c.mainPID(); now != pid {
			t.Errorf("the main process was %s and is %s", pid, now)
		}
		p.refresh()
		c.show(p)
		c.must("systemctl", "start", "machinemon-fetch@testd.service")
		if s := c.status(); s.Available != "1.3.0" || s.Last.Result != "available" {
			t.Errorf("after the refresh: %+v", s)
		}
		c.apply(0, "committed 1.3.0 (was 1.2.0)")
		c.assertRuns(releases.Daemon{Version: "1.3.0"})
		c.must("machinemon-update", "rollback", "testd") // it may go back to a lower sequence
		c.assertRuns(releases.Daemon{Version: "1.2.0"})
	})
}
