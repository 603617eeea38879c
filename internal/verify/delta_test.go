package verify

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/machinemon/machinemon-update/internal/delta"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// deltas replaces the bundle's archive by a delta of the program. The other file that the
// target installs is already the release's.
func deltas(t *testing.T) *bench {
	t.Helper()
	b := newBench(t)
	old := program1(t) + strings.Repeat("what stays\n", 10_000)
	b.bundle.content["agent-v2"] = old + "what is new\n"
	b.bundle.repack(t)
	must(t, os.WriteFile(filepath.Join(b.root, "agent"), []byte(old), 0o755))
	must(t, os.WriteFile(filepath.Join(b.root, "agent.service"), []byte(b.bundle.content["agent.service"]), 0o644))
	b.bundle.receipt = `{"attempt":"` + attempt + `","deltas":true,"files":[{"entry":"agent-v2","name":"0"}]}`
	b.bundle.payload = nil
	made, err := delta.DiffZstd([]byte(old), []byte(b.bundle.content["agent-v2"]))
	must(t, err)
	b.delta(made)
	must(t, b.tree.SetOrder("agent", state.Order{Attempt: attempt, Origin: state.OriginOperator, Verb: state.VerbApply, Installed: "v1"}))
	return b
}

// delta lists a delta of the installed file in the manifest.
func (b *bench) delta(made []byte) {
	old, err := os.ReadFile(filepath.Join(b.root, "agent"))
	if err != nil {
		panic(err)
	}
	b.bundle.deltas = [][]byte{made}
	b.bundle.platform(func(p *manifest.Platform) {
		p.Deltas = []manifest.Delta{{FromSHA256: manifest.Digest(old), Entry: "agent-v2", File: "agent.delta.zst",
			SHA256: manifest.Digest(made), Size: int64(len(made))}}
	})
}

func (b *bench) fallback(t *testing.T) *state.Fallback {
	t.Helper()
	f, err := b.tree.Fallback("agent")
	must(t, err)
	return f
}

// patch lists a patch besides, and has it in the bundle in the delta's place.
func (b *bench) patch(t *testing.T) {
	old, err := os.ReadFile(filepath.Join(b.root, "agent"))
	must(t, err)
	made, err := delta.Diff(old, []byte(b.bundle.content["agent-v2"]))
	must(t, err)
	b.bundle.deltas = [][]byte{made}
	b.bundle.platform(func(p *manifest.Platform) {
		p.Patches = []manifest.Delta{{FromSHA256: manifest.Digest(old), Entry: "agent-v2", File: "agent.patch",
			SHA256: manifest.Digest(made), Size: int64(len(made))}}
	})
}

// TestDelta checks that the tree is the same as from the archive.
func TestDelta(t *testing.T) {
	t.Run("zstd", func(t *testing.T) { testDelta(t, deltas(t)) })
	t.Run("patch", func(t *testing.T) {
		b := deltas(t)
		b.patch(t)
		testDelta(t, b)
	})
}

func testDelta(t *testing.T, b *bench) {
	// An earlier attempt that was killed left this request.
	must(t, b.tree.SetFallback("agent", state.Fallback{Attempt: "earlier", Reason: "x"}))
	b.hand(t)
	b.mustRecord(t, b.run(t), state.ResultHandedOn, "")
	if f := b.fallback(t); f != nil {
		t.Errorf("it asks for the archive: %+v", f)
	}
	entry, err := os.OpenRoot(filepath.Join(b.out(), attempt))
	must(t, err)
	defer entry.Close()
	receipt, err := (&state.Bundle{Root: entry}).Receipt()
	must(t, err)
	if want := []state.ReceiptFile{{Entry: "agent-v2", Name: "0"}, {Entry: "agent.service", Name: "1"}}; !slices.Equal(receipt.Files, want) || receipt.Deltas {
		t.Errorf("%+v", receipt)
	}
	for _, f := range receipt.Files {
		if got, err := entry.ReadFile(f.Name); err != nil || string(got) != b.bundle.content[f.Entry] {
			t.Errorf("%s: %.80q, %v", f.Entry, got, err)
		}
		if info, err := entry.Stat(f.Name); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", f.Entry, info.Mode(), err)
		}
	}
	if got := ls(t, entry.Name()); !slices.Equal(got, []string{"0", "1", "manifest.json", "receipt.json"}) {
		t.Errorf("in the entry: %v", got)
	}
}

