//go:build systemd

package systemtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

const (
	fetchDir  = "/var/lib/machinemon-update/fetch/testd"
	verifyDir = "/var/lib/machinemon-update/verify/testd"
	foreignID = "ca2178028a2041c9a0e361c38f0ca97b" // the MESSAGE_ID of foreign files
)

// as runs a shell script as the user of a worker, in the groups that its unit has.
func (c *chain) as(dir, script string) {
	c.t.Helper()
	owner := strings.TrimSpace(c.must("stat", "--format=%u", dir))
	groups := strings.TrimSpace(c.must("stat", "--format=%g", dir))
	if dir == verifyDir {
		groups += "," + strings.TrimSpace(c.must("stat", "--format=%g", fetchDir))
	}
	c.must(asUser(owner, groups, "sh", "-ec", "umask 077; cd "+dir+"\n"+script)...)
}

// TestPlants leaves, as the real users, what would stop the chain for good, and shows that
// each next update is installed, and that status says what root removed.
func TestPlants(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.apply(0, "committed 1.1.0")
	const full = "mkdir -p %/a/b; touch %/a/b/file; "
	dir := func(name string) string { return strings.ReplaceAll(full, "%", name) }
	was := "1.1.0"
	for _, p := range []struct {
		version       string
		fetch, verify string // scripts
		says          []string
		loops, swaps  bool // what starts: the verifier until systemd gives up, the swapper
	}{
		{"1.2.0", "rm -rf ready partial trust.json manifest.json; mkdir r; ln -s / r/.next.link; ln -s r ready; mkfifo trust.json manifest.json; echo '{\"format\":999}' >status.json; " +
			dir("partial") + "ln -s /etc/shadow partial.json; " + dir(".status.json1"),
			"rm -rf ready; touch ready; rm status.json; mkfifo status.json; " + dir("fallback.json") + dir("status.json.damaged"),
			[]string{"status.json.damaged (a directory of user ", "fallback.json (a directory of user ", "ready (a file of user "}, true, false},
		{"1.3.0", "rm -rf ready status.json; mkfifo ready; echo garbage >status.json; chmod 0 status.json",
			"rm -rf ready status.json; mkdir r; ln -s / r/.next.link; ln -s r ready; echo '{\"format\":999}' >status.json",
			[]string{"ready (a symbolic link of user ", "its format 999 is newer"}, false, true},
		{"1.4.0", "rm -rf ready; mkdir r; mkdir 'r/A 1' r/.x; touch 'r/A 1/x'; ln -s 'A 1' r/.next.link; chmod 1770 r; mv r ready", // at once: the verifier starts
			"mkdir m1 m2; touch m1/x m2/x; mv m1 ../../fetch/testd/ready/mine; mv m2 ../../fetch/testd/ready/.mine" +
				"; rm -rf ready; mkdir ready; cd ready; perl -e 'for (1..3000) { mkdir \"a\"; chdir \"a\" or die }'; ln -s a .next.link",
			nil, true, true},
	} {
		c.step(p.version, func() {
			c.publish(c.dir, releases.Daemon{Version: p.version})
			planted := c.cursor()
			c.as(fetchDir, p.fetch)
			c.as(verifyDir, p.verify)
			if p.loops { // the verifier cannot remove it, so systemd gives up starting it
				c.ok(machine.WaitFor(t.Context(), "a failed path unit", func() bool {
					return c.run("systemctl", "is-failed", "--quiet", "machinemon-verify@testd.path").Code == 0
				}))
			}
			if p.swaps { // or the start could come after the chain was seen to be idle
				c.awaitEvent(planted, inChain("swap starting")[0])
			}
			c.idle()
			// What the real records cannot tell any more is said, and the rest is shown.
			for _, verb := range []string{"status", "history"} {
				r := c.run("machinemon-update", verb, "testd")
				if !strings.Contains(r.Stdout, was) {
					c.t.Errorf("%s shows %+v", verb, r)
				}
				if said := r.Stdout + r.Stderr; p.says != nil && (r.Code != 1 || !strings.Contains(said, verifyDir+"/status.json")) {
					c.t.Errorf("%s does not say what it cannot read: %+v", verb, r)
				}
			}
			c.apply(0, "committed "+p.version)
			c.assertRuns(releases.Daemon{Version: p.version})
			r := c.run("machinemon-update", "status", "testd")
			if r.Code != 0 || !strings.Contains(r.Stdout, "removed from /var/lib/machinemon-update/") {
				c.t.Errorf("status: %+v", r)
			}
			said := c.journal("--output=cat", "MESSAGE_ID="+foreignID, "_UID=0")
			for _, s := range p.says {
				if !strings.Contains(said, s) {
					c.t.Errorf("the journal does not say %q:\n%s", s, said)
				}
			}
			c.assertClosed(was)
			was = p.version
		})
	}
}

