package release

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// writeArchive writes DIR/<product>-<platform>.tar.gz with one file.
func writeArchive(t *testing.T, dir, name, body string) string {
	t.Helper()
	return writeFiles(t, dir, name, map[string]string{"bin": body})
}

func writeFiles(t *testing.T, dir, name string, files map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Name: file, Mode: 0o755, Size: int64(len(files[file]))}); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(files[file]))
	}
	w.Close()
	z.Close()
	path := filepath.Join(dir, name+".tar.gz")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPublishAtOnce: after publications at once, each platform is in the manifest.
func TestPublishAtOnce(t *testing.T) {
	dir, in := t.TempDir(), t.TempDir()
	platforms := []string{"linux-386", "linux-amd64", "linux-arm64", "linux-armv5", "linux-armv6", "linux-armv7"}
	var wg sync.WaitGroup
	for _, p := range platforms {
		path := writeArchive(t, in, "agent-"+p, p)
		wg.Go(func() {
			if _, _, err := Publish(Request{Dir: dir, Version: "v1", Archives: []string{path}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	m, err := readManifest(filepath.Join(dir, manifest.FileName))
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(m.Platforms)); !slices.Equal(got, platforms) || m.Sequence != 1 {
		t.Errorf("sequence %d, platforms %v", m.Sequence, got)
	}
}

// TestPublishIsConsistent: at each moment a machine finds the archives that the manifest
// names. MachineMon's archives have no version in their names.
func TestPublishIsConsistent(t *testing.T) {
	testkit.Slow(t)
	dir, in := t.TempDir(), t.TempDir()
	publish := func(i int) {
		path := writeArchive(t, in, "agent-linux-amd64", fmt.Sprint("program ", i))
		// Each version has two releases: new bytes at an old version are a hard case.
		if _, _, err := Publish(Request{Dir: dir, Version: fmt.Sprint("v", i/2), Archives: []string{path}}); err != nil {
			t.Error(err)
		}
	}
	publish(0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 30 {
			publish(i)
		}
	}()
	for reads := 0; ; reads++ {
		m, err := readManifest(filepath.Join(dir, manifest.FileName))
		if err != nil {
			t.Fatal(err)
		}
		p := m.Platforms["linux-amd64"]
		b, err := os.ReadFile(filepath.Join(dir, p.File))
		if err != nil || manifest.Digest(b) != p.SHA256 || int64(len(b)) != p.Size {
			t.Fatalf("%s names %s, which does not match (%v)", m.Version, p.File, err)
		}
		select {
		case <-done:
			t.Logf("%d reads", reads)
			return
		default:
		}
	}
}

// TestPublishMends: publishing again repairs a copy that was damaged.
func TestPublishMends(t *testing.T) {
	dir := t.TempDir()
	q := Request{Dir: dir, Version: "v1", Archives: []string{writeArchive(t, t.TempDir(), "agent-linux-amd64", "x")}}
	m, _, err := Publish(q)
	if err != nil {
		t.Fatal(err)
	}
	p := m.Platforms["linux-amd64"]
	if err := os.WriteFile(filepath.Join(dir, p.File), []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, changed, err := Publish(q); err != nil || changed {
		t.Fatalf("changed %v, %v", changed, err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, p.File)); manifest.Digest(b) != p.SHA256 {
		t.Error("still damaged")
	}
}

func TestNextManifest(t *testing.T) {
	now := time.Date(2026, 11, 1, 13, 0, 0, 0, time.FixedZone("CET", 3600))
	const nowText = "2026-11-01T12:00:00Z"
	platform := func(c string) manifest.Platform { return manifest.Platform{File: c, SHA256: strings.Repeat(c, 64)} }
	a, b := platform("a"), platform("b")
	withDelta := a
	withDelta.Deltas = []manifest.Delta{{Entry: "bin"}}
	old := func(edit func(m *manifest.Manifest)) *manifest.Manifest {
		m := &manifest.Manifest{Schema: 1, Product: "p", Version: "v1", Sequence: 7, ReleasedAt: "then", MinVersion: "v0",
			Disabled: true, Platforms: map[string]manifest.Platform{"x": a}}
		if edit != nil {
			edit(m)
		}
		return m
	}
	type platforms = map[string]manifest.Platform
	for _, tt := range []struct {
		name string
		old  *manifest.Manifest
		q    Request
		add  platforms
		want *manifest.Manifest // nil: refused
	}{
		{"first", nil, Request{Version: "v1", MinVersion: "v0"}, platforms{"x": a},
			&manifest.Manifest{Schema: 1, Product: "p", Version: "v1", Sequence: 1, ReleasedAt: nowText, MinVersion: "v0", Platforms: platforms{"x": a}}},
		{"new version", old(nil), Request{Version: "v2"}, platforms{"y": b},
			&manifest.Manifest{Schema: 1, Product: "p", Version: "v2", Sequence: 8, ReleasedAt: nowText, Platforms: platforms{"y": b}}},
		{"the same", old(nil), Request{Version: "v1"}, platforms{"x": a}, old(nil)},
		{"the same keeps deltas", old(func(m *manifest.Manifest) { m.Platforms["x"] = withDelta }), Request{Version: "v1"}, platforms{"x": a},
			old(func(m *manifest.Manifest) { m.Platforms["x"] = withDelta })},
		{"further platform", old(nil), Request{Version: "v1"}, platforms{"y": b}, old(func(m *manifest.Manifest) { m.Platforms["y"] = b })},
		{"other bytes", old(nil), Request{Version: "v1"}, platforms{"x": b}, old(func(m *manifest.Manifest) {
			m.Platforms["x"], m.Sequence, m.ReleasedAt = b, 8, nowText
		})},
		{"other bytes drop deltas", old(func(m *manifest.Manifest) { m.Platforms["x"] = withDelta }), Request{Version: "v1"}, platforms{"x": b},
			old(func(m *manifest.Manifest) { m.Platforms["x"], m.Sequence, m.ReleasedAt = b, 8, nowText })},
		{"other min_version", old(nil), Request{Version: "v1", MinVersion: "v0.5"}, platforms{"x": a}, old(func(m *manifest.Manifest) { m.MinVersion = "v0.5" })},
		{"by hand, without sequence", old(func(m *manifest.Manifest) { m.Sequence = 0 }), Request{Version: "v1"}, platforms{"x": a},
			old(func(m *manifest.Manifest) { m.Sequence, m.ReleasedAt = 1, nowText })},
		{"last sequence", old(func(m *manifest.Manifest) { m.Sequence = math.MaxInt64 }), Request{Version: "v2"}, platforms{"x": a}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := ""
			if tt.old != nil {
				before = text(t, tt.old)
			}
			tt.q.Now = now
			got, err := nextManifest(tt.old, tt.q, "p", tt.add)
			switch {
			case tt.want == nil && err == nil:
				t.Fatalf("accepted: %+v", got)
			case tt.want != nil && err != nil:
				t.Fatal(err)
			case tt.want != nil && text(t, got) != text(t, tt.want):
				t.Errorf("got %s\nwant %s", text(t, got), text(t, tt.want))
			}
			if tt.old != nil && text(t, tt.old) != before {
				t.Error("the old manifest was changed")
			}
		})
	}
}

func text(t *testing.T, m *manifest.Manifest) string {
	t.Helper()
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestParseName(t *testing.T) {
	for _, tt := range []struct{ path, version, product, platform, extension string }{
		{"dist/machinemon-client-linux-amd64.tar.gz", "v0.1.11", "machinemon-client", "linux-amd64", ".tar.gz"},
		{"machinemon-server-darwin-arm64.tar.gz", "v0.1.11", "machinemon-server", "darwin-arm64", ".tar.gz"},
		{"node_exporter-1.9.1.linux-amd64.tar.gz", "1.9.1", "node_exporter", "linux-amd64", ".tar.gz"},
		{"node_exporter-1.9.1.linux-amd64.tar.gz", "v1.9.1", "node_exporter", "linux-amd64", ".tar.gz"},
		{"node_exporter-v1.9.1_linux_armv7.tar.zst", "2", "node_exporter", "linux-armv7", ".tar.zst"},
		{"scalebox-build-17-linux-arm64.tgz", "build-17", "scalebox", "linux-arm64", ".tgz"},
		{"linux-tool.linux.386.tzst", "1", "linux-tool", "linux-386", ".tzst"},
		{"scalebox-build-17.tar.gz", "build-17", "", "", ""},
		{"agent-linux-x86_64.tar.gz", "1", "", "", ""},
		{"agent-linux-arm.tar.gz", "1", "", "", ""}, // it does not say which arm
		{"agent-linux-amd64.zip", "1", "agent", "linux-amd64", ".zip"},
		{"agent_1_linux_amd64.tar.xz", "1", "agent", "linux-amd64", ".tar.xz"},
		{"agent-1.linux-amd64.tbz2", "1", "agent", "linux-amd64", ".tbz2"},
		{"agent-linux-amd64", "1", "agent", "linux-amd64", ""},
		{"agent-linux-amd64.gz", "1", "agent", "linux-amd64", ".gz"},
		{"agent-linux-amd64.rar", "1", "", "", ""},
		{"agent-linux-amd64.exe", "1", "", "", ""},
		{"linux-amd64.tar.gz", "1", "", "", ""},
		{"my agent-linux-amd64.tar.gz", "1", "", "", ""},
	} {
		got, err := parseName(tt.path, tt.version)
		want := archiveName{tt.product, tt.platform, tt.extension}
		if (err == nil) != (tt.product != "") || err == nil && got != want {
			t.Errorf("%s at %s: got %+v, %v; want %+v", tt.path, tt.version, got, err, want)
		}
	}
}
