package release

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/machinemon/machinemon-update/internal/archive"
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
		if want := min(i, testDeltas); len(p.Deltas) != want {
			t.Fatalf("%s has %d deltas, want %d", version, len(p.Deltas), want)
		}
		for _, d := range p.Deltas {
			delta, err := os.ReadFile(filepath.Join(s.dir, d.File))
			s.must(err)
			var out bytes.Buffer
			_, err = archive.Patch(&out, bytes.NewReader(delta), programs[d.FromSHA256], p.Contents[d.Entry].Size)
			s.must(err)
			if manifest.Digest(delta) != d.SHA256 || int64(len(delta)) != d.Size || manifest.Digest(out.Bytes()) != p.Contents[d.Entry].SHA256 || d.Size > 2000 {
				t.Errorf("%s: %+v makes %s", version, d, manifest.Digest(out.Bytes()))
			}
		}
	}
	if v := s.verify("v5"); v.Files != 4 {
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
	s.must(os.WriteFile(filepath.Join(s.dir, p.Deltas[0].File), nil, 0o644))
	_, err := Verify(s.dir, "", s.now)
	s.refused(err, p.Deltas[0].File+": its sha256 is ")
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
		if len(p.Deltas) != c.want {
			t.Errorf("%d changed scripts: %d deltas, want %d", c.scripts, len(p.Deltas), c.want)
		}
	}
}
