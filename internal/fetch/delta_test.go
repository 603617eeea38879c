package fetch

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

const (
	before  = "the installed program"
	aDelta  = "a delta of the program"
	another = "a delta of its tool"
)

// deltaBench returns a bench with two installed files, for which the release has deltas.
func deltaBench(t *testing.T) (*bench, *manifest.Manifest, site) {
	t.Helper()
	m := edit(release1(), func(p *manifest.Platform) {
		p.Contents["tool"] = manifest.Content{SHA256: manifest.Digest([]byte("tool")), Size: 4}
		p.Deltas = []manifest.Delta{
			{FromSHA256: manifest.Digest([]byte("older")), Entry: "agent", File: "older.zst", SHA256: manifest.Digest([]byte("x")), Size: 1},
			{FromSHA256: manifest.Digest([]byte(before)), Entry: "agent", File: "agent.zst", SHA256: manifest.Digest([]byte(aDelta)), Size: int64(len(aDelta))},
			{FromSHA256: manifest.Digest([]byte(before)), Entry: "tool", File: "tool.zst", SHA256: manifest.Digest([]byte(another)), Size: int64(len(another))},
		}
	})
	s := newSite(t)
	s["/agent.zst"], s["/tool.zst"] = bytesHandler([]byte(aDelta)), bytesHandler([]byte(another))
	b := newBench(t, serve(t, s))
	dir := t.TempDir()
	b.target.Install = []target.Install{
		{From: "agent", To: filepath.Join(dir, "agent")}, {From: "tool", To: filepath.Join(dir, "tool")},
		{From: "docs", To: filepath.Join(dir, "docs"), Optional: true}}
	for _, name := range []string{"agent", "tool"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(before), 0o755))
	}
	return b, m, s
}

// handedOn returns the files that the attempt handed on, by name and without the manifest,
// and the receipt.
func (b *bench) handedOn(t *testing.T) (map[string]string, state.Receipt) {
	t.Helper()
	entry, err := os.OpenRoot(filepath.Join(b.tree.Ready(state.RoleFetch, "agent"), attempt))
	must(t, err)
	defer entry.Close()
	content := map[string]string{}
	names, err := os.ReadDir(entry.Name())
	must(t, err)
	for _, n := range names {
		c, err := entry.ReadFile(n.Name())
		must(t, err)
		content[n.Name()] = string(c)
	}
	var r state.Receipt
	must(t, json.Unmarshal([]byte(content["receipt.json"]), &r))
	delete(content, "receipt.json")
	delete(content, "manifest.json")
	return content, r
}

// asked makes the site record the requests for the release's files.
func (s site) asked() *[]string {
	var asked []string
	for path, answer := range s {
		if path != "/client-manifest.json" {
			s[path] = func(w http.ResponseWriter, r *http.Request) {
				asked = append(asked, path)
				answer(w, r)
			}
		}
	}
	return &asked
}

