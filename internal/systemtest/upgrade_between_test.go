//go:build systemd

package systemtest

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestUpgradeBetweenSteps installs the packages while programs of the earlier ones are at
// work on a bundle, or have handed it on, or while its release is on trial. The chain goes
// on each time. -from gives the earlier packages; without it, they are the same.
func TestUpgradeBetweenSteps(t *testing.T) {
	once(t)
	t.Parallel()
	earlier := packages(t)
	if *from != "" {
		var err error
		if earlier, err = filepath.Glob(filepath.Join(*from, "*.deb")); err != nil {
			t.Fatal(err)
		}
	}
	const beforeSwap = hold("swap")
	c := newHeldChain(t, testdTarget)
	c.writeFile("/etc/systemd/system/machinemon-swap@testd.service.d/hold.conf", "[Service]\nExecStartPre="+beforeSwap.waits()+"\n", 0o644)
	old := c.bring(earlier...)
	c.must("mv", debsInside, "/srv/earlier")
	for i, deb := range old {
		old[i] = filepath.Join("/srv/earlier", filepath.Base(deb))
	}
	now := c.bring(packages(t)...)
	dpkg := func(debs []string) {
		t.Helper()
		c.must(append([]string{"env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--force-unsafe-io", "--force-downgrade", "--force-confnew", "--install"}, debs...)...)
	}
	signal := func(step, signal string) func() {
		return func() { c.must("systemctl", "kill", "--signal="+signal, "--kill-who=main", unitOf(step)) }
	}
	was := "1.0.0"
	for n, point := range []struct {
		name      string
		at        hold // where the chain waits; "" for reach and goOn
		reach, on func()
	}{
		{"the fetcher is at work", "", nil, signal("fetch", "CONT")},
		{"the bundle is handed on", atVerify, nil, nil},
		{"the verifier is at work", "", func() { c.awaitUnpacking(); signal("verify", "STOP")() }, signal("verify", "CONT")},
		{"the tree is handed on", beforeSwap, nil, nil},
		{"on trial", "", c.awaitTrial, func() {}},
	} {
		c.step(point.name, func() {
			dpkg(old)
			if point.name == "on trial" {
				c.target(longTrial)
			}
			version := fmt.Sprintf("1.%d.0", n+1)
			release := releases.Daemon{Version: version}
			files := []releases.File{{Name: "testd", Content: build(c.t, release)}}
			if point.name == "the verifier is at work" { // make it long enough to be noticed
				files = append(files, releases.File{Name: "bulk", Content: make([]byte, 256<<20)})
			}
			c.publishFiles(c.dir, version, files...)
			var goOn chan struct{}
			reach := point.reach
			if n == 0 {
				came, more := c.breakUntil(c.archive(version))
				goOn, reach = more, func() { c.arrived(came); signal("fetch", "STOP")() }
			}
			since := c.cursor()
			if point.at != "" {
				c.hold(point.at)
				reach = func() { c.awaitEvent(since, inChain(string(point.at) + " starting")[0]) }
			}
			apply := c.startApply()
			reach()
			dpkg(now)
			if goOn != nil {
				close(goOn)
			}
			if point.at != "" {
				c.letGo(point.at)
			} else {
				point.on()
			}
			c.said(c.wait(apply), 0, "committed "+version)
			c.assertRuns(release)
			c.assertClosed(was)
			was = version
		})
	}
}
