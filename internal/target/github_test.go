package target

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/version"
)

func versions(t *testing.T, text string) version.Range {
	t.Helper()
	r, err := version.ParseRange(text)
	must(t, err)
	return r
}

func TestGitHub(t *testing.T) {
	for _, row := range []struct {
		name, source string
		want         Source
	}{
		{"the least", "repo = 'the-owner/agent.d_2'",
			Source{Type: "github", Repo: "the-owner/agent.d_2", Asset: "*.tar.gz", URL: "https://api.github.com"}},
		{"every key", `repo = "o/n"
asset = "agent-{os}-{arch}_[0-9]?{version}*.tar.zst"
tag = "build-17"
api_url = "https://github.example.com/api/v3"
token_file = "/etc/agent/token"
ca_file = "/etc/agent/ca.pem"
proxy = "https://[::1]:3128"
versions = ">=17"
downgrade = true`,
			Source{Type: "github", Repo: "o/n", Asset: "agent-{os}-{arch}_[0-9]?{version}*.tar.zst", Tag: "build-17",
				URL: "https://github.example.com/api/v3", TokenFile: "/etc/agent/token",
				CAFile: "/etc/agent/ca.pem", Proxy: "https://[::1]:3128", Versions: versions(t, ">=17"), Downgrade: true}},
		{"this machine", "repo = 'o/n'\napi_url = 'http://127.0.0.1:9000'\ntoken_file = '/etc/agent/token'",
			Source{Type: "github", Repo: "o/n", Asset: "*.tar.gz", URL: "http://127.0.0.1:9000", TokenFile: "/etc/agent/token"}},
		{"anybody", "repo = 'o/n'\napi_url = 'http://example.com'\n[trust]\nallow_unauthenticated = true",
			Source{Type: "github", Repo: "o/n", Asset: "*.tar.gz", URL: "http://example.com"}},
		{"not configured", "", Source{}},
	} {
		got, err := tree(t, map[string]string{
			vendorFile: minimal + "[source]\nurl = 'https://example.com/m.json'\n",
			adminFile:  "[source]\ntype = 'github'\n" + row.source,
		}).Load("agent")
		if err != nil || !reflect.DeepEqual(got.Source, row.want) {
			t.Errorf("%s: got %+v, %v, want %+v", row.name, got, err, row.want)
		}
	}
	s := Source{Asset: "agent-{os}-{arch}_{version}*.tar.gz"}
	if got := s.AssetPattern("linux-armv7", "build-17"); got != "agent-linux-armv7_build-17*.tar.gz" {
		t.Errorf("got %s", got)
	}
}

// TestExposed: a token that every user can read is warned of, not one below a directory
// that other users cannot enter.
func TestExposed(t *testing.T) {
	d := tree(t, map[string]string{adminFile: minimal + "[source]\ntype = 'github'\nrepo = 'a/b'\ntoken_file = '/opt/agent/token'\n", "/opt/agent/token": "secret"})
	must(t, os.Chmod(filepath.Dir(d.Root), 0o755)) // as / is
	must(t, os.Chmod(d.Root, 0o755))
	for _, c := range []struct {
		file, dir os.FileMode
		exposed   bool
	}{{0o644, 0o755, true}, {0o640, 0o755, false}, {0o644, 0o750, false}, {0o600, 0o755, false}} {
		must(t, os.Chmod(d.Root+"/opt/agent/token", c.file))
		must(t, os.Chmod(d.Root+"/opt/agent", c.dir))
		got, err := d.Load("agent")
		must(t, err)
		if w := got.Exposed(); (w != "") != c.exposed || c.exposed && !strings.HasPrefix(w, "every user can read the token in /opt/agent/token (hint: chmod 0600 ") {
			t.Errorf("%v: %q", c, w)
		}
	}
}