// TestDeltaFallsBack checks that any fault of a delta leads to a request for the archive,
// and that nothing is handed on.
func TestDeltaFallsBack(t *testing.T) {
	testkit.Slow(t)
	made := func(f func(delta []byte) []byte) func(*testing.T, *bench) {
		return func(_ *testing.T, b *bench) { b.delta(f(b.bundle.deltas[0])) }
	}
	installed := func(name string, f func(path string) error) func(*testing.T, *bench) {
		return func(t *testing.T, b *bench) { must(t, f(filepath.Join(b.root, name))) }
	}
	listed := func(f func(d *manifest.Delta)) func(*testing.T, *bench) {
		return func(_ *testing.T, b *bench) { b.bundle.platform(func(p *manifest.Platform) { f(&p.Deltas[0]) }) }
	}
	frame := func(n int, options ...zstd.EOption) func([]byte) []byte {
		return func([]byte) []byte {
			e, err := zstd.NewWriter(nil, options...)
			if err != nil {
				panic(err)
			}
			return e.EncodeAll(make([]byte, n), nil)
		}
	}
	const cannot = "cannot make agent-v2 by delta: "
	for _, c := range []struct {
		name string
		edit func(*testing.T, *bench)
		why  string
	}{
		{"a window beyond the size", made(frame(64<<20, zstd.WithWindowSize(64<<20), zstd.WithSingleSegment(true))), cannot + "the delta asks for more memory than a file of 110085 bytes needs"},
		{"a bomb in blocks", made(func([]byte) []byte {
			var b bytes.Buffer
			e, err := zstd.NewWriter(&b, zstd.WithWindowSize(1<<16))
			if err != nil {
				panic(err)
			}
			for range 256 {
				e.Write(make([]byte, 1<<16))
			}
			e.Close()
			return b.Bytes()
		}), cannot + "the delta makes more than 110085 bytes"},
		{"of another size", made(frame(10)), cannot + "the delta makes 10 bytes instead of 110085"},
		{"another result", made(frame(110085)), cannot + "its sha256 is then "},
		{"truncated", made(func(d []byte) []byte { return d[:len(d)-4] }), cannot + "the delta does not fit the file that it is applied to, or is damaged"},
		{"trailing bytes", made(func(d []byte) []byte { return append(d, "more"...) }), cannot + "the delta does not fit the file that it is applied to, or is damaged"},
		{"no delta at all", made(func([]byte) []byte { return []byte("<html>404</html>") }), cannot + "the delta does not fit the file that it is applied to, or is damaged"},
		{"other bytes than the manifest's", listed(func(d *manifest.Delta) { d.SHA256 = manifest.Digest(nil) }), "cannot use agent.delta.zst: its sha256 is "},
		{"another size than the manifest's", listed(func(d *manifest.Delta) { d.Size++ }), "cannot use agent.delta.zst: it has "},
		{"for another entry", listed(func(d *manifest.Delta) { d.Entry = "README" }), cannot + "there is none for "},
		{"for another file", listed(func(d *manifest.Delta) { d.FromSHA256 = manifest.Digest(nil) }), cannot + "there is none for "},
		{"from_sha256 lies", func(t *testing.T, b *bench) {
			path := filepath.Join(b.root, "agent")
			other := program1(t) + strings.Repeat("another program\n", 8_000)
			must(t, os.WriteFile(path, []byte(other), 0o755))
			b.delta(b.bundle.deltas[0])
		}, cannot + "the delta does not fit the file that it is applied to, or is damaged"},
		{"not in the bundle", func(_ *testing.T, b *bench) { b.bundle.deltas = nil }, "cannot read 0: no such file"},
		{"not in the receipt", func(_ *testing.T, b *bench) { b.bundle.receipt = `{"attempt":"` + attempt + `","deltas":true}` }, cannot + "there is none for "},
		{"not in the contents", func(_ *testing.T, b *bench) {
			b.bundle.platform(func(p *manifest.Platform) { delete(p.Contents, "agent-v2") })
		}, cannot + "the manifest's contents do not list it"},
		{"a patch in its place", func(t *testing.T, b *bench) {
			b.patch(t)
			b.bundle.platform(func(p *manifest.Platform) { p.Patches = nil })
		}, "cannot use agent.delta.zst: it has "},
		{"a damaged patch", func(t *testing.T, b *bench) {
			b.patch(t)
			made := b.bundle.deltas[0]
			made[len(made)-1]++
			b.bundle.platform(func(p *manifest.Platform) { p.Patches[0].SHA256 = manifest.Digest(made) })
		}, cannot + "the delta does not fit the file that it is applied to, or is damaged"},
		{"larger than any delta", func(_ *testing.T, b *bench) {
			b.bundle.platform(func(p *manifest.Platform) {
				c := p.Contents["agent-v2"]
				c.Size = delta.MaxFile + 1
				p.Contents["agent-v2"] = c
			})
		}, cannot + "a file of more than 536870912 bytes"},
		{"changed meanwhile", installed("agent", func(p string) error { return os.WriteFile(p, []byte(program1(t)+"changed"), 0o755) }), cannot + "there is none for "},
		{"what needs no delta, changed meanwhile", installed("agent.service", func(p string) error { return os.WriteFile(p, []byte("changed"), 0o644) }), "cannot make agent.service by delta: there is none for "},
		{"too large now", installed("agent", func(p string) error { return os.Truncate(p, delta.MaxFile+1) }), "/agent: it is larger than 536870912 bytes"},
		{"removed meanwhile", installed("agent", os.Remove), "/agent: no such file"},
		{"a link now", installed("agent", func(p string) error { return os.Rename(p, p+"2") }), "/agent: no such file"},
		{"a directory now", installed("agent", func(p string) error {
			if err := os.Remove(p); err != nil {
				return err
			}
			return os.Mkdir(p, 0o755)
		}), "/agent: it is not a regular file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := deltas(t)
			c.edit(t, b)
			b.hand(t)
			a := b.run(t)
			if a.ID != attempt || a.Version != "v2" || a.Result.Exit() == 0 || b.asked == nil || !strings.Contains(b.asked.Reason, c.why) || strings.Count(b.asked.Reason, "cannot ") != 1 {
				t.Fatalf("%+v, %+v\nwant …%s…", a, b.asked, c.why)
			}
			if f := b.fallback(t); f == nil || f.Attempt != attempt || f.Reason != b.asked.Reason {
				t.Errorf("it asks for %+v", f)
			}
			s, err := b.tree.Status(state.RoleVerify, "agent")
			if err != nil || len(s.Attempts) != 0 {
				t.Errorf("recorded %+v, %v", s.Attempts, err)
			}
			if in, out := ls(t, b.in()), ls(t, b.out()); len(in)+len(out) != 0 {
				t.Errorf("left %q and %q", in, out)
			}

			// The archive arrives, and the request is removed.
			c := b.bundle.content
			b.bundle = newBench(t).bundle
			b.bundle.content = c
			b.bundle.repack(t)
			b.hand(t)
			must(t, os.WriteFile(filepath.Join(b.root, "agent.service"), []byte(c["agent.service"]), 0o644))
			b.mustRecord(t, b.run(t), state.ResultHandedOn, "")
			if f := b.fallback(t); f != nil {
				t.Errorf("it asks for the archive still: %+v", f)
			}
		})
	}
}

