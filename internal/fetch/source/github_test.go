package source

import (
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/target"
)

func TestSiteOf(t *testing.T) {
	for api, want := range map[string]string{
		"https://api.github.com":             "https://github.com",
		"https://api.github.com/":            "https://github.com",
		"https://api.example.ghe.com":        "https://example.ghe.com",
		"https://github.example.com/api/v3":  "https://github.example.com",
		"https://api.example.com/api/v3/":    "https://api.example.com",
		"https://github.example.com:8443/v3": "https://github.example.com:8443",
		"http://127.0.0.1:9000":              "http://127.0.0.1:9000",
	} {
		g, err := newGitHub(&target.Target{Source: target.Source{URL: api, Repo: "o/n"}}, "", download.DefaultLimits)
		if err != nil || g.site.String() != want {
			t.Errorf("%s: %s, %v, want %s", api, g.site, err, want)
		}
		if got := g.URL.String(); got != strings.TrimSuffix(api, "/")+"/repos/o/n/releases/latest" {
			t.Errorf("%s: %s", api, got)
		}
	}
}
