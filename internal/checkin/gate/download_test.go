package gate

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"io"
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

// tarGz returns a tar in gzip with one file.
func tarGz(t *testing.T, content string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	testkit.Must(t, w.WriteHeader(&tar.Header{Name: "machinemon-client-linux-amd64", Mode: 0o755, Size: int64(len(content))}))
	_, err := io.WriteString(w, content)
	testkit.Must(t, errors.Join(err, w.Close(), z.Close()))
	return b.String()
}

func gzipped(t *testing.T, content string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := io.WriteString(z, content)
	testkit.Must(t, errors.Join(err, z.Close()))
	return b.String()
}

// TestPublishedArchive checks that the archive that MachineMon's installer asks for is that
// of the published release, never an older one that upstream has, nor one that machines
// must not install, nor one of another format.
func TestPublishedArchive(t *testing.T) {
	const name, elsewhere = "machinemon-client-linux-amd64.tar.gz", "https://releases.example.com/a.tar.gz"
	const file = "new-0.1.12.tar.gz"
	published := func(file string, more ...func(*manifest.Manifest)) func(*manifest.Manifest) {
		return func(m *manifest.Manifest) {
			m.Product = "machinemon-client"
			p := m.Platforms["linux-amd64"]
			p.File = file
			m.Platforms["linux-amd64"] = p
			for _, f := range more {
				f(m)
			}
		}
	}
	share := func(percent int) func(*manifest.Manifest) {
		return func(m *manifest.Manifest) { m.Rollout = &manifest.Rollout{Percent: percent} }
	}
	disable := func(m *manifest.Manifest) { m.Disabled = true }
	archive, other := tarGz(t, "new"), tarGz(t, "agent's new")
	const format = " of v0.1.12 is no tar.gz, which MachineMon's installer needs (hint: machinemon-update can install it)\n"
	for what, c := range map[string]struct {
		manifest string // its path
		change   func(*manifest.Manifest)
		off      bool // the switch
		name     string
		status   int
		want     string
	}{
		"published":                    {change: published(file), status: 200, want: archive},
		"in a directory":               {manifest: "agent/m.json", change: published(file), status: 200, want: other},
		"another format":               {change: published("new-0.1.12.tar.zst"), status: 404, want: "new-0.1.12.tar.zst" + format},
		"a false name":                 {change: published("zip.tar.gz"), status: 404, want: "zip.tar.gz" + format},
		"a program in gzip":            {change: published("gz.tar.gz"), status: 404, want: "gz.tar.gz" + format},
		"elsewhere":                    {change: published(elsewhere), status: 302, want: elsewhere},
		"elsewhere, another format":    {change: published("https://releases.example.com/a.zip"), status: 404, want: "a.zip" + format},
		"missing":                      {change: published("gone.tar.gz"), status: 404, want: "404 page not found\n"},
		"1 %":                          {change: published(file, share(1)), status: 200, want: archive},
		"0 %":                          {change: published(file, share(0)), status: 503, want: "v0.1.12 is for 0 % of the machines: its publisher has stopped its rollout, or has not begun it\n"},
		"disabled":                     {change: published(file, disable), status: 503, want: "v0.1.12 is disabled by its publisher\n"},
		"elsewhere, disabled":          {change: published(elsewhere, disable), status: 503, want: "v0.1.12 is disabled by its publisher\n"},
		"off":                          {change: published(file), off: true, status: 503, want: "updates are stopped at the gate (hint: an administrator lets them go on at /updates)\n"},
		"off, by the name of updaters": {change: published(file), off: true, name: file, status: 200, want: archive},
		"off, no manifest":             {off: true, status: 200, want: "old"},
		"no manifest":                  {status: 200, want: "old"},
		"another product":              {change: func(m *manifest.Manifest) { m.Product = "machinemon-server" }, status: 200, want: "old"},
		"no product":                   {change: func(m *manifest.Manifest) { m.Product = "" }, status: 200, want: "old"},
		"not for this platform":        {change: func(m *manifest.Manifest) { published("x")(m); delete(m.Platforms, "linux-amd64") }, status: 200, want: "old"},
		"a platform, but no product":   {change: published(file), name: "linux-amd64.tar.gz", status: 404, want: "binary not found\n"},
		"a manifest, but not a valid":  {change: func(m *manifest.Manifest) { m.Version = "" }, status: 503, want: "the gate cannot read its manifest\n"},
	} {
		t.Run(what, func(t *testing.T) {
			b := newBench(t, func(conf *Config) { conf.Manifest = cmp.Or(c.manifest, conf.Manifest) })
			b.up.Host(name, []byte("old"))
			b.put(file, archive)
			b.put("new-0.1.12.tar.zst", "\x28\xb5\x2f\xfd")
			b.put("zip.tar.gz", "PK\x03\x04")
			b.put("gz.tar.gz", gzipped(t, "\x7fELF"))
			testkit.Put(t, filepath.Join(b.config.DownloadDir, "agent", file), other)
			if c.change != nil {
				b.publish(c.change)
				if c.manifest != "" {
					testkit.Must(t, os.Rename(filepath.Join(b.config.DownloadDir, "client-manifest.json"), filepath.Join(b.config.DownloadDir, c.manifest)))
				}
			}
			if c.off {
				_, err := b.decide(off, "test")
				testkit.Must(t, err)
			}
			a := b.do("GET", "/download/"+cmp.Or(c.name, name), "")
			if a.status != c.status || a.body != c.want && a.header.Get("Location") != c.want {
				t.Errorf("%+v", a)
			}
		})
	}
}
