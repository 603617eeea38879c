//go:build systemd

package systemtest

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestForges tests releases in a private repository on Forgejo, and on a GitLab behind a
// proxy that wants a password.
func TestForges(t *testing.T) {
	once(t)
	t.Parallel()
	c := &chain{box: boot(t)}
	c.installTestd("1.0.0", testdUnit)
	_, keys, _ := strings.Cut(testdTarget, "client-manifest.json\"\n")
	const tokenFile, loginFile = "/etc/machinemon-update/testd.token", "/etc/machinemon-update/proxy.login"
	c.writeFile(tokenFile, "glpat-hunter2\n", 0o600)
	c.writeFile(loginFile, "user:hunter3\n", 0o600)
	source := func(f *releases.Forge, kind, api, more string) {
		c.target(fmt.Sprintf("unit = \"testd.service\"\n[source]\ntype = %q\nrepo = %q\napi_url = %q\n%s%s", kind, f.Repo, api, more, keys))
	}
	serve := func(h http.Handler) (stop func()) {
		l, err := c.Listen("tcp", releasesAt)
		c.ok(err)
		server := releases.ServeBy(l, h)
		return func() { server.Close() }
	}

	c.step("Forgejo", func() {
		hub := &releases.Forge{Repo: "example/testd", Token: "glpat-hunter2"}
		hub.Publish(c.onGitHub("v1.1.0", "checksums.txt"))
		hub.Publish(releases.Tagged{Tag: "v1.2.0-rc1", Prerelease: true})
		defer serve(hub)()
		source(hub, "forgejo", "http://"+releasesAt+"/api/v1", "token_file = \""+tokenFile+"\"\n")
		c.apply(0, "committed v1.1.0 (was 1.0.0)")
		c.assertRuns(releases.Daemon{Version: "v1.1.0"})
		c.apply(0, "already current")
		withoutDigest := c.onGitHub("v1.2.0", "checksums.txt")
		withoutDigest.Assets = withoutDigest.Assets[1:]
		hub.Publish(withoutDigest)
		since := c.cursor()
		c.apply(6, "refused", "no sha256 or sha512 of testd-v1.2.0.tar.gz is known: ")
		c.assertUntouched(since)
	})

	c.step("GitLab, behind a proxy", func() {
		hub := &releases.Forge{Repo: "group/sub/testd", GitLab: true}
		hub.Publish(c.onGitHub("v1.2.0", "checksums.txt"))
		hub.Publish(releases.Tagged{Tag: "v2.0.0", Upcoming: true})
		var asked []string
		defer serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // the proxy, which reaches gitlab.test itself
			asked = append(asked, r.RequestURI)
			if user, password, ok := proxyLogin(r); !ok || user != "user" || password != "hunter3" {
				w.WriteHeader(http.StatusProxyAuthRequired)
				return
			}
			hub.ServeHTTP(w, r)
		}))()
		// Only this proxy knows gitlab.test, and by http. A token would not be sent so.
		keys = strings.Replace(keys, "[health]", "[trust]\nallow_unauthenticated = true\n[health]", 1)
		const api, behind = "http://gitlab.test/api/v4", "proxy = \"http://" + releasesAt + "\"\n"
		source(hub, "gitlab", api, behind)
		c.apply(7, "the proxy answered 407 Proxy Authentication Required (hint: source.proxy_login_file ")
		source(hub, "gitlab", api, behind+"proxy_login_file = \""+loginFile+"\"\n")
		c.apply(0, "committed v1.2.0 (was v1.1.0)")
		c.assertRuns(releases.Daemon{Version: "v1.2.0"})
		for _, uri := range asked {
			if !strings.HasPrefix(uri, "http://gitlab.test/") {
				t.Errorf("the proxy was asked for %s", uri)
			}
		}

		reset := time.Now().Add(90 * time.Minute).UTC()
		hub.Limit(http.Header{"Retry-After": {reset.Format(http.TimeFormat)}})
		c.apply(7, reset.Format("no more requests until 2006-01-02 15:04:05 UTC"))
		n := len(hub.Requests())
		since := c.cursor()
		c.run("systemctl", "start", "machinemon-fetch@testd.service") // as the timer does
		c.await(since, func(e machine.Entry) bool {
			return strings.Contains(e["MESSAGE"], reset.Format("backing off until 2006-01-02 15:04 UTC"))
		})
		if len(hub.Requests()) != n {
			t.Error("asked again")
		}
	})

	if r := c.run("grep", "-rE", "hunter[23]", "/var/lib/machinemon-update", "/run/machinemon-update", "/run/systemd/generator"); r.Code != 1 {
		t.Errorf("a secret is in\n%s%s", r.Stdout, r.Stderr)
	}
	if log := c.journal("--boot"); strings.Contains(log, "hunter2") || strings.Contains(log, "hunter3") {
		t.Error("a secret is in the journal")
	}
}

// proxyLogin returns the user and password of a request to a proxy.
func proxyLogin(r *http.Request) (user, password string, ok bool) {
	of := http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
	return of.BasicAuth()
}
