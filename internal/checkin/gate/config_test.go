package gate

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

func load(t *testing.T, text string) (*Config, error) {
	t.Helper()
	return testkit.Load(t, Load, "checkin-gate.toml", text)
}

// TestShippedConfig checks that file and manual show each key with its default.
func TestShippedConfig(t *testing.T) {
	shipped := testkit.Shipped(t, "checkin-gate", keys)
	none, err := Load(filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	asShipped, err := load(t, shipped)
	if err != nil {
		t.Fatal(err)
	}
	shown, err := load(t, regexp.MustCompile(`(?m)^#(\w+ = )`).ReplaceAllString(shipped, "$1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Config{asShipped, shown} {
		if *c.Upstream != *none.Upstream || c.DownloadDir != none.DownloadDir || c.Manifest != none.Manifest || c.Database != none.Database ||
			c.BasePath != "" || c.External != "" || c.UpstreamTLS != nil || len(c.Trusted) > 0 || c.Certificate != nil {
			t.Errorf("%+v, want %+v", c, none)
		}
	}
}

const httpsUpstream = "upstream = \"https://127.0.0.1:8443\"\n"

func TestConfig(t *testing.T) {
	for text, want := range map[string][3]string{
		"upstream = \"http://127.0.0.1/monitor/\"\nbase_path = \"/m\"":             {"http://127.0.0.1/monitor", "", "/m"},
		"external_url = \"https://m.example.com/\"":                                {"http://127.0.0.1:8080", "https://m.example.com", ""},
		"external_url = \"https://m.example.com/a/b/\"":                            {"http://127.0.0.1:8080", "https://m.example.com/a/b", "/a/b"},
		"external_url = \"https://m.example.com/a\"\nbase_path = \"/b\"":           {"http://127.0.0.1:8080", "https://m.example.com/a", "/b"},
		"external_url = \"http://[2001:db8::1]:81\"\nupstream = \"https://[::1]\"": {"https://[::1]", "http://[2001:db8::1]:81", ""},
	} {
		if c, err := load(t, text); err != nil || [3]string{c.Upstream.String(), c.External, c.BasePath} != want {
			t.Errorf("%q: %+v, %v", text, c, err)
		}
	}
	c, err := load(t, "upstream = \"https://mm.example.com/\"\nbase_path = \"/a/b\"\ntrusted_proxies = [\"192.0.2.1\", \"2001:db8::/32\"]\nmanifest = \"agent/m.json\"\n")
	if err != nil || c.Upstream.String() != "https://mm.example.com" || c.BasePath != "/a/b" || len(c.Trusted) != 2 || c.Trusted[0].Bits() != 32 || c.Manifest != "agent/m.json" {
		t.Errorf("%+v, %v", c, err)
	}
	for text, want := range map[string]string{
		`database = "/gate.db"`: "/gate.db",
		`database = "postgresql://u:%40p@h:5433/n?sslmode=prefer"`: "postgresql://u:%40p@h:5433/n?sslmode=prefer",
		`database = "postgres:///n?host=/run/postgresql"`:          "postgres:///n?host=/run/postgresql",
		// This is the manual's example.
		"database = \"\"\"postgres://u@h/n\\\n    ?sslmode=verify-full\\\n    &passfile=/p\"\"\"": "postgres://u@h/n?sslmode=verify-full&passfile=/p",
	} {
		if c, err := load(t, text); err != nil || c.Database != want {
			t.Errorf("%s: %+v, %v", text, c, err)
		}
	}
	for text, want := range map[string]string{
		"\nupstrem = \"x\"":                      `line 2: "upstrem" is not a known key (allowed: upstream, `,
		"\nUpstream = \"http://a\"":              `line 2: "Upstream" is not a known key`,
		"[tls]\ncert = \"secret\"":               `line 1: "tls" is not a known key`,
		"\n\nupstream = 7":                       "line 3: ",
		"upstream = \"http://a\"\nupstream":      "line 2: ",
		`upstream = "mm.example.com:8080"`:       "upstream: must be an address",
		`upstream = "ftp://a"`:                   "upstream: must be",
		`upstream = "http://a/../monitor"`:       "upstream: must be",
		`upstream = "http://a?x"`:                "upstream: must be",
		`upstream = "http://user:secret@a"`:      "upstream: must be",
		`external_url = "https://user:secret@a"`: "external_url: must be",
		`external_url = "monitor.example.com"`:   "external_url: must be",
		"external_url = 'https://a/$(x)'":        "external_url: must have only letters",
		"external_url = 'https://a$(x)/'":        "external_url: must have only letters",
		`upstream_insecure_skip_tls = true`:      "upstream_ca_file, upstream_insecure_skip_tls: need an upstream that begins with https",
		httpsUpstream + "upstream_ca_file = '/c'\nupstream_insecure_skip_tls = true": "upstream_ca_file, upstream_insecure_skip_tls: must not be set both",
		httpsUpstream + "upstream_ca_file = '/none'":                                 "upstream_ca_file: open /none: no such file",
		httpsUpstream + "upstream_ca_file = '/dev/null'":                             "upstream_ca_file: /dev/null has no certificate in PEM format",
		`base_path = "monitor"`:                                                      "base_path: must be",
		`base_path = "/"`:                                                            "base_path: must be",
		`base_path = "/a/../b"`:                                                      "base_path: must be",
		`base_path = "/a/"`:                                                          "base_path: must be",
		`tls_key = "/k"`:                                                             "tls_certificate, tls_key: must be set both",
		"tls_key = \"/k\"\ntls_certificate = \"/c\"":                                 "tls_certificate, tls_key: open /c: no such file",
		`trusted_proxies = ["localhost"]`:                                            `trusted_proxies: "localhost" is not an address`,
		`trusted_proxies = "127.0.0.1"`:                                              "line 1: ",
		`download_dir = "download"`:                                                  "download_dir: must be an absolute path",
		`database = "/a/../b"`:                                                       "database: must be an absolute path",
		`database = "postgres://u@h:x/n"`:                                            "database: cannot be read as PostgreSQL's address (allowed: ",
		`database = "mysql://u@h/n"`:                                                 "database: must be an absolute path (allowed: \"/DIR/NAME\", without . and .. elements, or PostgreSQL's address",
		`manifest = "../m.json"`:                                                     "manifest: must be",
		`manifest = "/m.json"`:                                                       "manifest: must be",
	} {
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), ": "+want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// TestExposedPassword: a database's password that every user can read is warned of.
func TestExposedPassword(t *testing.T) {
	dir := t.TempDir()
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if info, err := os.Stat(d); err != nil || info.Mode().Perm()&1 == 0 && os.Chmod(d, 0o755) != nil {
			t.Skipf("%s is not for all users: %v", d, err)
		}
	}
	path := filepath.Join(dir, "gate.toml")
	for _, c := range []struct {
		database string
		mode     os.FileMode
		want     int
	}{
		{"postgres://gate:secret@db/checkin", 0o644, 1},
		{"postgres://gate:secret@db/checkin", 0o640, 0},
		{"postgres://gate@db/checkin", 0o644, 0},
	} {
		if err := os.WriteFile(path, []byte("database = \""+c.database+"\"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		got, err := Load(path)
		if err != nil || len(got.Warnings) != c.want || strings.Contains(strings.Join(got.Warnings, ""), "secret") {
			t.Errorf("%v: %q, %v", c, got.Warnings, err)
		}
	}
}
