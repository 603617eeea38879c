//go:build systemd

package systemtest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// attack is what a server, an archive or somebody on the machine does before an apply, and
// how that ends.
type attack struct {
	name    string
	do      func()
	target  string // the target file, if it is not testdTarget
	run     string // the verb, if it is not apply
	exit    int
	program string   // the program that meets it, whose memory counts
	says    []string // in what is printed
	most    int64    // MiB that the program may take more than in a plain update; 0 means 64
	check   func()   // afterwards
	undo    func()   // what later attacks must not meet
}

// peakProgram runs a program and logs the greatest size of its resident memory: ru_maxrss of
// getrusage(2), system call 98, which the kernel keeps for children that have ended. That of
// perl itself, before it executes the program, is smaller than that of each of ours. The peak
// of the unit's cgroup would be another figure, with the page cache of all files that were
// read and written; machines in containers do not have it.
const peakProgram = `#!/usr/bin/perl
my $pid = fork;
if (!$pid) { exec @ARGV; exit 127 }
waitpid $pid, 0;
my $status = $?;
my $usage = "\0" x 144;
syscall(98, -1, $usage);
print STDERR "peak ", unpack("x32q", $usage), " kB of $ARGV[0]\n";
kill $status & 127, $$ if $status & 127;
exit $status >> 8;
`

// measure makes the units of the programs that read what others wrote log their peak.
func (c *chain) measure(environment string) {
	c.t.Helper()
	c.writeFile("/opt/peak", peakProgram, 0o755)
	for unit, command := range map[string]string{"fetch": "fetcher %i", "verify": "verifier %i", "swap": "swapper swap %i", "baseline": "health-gate baseline %i"} {
		c.writeFile("/etc/systemd/system/machinemon-"+unit+"@.service.d/peak.conf",
			"[Service]\nNotifyAccess=all\nExecStart=\nExecStart=/opt/peak /usr/lib/machinemon-update/"+command+"\n"+environment, 0o644)
	}
	c.must("systemctl", "daemon-reload")
}

var peakLine = regexp.MustCompile(`^peak (\d+) kB of /usr/lib/machinemon-update/([a-z-]+)$`)

// peaks runs f, and returns the peak of each program's memory in kB meanwhile.
func (c *chain) peaks(target string, f func()) map[string]int64 {
	c.t.Helper()
	since := c.cursor()
	f()
	entries, err := c.JournalSince(c.t.Context(), since)
	c.ok(err)
	all := map[string]int64{}
	for _, e := range entries {
		if found := peakLine.FindStringSubmatch(e["MESSAGE"]); found != nil && strings.HasSuffix(e["_SYSTEMD_UNIT"], "@"+target+".service") {
			kB, err := strconv.ParseInt(found[1], 10, 64)
			c.ok(err)
			all[found[2]] = max(all[found[2]], kB)
		}
	}
	return all
}

// lay publishes a release whose file is made while it is served. unpacked is the
// manifest's unpacked_size, 0 for none.
func (c *chain) lay(version, name string, b bomb, unpacked int64) {
	c.t.Helper()
	sum := sha256.New()
	size, err := b.WriteTo(sum)
	c.ok(err)
	m := manifest.Manifest{Schema: 1, Version: version, Platforms: map[string]manifest.Platform{
		"linux-amd64": {File: name, SHA256: hex.EncodeToString(sum.Sum(nil)), Size: size, UnpackedSize: unpacked}}}
	document, err := m.Marshal()
	c.ok(err)
	c.ok(os.WriteFile(filepath.Join(c.dir, manifest.FileName), document, 0o644))
	c.server.Break("/"+name, served(b))
}

// served answers with a bomb, without its length, until the client disconnects.
func served(b bomb) releases.Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { b.WriteTo(w) }
}

