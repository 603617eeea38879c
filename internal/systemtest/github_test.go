//go:build systemd

package systemtest

import (
	"crypto/sha512"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

const githubTarget = `[source]
type = "github"
repo = "example/testd"
api_url = "http://` + releasesAt + `"
`

// onGitHub returns a release as it is on GitHub, with these further files.
func (b *box) onGitHub(tag, digest string, more ...releases.Asset) releases.Tagged {
	b.t.Helper()
	file := filepath.Join(b.t.TempDir(), "testd-"+tag+".tar.gz")
	b.ok(releases.Pack(file, releases.File{Name: "./testd", Content: build(b.t, releases.Daemon{Version: tag})}))
	content, err := os.ReadFile(file)
	b.ok(err)
	archive := releases.Digested(filepath.Base(file), content)
	sum := strings.TrimPrefix(archive.Digest, "sha256:") + "  " + archive.Name + "\n"
	if digest == "checksums.txt" {
		archive.Digest = ""
		more = append(more, releases.Asset{Name: digest, Content: []byte(sum)})
	}
	return releases.Tagged{Tag: tag, Assets: append(more, archive)}
}

// TestGitHub tests releases on GitHub: tags without an order, a private repository, and
// an API that accepts no more requests.
func TestGitHub(t *testing.T) {
	once(t)
	t.Parallel()
	c := &chain{box: boot(t)}
	c.installTestd("build-17", testdUnit)
	_, keys, _ := strings.Cut(testdTarget, "client-manifest.json\"\n")
	target := func(source string) { c.target("unit = \"testd.service\"\n" + source + keys) }
	hub := &releases.GitHub{Repo: "example/testd", Token: "ghp_hunter2"}
	hub.Publish(releases.Tagged{Tag: "build-17"})
	hub.Publish(c.onGitHub("build-18", ""))
	l, err := c.Listen("tcp", releasesAt)
	c.ok(err)
	server := releases.ServeBy(l, hub)
	t.Cleanup(func() { server.Close() })

	c.step("private", func() {
		const file = "/etc/machinemon-update/testd.token"
		target(githubTarget + "token_file = \"" + file + "\"\n")
		c.apply(2, "misconfigured: cannot fetch testd: source.token_file has no token")
		c.writeFile(file, "ghp_hunter2\n", 0o600)
		if r := c.run("machinemon-update", "check", "testd"); r.Code != 3 || !strings.Contains(r.Stdout, "build-18") {
			t.Errorf("check: %+v", r)
		}
		c.apply(0, "committed build-18 (was build-17)")
		c.assertRuns(releases.Daemon{Version: "build-18"})
		c.apply(0, "already current")
		c.assertClosed("build-17")
		for _, r := range hub.Requests() {
			if api := strings.HasPrefix(r.URL.Path, "/repos/"); !api && !strings.HasPrefix(r.URL.Path, "/storage/") {
				t.Errorf("asked for %s", r.URL)
			}
		}
		if r := c.run("grep", "-r", "hunter2", "/var/lib/machinemon-update", "/run/machinemon-update", "/run/systemd/generator"); r.Code != 1 {
			t.Errorf("the token is in\n%s%s", r.Stdout, r.Stderr)
		}
		if log := c.journal("--boot"); strings.Contains(log, "hunter2") {
			t.Error("the token is in the journal")
		}
	})

	hub.Token = ""
	c.step("a tag with a v, names without", func() {
		const name = "testd-2.0.0.linux-amd64"
		file := filepath.Join(t.TempDir(), name+".tar.gz")
		c.ok(releases.Pack(file, releases.File{Name: name + "/testd", Content: build(t, releases.Daemon{Version: "v2.0.0"})}))
		content, err := os.ReadFile(file)
		c.ok(err)
		hub.Publish(releases.Tagged{Tag: "v2.0.0", Assets: []releases.Asset{releases.Digested(filepath.Base(file), content)}})
		c.target(strings.Replace("unit = \"testd.service\"\n"+githubTarget+"asset = \"testd-{number}.{os}-{arch}.tar.gz\"\n"+keys,
			`from = "testd"`, `from = "testd-{number}.{os}-{arch}/testd"`, 1))
		c.apply(0, "committed v2.0.0 (was build-18)")
		c.assertRuns(releases.Daemon{Version: "v2.0.0"})
	})

	c.step("one program of a renamed repository, by its sha512", func() {
		hub.Repo, hub.Old = "example/renamed", "example/testd"
		r := c.onGitHub("v2.1.0", "checksums.txt")
		r.Tag = "testd/v2.1.0"
		sums, archive := &r.Assets[0], &r.Assets[1]
		*sums = releases.Asset{Name: "SHA512SUMS", Content: fmt.Appendf(nil, "SHA512 (%s) = %X\r\n", archive.Name, sha512.Sum512(archive.Content))}
		archive.State = "open"
		hub.Publish(r)
		hub.Publish(releases.Tagged{Tag: "chart/v9.0.0"})
		target(githubTarget + "tag_prefix = \"testd/\"\n")
		since := c.cursor()
		c.apply(8, "release testd/v2.1.0 of example/testd is not complete yet: the upload of testd-v2.1.0.tar.gz is not finished")
		c.assertUntouched(since)
		archive.State = ""
		hub.Publish(r)
		if r := c.run("machinemon-update", "check", "testd"); r.Code != 3 || !strings.Contains(r.Stdout, `warning: example/testd has moved to "example/renamed"`) {
			t.Errorf("check: %+v", r)
		}
		c.apply(0, "committed v2.1.0 (was v2.0.0)")
		c.assertRuns(releases.Daemon{Version: "v2.1.0"})
		hub.Repo, hub.Old = "example/testd", ""
	})

	c.step("limited, by the web pages", func() {
		hub.Publish(c.onGitHub("build-19", "checksums.txt"))
		hub.Limit(http.StatusForbidden, http.Header{"Retry-After": {"3600"}})
		target(githubTarget)
		c.apply(0, "committed build-19 (was v2.1.0)")
		c.assertRuns(releases.Daemon{Version: "build-19"})
		c.assertClosed("v2.1.0")
	})

	c.step("limited, and nothing else", func() {
		hub.Token = "ghp_hunter2" // a private repository has no web pages
		reset := time.Now().Add(90 * time.Minute)
		hub.Limit(http.StatusForbidden, http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {fmt.Sprint(reset.Unix())}})
		since := c.cursor()
		c.apply(7, reset.UTC().Format("no more requests until 2006-01-02 15:04:05 UTC"))
		c.assertUntouched(since)
		n := len(hub.Requests())
		c.run("systemctl", "start", "machinemon-fetch@testd.service") // as the timer does
		c.await(since, func(e machine.Entry) bool {
			return strings.Contains(e["MESSAGE"], reset.UTC().Format("backing off until 2006-01-02 15:04 UTC"))
		})
		if len(hub.Requests()) != n {
			t.Error("asked again")
		}
	})
}
