//go:build systemd

package systemtest

import (
	"bytes"
	"fmt"
	"path"
	"strconv"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

const stateDir = "/var/lib/machinemon-update"

// smallState puts the state on a disk of its own with these mount options, such as a size.
func (c *chain) smallState(options string) {
	c.t.Helper()
	c.must("sh", "-ec", "systemctl stop 'machinemon-*@testd.path'; mount -t tmpfs -o mode=755,"+options+" tmpfs "+stateDir+
		"; systemd-tmpfiles --create machinemon-update.conf; systemctl start paths.target 'machinemon-verify@testd.path' 'machinemon-swap@testd.path'")
}

// fill uses all space on dir's disk except for leave bytes, until empty.
func (c *chain) fill(dir string, leave int) {
	c.t.Helper()
	c.must("sh", "-ec", fmt.Sprintf("fallocate -l $(( $(stat -f -c '%%a*%%S' %s) - %d )) %s/ballast", dir, leave, dir))
}

func (c *chain) empty(dir string) {
	c.t.Helper()
	c.must("sh", "-c", "rm -r "+dir+"/ballast*")
}

// used returns the number of bytes in use on dir's disk.
func (c *chain) used(dir string) int {
	c.t.Helper()
	n, err := strconv.Atoi(strings.Fields(c.must("df", "--block-size=1", "--output=used", dir))[1])
	c.ok(err)
	return n
}

// full waits for an apply that must end so on a full disk: testd is untouched, and no
// file is left on the disk.
func (c *chain) full(apply *machine.Process, says ...string) {
	c.t.Helper()
	c.said(c.wait(apply), 1, append(says, "testd: failed")...)
	c.assertRuns(releases.Daemon{Version: "1.0.0"})
	if s := c.status(); s.Trial != "" || len(s.Rejected) > 0 {
		c.t.Errorf("status shows %+v", s)
	}
	if got := c.side(); len(got) > 0 {
		c.t.Errorf("beside %s: %d files", testdPath, len(got))
	}
}

// TestDiskFullForState shows that a full disk of the state only ends the attempt, at each stage.
func TestDiskFullForState(t *testing.T) {
	once(t)
	t.Parallel()
	c := newHeldChain(t, testdTarget)
	c.smallState("size=32m,nr_inodes=100")
	c.publish(c.dir, releases.Daemon{Version: "1.0.0"})
	c.apply(0, "already current")
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	file := c.archive("1.1.0")
	used := c.used(stateDir)
	const none = "no space left on device"

	for _, test := range []struct {
		name string
		run  func(since machine.Cursor) *machine.Process
		says []string
	}{
		{"before the download", func(machine.Cursor) *machine.Process {
			c.fill(stateDir, 1<<20)
			return c.startApply()
		}, []string{"cannot download testd-1.1.0", "MB on the disk of " + stateDir + "/fetch/testd, and 1.0 MB are free"}},
		{"in the download", func(machine.Cursor) *machine.Process {
			came, goOn := c.breakUntil(file)
			apply := c.startApply()
			c.arrived(came)
			c.fill(stateDir, 1<<20)
			close(goOn)
			return apply
		}, []string{"cannot store http://", none}},
		{"before it is unpacked", func(since machine.Cursor) *machine.Process {
			c.hold(atVerify)
			apply := c.startApply()
			c.awaitEvent(since, inChain("verify starting")[0])
			c.fill(stateDir, 1<<20)
			c.letGo(atVerify)
			return apply
		}, []string{"cannot unpack testd-1.1.0", "MB are free"}},
		{"while it is unpacked", func(since machine.Cursor) *machine.Process {
			c.hold(atVerify)
			apply := c.startApply()
			c.awaitEvent(since, inChain("verify starting")[0])
			// The disk has room for content, but not for names.
			c.must("sh", "-c", "mkdir "+stateDir+"/ballast; cd "+stateDir+"/ballast; touch $(seq 100); rm 1 2 3")
			c.letGo(atVerify)
			return apply
		}, []string{"cannot unpack testd-1.1.0", none}},
		{"not a byte left in the download", func(machine.Cursor) *machine.Process {
			came, goOn := c.breakUntil(file)
			apply := c.startApply()
			c.arrived(came)
			c.fill(stateDir, 0)
			close(goOn)
			return apply
		}, []string{"machinemon-fetch@testd.service failed (exit-code)", "nothing was changed (hint: journalctl "}}, // there is not even a byte for the reason
		{"not a byte left for a rollback", func(since machine.Cursor) *machine.Process {
			c.hold(atPreflight)
			apply := c.startApply()
			c.awaitHeld(since, atPreflight)
			c.fill(stateDir, 0)
			c.letGo(atPreflight)
			return apply
		}, []string{"cannot keep space for a rollback: a rollback needs 2097152 bytes in " + stateDir + "/swap/testd for its records", none}},
	} {
		c.step(test.name, func() {
			since := c.cursor()
			apply := test.run(since)
			c.full(apply, test.says...)
			c.assertUntouched(since)
			c.server.Mend(file)
			c.empty(stateDir)
			if now := c.used(stateDir); now > used+256<<10 {
				c.t.Errorf("%d bytes are in use, %d before:\n%s", now, used, c.must("find", stateDir, "-type", "f", "-ls"))
			}
		})
	}
	c.apply(0, "committed 1.1.0 (was 1.0.0)")
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.assertClosed("1.0.0")
}

// TestDiskFullInTheTrial: the verdict commit cannot be written in the trial. The old
// version is restored, and the trial is closed in the space that was kept for that.
func TestDiskFullInTheTrial(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, strings.Replace(testdTarget, "settle_seconds = 1", "settle_seconds = 3", 1))
	c.smallState("size=32m")
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	since := c.cursor()
	apply := c.startApply()
	c.awaitTrial()
	c.fill(stateDir, 0)
	c.awaitEvent(since, inChain("commit failed")[0])
	c.must("sh", "-c", "systemctl start machinemon-deadline@testd.service; true") // as the timer would
	c.said(c.wait(apply), 4, "interrupted 1.1.0", "1.0.0 runs again")
	c.awaitTestd("1.0.0")
	c.assertLast("rollback", "interrupted", "1.0.0", "1.1.0")
	if s := c.status(); s.Trial != "" {
		t.Errorf("status shows %+v", s)
	}
	if got := digest(c.readFile(testdPath)); got != digest(string(build(t, releases.Daemon{Version: "1.0.0"}))) {
		t.Error("the old file is not back")
	}

	c.empty(stateDir)
	c.apply(0, "committed 1.1.0 (was 1.0.0)")
	if h := c.history(); len(h) != 2 || h[1].Result != "interrupted" {
		t.Errorf("history has %+v", h)
	}
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.assertClosed("1.0.0")
}

