package relay

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

func load(t *testing.T, text string) (*Config, error) {
	t.Helper()
	return testkit.Load(t, Load, "checkin-relay.toml", text)
}

// TestShippedConfig checks that file and manual show each key, and that the file sets
// none.
func TestShippedConfig(t *testing.T) {
	shipped := testkit.Shipped(t, "checkin-relay", keys)
	if _, err := load(t, shipped); err == nil || !strings.HasSuffix(err.Error(), "server_url: is missing (hint: sudo machinemon-checkin-relay --setup takes it from the agent's configuration)") {
		t.Errorf("as shipped: %v", err)
	}
	c, err := load(t, strings.ReplaceAll(strings.ReplaceAll(shipped, "\n#server_url", "\nserver_url"), "\n#target", "\ntarget"))
	if err != nil || c.CheckIn.String() != "https://monitor.example.com/api/v1/checkin" || c.Target != "agent" || c.InsecureSkipTLS || c.Roots != nil {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestConfig(t *testing.T) {
	for text, want := range map[string]string{
		`server_url = "https://mm.example.com"`:           "https://mm.example.com/api/v1/checkin",
		`server_url = "https://mm.example.com:8443/a/b/"`: "https://mm.example.com:8443/a/b/api/v1/checkin",
		`server_url = "http://192.0.2.1:8080//"`:          "http://192.0.2.1:8080/api/v1/checkin",
		`server_url = "https://[2001:db8::1]"`:            "https://[2001:db8::1]/api/v1/checkin",
	} {
		if c, err := load(t, text); err != nil || c.CheckIn.String() != want || c.Target != "agent" {
			t.Errorf("%s: %+v, %v", text, c, err)
		}
	}
	if c, err := load(t, "server_url = \"https://a\"\ninsecure_skip_tls = true\ntarget = \"edge\"\n"); err != nil || !c.InsecureSkipTLS || c.Target != "edge" {
		t.Errorf("%+v, %v", c, err)
	}
	const url = "server_url = \"https://a\"\n"
	const must = "server_url: must be the MachineMon server's URL (allowed: "
	for text, want := range map[string]string{
		"":                             "server_url: is missing",
		"\nserver = \"x\"":             `line 2: "server" is not a known key (allowed: server_url, insecure_skip_tls, ca_file, target)`,
		"\nServer_URL = \"https://a\"": `line 2: "Server_URL" is not a known key`,
		"password = \"secret\"":        `line 1: "password" is not a known key`,
		"[agent]\nserver_url = \"https://secret\"":   `line 1: "agent" is not a known key`,
		"\n\nserver_url = 7":                         "line 3: ",
		url + "insecure_skip_tls = \"yes\"":          "line 2: ",
		`server_url = "mm.example.com:8080"`:         must,
		`server_url = "ftp://a"`:                     must,
		`server_url = "https://"`:                    must,
		`server_url = "https://user:secret@a"`:       must,
		`server_url = "https://a/?secret=1"`:         must,
		`server_url = "https://a/#x"`:                must,
		url + `target = "../agent"`:                  "target: is not a target's name",
		url + `target = ""`:                          "target: is not a target's name",
		url + `ca_file = "ca.pem"`:                   "ca_file: must be an absolute path",
		url + `ca_file = "/nowhere/ca.pem"`:          "ca_file: open /nowhere/ca.pem: no such file or directory (hint: the user machinemon-relay must be able to read it)",
		url + `ca_file = "/etc/passwd"`:              "ca_file: /etc/passwd has no certificate in PEM form",
		url + "insecure_skip_tls=true\nca_file='/x'": "ca_file: has no effect beside insecure_skip_tls = true",
	} {
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), ": "+want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "server_url: is missing") {
		t.Errorf("no file: %v", err)
	}
}
