package gate

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

func TestDownload(t *testing.T) {
	b := newBench(t)
	b.put("a.tar.gz", "0123456789")
	b.put(strings.Repeat("a", 64)+".client-manifest.json", "{}")
	a := b.do("GET", "/download/a.tar.gz", "")
	tag := a.header.Get("ETag")
	if a.status != 200 || a.body != "0123456789" || a.header.Get("Cache-Control") != "no-cache" || a.header.Get("Content-Type") != "application/gzip" ||
		!strings.HasPrefix(tag, `"`) || a.header.Get("Accept-Ranges") != "bytes" {
		t.Errorf("%+v", a)
	}
	for name, c := range map[string]struct {
		method string
		header []string
		status int
		body   string
	}{
		"head":        {"HEAD", nil, 200, ""},
		"cached":      {"GET", []string{"If-None-Match: " + tag}, 304, ""},
		"range":       {"GET", []string{"Range: bytes=4-6"}, 206, "456"},
		"resumed":     {"GET", []string{"Range: bytes=4-", "If-Range: " + tag}, 206, "456789"},
		"changed":     {"GET", []string{"Range: bytes=4-", `If-Range: "other"`}, 200, "0123456789"},
		"past":        {"GET", []string{"Range: bytes=40-"}, 416, ""},
		"not for us":  {"POST", nil, 405, ""},
		"compression": {"GET", []string{"Accept-Encoding: gzip"}, 200, "0123456789"},
	} {
		a := b.do(c.method, "/download/a.tar.gz", "", c.header...)
		if a.status != c.status || c.body != "" && a.body != c.body {
			t.Errorf("%s: %+v", name, a)
		}
	}
	if a := b.do("GET", "/download/"+strings.Repeat("a", 64)+".client-manifest.json", ""); a.header.Get("Cache-Control") != "public, max-age=31536000, immutable" {
		t.Errorf("%+v", a)
	}
	// Another file with the same name, size and time has another ETag.
	info, err := os.Stat(filepath.Join(b.config.DownloadDir, "a.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	b.put("a.tar.gz", "abcdefghij")
	if err := os.Chtimes(filepath.Join(b.config.DownloadDir, "a.tar.gz"), info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if a := b.do("GET", "/download/a.tar.gz", "", "If-None-Match: "+tag); a.status != 200 || a.body != "abcdefghij" {
		t.Errorf("%+v", a)
	}
}

// TestDownloadEscapes checks that no path leaves the directory. Upstream gets only those
// names that it may have.
func TestDownloadEscapes(t *testing.T) {
	b := newBench(t)
	dir := b.config.DownloadDir
	b.put("good", "good")
	if err := os.WriteFile(filepath.Join(dir, "..", "secret"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"out": "../secret", "abs": filepath.Join(dir, "..", "secret"), "up": "..", "in": "good"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, ".part"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"../secret", "..%2fsecret", "%2e%2e/secret", "sub/../../secret", "out", "abs", "up/secret", ".part", "sub", "sub/", ".",
		"fifo", "good/", "/good", "good%00", "%5c..%5csecret", "none", strings.Repeat("x", 5000),
		// These only the gate can have; upstream would answer 400.
		"2.root.json", "timestamp.json", "1.snapshot.json", "client-manifest.json", "client-manifest.json.minisig", "x.delta.zst", "x.tar.zst", "SHA256SUMS",
		"sub/x.tar.gz", strings.Repeat("a", 64) + ".x.tar.gz"} {
		before := b.up.count()
		if a := b.do("GET", "/download/"+path, ""); a.status != 404 || a.body != "404 page not found\n" || b.up.count() != before {
			t.Errorf("%.100s: %d %.100s", path, a.status, a.body)
		}
	}
	b.up.Host("old.tar.gz", []byte("old"))
	for path, want := range map[string]string{"": `"name":"old.tar.gz"`, "old.tar.gz": "old", "install.sh": "#!/bin/sh\n", "none.tar.gz": "binary not found\n"} {
		before := b.up.count()
		if a := b.do("GET", "/download/"+path, ""); !strings.Contains(a.body, want) || b.up.count() != before+1 {
			t.Errorf("%s: %d %.100s", path, a.status, a.body)
		}
	}
	if a := b.do("GET", "/download/in", ""); a.body != "good" {
		t.Errorf("%+v", a)
	}
	if got := b.lines(); strings.Count(got, "\n") > 0 {
		t.Errorf("it said\n%s", got)
	}
}

// TestDisabledManifest checks that the unsigned manifest is disabled while stopped.
func TestDisabledManifest(t *testing.T) {
	b := newBench(t, func(c *Config) { c.BasePath = "/monitor" })
	b.publish()
	const path = "/monitor/download/client-manifest.json"
	enabled := b.do("GET", path, "")
	if m, err := manifest.Parse([]byte(enabled.body)); err != nil || m.Disabled {
		t.Errorf("%+v, %v", enabled, err)
	}
	if _, err := b.decide(off, "test"); err != nil {
		t.Fatal(err)
	}
	stopped := b.do("GET", path, "", "If-None-Match: "+enabled.header.Get("ETag"))
	m, err := manifest.Parse([]byte(stopped.body))
	if err != nil || !m.Disabled || m.Version != "v0.1.12" || len(m.Platforms) != 4 || stopped.status != 200 {
		t.Errorf("%+v, %v", stopped, err)
	}
	if a := b.do("GET", path, "", "If-None-Match: "+stopped.header.Get("ETag")); a.status != 304 {
		t.Errorf("%+v", a)
	}
	b.put("client-manifest.json", "broken")
	if a := b.do("GET", path, ""); a.body != "broken" {
		t.Errorf("%+v", a)
	}
	b.publish()
	if _, err := b.decide(on, "test"); err != nil {
		t.Fatal(err)
	}
	if a := b.do("GET", path, ""); a.body != enabled.body {
		t.Errorf("%+v", a)
	}
}

// TestPublishedArchive checks that the archive that MachineMon's installer asks for is that
// of the published release, and never an older one that upstream has.
func TestPublishedArchive(t *testing.T) {
	const name, elsewhere = "machinemon-client-linux-amd64.tar.gz", "https://releases.example.com/a.tar.gz"
	published := func(file string) func(*manifest.Manifest) {
		return func(m *manifest.Manifest) {
			m.Product = "machinemon-client"
			p := m.Platforms["linux-amd64"]
			p.File = file
			m.Platforms["linux-amd64"] = p
		}
	}
	for what, c := range map[string]struct {
		manifest string // its path
		change   func(*manifest.Manifest)
		name     string
		status   int
		want     string
	}{
		"published":                   {change: published("new-0.1.12.tar.gz"), status: 200, want: "new"},
		"in a directory":              {manifest: "agent/m.json", change: published("new-0.1.12.tar.gz"), status: 200, want: "agent's new"},
		"another format":              {change: published("new-0.1.12.tar.zst"), status: 200, want: "new zst"},
		"elsewhere":                   {change: published(elsewhere), status: 302, want: elsewhere},
		"missing":                     {change: published("gone.tar.gz"), status: 404, want: "404 page not found\n"},
		"disabled":                    {change: func(m *manifest.Manifest) { published("new-0.1.12.tar.gz")(m); m.Disabled = true }, status: 200, want: "new"},
		"no manifest":                 {status: 200, want: "old"},
		"another product":             {change: func(m *manifest.Manifest) { m.Product = "machinemon-server" }, status: 200, want: "old"},
		"no product":                  {change: func(m *manifest.Manifest) { m.Product = "" }, status: 200, want: "old"},
		"not for this platform":       {change: func(m *manifest.Manifest) { published("x")(m); delete(m.Platforms, "linux-amd64") }, status: 200, want: "old"},
		"a platform, but no product":  {change: published("new-0.1.12.tar.gz"), name: "linux-amd64.tar.gz", status: 404, want: "binary not found\n"},
		"a manifest, but not a valid": {change: func(m *manifest.Manifest) { m.Version = "" }, status: 503, want: "the gate cannot read its manifest\n"},
	} {
		t.Run(what, func(t *testing.T) {
			b := newBench(t, func(conf *Config) { conf.Manifest = cmp.Or(c.manifest, conf.Manifest) })
			b.up.Host(name, []byte("old"))
			b.put("new-0.1.12.tar.gz", "new")
			b.put("new-0.1.12.tar.zst", "new zst")
			testkit.Put(t, filepath.Join(b.config.DownloadDir, "agent/new-0.1.12.tar.gz"), "agent's new")
			if c.change != nil {
				b.publish(c.change)
				if c.manifest != "" {
					testkit.Must(t, os.Rename(filepath.Join(b.config.DownloadDir, "client-manifest.json"), filepath.Join(b.config.DownloadDir, c.manifest)))
				}
			}
			a := b.do("GET", "/download/"+cmp.Or(c.name, name), "")
			if a.status != c.status || a.body != c.want && a.header.Get("Location") != c.want {
				t.Errorf("%+v", a)
			}
		})
	}
}
