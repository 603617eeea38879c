package verify

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// TestTree checks that all files of a directory are unpacked, and no others, and that each
// must be as the manifest's contents say.
func TestTree(t *testing.T) {
	all := []string{"agent-v2", "agent.service", "app-v2/bin/app", "app-v2/share/a"}
	for name, c := range map[string]struct {
		from     string
		edit     func(*bench)
		result   state.Result
		text     string
		unpacked []string
	}{
		"plain": {"app-{version}/", nil, state.ResultHandedOn, "", all},
		"glob":  {"app-*/", nil, state.ResultHandedOn, "", all},
		"no contents": {"app-{version}/", func(b *bench) { b.bundle.platform(func(p *manifest.Platform) { p.Contents = nil }) },
			state.ResultHandedOn, "", all},
		"two directories": {"?pp-*/", func(b *bench) { b.bundle.content["opp-1/x"] = "x"; b.bundle.repack(t) },
			state.ResultRefused, "?pp-*/ must match exactly one directory, and 2 match: app-v2/, opp-1/", nil},
		"no such directory": {"none/", nil, state.ResultRefused, "the archive has no none/", nil},
		"a file more": {"app-{version}/", func(b *bench) {
			b.bundle.platform(func(p *manifest.Platform) { delete(p.Contents, "app-v2/share/a") })
		}, state.ResultRefused, "do not list its entry app-v2/share/a", nil},
		"a file less": {"app-{version}/", func(b *bench) {
			b.bundle.platform(func(p *manifest.Platform) { p.Contents["app-v2/share/b"] = p.Contents["app-v2/share/a"] })
		}, state.ResultRefused, "the archive has no app-v2/share/b", nil},
		"other bytes": {"app-{version}/", func(b *bench) {
			b.bundle.platform(func(p *manifest.Platform) { p.Contents["app-v2/share/a"] = p.Contents["app-v2/bin/app"] })
		}, state.ResultRefused, "its entry app-v2/share/a is not the one", nil},
		"a foreign program": {"app-{version}/", func(b *bench) { b.bundle.content["app-v2/bin/app"] = foreign(t); b.bundle.repack(t) },
			state.ResultRefused, "its entry app-v2/bin/app: built for", nil},
		"a program for another machine beside it": {"app-{version}/", func(b *bench) { b.bundle.content["app-v2/share/a"] = foreign(t); b.bundle.repack(t) },
			state.ResultHandedOn, "", all},
		"a link": {"app-{version}/", func(b *bench) {
			b.bundle.payload = packLink(t, b.bundle.content, "app-v2/link")
			b.bundle.platform(func(p *manifest.Platform) {
				p.SHA256, p.Size = manifest.Digest(b.bundle.payload), int64(len(b.bundle.payload))
			})
		}, state.ResultRefused, `entry "app-v2/link": it is a link`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			to := filepath.Join(b.root, "app")
			b.target.Install = append(b.target.Install, target.Install{From: c.from, To: to, Tree: true})
			b.target.Health.Main = filepath.Join(to, "bin/app")
			b.bundle.content["app-v2/bin/app"] = program1(t)
			b.bundle.content["app-v2/share/a"] = "a"
			b.bundle.content["app-v2x"] = "not below it"
			b.bundle.repack(t)
			if c.edit != nil {
				c.edit(b)
			}
			b.hand(t)
			b.mustRecord(t, b.run(t), c.result, c.text)
			if c.result != state.ResultHandedOn {
				return
			}
			entry, err := os.OpenRoot(filepath.Join(b.out(), attempt))
			must(t, err)
			defer entry.Close()
			receipt, err := (&state.Bundle{Root: entry}).Receipt()
			must(t, err)
			var unpacked []string
			for _, f := range receipt.Files {
				unpacked = append(unpacked, f.Entry)
			}
			slices.Sort(unpacked)
			if !slices.Equal(unpacked, c.unpacked) || len(ls(t, entry.Name())) != len(unpacked)+2 {
				t.Errorf("unpacked %q, in the tree %q", unpacked, ls(t, entry.Name()))
			}
		})
	}
}

// packLink returns a plain tar archive of these files and of a link.
func packLink(t *testing.T, content files, link string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, body := range content {
		must(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body)), Typeflag: tar.TypeReg}))
		_, err := w.Write([]byte(body))
		must(t, err)
	}
	must(t, w.WriteHeader(&tar.Header{Name: link, Linkname: "bin/app", Typeflag: tar.TypeSymlink}))
	must(t, w.Close())
	return b.Bytes()
}