// TestAttacks runs the attacks by archives, servers and users of the machine that no other
// test runs on a machine, one after another on one. Each ends with its own message. Testd is
// not even restarted, nothing is left, and no program takes much more memory than in an
// update from a good server.
func TestAttacks(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.measure("Environment=HTTP_PROXY=" + proxyAt + " HTTPS_PROXY=" + proxyAt + " ALL_PROXY=" + proxyAt +
		" http_proxy=" + proxyAt + " https_proxy=" + proxyAt + " all_proxy=" + proxyAt + "\n")
	c.publish(c.dir, releases.Daemon{Version: "1.0.1"})
	base := c.peaks("testd", func() { c.apply(0, "committed 1.0.1 (was 1.0.0)") })
	if len(base) != 4 {
		t.Fatalf("the peaks are %v", base)
	}
	attacks := slices.Concat(c.archiveAttacks(), c.serverAttacks(), c.localAttacks(), c.probeAttacks())
	finish := c.slowServers()

	pid := c.mainPID()
	c.must("sh", "-c", "touch /run/before; sleep 0.01") // nothing else may have its time
	since := c.cursor()
	table := ""
	for _, a := range attacks {
		c.step(a.name, func() {
			target := testdTarget
			if a.target != "" {
				target = a.target
			}
			c.writeTarget(target)
			a.do()
			peaks := c.peaks("testd", func() {
				if a.run == "probe" {
					c.probe(a.exit, a.says...)
				} else {
					c.apply(a.exit, a.says...)
				}
			})
			over := (peaks[a.program] - base[a.program]) >> 10
			table += fmt.Sprintf("%-40s %-8s %4d MiB, %+4d\n", a.name, a.program, peaks[a.program]>>10, over)
			if most := max(a.most, 64); a.program != "" && peaks[a.program] == 0 || over > most {
				c.t.Errorf("%s took %d MiB more than the %d MiB of a plain update, at most %d are allowed", a.program, over, base[a.program]>>10, most)
			}
			if left := c.must("sh", "-c", "find "+fetchDir+" "+verifyDir+` \( -path '*/ready/*' -o -name '.*' -o -name 'partial*' \)`); left != "" {
				c.t.Errorf("still there: %s", left)
			}
			if a.check != nil {
				a.check()
			}
			if a.undo != nil {
				a.undo()
			}
		})
	}
	finish()
	t.Logf("peaks of a plain update in kB: %v; of the attacks:\n%s", base, table)
	c.assertUntouched(since)
	if now := c.mainPID(); now != pid {
		t.Errorf("the main process was %s and is %s", pid, now)
	}
	for _, name := range c.find("-newer", "/run/before", "!", "-type", "d") {
		if !strings.HasPrefix(name, stateDir+"/") && !strings.HasPrefix(name, "/var/log/") && !strings.HasPrefix(name, "/etc/machinemon-update/") {
			t.Errorf("written: %s", name)
		}
	}
	c.goodAtLast()
}

// localAttacks damage the records of an earlier update, as a power cut, a failing disk or a
// newer program could. What can be done without them is done; root does not overwrite what a
// newer program wrote.
func (c *chain) localAttacks() (all []attack) {
	const archive = "/7.0.0.bin"
	for _, a := range []struct {
		name, damage, program string
		exit                  int
		says                  string
	}{
		{"records cut short", `truncate --size=-9 "$f"`, "verifier", 6, "refused 7.0.0: cannot unpack 7.0.0.bin"},
		{"records of zeros", `head --bytes=200 /dev/zero >"$f"`, "verifier", 6, "refused 7.0.0: cannot unpack 7.0.0.bin"},
		{"records of a newer program", `echo '{"format":999}' >"$f"`, "", 1, "its format 999 is newer than this program's 1 (hint: install the version of machinemon-update that wrote it, or a newer one)"},
	} {
		all = append(all, attack{name: "local: " + a.name, program: a.program, exit: a.exit, says: []string{a.says}, do: func() {
			c.lay("7.0.0", archive[1:], bomb{single(gzipOf(c.t, nil))}, 0)
			c.must("sh", "-ec", "cp -a "+stateDir+" /run/kept; for f in $(find "+stateDir+"/*/testd -name '*.json'); do "+a.damage+"; done")
		}, undo: func() { c.must("sh", "-ec", "cd /run/kept; cp -a . "+stateDir+"; rm -r /run/kept") }})
	}
	return all
}

// goodAtLast installs a release whose archive has all that is skipped, with a umask of 0,
// while another name of the installed file exists.
func (c *chain) goodAtLast() {
	c.t.Helper()
	c.writeTarget(testdTarget)
	c.must("ln", testdPath, "/usr/local/bin/other-name")
	good := releases.Daemon{Version: "2.0.0"}
	c.ship("2.0.0", "good.tar.gz", oddArchive(c.t, build(c.t, good)))
	c.said(c.run("sh", "-c", "umask 0; machinemon-update apply testd"), 0, "committed 2.0.0 (was 1.0.1)")
	c.assertRuns(good)
	c.assertClosed("1.0.1")
	if got := digest(c.readFile("/usr/local/bin/other-name")); got != digest(string(build(c.t, releases.Daemon{Version: "1.0.1"}))) {
		c.t.Error("the other name of the installed file has another content now")
	}
	if got := c.must("sh", "-c", "stat --format='%U:%G %a' "+testdPath+"; getcap "+testdPath); got != "root:root 755\n" {
		c.t.Errorf("the installed file is %s", got)
	}
	open := c.must("find", stateDir, "/run/machinemon-update", path.Dir(testdPath), "-perm", "/o+w", "!", "-type", "l", "!", "-type", "s")
	if open != "" {
		c.t.Errorf("everyone may write to %s", open)
	}
}
