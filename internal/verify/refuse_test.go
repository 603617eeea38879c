package verify

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

var (
	must = testkit.Must
	ls   = testkit.Names
)

// TestBundles has bundles of a malicious fetcher or of a publisher with errors.
func TestBundles(t *testing.T) {
	content := func(f func(t *testing.T, c files)) func(*testing.T, *bench) {
		return func(t *testing.T, b *bench) {
			f(t, b.bundle.content)
			b.bundle.repack(t)
		}
	}
	platform := func(f func(p *manifest.Platform)) func(*testing.T, *bench) {
		return func(t *testing.T, b *bench) { b.bundle.platform(f) }
	}
	// instead replaces a file after the bundle is written.
	instead := func(name string, f func(path string) error) func(*testing.T, *bench) {
		return func(t *testing.T, b *bench) {
			b.hand(t)
			path := filepath.Join(b.entry(), name)
			must(t, os.Remove(path))
			must(t, f(path))
		}
	}
	fifo := func(path string) error { return syscall.Mkfifo(path, 0o666) }
	installed := func(name, body string, then func(*testing.T, *bench)) func(*testing.T, *bench) {
		return func(t *testing.T, b *bench) {
			must(t, os.WriteFile(filepath.Join(b.root, name), []byte(body), 0o755))
			if then != nil {
				then(t, b)
			}
		}
	}
	script := content(func(t *testing.T, c files) { c["agent-v2"] = "#!/bin/sh\n" })

	for _, c := range []struct {
		name   string
		edit   func(*testing.T, *bench)
		result state.Result
		text   string
	}{
		{"altered payload", func(t *testing.T, b *bench) { b.bundle.payload[20] ^= 1 }, state.ResultRefused, "agent.tar.gz: its sha256 is"},
		{"another sha512", func(t *testing.T, b *bench) {
			b.bundle.platform(func(p *manifest.Platform) { p.SHA512 = strings.Repeat("0", 128) })
		}, state.ResultRefused, "agent.tar.gz: its sha512 is"},
		{"longer payload", func(t *testing.T, b *bench) { b.bundle.payload = append(b.bundle.payload, 0) }, state.ResultRefused, "bytes instead of "},
		{"no payload", instead("payload", func(string) error { return nil }), state.ResultRefused, "payload: no such file"},
		{"FIFO for the payload", instead("payload", fifo), state.ResultRefused, "payload: it is not a regular file"},
		{"link for the payload", instead("payload", func(p string) error { return os.Symlink("/etc/passwd", p) }), state.ResultRefused, "cannot read payload"},
		{"directory for the payload", instead("payload", func(p string) error { return os.Mkdir(p, 0o777) }), state.ResultRefused, "payload: it is not a regular file"},
		{"FIFO for the manifest", instead("manifest.json", fifo), state.ResultRefused, "manifest.json: it is not a regular file"},
		{"FIFO for the receipt", instead("receipt.json", fifo), state.ResultRefused, "receipt.json: it is not a regular file"},
		{"huge manifest", instead("manifest.json", func(p string) error {
			if err := os.WriteFile(p, nil, 0o644); err != nil {
				return err
			}
			return os.Truncate(p, 10<<30)
		}), state.ResultRefused, "larger than 1048576 bytes"},

		{"receipt of another attempt", func(t *testing.T, b *bench) { b.bundle.receipt = `{"attempt":"another"}` }, state.ResultRefused, "of another attempt"},
		{"damaged receipt", func(t *testing.T, b *bench) { b.bundle.receipt = "\x00\x00" }, state.ResultRefused, "receipt.json: it is damaged"},
		{"damaged manifest", func(t *testing.T, b *bench) { b.bundle.raw = []byte("<html>") }, state.ResultRefused, "cannot use the manifest"},
		{"another product", func(t *testing.T, b *bench) { b.bundle.manifest.Product = "server" }, state.ResultRefused, `it is of product "server"`},
		{"another platform", func(t *testing.T, b *bench) {
			m := b.bundle.manifest
			m.Platforms = map[string]manifest.Platform{"plan9-mips": m.Platforms[manifest.Host()]}
		}, state.ResultRefused, "nothing for " + manifest.Host()},

		{"not an archive", func(t *testing.T, b *bench) {
			b.bundle.payload = []byte("MZ")
			b.bundle.platform(func(p *manifest.Platform) { p.Size, p.SHA256 = 2, manifest.Digest([]byte("MZ")) })
		}, state.ResultRefused, "cannot unpack agent.tar.gz"},
		{"cut archive", func(t *testing.T, b *bench) {
			b.bundle.payload = b.bundle.payload[:len(b.bundle.payload)-9]
			b.bundle.platform(func(p *manifest.Platform) {
				p.Size, p.SHA256 = int64(len(b.bundle.payload)), manifest.Digest(b.bundle.payload)
			})
		}, state.ResultRefused, "cannot unpack agent.tar.gz"},
		{"larger than it says", platform(func(p *manifest.Platform) { p.UnpackedSize-- }), state.ResultRefused, "unpacks to more than"},
		{"no unpacked_size", platform(func(p *manifest.Platform) { p.UnpackedSize = 0 }), state.ResultHandedOn, ""},
		{"too large for the disk", platform(func(p *manifest.Platform) { p.UnpackedSize = 1 << 40 }), state.ResultFailed, "it needs 1099511.6 MB on the disk of"},

		{"missing entry", content(func(t *testing.T, c files) { delete(c, "agent.service") }), state.ResultRefused, "the archive has no agent.service"},
		{"missing entry, no contents", func(t *testing.T, b *bench) {
			delete(b.bundle.content, "agent-v2")
			b.bundle.repack(t)
			b.bundle.platform(func(p *manifest.Platform) { p.Contents = nil })
		}, state.ResultRefused, "the archive has no agent-v2"},
		{"optional entry that the contents list", platform(func(p *manifest.Platform) {
			p.Contents["extra"] = p.Contents["README"]
		}), state.ResultRefused, "the archive has no extra"},
		{"optional entry", content(func(t *testing.T, c files) { c["extra"] = "more" }), state.ResultHandedOn, ""},
		{"no contents", platform(func(p *manifest.Platform) { p.Contents = nil }), state.ResultHandedOn, ""},
		{"entry not in the contents", platform(func(p *manifest.Platform) { delete(p.Contents, "agent-v2") }), state.ResultRefused, "do not list its entry agent-v2"},
		{"entry other than in the contents", platform(func(p *manifest.Platform) {
			p.Contents["agent-v2"] = p.Contents["README"]
		}), state.ResultRefused, "its entry agent-v2 is not the one"},

		{"for another machine", content(func(t *testing.T, c files) { c["agent-v2"] = foreign(t) }), state.ResultRefused, "its entry agent-v2: built for sparc, this machine is " + manifest.Host()},
		{"a script where a program was", func(t *testing.T, b *bench) {
			installed("agent", program1(t), script)(t, b)
		}, state.ResultRefused, "its entry agent-v2 is a script, and "},
		{"a program where a script was", installed("agent", "#!/bin/sh\n", nil), state.ResultRefused, "agent-v2 is an ELF file, and "},
		{"a script where a script was", installed("agent", "#!/bin/sh\n", script), state.ResultHandedOn, ""},
		{"a helper written again as a program", installed("extra", "#!/bin/sh\n", content(func(t *testing.T, c files) { c["extra"] = program1(t) })), state.ResultHandedOn, ""},
		{"and as a script", func(t *testing.T, b *bench) {
			installed("extra", program1(t), content(func(t *testing.T, c files) { c["extra"] = "#!/bin/sh\n" }))(t, b)
		}, state.ResultHandedOn, ""},
		{"a page where a helper was", func(t *testing.T, b *bench) {
			installed("extra", program1(t), content(func(t *testing.T, c files) { c["extra"] = "<html>" }))(t, b)
		}, state.ResultRefused, "its entry extra is text, and "},
		{"a program where a unit file was", installed("agent.service", "[Unit]\n", content(func(t *testing.T, c files) { c["agent.service"] = program1(t) })), state.ResultRefused, "its entry agent.service is an ELF file, and "},
		{"a program where an empty file was", installed("agent", "", nil), state.ResultHandedOn, ""},
		{"a program where a damaged one was", installed("agent", strings.Repeat("\x00", 600), nil), state.ResultHandedOn, ""},
		{"a FIFO at the destination", func(t *testing.T, b *bench) {
			must(t, syscall.Mkfifo(filepath.Join(b.root, "agent"), 0o644))
		}, state.ResultHandedOn, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			c.edit(t, b)
			if _, err := os.Stat(b.entry()); err != nil {
				b.hand(t)
			}
			b.mustRecord(t, b.run(t), c.result, c.text)
		})
	}
}