// TestDeltas checks which files are downloaded if there is no fault.
func TestDeltas(t *testing.T) {
	testkit.Slow(t)
	agent, tool := state.ReceiptFile{Entry: "agent", Name: "0"}, state.ReceiptFile{Entry: "tool", Name: "1"}
	install := func(name, content string) func(*testing.T, *bench, *manifest.Manifest) {
		return func(t *testing.T, b *bench, _ *manifest.Manifest) {
			must(t, os.WriteFile(filepath.Join(filepath.Dir(b.target.Install[0].To), name), []byte(content), 0o755))
		}
	}
	platform := func(f func(p *manifest.Platform)) func(*testing.T, *bench, *manifest.Manifest) {
		return func(_ *testing.T, _ *bench, m *manifest.Manifest) { edit(m, f) }
	}
	// listed makes the tool a file that the release lists, below the list of the installed one.
	listed := func(installed, offered string) func(*testing.T, *bench, *manifest.Manifest) {
		return func(t *testing.T, b *bench, m *manifest.Manifest) {
			dir := filepath.Dir(b.target.Install[1].To)
			b.target.Install = slices.Delete(b.target.Install, 1, 2)
			b.target.Listing = &target.Listing{File: "LIST", Optional: true, Types: []target.ListedType{{Name: "bin", Directory: dir, Mode: 0o755, Allow: []string{"*"}}}}
			must(t, b.tree.SetStatus(state.RoleSwap, "agent", state.Status{Installed: &state.Release{Version: "v1", Listed: state.Listed{List: installed}}}))
			if offered != "" {
				edit(m, func(p *manifest.Platform) {
					p.Contents["LIST"] = manifest.Content{SHA256: manifest.Digest([]byte(offered)), Size: int64(len(offered))}
				})
			}
		}
	}
	for _, c := range []struct {
		name  string
		edit  func(*testing.T, *bench, *manifest.Manifest)
		asked []string
		files []state.ReceiptFile
		how   string
	}{
		{name: "of both", asked: []string{"/agent.zst", "/tool.zst"}, files: []state.ReceiptFile{agent, tool}, how: "by delta, 0.0 kB instead of 340.0 kB"},
		{name: "a patch of one", edit: func(_ *testing.T, b *bench, m *manifest.Manifest) {
			edit(m, func(p *manifest.Platform) {
				p.Patches = []manifest.Delta{p.Deltas[2]}
				p.Deltas[2].File = "gone.zst"
			})
		}, asked: []string{"/agent.zst", "/tool.zst"}, files: []state.ReceiptFile{agent, tool}},
		{name: "patches alone", edit: platform(func(p *manifest.Platform) { p.Patches, p.Deltas = p.Deltas, nil }),
			asked: []string{"/agent.zst", "/tool.zst"}, files: []state.ReceiptFile{agent, tool}},
		{name: "one is the release's already", edit: install("tool", "tool"), asked: []string{"/agent.zst"}, files: []state.ReceiptFile{agent}},
		{name: "both are", edit: func(t *testing.T, b *bench, m *manifest.Manifest) {
			install("tool", "tool")(t, b, m)
			install("agent", "agent")(t, b, m)
		}, how: "by delta, 0.0 kB instead of 340.0 kB"},
		{name: "with the list of the installed release", edit: listed("bin:tool\n", "bin:tool\n"), asked: []string{"/agent.zst", "/tool.zst"}, files: []state.ReceiptFile{agent, tool}, how: "by delta, 0.0 kB instead of 340.0 kB"},
		{name: "with another list", edit: listed("bin:tool\n", "bin:tool\nbin:docs\n"), asked: []string{"/agent.tar.gz"}},
		{name: "with a list, and none of the installed release", edit: listed("", "bin:tool\n"), asked: []string{"/agent.tar.gz"}},
		{name: "without a list", edit: listed("bin:tool\n", ""), asked: []string{"/agent.zst"}, files: []state.ReceiptFile{agent}},
		{name: "with a program that from_release runs", edit: func(t *testing.T, b *bench, m *manifest.Manifest) {
			b.target.Hooks.FromRelease = []string{"tool"}
		}, asked: []string{"/agent.tar.gz"}},
		{name: "one entry in two places", edit: func(_ *testing.T, b *bench, _ *manifest.Manifest) {
			b.target.Install = append(b.target.Install, target.Install{From: "agent", To: "/nowhere"})
		}, asked: []string{"/agent.zst", "/tool.zst"}, files: []state.ReceiptFile{agent, tool}},

		{name: "by a glob", edit: func(_ *testing.T, b *bench, _ *manifest.Manifest) {
			b.target.Install[0].From, b.target.Install[2].From = "age*", "doc*"
		}, asked: []string{"/agent.zst", "/tool.zst"}, files: []state.ReceiptFile{agent, tool}},

		{name: "by a glob of several", edit: func(_ *testing.T, b *bench, _ *manifest.Manifest) {
			b.target.Install[0].From = "*"
		}, asked: []string{"/agent.tar.gz"}},
		{name: "none from what is installed", edit: install("agent", "changed by hand"), asked: []string{"/agent.tar.gz"}},
		{name: "not installed yet", edit: func(t *testing.T, b *bench, _ *manifest.Manifest) {
			must(t, os.Remove(b.target.Install[1].To))
		}, asked: []string{"/agent.tar.gz"}},
		{name: "an optional file that is new", edit: platform(func(p *manifest.Platform) {
			p.Contents["docs"] = manifest.Content{SHA256: manifest.Digest(nil), Size: 1}
		}), asked: []string{"/agent.tar.gz"}},
		{name: "not in the contents", edit: platform(func(p *manifest.Platform) { delete(p.Contents, "tool") }), asked: []string{"/agent.tar.gz"}},
		{name: "none published", edit: platform(func(p *manifest.Platform) { p.Deltas = nil }), asked: []string{"/agent.tar.gz"}},
		{name: "no smaller than the archive", edit: platform(func(p *manifest.Platform) { p.Deltas[2].Size = p.Size - p.Deltas[1].Size }), asked: []string{"/agent.tar.gz"}},
		{name: "a list in the archive", edit: func(_ *testing.T, b *bench, _ *manifest.Manifest) { b.target.Listing = &target.Listing{} }, asked: []string{"/agent.tar.gz"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, m, s := deltaBench(t)
			asked := s.asked()
			if c.edit != nil {
				c.edit(t, b, m)
			}
			s["/client-manifest.json"] = bytesHandler(marshal(t, m))
			a := b.run(t, b.order(state.VerbApply, "v1"))
			if a.Result != state.ResultHandedOn || a.NoDelta != "" || c.how != "" && a.Reason != c.how {
				t.Errorf("%+v", a)
			}
			if !slices.Equal(*asked, c.asked) {
				t.Errorf("asked for %q, want %q", *asked, c.asked)
			}
			got, receipt := b.handedOn(t)
			byDelta := !slices.Contains(c.asked, "/agent.tar.gz")
			if receipt.Deltas != byDelta || !slices.Equal(receipt.Files, c.files) || receipt.Attempt != attempt {
				t.Errorf("receipt %+v", receipt)
			}
			want := map[string]string{"agent": aDelta, "tool": another}
			for _, f := range receipt.Files {
				if got[f.Name] != want[f.Entry] {
					t.Errorf("%s: %q", f.Entry, got[f.Name])
				}
			}
			if !byDelta && got["payload"] != string(payload) || byDelta && len(got) != len(c.files) {
				t.Errorf("in the bundle: %.300q", got)
			}
		})
	}
}

