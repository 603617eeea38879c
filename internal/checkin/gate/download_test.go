package gate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/manifest"
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
		"not for us":  {"POST", nil, 404, ""},
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

// TestDownloadEscapes checks that no path leaves the directory; others go to upstream.
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
	for _, path := range []string{"../secret", "..%2fsecret", "%2e%2e/secret", "sub/../../secret", "out", "abs", "up/secret", ".part", "sub", "sub/", "", ".",
		"fifo", "good/", "/good", "good%00", "%5c..%5csecret", "none", strings.Repeat("x", 5000)} {
		before := b.up.count()
		if a := b.do("GET", "/download/"+path, ""); a.status != 404 || !strings.HasPrefix(a.body, "upstream has no ") || b.up.count() != before+1 {
			t.Errorf("%.100s: %d %.100s", path, a.status, a.body)
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
