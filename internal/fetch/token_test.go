package fetch

import (
	"crypto/tls"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

// handOver stores a credential as systemd does.
func handOver(t *testing.T, token string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(token), 0o400); err != nil {
		t.Fatal(err)
	}
}

// TestGitHubToken checks that a token is sent to the API of a private repository only.
func TestGitHubToken(t *testing.T) {
	handOver(t, "ghp_hunter2\n")
	for _, c := range []struct {
		name    string
		storage func(t *testing.T, h http.Handler) string
		api     func(t *testing.T, h http.Handler) string
	}{
		{"on the same server", nil, serve},
		{"on another port", serveTLS, serveTLS},
	} {
		t.Run(c.name, func(t *testing.T) {
			private := newGitHubServer(undigested(sums(payloadSum)))
			private.Token = "ghp_hunter2"
			storage := newGitHubServer(undigested(sums(payloadSum)))
			if c.storage != nil {
				private.Storage = c.storage(t, storage)
			}
			b := onGitHub(t, c.api(t, private))
			b.target.Source.TokenFile = "/etc/agent/token"
			b.brought(t, b.run(t, b.order(state.VerbApply, "build-17")), theManifest(t))
			for _, r := range private.Requests() {
				if r.Header.Get("Authorization") != "Bearer ghp_hunter2" {
					t.Errorf("%s without the token", r.URL.Path)
				}
			}
			if n := len(storage.Requests()); n != 2 && c.storage != nil {
				t.Errorf("%d requests to the storage", n)
			}
			for _, r := range storage.Requests() {
				if got := r.Header.Get("Authorization"); got != "" {
					t.Errorf("%s with %s", r.URL.Path, got)
				}
			}
			for _, name := range []string{"status.json", "manifest.json"} {
				kept, err := os.ReadFile(filepath.Join(b.tree.Dir(state.RoleFetch, "agent"), name))
				if err != nil || strings.Contains(string(kept), "hunter2") {
					t.Errorf("%s: %v\n%s", name, err, kept)
				}
			}
		})
	}
	t.Run("back from another server", func(t *testing.T) {
		seen := map[string]string{}
		note := func(next http.HandlerFunc) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				seen[r.URL.Path] = r.Header.Get("Authorization")
				next(w, r)
			}
		}
		here, there := site{}, site{}
		api, other := serveTLS(t, here), serveTLS(t, there)
		here["/repos/the-owner/agent/releases/latest"] = note(redirect("/moved"))
		here["/moved"] = note(redirect(other + "/away"))
		there["/away"] = note(redirect(api + "/back"))
		here["/back"] = note(status(500))
		b := onGitHub(t, api)
		b.target.Source.TokenFile = "/etc/agent/token"
		b.mustFail(t, b.run(t, b.order(state.VerbApply, "build-17")), state.ResultNotDownloaded, "answered 500")
		want := map[string]string{"/repos/the-owner/agent/releases/latest": "Bearer ghp_hunter2", "/moved": "Bearer ghp_hunter2", "/away": "", "/back": ""}
		if !maps.Equal(seen, want) {
			t.Errorf("seen %q, want %q", seen, want)
		}
	})
	t.Run("limited", func(t *testing.T) { // the repository is public in this case
		g := newGitHubServer(build18())
		b := onGitHub(t, serve(t, g))
		b.target.Source.TokenFile = "/etc/agent/token"
		b.run(t, b.order(state.VerbCheck, "build-17"))
		g.Limit(http.StatusForbidden, http.Header{"Retry-After": {"60"}})
		b.brought(t, b.run(t, b.order(state.VerbApply, "build-17")), theManifest(t))
		for _, r := range g.Requests() {
			if strings.HasPrefix(r.URL.Path, "/the-owner/") && r.Header.Get("Authorization") != "" {
				t.Errorf("%s with the token", r.URL.Path)
			}
		}
	})
	t.Run("an asset elsewhere", func(t *testing.T) {
		for _, elsewhere := range []string{"https://198.51.100.7/x", "http://127.0.0.1:9/x", "/x", "%", ""} {
			b := onGitHub(t, serve(t, site{"/repos/the-owner/agent/releases/latest": bytesHandler([]byte(
				`{"tag_name":"build-18","assets":[{"name":"a.tar.gz","size":3,"digest":"sha256:` + strings.Repeat("ab", 32) + `","url":"` + elsewhere + `"}]}`))}))
			b.target.Source.TokenFile = "/etc/agent/token"
			b.mustFail(t, b.run(t, b.order(state.VerbApply, "build-17")), state.ResultRefused, `has "a.tar.gz" elsewhere than on http://127.0.0.1:`)
		}
	})
	for _, bad := range []string{"", "\n", "no such file", "ghp_hunter2\nX: y", "ghp_hunter2\r\n", "ghp_hunter2ä", strings.Repeat("x", 1001), strings.Repeat("x", 5000)} {
		handOver(t, bad)
		b := onGitHub(t, "http://127.0.0.1:9")
		b.target.Source.TokenFile = "/etc/agent/token"
		a := b.run(t, b.order(state.VerbApply, "build-17"))
		b.mustFail(t, a, state.ResultMisconfigured, "source.token_file")
		if strings.Contains(a.Reason, "hunter2") {
			t.Errorf("a token: %s", a.Reason)
		}
	}
	for _, dir := range []string{"", t.TempDir()} {
		t.Setenv("CREDENTIALS_DIRECTORY", dir)
		b := onGitHub(t, "http://127.0.0.1:9")
		b.target.Source.TokenFile = "/etc/agent/token"
		b.mustFail(t, b.run(t, b.order(state.VerbApply, "build-17")), state.ResultMisconfigured, "was not handed over")
	}
}

// TestGitHubStorage checks that the storage may not be a less authenticated server.
func TestGitHubStorage(t *testing.T) {
	for _, c := range []struct {
		name     string
		api, far func(t *testing.T, h http.Handler) string
		result   state.Result
		text     string
	}{
		{"https elsewhere", serveTLS, serveTLS, state.ResultHandedOn, ""},
		{"http to https elsewhere", serve, serveTLS, state.ResultHandedOn, ""},
		{"https to http", serveTLS, serve, state.ResultRefused, "redirected from https to http://127"},
		{"http elsewhere", serve, serve, state.ResultRefused, "which is not authenticated"},
		{"not verified", serveTLS, func(t *testing.T, h http.Handler) string {
			return serveOn(t, httptest.NewUnstartedServer(h), &tls.Config{Certificates: []tls.Certificate{certificate(t, time.Now().Add(time.Minute), true)}})
		}, state.ResultNotDownloaded, "did not come from there"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGitHubServer(build18())
			g.Storage = c.far(t, newGitHubServer(build18()))
			b := onGitHub(t, c.api(t, g))
			a := b.run(t, b.order(state.VerbApply, "build-17"))
			if c.result == state.ResultHandedOn {
				b.brought(t, a, theManifest(t))
			} else {
				b.mustFail(t, a, c.result, c.text)
			}
			if c.name == "not verified" && !strings.Contains(a.Cause, "certificate") {
				t.Errorf("the cause: %s", a.Cause)
			}
			if strings.Contains(a.Reason+a.Cause, "signature") {
				t.Errorf("a query: %s", a.Reason)
			}
		})
	}
}
