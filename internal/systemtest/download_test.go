//go:build systemd

package systemtest

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// sentOf returns how many answers the servers gave to requests for a path, and their
// number of bytes.
func sentOf(path string, servers ...*releases.Server) (answers int, bytes int64) {
	for _, s := range servers {
		for _, r := range s.Requests() {
			if r.Path == path {
				answers++
				bytes += r.Bytes
			}
		}
	}
	return answers, bytes
}

// TestCutDownload shows that a connection that is cut every megabyte, and a server that
// disappears, cost hardly more bytes than the archive has.
func TestCutDownload(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	noise := make([]byte, 8<<20) // no archive format makes it smaller
	rand.Read(noise)
	publish := func(version string) (file string, size int64) {
		c.publishFiles(c.dir, version, releases.File{Name: "testd", Content: build(t, releases.Daemon{Version: version})},
			releases.File{Name: "noise", Content: noise})
		file = c.archive(version)
		info, err := os.Stat(filepath.Join(c.dir, file))
		c.ok(err)
		return file, info.Size()
	}
	within := func(size int64, file string, servers ...*releases.Server) {
		c.t.Helper()
		answers, sent := sentOf(file, servers...)
		c.t.Logf("%d answers with %d bytes brought an archive of %d bytes", answers, sent, size)
		if sent > size+size/20 {
			c.t.Errorf("%d bytes were sent for an archive of %d", sent, size)
		}
		if found := c.must("find", stateDir+"/fetch/testd", "-name", "*partial*"); found != "" {
			c.t.Errorf("there is still %s", found)
		}
	}
	c.step("cut every megabyte", func() {
		file, size := publish("1.1.0")
		c.server.Break(file, releases.Cut(1<<20))
		c.apply(0, "committed 1.1.0 (was 1.0.0)")
		c.assertRuns(releases.Daemon{Version: "1.1.0"})
		within(size, file, c.server)
	})
	c.step("the server goes away", func() {
		file, size := publish("1.2.0")
		c.server.Break(file, releases.Die(size/2))
		c.apply(7, "not downloaded 1.2.0", "the connection was cut")
		c.must("test", "-s", stateDir+"/fetch/testd/partial")
		gone := c.server
		gone.Close()
		c.apply(7, "connection refused")
		c.server = c.serve(c.dir)
		c.apply(0, "committed 1.2.0 (was 1.1.0)")
		c.assertRuns(releases.Daemon{Version: "1.2.0"})
		within(size, file, gone, c.server)
	})
	c.assertClosed("1.1.0")
}

// TestFailedDownloads shows that downloads that fail half-way, for many targets, leave half
// of a small disk free, and that an old one is discarded.
func TestFailedDownloads(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.smallState("size=64m")
	noise := make([]byte, 2<<20)
	rand.Read(noise)
	c.publishFiles(c.dir, "1.1.0", releases.File{Name: "testd", Content: build(t, releases.Daemon{Version: "1.1.0"})},
		releases.File{Name: "noise", Content: noise})
	file := c.archive("1.1.0")
	info, err := os.Stat(filepath.Join(c.dir, file))
	c.ok(err)
	var names []string
	for i := range 20 {
		name := fmt.Sprintf("testd-%d", i)
		path := "/usr/local/bin/" + name
		c.must("cp", "/usr/bin/sleep", path)
		c.writeFile("/etc/systemd/system/"+name+".service", strings.ReplaceAll(testdUnit, testdPath, path+" infinity"), 0o644)
		c.writeFile("/etc/machinemon-update/targets.d/"+name+".toml",
			strings.NewReplacer("testd.service", name+".service", testdPath, path).Replace(testdTarget), 0o644)
		names = append(names, name)
	}
	c.must("systemctl", "daemon-reload")
	c.must("sh", "-c", "systemctl start paths.target $(seq --format=testd-%g.service 0 19)")
	c.server.Break(file, func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		if r.Header.Get("Range") != "" {
			w.Header().Set("Retry-After", "1") // otherwise the fetcher would repeat it, after pauses
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		releases.Cut(info.Size()*9/10)(w, r, good)
	})
	kept := func() int { return strings.Count(c.must("find", stateDir+"/fetch", "-name", "partial"), "\n") }
	for _, name := range names {
		if r := c.run("machinemon-update", "apply", name); r.Code != 7 || !strings.Contains(r.Stdout, "429 Too Many Requests") {
			t.Fatalf("after %d downloads: %+v", kept(), r)
		}
	}
	used, n := c.used(stateDir), kept()
	t.Logf("%d of %d downloads of %d bytes are kept, %d bytes are in use", n, len(names), info.Size()*9/10, used)
	if used > 32<<20 || n == 0 || n == len(names) {
		t.Errorf("%d bytes are in use, and %d downloads are kept", used, n)
	}
	// What is kept makes the next download shorter, until it is too old.
	c.must("test", "-e", stateDir+"/fetch/testd-0/partial")
	c.must("touch", "--date=8 days ago", stateDir+"/fetch/testd-0/partial")
	if r := c.run("machinemon-update", "check", "testd-0", "testd-1"); r.Code != 3 {
		t.Errorf("check: %+v", r)
	}
	if left := c.must("find", stateDir+"/fetch/testd-0", "-name", "partial*"); left != "" {
		t.Errorf("still there: %s", left)
	}
	c.must("test", "-e", stateDir+"/fetch/testd-1/partial")
	c.server.Mend(file)
	c.apply(0, "committed 1.1.0 (was 1.0.0)")
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
}