// TestDeltaWithoutAnOrder checks that no archive is requested if there is no order.
func TestDeltaWithoutAnOrder(t *testing.T) {
	for name, order := range map[string]state.Order{"none": {}, "of another attempt": {Attempt: "another"}} {
		t.Run(name, func(t *testing.T) {
			b := deltas(t)
			must(t, os.Remove(filepath.Join(b.tree.Run, "attempt/agent.json")))
			if order.Attempt != "" {
				must(t, b.tree.SetOrder("agent", order))
			}
			b.bundle.deltas = nil
			b.hand(t)
			b.mustRecord(t, b.run(t), state.ResultRefused, "cannot read 0: no such file")
			if f := b.fallback(t); f != nil {
				t.Errorf("it asks for the archive: %+v", f)
			}
		})
	}
}

// TestDeltaMakesAForeignProgram checks that a fault that the archive has, too, is final.
func TestDeltaMakesAForeignProgram(t *testing.T) {
	b := deltas(t)
	b.bundle.content["agent-v2"] = foreign(t)
	b.bundle.repack(t)
	b.bundle.payload = nil
	old, err := os.ReadFile(filepath.Join(b.root, "agent"))
	must(t, err)
	made, err := delta.DiffZstd(old, []byte(foreign(t)))
	must(t, err)
	b.delta(made)
	b.hand(t)
	b.mustRecord(t, b.run(t), state.ResultRefused, "its entry agent-v2: built for sparc")
	if f := b.fallback(t); f != nil {
		t.Errorf("it asks for the archive: %+v", f)
	}
}

