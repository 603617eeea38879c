package verify

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/archive"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// ship replaces the bundle's archive, with these contents in the manifest.
func (b *bench) ship(payload []byte, contents files) {
	b.bundle.payload = payload
	b.bundle.platform(func(p *manifest.Platform) {
		*p = manifest.Platform{File: "asset", SHA256: manifest.Digest(payload), Size: int64(len(payload))}
		for name, body := range contents {
			if p.Contents == nil {
				p.Contents = map[string]manifest.Content{}
			}
			p.Contents[name] = manifest.Content{SHA256: manifest.Digest([]byte(body)), Size: int64(len(body))}
		}
	})
}

func zipped(t *testing.T, content files) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, body := range content {
		w, err := z.Create(name)
		must(t, err)
		_, err = w.Write([]byte(body))
		must(t, err)
	}
	must(t, z.Close())
	return b.Bytes()
}

// linked is an archive of the program and a symbolic link.
func linked(t *testing.T, program, link, to string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	body := program1(t)
	must(t, w.WriteHeader(&tar.Header{Name: program, Mode: 0o755, Size: int64(len(body)), Typeflag: tar.TypeReg}))
	_, err := w.Write([]byte(body))
	must(t, err)
	must(t, w.WriteHeader(&tar.Header{Name: link, Linkname: to, Typeflag: tar.TypeSymlink}))
	must(t, w.Close())
	must(t, z.Close())
	return b.Bytes()
}

// TestAssets: what publishers ship, what the target file says of it, and the words that
// refuse what does not fit.
func TestAssets(t *testing.T) {
	body := program1(t)
	gz := func(s string) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, err := z.Write([]byte(s))
		must(t, err)
		must(t, z.Close())
		return b.Bytes()
	}
	folder := files{"app-1.2/app": body, "app-1.2/LICENSE": "text", "app-1.2/app-cli": "#!/bin/sh\n"}
	for _, row := range []struct {
		name     string
		payload  []byte
		contents files
		from     string
		optional bool
		entry    string // in the receipt, "" if it is refused, "-" if there is none
		err      string
	}{
		{"zip", zipped(t, folder), nil, "app-1.2/app", false, "app-1.2/app", ""},
		{"zip with contents", zipped(t, folder), folder, "app-1.2/app", false, "app-1.2/app", ""},
		{"zip with other contents", zipped(t, folder), files{"app-1.2/app": "evil"}, "app-1.2/app", false, "", "its entry app-1.2/app is not the one"},
		{"glob", pack(t, folder), nil, "app-*/app", false, "app-1.2/app", ""},
		{"glob with contents", pack(t, folder), folder, "*/app", false, "app-1.2/app", ""},
		{"glob of several", pack(t, folder), nil, "*/app*", false, "", "cannot unpack asset: */app* must match exactly one entry, and 2 match: app-1.2/app, app-1.2/app-cli"},
		{"glob of none", pack(t, folder), nil, "*/app-x*", false, "", "cannot unpack asset: the archive has no */app-x* (it has app-1.2/LICENSE, app-1.2/app, app-1.2/app-cli)"},
		{"in a directory", pack(t, folder), nil, "app", false, "", `cannot unpack asset: the archive has no app (it has app-1.2/LICENSE, app-1.2/app, app-1.2/app-cli) (hint: from = "app-`},
		{"optional glob of several", pack(t, folder), nil, "*/app*", true, "", "2 match"},
		{"glob of a file and a link", linked(t, "app-1", "app-cli", "app-1"), nil, "app-*", false, "app-1", ""},
		{"glob of a file and a link, with contents", linked(t, "app-1", "app-cli", "app-1"), files{"app-1": body}, "app-*", false, "app-1", ""},
		{"glob of a link", linked(t, "bin/x", "app-cli", "bin/x"), nil, "app-*", false, "", `cannot unpack asset: entry "app-cli": it is a link`},
		{"optional glob of a link", linked(t, "app-1", "app-cli", "app-1"), nil, "*-cli", true, "-", ""},
		{"a link beside it", linked(t, "app", "app-cli", "app"), nil, "app", false, "app", ""},
		{"a link by its name", linked(t, "app-1", "app", "app-1"), nil, "app", false, "", `cannot unpack asset: entry "app": it is a link`},
		{"through a link", linked(t, "app-1/app", "current", "app-1"), nil, "current/app", false, "", "cannot unpack asset: the archive has no current/app (it has app-1/app, current; current: it is a link)"},
		{"the program", []byte(body), nil, ".", false, ".", ""},
		{"the program in gzip", gz(body), nil, ".", false, ".", ""},
		{"the program in gzip, with contents", gz(body), files{".": body}, ".", false, ".", ""},
		{"the program in gzip, with other contents", gz(body), files{".": "evil"}, ".", false, "", "its entry . is not the one"},
		{"the program as an archive", gz(body), nil, "app", false, "", `cannot unpack asset: the archive has no app (it is one program, whose name is ".") (hint: from = ".")`},
		{"an archive as the program", pack(t, files{"app": body}), nil, ".", false, "", "cannot unpack asset: the archive has no . (it has app)"},
		{"the program of another machine", []byte(foreign(t)), nil, ".", false, "", "its entry .: built for sparc"},
		{"a page of a server", []byte("<html>"), nil, ".", false, "", "it is neither an archive"},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := newBench(t)
			b.ship(row.payload, row.contents)
			b.target.Install = []target.Install{{From: row.from, To: filepath.Join(b.root, "agent"), Optional: row.optional}}
			b.hand(t)
			a := b.run(t)
			if row.entry == "" {
				b.mustRecord(t, a, state.ResultRefused, row.err)
				return
			}
			b.mustRecord(t, a, state.ResultHandedOn, "")
			if row.entry == "-" {
				return
			}
			entry, err := os.OpenRoot(filepath.Join(b.out(), attempt))
			must(t, err)
			defer entry.Close()
			receipt, err := (&state.Bundle{Root: entry}).Receipt()
			must(t, err)
			if want := []state.ReceiptFile{{Entry: row.entry, Name: "0"}}; !slices.Equal(receipt.Files, want) {
				t.Errorf("got %+v", receipt.Files)
			}
			if got, err := entry.ReadFile("0"); err != nil || string(got) != body {
				t.Errorf("got %.80q, %v", got, err)
			}
		})
	}
}

// TestDeltaOfOther: a glob is looked up in the contents, and a single program has deltas,
// too.
func TestDeltaOfOther(t *testing.T) {
	for from, entry := range map[string]string{"agent-*": "agent-v2", ".": archive.Single} {
		b := deltas(t)
		b.target.Install = []target.Install{{From: from, To: filepath.Join(b.root, "agent")}}
		b.bundle.receipt = strings.Replace(b.bundle.receipt, "agent-v2", entry, 1)
		b.bundle.platform(func(p *manifest.Platform) {
			p.Contents = map[string]manifest.Content{entry: p.Contents["agent-v2"]}
			p.Deltas[0].Entry = entry
		})
		b.hand(t)
		b.mustRecord(t, b.run(t), state.ResultHandedOn, "")
		if got, err := os.ReadFile(filepath.Join(b.out(), attempt, "0")); err != nil || string(got) != b.bundle.content["agent-v2"] {
			t.Errorf("%s: %.80q, %v", from, got, err)
		}
	}
}
