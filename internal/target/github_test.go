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
		{"of several programs", "repo = 'o/n'\ntag_prefix = 'app@'\nprereleases = true\nversions = '<4'\nchecksums = 'SHA256SUMS-{number}'",
			Source{Type: "github", Repo: "o/n", Asset: "*.tar.gz", URL: "https://api.github.com", TagPrefix: "app@", Prereleases: true, Checksums: "SHA256SUMS-{number}",
				Versions: versions(t, "<4").WithPrereleases()}},
		{"files elsewhere", "repo = 'o/n'\nasset = 'https://files.example.com:8443/{version}/a_{number}_{os}_{arch}_{machine}.zip'\nchecksums = 'https://files.example.com/{number}_SHA256SUMS'",
			Source{Type: "github", Repo: "o/n", Asset: "https://files.example.com:8443/{version}/a_{number}_{os}_{arch}_{machine}.zip", URL: "https://api.github.com",
				Checksums: "https://files.example.com/{number}_SHA256SUMS"}},
		{"a usual checksum file", "repo = 'o/n'\nchecksums = 'auto'", Source{Type: "github", Repo: "o/n", Asset: "*.tar.gz", URL: "https://api.github.com"}},
		{"a tag behind a prefix", "repo = 'o/n'\ntag_prefix = 'app/'\ntag = 'app/v1.2.3'",
			Source{Type: "github", Repo: "o/n", Asset: "*.tar.gz", URL: "https://api.github.com", TagPrefix: "app/", Tag: "app/v1.2.3"}},
		{"behind a proxy", "repo = 'o/n'\nproxy = 'http://x:1'\nproxy_login_file = '/etc/agent/proxy'\nno_proxy = ['x', '.x.test', '*.y.test', 'x.test:8080', '10.0.0.0/8', 'fd00::/8', '::1', '[::1]:80', '192.0.2.1']",
			Source{Type: "github", Repo: "o/n", Asset: "*.tar.gz", URL: "https://api.github.com", Proxy: "http://x:1", ProxyLoginFile: "/etc/agent/proxy",
				NoProxy: []string{"x", ".x.test", "*.y.test", "x.test:8080", "10.0.0.0/8", "fd00::/8", "::1", "[::1]:80", "192.0.2.1"}}},
		{"not configured", "", Source{}},
		{"Forgejo", "type = 'forgejo'\nrepo = 'the_owner.x/agent'\napi_url = 'https://codeberg.org/api/v1/'",
			Source{Type: "forgejo", Repo: "the_owner.x/agent", Asset: "*.tar.gz", URL: "https://codeberg.org/api/v1/"}},
		{"Forgejo, not configured", "type = 'forgejo'", Source{}},
		{"GitLab", "type = 'gitlab'\nrepo = 'group/sub/agent'\ntag = 'v1'\ntoken_file = '/etc/x'",
			Source{Type: "gitlab", Repo: "group/sub/agent", Tag: "v1", TokenFile: "/etc/x", Asset: "*.tar.gz", URL: "https://gitlab.com/api/v4"}},
		{"GitLab, one's own", "type = 'gitlab'\nrepo = 'group/agent'\napi_url = 'https://git.example.com/gitlab/api/v4'",
			Source{Type: "gitlab", Repo: "group/agent", Asset: "*.tar.gz", URL: "https://git.example.com/gitlab/api/v4"}},
	} {
		if !strings.HasPrefix(row.source, "type") {
			row.source = "type = 'github'\n" + row.source
		}
		got, err := tree(t, map[string]string{
			vendorFile: minimal + "[source]\nurl = 'https://example.com/m.json'\n",
			adminFile:  "[source]\n" + row.source,
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

// TestPinnedPrereleases: a tag that a higher fragment names overrides prereleases.
func TestPinnedPrereleases(t *testing.T) {
	got, err := tree(t, map[string]string{
		vendorFile: minimal + "[source]\ntype = 'github'\nrepo = 'o/n'\nprereleases = true\n",
		adminFile:  "source.tag = 'v1.2.3'\n",
	}).Load("agent")
	if err != nil || got.Source.Tag != "v1.2.3" || got.Source.Prereleases {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestVersionOf has a row for each form of a tag.
func TestVersionOf(t *testing.T) {
	for _, c := range []struct{ prefix, tag, version string }{
		{"", "v1.2.3", "v1.2.3"},
		{"", "release-1.4.0", "release-1.4.0"},
		{"", "24.4.1.2088-stable", "24.4.1.2088-stable"},
		{"", "build-82", "build-82"},
		{"", "app/v1.2.3", ""},
		{"", "app@1.2.3", ""},
		{"app/", "app/v1.2.3", "v1.2.3"},
		{"app@", "app@1.2.3", "1.2.3"},
		{"x@", "x@1", "1"},
		{"app-v", "app-v1.2.3", "1.2.3"},
		{"release-", "release-1.4.0", "1.4.0"},
		{"build-", "build-82", "82"},
		{"pkg/app/", "pkg/app/v1.2.3-rc.1", "v1.2.3-rc.1"},
		{"app/", "v1.2.3", ""},
		{"app/", "app/", ""},
		{"app/", "app/cli/v1.2.3", ""},
		{"app/", "app/latest", ""},
		{"app-", "app-cli-1.2.0", ""},
		{"app-", "app-v1.2.3\n", ""},
	} {
		got, ok := Source{TagPrefix: c.prefix}.VersionOf(c.tag)
		if ok != (c.version != "") || ok && got != c.version {
			t.Errorf("%s of %q: %q, %v, want %q", c.tag, c.prefix, got, ok, c.version)
		}
	}
}

// TestAddresses fills in addresses, of which the last part is the file's name.
func TestAddresses(t *testing.T) {
	s := Source{Asset: "https://x/{version}/a_{number}_{os}_{arch}.zip", Checksums: "https://x/{version}/a_{number}_SHA256SUMS"}
	if got := s.AssetURL("linux-arm64", "v1.2.0"); got != "https://x/v1.2.0/a_1.2.0_linux_arm64.zip" {
		t.Error(got)
	}
	if got := s.AssetPattern("linux-arm64", "v1.2.0"); got != "a_1.2.0_linux_arm64.zip" || s.VersionIn(got, "linux-arm64") != "1.2.0" {
		t.Error(got, s.VersionIn(got, "linux-arm64"))
	}
	if got := s.ChecksumsURL("linux-arm64", "v1.2.0"); got != "https://x/v1.2.0/a_1.2.0_SHA256SUMS" || s.ChecksumsPattern("linux-arm64", "v1.2.0") != "a_1.2.0_SHA256SUMS" {
		t.Error(got)
	}
	s = Source{Asset: "a_{number}.zip", Checksums: "SUMS"}
	if s.AssetURL("linux-arm64", "v1") != "" || s.ChecksumsURL("linux-arm64", "v1") != "" {
		t.Error("a file of the release is elsewhere")
	}
}