// TestDeltaListed checks that deltas make what the release's own list names, if the list is
// the installed release's, and that the archive is asked for otherwise.
func TestDeltaListed(t *testing.T) {
	const list = "bin:tool\nbin:tool-update\n"
	for name, c := range map[string]struct {
		recorded string
		want     []state.ReceiptFile
	}{
		"the same list": {list, []state.ReceiptFile{{Entry: "LIST", Name: "0"}, {Entry: "agent-v2", Name: "1"}, {Entry: "agent.service", Name: "2"}, {Entry: "tool", Name: "3"}}},
		"another list":  {"bin:tool\n", nil},
		"no list":       {"", nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := deltas(t)
			b.target.Listing = &target.Listing{File: "LIST", Types: []target.ListedType{
				{Name: "bin", Directory: filepath.Join(b.root, "bin"), Mode: 0o755, Allow: []string{"tool*"}, Exclude: []string{"tool-update"}}}}
			must(t, os.Mkdir(filepath.Join(b.root, "bin"), 0o755))
			must(t, os.WriteFile(filepath.Join(b.root, "bin", "tool"), []byte("#!/bin/sh\n"), 0o755))
			for entry, content := range map[string]string{"LIST": list, "tool": "#!/bin/sh\n", "tool-update": "it migrates"} {
				b.bundle.content[entry] = content
				b.bundle.platform(func(p *manifest.Platform) {
					p.Contents[entry] = manifest.Content{SHA256: manifest.Digest([]byte(content)), Size: int64(len(content))}
				})
			}
			must(t, os.MkdirAll(b.tree.Dir(state.RoleSwap, "agent"), 0o755))
			must(t, b.tree.SetStatus(state.RoleSwap, "agent", state.Status{Installed: &state.Release{Version: "v1", Listed: state.Listed{List: c.recorded}}}))
			b.hand(t)
			a := b.run(t)
			if c.want == nil {
				if f := b.fallback(t); f == nil || !strings.Contains(f.Reason, "its LIST is not that of the installed release") {
					t.Errorf("it does not ask for the archive: %+v, %+v", f, a)
				}
				return
			}
			b.mustRecord(t, a, state.ResultHandedOn, "")
			entry, err := os.OpenRoot(filepath.Join(b.out(), attempt))
			must(t, err)
			defer entry.Close()
			receipt, err := (&state.Bundle{Root: entry}).Receipt()
			must(t, err)
			if !slices.Equal(receipt.Files, c.want) {
				t.Errorf("%+v", receipt.Files)
			}
			for _, f := range receipt.Files {
				if got, err := entry.ReadFile(f.Name); err != nil || string(got) != b.bundle.content[f.Entry] {
					t.Errorf("%s: %.80q, %v", f.Entry, got, err)
				}
			}
		})
	}
}
