package fetch

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
)

// handOverAs stores a credential as systemd does.
func handOverAs(t *testing.T, name, secret string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if err := os.WriteFile(filepath.Join(dir, name), []byte(secret), 0o400); err != nil {
		t.Fatal(err)
	}
}

// TestProxyLogin checks who learns the user and password for the proxy, and what an attempt
// says without them.
func TestProxyLogin(t *testing.T) {
	for _, c := range []struct {
		name, url, login string
		text             string // "" for an attempt that is handed on
		result           state.Result
	}{
		{"http", "http://releases.test/client-manifest.json", "user:hunter2: #\n", "", ""},
		{"https", "https://example.com/client-manifest.json", "user:hunter2: #", "", ""},
		{"http, wrong", "http://releases.test/client-manifest.json", "user:hunter3\n", "releases.test/client-manifest.json: the proxy answered 407 Proxy Authentication Required (hint: source.proxy_login_file names a file with USER:PASSWORD for it)", state.ResultNotDownloaded},
		{"https, wrong", "https://example.com/client-manifest.json", "user:hunter3\n", "example.com/client-manifest.json: the proxy answered 407 Proxy Authentication Required (hint: source.proxy_login_file ", state.ResultNotDownloaded},
		{"no file", "https://example.com/client-manifest.json", "no such file", "source.proxy_login_file has no login (hint: one line USER:PASSWORD, in a file that exists)", state.ResultMisconfigured},
		{"no user", "https://example.com/client-manifest.json", ":hunter2", "has no login", state.ResultMisconfigured},
		{"two lines", "https://example.com/client-manifest.json", "user:hunter2\nX: y\n", "has no login", state.ResultMisconfigured},
		{"long", "https://example.com/client-manifest.json", "user:" + strings.Repeat("x", 3000), "the login of source.proxy_login_file: ", state.ResultMisconfigured},
	} {
		t.Run(c.name, func(t *testing.T) {
			handOverAs(t, "proxy-login", c.login)
			var seen []string
			s := newSite(t)
			s["/agent.tar.gz"] = offered(payload, "")
			noting := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				seen = append(seen, r.Header.Get("Proxy-Authorization"))
				s.ServeHTTP(w, r)
			})
			p := &proxy{plain: noting, encrypted: strings.TrimPrefix(serveTLS(t, noting), "https://"), login: "user:hunter2: #"}
			b := newBench(t, "")
			b.target.Source.URL, b.target.Source.Proxy, b.target.Source.ProxyLoginFile = c.url, serve(t, p), "/etc/agent/proxy"
			a := b.run(t, b.order(state.VerbApply, "v1"))
			if c.text != "" {
				b.mustFail(t, a, c.result, c.text)
			} else if a.Result != state.ResultHandedOn {
				t.Errorf("%+v", a)
			}
			if strings.Contains(a.Reason+a.Cause, "hunter") {
				t.Errorf("the password: %s", a.Reason)
			}
			if slices.ContainsFunc(seen, func(s string) bool { return s != "" }) {
				t.Errorf("the server was told %q", seen)
			}
		})
	}
	t.Run("by nobody", func(t *testing.T) {
		t.Setenv("CREDENTIALS_DIRECTORY", "")
		b := newBench(t, "https://example.com")
		b.target.Source.Proxy, b.target.Source.ProxyLoginFile = "http://127.0.0.1:9", "/etc/agent/proxy"
		b.mustFail(t, b.run(t, b.order(state.VerbApply, "v1")), state.ResultMisconfigured, "the login of source.proxy_login_file was not handed over (hint: root's check has it")
	})
}