// TestDiskFullForFiles is the same for the disk of the installed file. With a hook before
// the swap the backup is a copy, because the hook may write the installed file in place.
func TestDiskFullForFiles(t *testing.T) {
	once(t)
	t.Parallel()
	m := boot(t)
	bin := path.Dir(testdPath)
	m.must("mount", "-t", "tmpfs", "-o", "size=32m,mode=755", "tmpfs", bin)
	m.installTestd("1.0.0", testdUnit)
	m.target(strings.Replace(testdTarget, "[health]", "[hooks]\npre_swap = [\"/usr/bin/true\"]\n[health]", 1))
	dir := t.TempDir()
	c := &chain{m, dir, m.serve(dir)}
	release := build(t, releases.Daemon{Version: "1.1.0"})
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	used := c.used(bin)
	for _, test := range []struct {
		name  string
		leave int
		says  string
	}{
		{"for the new file", 1 << 20, "cannot stage " + testdPath + ": it needs " + fmt.Sprint(len(release)) + " bytes, "},
		{"for the backup", len(release) + 1<<20, "no space left on device (hint: df shows what is full)"},
	} {
		c.step(test.name, func() {
			c.fill(bin, test.leave)
			since := c.cursor()
			c.full(c.startApply(), test.says)
			c.assertUntouched(since)
			c.assertLast("swap", "failed", "1.0.0", "1.1.0")
			c.empty(bin)
			if now := c.used(bin); now > used+64<<10 {
				c.t.Errorf("%d bytes are in use, %d before", now, used)
			}
		})
	}
	c.apply(0, "committed 1.1.0 (was 1.0.0)")
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
}

