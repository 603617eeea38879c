//go:build systemd

package systemtest

import (
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

	// fewNames leaves room for content, but only for so many names, when the verifier begins.
	fewNames := func(since machine.Cursor, free string) *machine.Process {
		c.hold(atVerify)
		apply := c.startApply()
		c.awaitEvent(since, inChain("verify starting")[0])
		c.must("sh", "-c", "mkdir "+stateDir+"/ballast; cd "+stateDir+"/ballast; touch $(seq 100); rm "+free)
		c.letGo(atVerify)
		return apply
	}

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
		}, []string{"cannot store http://", none + " (hint: make room on the disk of " + stateDir + "/fetch/testd/ready; df and df -i show what is free)"}},
		{"before it is unpacked", func(since machine.Cursor) *machine.Process {
			c.hold(atVerify)
			apply := c.startApply()
			c.awaitEvent(since, inChain("verify starting")[0])
			c.fill(stateDir, 1<<20)
			c.letGo(atVerify)
			return apply
		}, []string{"cannot unpack testd-1.1.0", "MB are free"}},
		{"while it is described", func(since machine.Cursor) *machine.Process {
			return fewNames(since, "1 2")
		}, []string{"cannot write " + stateDir + "/verify/testd/ready/.", "/receipt.json: " + none + " (hint: make room on the disk of " + stateDir + "/verify/testd/ready; df and df -i show what is free)"}},
		{"while it is handed on", func(since machine.Cursor) *machine.Process {
			return fewNames(since, "1 2 3")
		}, []string{"cannot hand on ", ": " + none + " (hint: make room on the disk of " + stateDir + "/verify/testd/ready; df and df -i show what is free)"}},
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
	small := "cannot install 1.1.0: its files need " + fmt.Sprintf("%.1f", float64(len(release)+len(build(t, releases.Daemon{Version: "1.0.0"})))/1e6) + " MB on the disk of " + bin
	for _, test := range []struct {
		name   string
		leave  int
		listed bool // the manifest lists the files
		stage  string
		says   string
	}{
		{"for the new file", 1 << 20, true, "fetch", small},
		{"for the backup", len(release) + 1<<20, true, "fetch", small},
		{"for the new file, not listed", 1 << 20, false, "swap", "cannot stage " + testdPath + ": it needs " + fmt.Sprint(len(release)) + " bytes, "},
		{"for the backup, not listed", len(release) + 1<<20, false, "swap", "no space left on device (hint: df shows what is full)"},
	} {
		c.step(test.name, func() {
			if !test.listed {
				c.edit(func(_ *manifest.Manifest, p *manifest.Platform) { p.Contents, p.Deltas, p.Patches = nil, nil, nil })
			}
			c.fill(bin, test.leave)
			since, asked := c.cursor(), c.archives()
			c.full(c.startApply(), test.says)
			c.assertUntouched(since)
			c.assertLast(test.stage, "failed", "1.0.0", "1.1.0")
			if got := c.archives() - asked; (got == 0) != test.listed {
				t.Errorf("%d archives were requested", got)
			}
			c.empty(bin)
			if now := c.used(bin); now > used+64<<10 {
				c.t.Errorf("%d bytes are in use, %d before", now, used)
			}
		})
	}
	c.apply(0, "committed 1.1.0 (was 1.0.0)")
	c.assertRuns(releases.Daemon{Version: "1.1.0"})

	keep := strings.Replace(testdTarget, "[health]", "[rollback]\nkeep_previous = true\n[health]", 1)
	c.publish(c.dir, releases.Daemon{Version: "1.2.0"})
	c.fill(bin, len(release)-1<<20)
	c.step("the previous release is to be kept", func() {
		c.target(keep)
		asked := c.archives()
		c.apply(1, "cannot install 1.2.0: its files need ", "; release 1.0.0, which rollback.keep_previous keeps, has ")
		if got := c.archives() - asked; got != 0 {
			t.Errorf("%d archives were requested", got)
		}
		c.assertPrevious("1.0.0")
	})
	c.step("the previous release is given up", func() {
		c.target(testdTarget)
		r := c.run("machinemon-update", "apply", "testd")
		c.said(r, 0, "committed 1.2.0 (was 1.1.0)")
		if !strings.Contains(r.Stdout, "\n  warning: release 1.0.0, which was kept for a rollback by command, is given up: the new files need ") {
			t.Errorf("no warning: %s", r.Stdout)
		}
		c.assertRuns(releases.Daemon{Version: "1.2.0"})
		c.assertPrevious("1.1.0")
	})
}

func (c *chain) assertPrevious(version string) {
	c.t.Helper()
	if s := c.status(); s.Previous != version {
		c.t.Errorf("kept is %q, want %q", s.Previous, version)
	}
}

// TestDiskUse shows that fifty updates in a row, with failures of every kind, need no
// more disk space than five, and no more than the manual page says.
func TestDiskUse(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, strings.NewReplacer("settle_seconds = 1", "settle_seconds = 0", "timeout_seconds = 10", "timeout_seconds = 5").Replace(testdTarget))
	current := "1.0.0"
	update := func(i int) {
		version := fmt.Sprintf("2.%02d.000", i)
		good, bad := releases.Daemon{Version: version}, releases.Daemon{Version: version, Behaviour: "exit1-at-once"}
		switch {
		case i%10 == 3: // a trial that fails
			c.publish(c.dir, bad)
			c.apply(4, "rolled back "+version)
		case i%10 == 5: // a download that fails half-way
			c.publish(c.dir, good)
			file := c.archive(version)
			c.server.Break(file, releases.Die(1<<20))
			c.apply(7, "not downloaded "+version)
			c.server.Mend(file)
		case i%10 == 8: // an archive that differs from the manifest
			c.publish(c.dir, good)
			c.edit(func(_ *manifest.Manifest, p *manifest.Platform) {
				p.Contents["testd"] = manifest.Content{SHA256: digest("x"), Size: p.Contents["testd"].Size}
			})
			c.apply(6, "refused "+version)
		default:
			c.publish(c.dir, good)
			c.apply(0, "committed "+version+" (was "+current+")")
			current = version
		}
	}
	// measure returns the sizes of the records and of all other files. What is kept of failed
	// trials has a limit of its own.
	measure := func() (records, rest int) {
		t.Helper()
		found := c.must("find", stateDir, "/run/machinemon-update", testdSide, "-type", "f", "-printf", `%s %p\n`)
		trials, kept := 0, 0
		for line := range strings.Lines(found) {
			size, name, _ := strings.Cut(strings.TrimSpace(line), " ")
			n, err := strconv.Atoi(size)
			c.ok(err)
			switch {
			case strings.HasPrefix(name, stateDir+"/evidence/"):
				trials++
				kept += n
			case path.Base(name) == "status.json":
				records += n
			default:
				rest += n
			}
		}
		if trials > 10 || kept > trials<<20 {
			t.Errorf("%d bytes are kept of %d failed trials", kept, trials)
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
	if records > 2<<20 || after > len(c.readFile(testdPath))+64<<10 {
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