// idle waits until no worker is waiting for another one, starting or at work.
func (c *chain) idle() {
	c.t.Helper()
	c.ok(machine.WaitFor(c.t.Context(), "an idle chain", func() bool {
		// The jobs are asked first: a job that has ended since leaves its unit activating.
		return c.must("systemctl", "list-jobs", "--plain", "--no-legend", "machinemon-*@testd.service") == "" &&
			c.must("systemctl", "list-units", "--plain", "--no-legend", "--state=activating", "machinemon-*@testd.service") == ""
	}))
}

// TestPlantsOnTrial leaves things in the verifier's spool while a release is on trial. They
// start the swapper, which must not fail, because that would roll the release back.
func TestPlantsOnTrial(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, strings.Replace(testdTarget, "settle_seconds = 1", "settle_seconds = 6", 1))
	for _, p := range []struct{ version, plant string }{
		{"1.1.0", "mkdir -p ready; chmod 770 ready; touch ready/a1; ln -s a1 ready/.next.link"},
		{"1.2.0", "rm -rf ready; mkdir r; ln -s / r/.next.link; ln -s r ready"},
		{"1.3.0", "mkdir -p ready; chmod 770 ready; mkdir -p ready/a1/b ready/c1; mkfifo ready/a1/manifest.json ready/b1; ln -s a1 ready/.next.link"},
	} {
		c.step(p.plant, func() {
			c.publish(c.dir, releases.Daemon{Version: p.version})
			since := c.cursor()
			apply := c.start("machinemon-update", "apply", "testd")
			c.awaitEvent(since, inChain("swap started")[0])
			planted := c.cursor()
			c.as(verifyDir, p.plant)
			c.awaitEvent(planted, inChain("swap starting")[0])
			c.said(c.wait(apply), 0, "committed "+p.version)
			c.assertRuns(releases.Daemon{Version: p.version})
			c.assertNever(since, inChain("rollback starting")[0])
		})
	}
}

// TestForgedRelease runs, as the verifier and in its sandbox, a program that hands on a
// release of its own instead of the one that the fetcher handed on.
func TestForgedRelease(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	forged := t.TempDir()
	c.publish(forged, releases.Daemon{Version: "6.6.6"})
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	manifest := func(dir string) string {
		content, err := os.ReadFile(filepath.Join(dir, "client-manifest.json"))
		c.ok(err)
		return string(content)
	}
	c.writeFile("/opt/forge/0", string(build(t, releases.Daemon{Version: "6.6.6"})), 0o644)
	c.writeFile("/opt/forge/forge.sh", `set -e
cd `+fetchDir+`/ready
attempt=$(readlink .next.link)
rm -r "$attempt"
mkdir -p `+verifyDir+`/ready/.new
cd `+verifyDir+`/ready
cp /opt/forge/0 /opt/forge/manifest.json .new/
echo '{"attempt":"'"$attempt"'","platform":"linux-amd64","files":[{"entry":"testd","name":"0"}]}' >.new/receipt.json
mv .new "$attempt"
ln -s "$attempt" .next.link
`, 0o644)
	c.writeFile("/etc/systemd/system/machinemon-verify@testd.service.d/forge.conf", "[Service]\nExecStart=\nExecStart=/bin/sh /opt/forge/forge.sh\n", 0o644)
	c.must("systemctl", "daemon-reload")
	for _, f := range []struct{ name, manifest, says string }{
		{"its own manifest", manifest(forged), "the verifier handed on another one (sha256 "},
		{"its own manifest of the version", strings.ReplaceAll(manifest(forged), "6.6.6", "1.1.0"), "the verifier handed on another one (sha256 "},
		{"the fetcher's manifest", manifest(c.dir), ", the manifest says "},
	} {
		c.step(f.name, func() {
			c.writeFile("/opt/forge/manifest.json", f.manifest, 0o644)
			pid, since := c.mainPID(), c.cursor()
			c.apply(6, "refused", f.says)
			c.assertUntouched(since)
			if now := c.mainPID(); now != pid {
				c.t.Errorf("the main process was %s and is %s", pid, now)
			}
			c.assertRuns(releases.Daemon{Version: "1.0.0"})
		})
	}
	// The honest verifier's trees are installed.
	c.must("rm", "-r", "/etc/systemd/system/machinemon-verify@testd.service.d")
	c.must("systemctl", "daemon-reload")
	c.apply(0, "committed 1.1.0")
}