// TestDeltasOnDisk checks that deltas are not used if the archive is on this machine.
func TestDeltasOnDisk(t *testing.T) {
	for name, order := range map[string]func(b *bench, o *state.Order) (dir string){
		"source": func(b *bench, _ *state.Order) string {
			b.target.Source = target.Source{Type: target.SourceFile, Path: filepath.Join(b.tree.Var, "releases")}
			return b.target.Source.Path
		},
		"import": func(b *bench, o *state.Order) string {
			o.Import = true
			return b.tree.Import("agent")
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, m, _ := deltaBench(t)
			o := b.order(state.VerbApply, "v1")
			dir := order(b, &o)
			must(t, os.MkdirAll(dir, 0o755))
			must(t, os.WriteFile(filepath.Join(dir, manifest.FileName), marshal(t, m), 0o644))
			must(t, os.WriteFile(filepath.Join(dir, "agent.tar.gz"), payload, 0o644))
			if a := b.run(t, o); a.Result != state.ResultHandedOn || a.NoDelta != "" {
				t.Errorf("%+v", a)
			}
			if got, receipt := b.handedOn(t); receipt.Deltas || got["payload"] != string(payload) {
				t.Errorf("receipt %+v, in the bundle: %.300q", receipt, got)
			}
		})
	}
}

