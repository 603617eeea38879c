//go:build systemd

package systemtest

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestBadSource shows that a source that fails or lies only costs the attempt.
func TestBadSource(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	names, err := filepath.Glob(filepath.Join(c.dir, "*.tar.gz"))
	if err != nil || len(names) != 1 {
		t.Fatalf("published: %q, %v", names, err)
	}
	good, err := os.ReadFile(names[0])
	c.ok(err)
	altered := bytes.Clone(good)
	altered[len(altered)/2] ^= 1
	const document = "/client-manifest.json"
	archive := "/" + filepath.Base(names[0])

	const refused, notDownloaded = "refused", "not downloaded"
	for _, test := range []struct {
		name, path string
		fault      releases.Fault
		exit       int
		result     string
		says       string
	}{
		{"altered", archive, releases.Content(altered), 6, refused, "publisher must publish both again"},
		{"longer", archive, releases.Content(append(bytes.Clone(good), 'x')), 6, refused, fmt.Sprintf("longer than %d bytes", len(good))},
		{"shorter", archive, releases.Content(good[:len(good)-1]), 6, refused, fmt.Sprintf("ends after %d bytes", len(good)-1)},
		{"says longer", archive, sized(append(bytes.Clone(good), 'x')), 6, refused, fmt.Sprintf("offers %d bytes", len(good)+1)},
		{"says shorter", archive, sized(good[:len(good)-1]), 6, refused, fmt.Sprintf("offers %d bytes", len(good)-1)},
		{"missing", archive, releases.Status(http.StatusNotFound), 7, notDownloaded, "404 Not Found (hint: the manifest says that it is there: put it there"},
		{"cut", archive, releases.Die(int64(len(good)) / 2), 7, notDownloaded, "the connection was cut"},
		{"no manifest", document, releases.Status(http.StatusNotFound), 7, notDownloaded, "404 Not Found"},
		{"page", document, releases.Content([]byte("<!DOCTYPE html><title>Log in</title>")), 6, refused, "JSON"},
	} {
		c.step(test.name, func() {
			c.server.Break(test.path, test.fault)
			version := "1.1.0"
			if test.path == document {
				version = "" // no manifest was read
			}
			c.refused(test.exit, test.result, "fetch", version, test.result, "http://"+releasesAt+test.path, test.says)
			c.assertClosed("", "machinemon-fetch@testd.service")
			c.server.Mend(test.path)
		})
	}
	c.step("no server", func() {
		c.server.Close()
		c.refused(7, notDownloaded, "fetch", "", "connection refused")
		c.assertClosed("", "machinemon-fetch@testd.service")
	})
	c.server = c.serve(c.dir)
	c.apply(0, "committed 1.1.0 (was 1.0.0)")
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.assertClosed("1.0.0")
}

// sized answers with other bytes and states their number.
func sized(b []byte) releases.Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		w.Write(b)
	}
}

// TestBadConfiguration shows that a forbidden setting is refused by its name before any
// request to the source.
func TestBadConfiguration(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	const file = "/etc/machinemon-update/targets.d/testd.toml"
	to := func(path string) string { return strings.ReplaceAll(testdTarget, testdPath, path) }
	for _, test := range []struct {
		name, target string
		do           []string
		says         []string
	}{
		{"plain http", strings.Replace(testdTarget, releasesAt, "releases.example.com", 1), nil,
			[]string{file + ":3: source.url", "plain http", "hint: use https, with source.ca_file "}},
		{"unknown key", testdTarget + "[sauce]\n", nil, []string{file + ":13: sauce"}},
		{"group may write", testdTarget, []string{"chmod", "g+w", file}, []string{file, "writable by its group"}},
		{"others may write", testdTarget, []string{"chmod", "o+w", "/etc/machinemon-update/targets.d"}, []string{"/etc/machinemon-update/targets.d is writable by everyone"}},
		{"symlink", to("/usr/local/bin/link"), []string{"ln", "-s", "testd", "/usr/local/bin/link"}, []string{file + ":6: install.to: /usr/local/bin/link is a symlink"}},
		{"of a package", to("/bin/bash"), nil, []string{"/bin/bash belongs to the Debian package bash"}},
		{"setuid", testdTarget, []string{"chmod", "u+s", testdPath}, []string{testdPath + " is setuid", "hint: "}},
		{"capabilities", to("/usr/local/bin/able"), []string{"sh", "-c", "cp /bin/true /usr/local/bin/able && setcap cap_net_raw+ep /usr/local/bin/able"}, []string{"file capabilities"}},
		{"root's home", to("/root/testd"), nil, []string{"must not be in /root"}},
		{"no directory", to("/usr/local/testd/testd"), nil, []string{"/usr/local/testd", "create the directory first"}},
	} {
		c.step(test.name, func() {
			c.target(test.target)
			if test.do != nil {
				c.must(test.do...)
			}
			since := c.cursor()
			c.apply(2, append(test.says, "misconfigured: cannot use target testd: ")...)
			c.assertUntouched(since)
			c.must("chmod", "u-s", testdPath)
			c.must("chmod", "o-w", "/etc/machinemon-update/targets.d")
		})
	}
	c.assertRequests(nil, nil)

	// A broken target file is beside a good one.
	c.target(testdTarget)
	c.writeFile("/etc/machinemon-update/targets.d/broken.toml", "unit = \"testd.service\"\nsecret = \"hunter2\nsource\n", 0o644)
	for _, argv := range [][]string{{"broken", "testd"}, nil} { // by name, and all, with the packages' own
		r := c.run(append([]string{"machinemon-update", "apply"}, argv...)...)
		if r.Code != 2 || !strings.Contains(r.Stdout, "broken: misconfigured: cannot use target broken: /etc/machinemon-update/targets.d/broken.toml:2: ") {
			t.Errorf("apply %q: %+v", argv, r)
		}
		if says := map[bool]string{true: "testd: committed 1.1.0", false: "testd: already current"}[argv != nil]; !strings.Contains(r.Stdout, says) {
			t.Errorf("apply %q does not say %q: %+v", argv, says, r)
		}
		if strings.Contains(r.Stdout+r.Stderr, "hunter2") {
			t.Errorf("apply %q tells a secret: %+v", argv, r)
		}
	}
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
	c.assertClosed("1.0.0")
}
