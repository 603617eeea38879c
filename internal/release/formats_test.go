package release

import (
	"archive/zip"
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/machinemon/machinemon-update/internal/archive"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestPublishFormats: the contents and deltas of a zip and of a program without an archive.
func TestPublishFormats(t *testing.T) {
	testkit.Slow(t)
	s := newTestDir(t)
	bodies := []string{}
	for i := range 2 {
		var text bytes.Buffer
		text.WriteString("\x7fELF")
		for n := range 20_000 {
			fmt.Fprintf(&text, "line %d\n", n*n)
		}
		fmt.Fprintf(&text, "version %d", i)
		bodies = append(bodies, text.String())
	}
	for _, row := range []struct {
		name  string
		entry string
		pack  func(body string) []byte
	}{
		{"agent-linux-amd64.zip", "agent/agent", func(body string) []byte {
			var b bytes.Buffer
			z := zip.NewWriter(&b)
			w, err := z.CreateHeader(&zip.FileHeader{Name: "agent/agent"}) // stored
			s.must(err)
			_, err = w.Write([]byte(body))
			s.must(err)
			s.must(z.Close())
			return b.Bytes()
		}},
		{"agent-linux-arm64", archive.Single, func(body string) []byte { return []byte(body) }},
	} {
		path := filepath.Join(t.TempDir(), row.name)
		for i, body := range bodies {
			s.must(os.WriteFile(path, row.pack(body), 0o644))
			q := s.request(fmt.Sprint("v", i))
			q.Archives = []string{path}
			m, _, err := Publish(q)
			s.must(err)
			name, err := parseName(path, q.Version)
			s.must(err)
			p := m.Platforms[name.platform]
			want := manifest.Content{SHA256: manifest.Digest([]byte(body)), Size: int64(len(body))}
			if !maps.Equal(p.Contents, map[string]manifest.Content{row.entry: want}) || filepath.Ext(p.File) == ".gz" {
				t.Errorf("%s: %+v", row.name, p)
			}
			from := slices.IndexFunc(p.Deltas, func(d manifest.Delta) bool {
				return d.Entry == row.entry && d.FromSHA256 == manifest.Digest([]byte(bodies[0]))
			})
			if i == 1 && from < 0 {
				t.Errorf("%s: no delta in %+v", row.name, p.Deltas)
			}
		}
	}
}
