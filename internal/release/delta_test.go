package release

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/delta"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// testDeltas is the number of releases back: Publish makes no deltas by default.
const testDeltas = 3

// TestDeltas: deltas lead from the earlier releases to this one, and are made only for
// files that changed.
func TestDeltas(t *testing.T) {
	testkit.Slow(t)
	s := newTestDir(t)
	r := rand.New(rand.NewPCG(1, 2))
	body := make([]byte, 300<<10)
	for i := range body {
		body[i] = byte(r.Uint32())
	}
	programs := map[string][]byte{}
	for i := range 6 {
		version := fmt.Sprint("v", i)
		copy(body[1000*i:], "changed "+version)
		programs[manifest.Digest(body)] = bytes.Clone(body)
		q := s.request(version)
		q.Archives = []string{writeArchive(t, t.TempDir(), "agent-linux-amd64", string(body))}
		m, _, err := Publish(q)
		s.must(err)
		p := m.Platforms["linux-amd64"]
		want := min(i, testDeltas)
		if len(p.Deltas) != want || len(p.Patches) != want {
			t.Fatalf("%s has %d deltas and %d patches, want %d", version, len(p.Deltas), len(p.Patches), want)
		}
		for i, d := range slices.Concat(p.Deltas, p.Patches) {
			if strings.HasSuffix(d.File, ".patch") != (i >= want) {
				t.Errorf("%s: %s is at %d", version, d.File, i)
			}
			made, err := os.ReadFile(filepath.Join(s.dir, d.File))
			s.must(err)
			var out bytes.Buffer
			old := programs[d.FromSHA256]
			_, err = delta.Patch(&out, section(made), section(old), p.Contents[d.Entry].Size)
			s.must(err)
			if manifest.Digest(made) != d.SHA256 || int64(len(made)) != d.Size || manifest.Digest(out.Bytes()) != p.Contents[d.Entry].SHA256 || d.Size > 2000 {
				t.Errorf("%s: %+v makes %s", version, d, manifest.Digest(out.Bytes()))
			}
		}
	}
	if v := s.verify("v5"); v.Files != 7 {
		t.Errorf("%d files", v.Files)
	}
	// The same archive again makes no deltas and changes nothing.
	q := s.request("v5")
	q.Archives = []string{writeArchive(t, t.TempDir(), "agent-linux-amd64", string(body))}
	before := s.files()
	if _, changed, err := Publish(q); err != nil || changed || !mapsEqual(before, s.files()) {
		t.Errorf("changed %v, %v", changed, err)
	}
	// Verify finds a damaged delta.
	p := s.verify("v5").Release.Manifest.Platforms["linux-amd64"]
	for _, name := range []string{p.Deltas[0].File, p.Patches[0].File} {
		good, err := os.ReadFile(filepath.Join(s.dir, name))
		s.must(err)
		s.must(os.WriteFile(filepath.Join(s.dir, name), nil, 0o644))
		_, err = Verify(s.dir, "", s.now)
		s.refused(err, name+": its sha256 is ")
		s.must(os.WriteFile(filepath.Join(s.dir, name), good, 0o644))
	}
}

func section(b []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))
}

// TestSmallDeltas checks that small files have deltas, too, without which a machine would
// download the archive for a changed script, unless very many have changed.
func TestSmallDeltas(t *testing.T) {
	testkit.Slow(t)
	for _, c := range []struct{ scripts, want int }{{1, 2}, {mostSmall, 1 + mostSmall}, {mostSmall + 1, 1}} {
		s := newTestDir(t)
		var p manifest.Platform
		for _, version := range []string{"v7.7.1", "v7.7.2"} {
			files := map[string]string{"empty": "", "same": "the same", "daemon": string(bytes.Repeat([]byte("daemon "+version), small))}
			for i := range c.scripts {
				files[fmt.Sprint("script", i)] = "#!/bin/sh\n# " + version
			}
			q := s.request(version)
			q.Archives = []string{writeFiles(t, t.TempDir(), "agent-linux-amd64", files)}
			m, _, err := Publish(q)
			s.must(err)
			p = m.Platforms["linux-amd64"]
		}
		if len(p.Deltas) != c.want || len(p.Patches) > 1 {
			t.Errorf("%d changed scripts: %d deltas, want %d, and %d patches", c.scripts, len(p.Deltas), c.want, len(p.Patches))
		}
	}
}

// TestLargeDeltas: a file that is too large for zstd's deltas has a patch.
func TestLargeDeltas(t *testing.T) {
	testkit.Slow(t)
	s := newTestDir(t)
	body := make([]byte, zstdLimit/2+1)
	var p manifest.Platform
	for _, version := range []string{"v1", "v2"} {
		copy(body[1<<20:], version)
		q := s.request(version)
		q.Archives = []string{writeArchive(t, t.TempDir(), "agent-linux-amd64", string(body))}
		m, _, err := Publish(q)
		s.must(err)
		p = m.Platforms["linux-amd64"]
	}
	if len(p.Deltas) != 0 || len(p.Patches) != 1 || p.Patches[0].Size > 500 {
		t.Errorf("%+v, %+v", p.Deltas, p.Patches)
	}
}
