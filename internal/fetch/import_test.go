package fetch

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/fetch/source"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// TestImport checks that an import is treated like any release, with every type of source.
func TestImport(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	for _, c := range []struct {
		name   string
		path   string // inside the directory
		edit   func(m *manifest.Manifest)
		result state.Result // of the copy, or of the attempt
		text   string
	}{
		{"a directory", "", nil, state.ResultHandedOn, ""},
		{"a manifest", "client-manifest.json", nil, state.ResultHandedOn, ""},
		{"an archive", "agent.tar.gz", nil, state.ResultHandedOn, ""},
		{"nothing there", "nowhere", nil, state.ResultNotDownloaded, "no such file"},
		{"an archive elsewhere", "", func(m *manifest.Manifest) {
			edit(m, func(p *manifest.Platform) { p.File = "https://example.com/agent.tar.gz" })
		}, state.ResultRefused, "not beside it"},
		{"another size", "", func(m *manifest.Manifest) {
			edit(m, func(p *manifest.Platform) { p.Size++ })
		}, state.ResultRefused, " instead of "},
		{"another product", "", func(m *manifest.Manifest) { m.Product = "server" }, state.ResultRefused, `of product "server"`},
		{"another digest", "", func(m *manifest.Manifest) {
			edit(m, func(p *manifest.Platform) { p.SHA256 = manifest.Digest([]byte("x")) })
		}, state.ResultRefused, "(hint: copy the archive and its manifest again, both of one release)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := release1()
			if c.edit != nil {
				c.edit(m)
			}
			from := t.TempDir()
			for name, content := range map[string][]byte{"client-manifest.json": marshal(t, m), "agent.tar.gz": payload} {
				if err := os.WriteFile(filepath.Join(from, name), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			b := newBench(t, "http://127.0.0.1:9")
			if err := b.tree.MakeSwapDir("agent"); err != nil {
				t.Fatal(err)
			}
			unvouched, err := Import(t.Context(), b.tree, b.target, target.Named{Path: filepath.Join(from, c.path)}, b.tree.Import("agent"))
			if unvouched {
				t.Error("its manifest does not count")
			}
			if err != nil {
				a := state.Attempt{Result: state.ResultOf(err), Reason: err.Error()}
				b.mustFail(t, a, c.result, c.text)
				if info, err := os.Stat(b.tree.Import("agent")); err == nil && info.Mode().Perm() != 0o700 {
					t.Errorf("what was refused can be read: %v", info.Mode())
				}
				return
			}
			for _, name := range []string{"", "client-manifest.json", "agent.tar.gz"} {
				if info, err := os.Stat(filepath.Join(b.tree.Import("agent"), name)); err != nil || info.Mode().Perm()&0o077 != 0 {
					t.Errorf("%s: other users may read it: %v, %v", name, info.Mode(), err)
				}
			}
			o := b.order(state.VerbApply, "v1")
			o.Import = true
			a := b.run(t, o)
			if c.result == state.ResultHandedOn {
				if a.Result != c.result || a.Version != "v2" {
					t.Errorf("%+v", a)
				}
			} else {
				b.mustFail(t, a, c.result, c.text)
			}
			if err := b.tree.DropImport("agent"); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestImportIsNoOffer: after an import, what the last check found at the source is still what
// is available, because apply would take that. Without a source it is what was imported.
func TestImportIsNoOffer(t *testing.T) {
	for _, c := range []struct {
		name, want string
		change     func(*target.Target)
	}{
		{"with a source", "v2", func(*target.Target) {}},
		{"without one", "v1", func(t *target.Target) { t.Source = target.Source{} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, serve(t, newSite(t)))
			b.run(t, b.order(state.VerbCheck, "v1"))
			m := release1()
			m.Version = "v1"
			b.target.Source.Type = target.SourceManifest
			c.change(b.target)
			o := b.order(state.VerbApply, "v3")
			o.Import = true
			if err := os.MkdirAll(b.tree.Import("agent"), 0o755); err != nil {
				t.Fatal(err)
			}
			for name, content := range map[string][]byte{"client-manifest.json": marshal(t, m), "agent.tar.gz": payload} {
				if err := os.WriteFile(filepath.Join(b.tree.Import("agent"), name), content, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if a := b.run(t, o); a.Result != state.ResultHandedOn || a.Version != "v1" {
				t.Fatalf("%+v", a)
			}
			if got := b.status(t).Offer; got == nil || got.Version != c.want {
				t.Errorf("on offer is %+v, want %s", got, c.want)
			}
		})
	}
}

// TestImportFromElsewhere replaces the directory while root reads it, as its owner can.
func TestImportFromElsewhere(t *testing.T) {
	dir, other := filepath.Join(t.TempDir(), "rel"), t.TempDir()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{dir + "/client-manifest.json": marshal(t, release1()), other + "/agent.tar.gz": payload} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := &source.Disk{Path: dir, RootOnly: func(string) error { return nil }}
	defer d.Close()
	if _, _, err := d.Manifest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, dir); err != nil {
		t.Fatal(err)
	}
	if body, err := d.Archive(t.Context(), release1().Platforms[manifest.Host()], download.Piece{}); err == nil {
		body.Close()
		t.Error("the archive of another directory was opened")
	}
}