// TestDeltasFallBack checks that any fault of the deltas leads to the archive in the same
// attempt, whose record says why.
func TestDeltasFallBack(t *testing.T) {
	answer := func(path string, h http.HandlerFunc) func(*testing.T, *bench, *manifest.Manifest, site) {
		return func(_ *testing.T, _ *bench, _ *manifest.Manifest, s site) { s[path] = h }
	}
	installed := func(f func(path string) error) func(*testing.T, *bench, *manifest.Manifest, site) {
		return func(t *testing.T, b *bench, _ *manifest.Manifest, _ site) { must(t, f(b.target.Install[1].To)) }
	}
	for _, c := range []struct {
		name string
		edit func(*testing.T, *bench, *manifest.Manifest, site)
		why  string
	}{
		{"missing", answer("/agent.zst", http.NotFound), "404 Not Found"},
		{"the second is missing", answer("/tool.zst", http.NotFound), "404 Not Found"},
		{"other bytes", answer("/agent.zst", bytesHandler([]byte(strings.ToUpper(aDelta)))), "its sha256 is "},
		{"shorter", answer("/agent.zst", bytesHandler([]byte(aDelta[1:]))), "instead of 22"},
		{"longer", answer("/agent.zst", bytesHandler([]byte(aDelta+"x"))), "offers 23 bytes instead of 22"},
		{"cut each time", answer("/agent.zst", cut(1, bytesHandler([]byte(aDelta)))), "cannot download "},
		{"an error", answer("/agent.zst", status(500)), "500"},
		{"on another server", func(_ *testing.T, _ *bench, m *manifest.Manifest, _ site) {
			edit(m, func(p *manifest.Platform) { p.Deltas[1].File = "http://127.0.0.1:1/agent.zst" })
		}, "it is not on the manifest's origin"},
		{"a directory is installed", installed(func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Mkdir(path, 0o755)
		}), "/tool: it is not a regular file"},
		{"a link is installed", installed(func(path string) error {
			if err := os.Rename(path, path+"2"); err != nil {
				return err
			}
			return os.Symlink(path+"2", path)
		}), "/tool: it is a symbolic link"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, m, s := deltaBench(t)
			c.edit(t, b, m, s)
			s["/client-manifest.json"] = bytesHandler(marshal(t, m))
			a := b.run(t, b.order(state.VerbApply, "v1"))
			if a.Result != state.ResultHandedOn || a.Reason != "" || !strings.Contains(a.NoDelta, c.why) || strings.Count(a.NoDelta, "cannot ") != 1 {
				t.Errorf("%+v\nwant …%s…", a, c.why)
			}
			if got, receipt := b.handedOn(t); receipt.Deltas || len(receipt.Files) != 0 || len(got) != 1 || got["payload"] != string(payload) {
				t.Errorf("receipt %+v, in the bundle: %.300q", receipt, got)
			}
			if got := b.spool(t); !slices.Equal(got, []string{attempt}) {
				t.Errorf("in the spool: %q", got)
			}
		})
	}

	t.Run("a source that takes no more requests", func(t *testing.T) {
		b, m, s := deltaBench(t)
		s["/client-manifest.json"] = bytesHandler(marshal(t, m))
		s["/agent.zst"] = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "90")
			w.WriteHeader(http.StatusTooManyRequests)
		}
		asked := s.asked()
		b.mustFail(t, b.run(t, b.order(state.VerbApply, "v1")), state.ResultNotDownloaded, "429")
		if !slices.Equal(*asked, []string{"/agent.zst"}) {
			t.Errorf("asked for %q", *asked)
		}
	})
	t.Run("and the archive is missing, too", func(t *testing.T) {
		b, m, s := deltaBench(t)
		s["/client-manifest.json"] = bytesHandler(marshal(t, m))
		s["/agent.zst"], s["/agent.tar.gz"] = status(500), http.NotFound
		a := b.run(t, b.order(state.VerbApply, "v1"))
		b.mustFail(t, a, state.ResultNotDownloaded, "agent.tar.gz: the server answered 404")
		if !strings.Contains(a.NoDelta, "agent.zst: the server answered 500") {
			t.Errorf("%+v", a)
		}
	})
}