// TestDiskUse shows that fifty updates in a row, with failures of every kind, need no
// more disk space than five, and no more than the manual page says.
func TestDiskUse(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, strings.NewReplacer("settle_seconds = 1", "settle_seconds = 0", "timeout_seconds = 10", "timeout_seconds = 5").Replace(testdTarget))
	// Linking fifty programs would take longer than installing them.
	const placeholder = "7.77.777"
	good, bad := build(t, releases.Daemon{Version: placeholder}), build(t, releases.Daemon{Version: placeholder, Behaviour: "exit1-at-once"})
	current := "1.0.0"
	update := func(i int) {
		version := fmt.Sprintf("2.%02d.000", i)
		of := func(program []byte) releases.File {
			return releases.File{Name: "testd", Content: bytes.ReplaceAll(program, []byte(placeholder), []byte(version))}
		}
		switch {
		case i%10 == 3: // a trial that fails
			c.publishFiles(c.dir, version, of(bad))
			c.apply(4, "rolled back "+version)
		case i%10 == 5: // a download that fails half-way
			c.publishFiles(c.dir, version, of(good))
			file := c.archive(version)
			c.server.Break(file, releases.Die(1<<20))
			c.apply(7, "not downloaded "+version)
			c.server.Mend(file)
		case i%10 == 8: // an archive that differs from the manifest
			c.publishFiles(c.dir, version, of(good))
			c.edit(func(_ *manifest.Manifest, p *manifest.Platform) {
				p.Contents["testd"] = manifest.Content{SHA256: digest("x"), Size: p.Contents["testd"].Size}
			})
			c.apply(6, "refused "+version)
		default:
			c.publishFiles(c.dir, version, of(good))
			c.apply(0, "committed "+version+" (was "+current+")")
			current = version
		}
	}
	// measure returns the sizes of the records and of all other files.
	measure := func() (records, rest int) {
		t.Helper()
		found := c.must("find", stateDir, "/run/machinemon-update", testdSide, "-type", "f", "-printf", `%s %f\n`)
		for line := range strings.Lines(found) {
			size, name, _ := strings.Cut(strings.TrimSpace(line), " ")
			n, err := strconv.Atoi(size)
			c.ok(err)
			if name == "status.json" {
				records += n
			} else {
				rest += n
			}
		}
		t.Logf("records %d bytes, the rest %d bytes in\n%s", records, rest, found)
		return records, rest
	}
	for i := range 5 {
		update(i)
	}
	_, before := measure()
	for i := 5; i < 50; i++ {
		update(i)
	}
	records, after := measure()
	if after > before+4096 {
		t.Errorf("after 5 updates %d bytes were kept, after 50 %d", before, after)
	}
	if records > 2<<20 || after > len(good)+64<<10 {
		t.Errorf("the manual page promises less: records %d bytes, the rest %d", records, after)
	}
	c.awaitTestd(current)
	if got := c.must("systemctl", "is-active", "machinemon-verify@testd.path", "machinemon-swap@testd.path"); got != "active\nactive\n" {
		t.Errorf("the path units are %q", got)
	}
	if h := c.history(); len(h) != 50 {
		t.Errorf("history has %d attempts", len(h))
	}
}