// TestGarbageInTheSpool checks that all but the newest bundle is removed.
func TestGarbageInTheSpool(t *testing.T) {
	b := newBench(t)
	b.hand(t)
	in := b.in()
	must(t, os.MkdirAll(filepath.Join(in, "20251101t120000-00000000", "deep"), 0o777)) // older
	must(t, os.MkdirAll(filepath.Join(in, "UPPER"), 0o777))
	must(t, os.Mkdir(filepath.Join(in, ".20251101t120000-00000001"), 0o700))
	must(t, syscall.Mkfifo(filepath.Join(in, "Fifo"), 0o666))
	must(t, os.Symlink("/etc", filepath.Join(in, "Link")))
	outside := filepath.Join(b.root, "outside")
	must(t, os.WriteFile(outside, nil, 0o644))
	must(t, os.Symlink(b.root, filepath.Join(in, "Root")))
	b.mustRecord(t, b.run(t), state.ResultHandedOn, "")
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("cleared too much: %v", err)
	}
}

// TestEntryIsNoDirectory checks that such an entry does not block the verifier or stay.
func TestEntryIsNoDirectory(t *testing.T) {
	for name, plant := range map[string]func(path string) error{
		"file": func(p string) error { return os.WriteFile(p, nil, 0o644) },
		"FIFO": func(p string) error { return syscall.Mkfifo(p, 0o666) },
		"link": func(p string) error { return os.Symlink("/etc", p) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			must(t, os.Mkdir(b.in(), 0o770))
			must(t, plant(b.entry()))
			done := make(chan state.Attempt, 1)
			go func() { done <- b.run(t) }()
			select {
			case a := <-done:
				b.mustRecord(t, a, state.ResultFailed, "cannot open "+attempt)
			case <-time.After(10 * time.Second):
				t.Fatal("it hangs")
			}
		})
	}
}

// TestSpoolIsALink checks that a link in place of the spool is not followed.
func TestSpoolIsALink(t *testing.T) {
	b := newBench(t)
	b.hand(t)
	elsewhere := filepath.Join(b.root, "elsewhere")
	must(t, os.Rename(b.in(), elsewhere))
	must(t, os.Symlink(elsewhere, b.in()))
	if a, _, err := Run(b.tree, b.dirs(), "agent"); err == nil || a.Result.Exit() == 0 {
		t.Errorf("%+v, %v", a, err)
	}
	if got := ls(t, elsewhere); len(got) != 1 || got[0] != attempt {
		t.Errorf("touched: %v", got)
	}
}