// TestFull checks that the verifier's request leads to the archive once per attempt.
func TestFull(t *testing.T) {
	handedOn := state.Attempt{ID: attempt, Result: state.ResultHandedOn}
	asks := state.Fallback{Attempt: attempt, Reason: "cannot make agent by delta: it is damaged"}
	for _, c := range []struct {
		name  string
		asks  *state.Fallback
		last  state.Attempt // in the fetcher's records
		wants string        // the attempt's NoDelta; "" if nothing must be done
	}{
		{"asked", &asks, handedOn, asks.Reason},
		{"asked without a word", &state.Fallback{Attempt: attempt}, handedOn, "the verifier does not say why"},
		{"not asked", nil, handedOn, ""},
		{"in another attempt", &state.Fallback{Attempt: "another", Reason: "x"}, handedOn, ""},
		{"of nobody's", &state.Fallback{Reason: "x"}, handedOn, ""},
		{"and had", &asks, state.Attempt{ID: attempt, Result: state.ResultHandedOn, NoDelta: "x"}, ""},
		{"where nothing was handed on", &asks, state.Attempt{ID: attempt, Result: state.ResultAvailable}, ""},
		{"in an attempt that is not the last", &asks, state.Attempt{ID: "another", Result: state.ResultHandedOn}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, m, s := deltaBench(t)
			// A target file may not name a file in /tmp.
			const installed = "/etc/hosts"
			from, err := durable.FileSHA256(installed)
			must(t, err)
			edit(m, func(p *manifest.Platform) { p.Deltas[1].FromSHA256 = from })
			s["/client-manifest.json"] = bytesHandler(marshal(t, m))
			asked := s.asked()
			dirs := target.Dirs{Root: t.TempDir(), Vendor: "/vendor", Admin: "/admin"}
			must(t, os.Mkdir(filepath.Join(dirs.Root, "admin"), 0o755))
			must(t, os.WriteFile(filepath.Join(dirs.Root, "admin/agent.toml"), []byte(`unit = "agent.service"
source.url = "`+b.target.Source.URL+`"
install = [{ from = "agent", to = "`+installed+`" }]
`), 0o644))
			must(t, os.MkdirAll(b.tree.Dir(state.RoleVerify, "agent"), 0o755))
			must(t, b.tree.SetOrder("agent", b.order(state.VerbApply, "v1")))
			must(t, b.tree.SetStatus(state.RoleFetch, "agent", state.Status{Attempts: []state.Attempt{c.last}}))
			if c.asks != nil {
				must(t, b.tree.SetFallback("agent", *c.asks))
			}
			a, exit, err := Full(context.Background(), b.tree, dirs, "agent", func(int64, int64) {})
			if err != nil || exit != 0 {
				t.Fatalf("%+v, %d, %v", a, exit, err)
			}
			if c.wants == "" {
				if a.ID != "" || len(*asked) != 0 || len(b.spool(t)) != 0 {
					t.Errorf("%+v, asked for %q", a, *asked)
				}
				return
			}
			if a.ID != attempt || a.Result != state.ResultHandedOn || a.NoDelta != c.wants || !slices.Equal(*asked, []string{"/agent.tar.gz"}) {
				t.Errorf("%+v, asked for %q", a, *asked)
			}
			if st := b.status(t); len(st.Attempts) != 1 || !reflect.DeepEqual(st.Attempts[0], a) {
				t.Errorf("recorded %+v", st.Attempts)
			}
			if got, receipt := b.handedOn(t); receipt.Deltas || got["payload"] != string(payload) {
				t.Errorf("receipt %+v, in the bundle: %.300q", receipt, got)
			}
		})
	}
}

// TestEarlier checks that root gets to know from which files the release has deltas.
func TestEarlier(t *testing.T) {
	b, m, s := deltaBench(t)
	edit(m, func(p *manifest.Platform) {
		p.Patches = []manifest.Delta{p.Deltas[1], p.Deltas[2]}
		p.Patches[1].FromSHA256 = manifest.Digest([]byte("large"))
	})
	s["/client-manifest.json"] = bytesHandler(marshal(t, m))
	b.run(t, b.order(state.VerbCheck, "v1"))
	want := []string{manifest.Digest([]byte("older")), manifest.Digest([]byte(before)), manifest.Digest([]byte("large"))}
	if o := b.status(t).Offer; o == nil || !slices.Equal(o.Earlier, want) {
		t.Errorf("on offer is %+v", o)
	}
}
