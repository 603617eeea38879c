package verify

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/signature"
	"github.com/machinemon/machinemon-update/internal/signature/signaturetest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// TestSigned shows that only an archive that the publisher has signed is unpacked, and
// that it is handed on for root.
func TestSignedArchive(t *testing.T) {
	mini, stranger := signaturetest.NewMinisign(t), signaturetest.NewMinisign(t)
	const file = "agent-2.0.tar.gz"
	for _, c := range []struct {
		name     string
		evidence func(archive []byte) signature.Evidence
		text     string // "": handed on
	}{
		{"the archive", func(archive []byte) signature.Evidence {
			return signature.Evidence{Of: signature.OfArchive, File: file, Signature: mini.Sign(archive, file)}
		}, ""},
		{"checksums", func(archive []byte) signature.Evidence {
			listed := []byte(manifest.Digest(archive) + "  " + file + "\n")
			return signature.Evidence{Of: signature.OfChecksums, File: "SHA256SUMS", Content: listed, Signature: mini.Sign(listed, "")}
		}, ""},
		{"another archive", func([]byte) signature.Evidence {
			return signature.Evidence{Of: signature.OfArchive, File: file, Signature: mini.Sign([]byte("other"), file)}
		}, "cannot verify " + file + " of the bundle: its signature by minisign key "},
		{"a stranger's", func(archive []byte) signature.Evidence {
			return signature.Evidence{Of: signature.OfArchive, File: file, Signature: stranger.Sign(archive, file)}
		}, "which is not pinned"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			for name, content := range map[string]string{"trust/agent.key": string(mini.Public()), "admin/agent.toml": `unit = "agent.service"
trust.mode = "signature"
source = { type = "github", repo = "a/b", asset = "agent-{number}.tar.gz" }
install = [{ from = "agent-{version}", to = "/usr/local/bin/no-such-agent" }]
`} {
				must(t, os.MkdirAll(filepath.Dir(filepath.Join(b.root, name)), 0o755))
				must(t, os.WriteFile(filepath.Join(b.root, name), []byte(content), 0o644))
			}
			var err error
			b.target, err = b.dirs().Load("agent")
			must(t, err)
			b.bundle.content = files{"agent-v2.0": program1(t)}
			b.bundle.repack(t)
			b.bundle.manifest = &manifest.Manifest{Schema: 1, Version: "v2.0", Platforms: map[string]manifest.Platform{
				manifest.Host(): {File: file, SHA256: manifest.Digest(b.bundle.payload), Size: int64(len(b.bundle.payload))}}}
			b.hand(t)
			evidence, err := c.evidence(b.bundle.payload).Encode()
			must(t, err)
			must(t, os.WriteFile(filepath.Join(b.entry(), state.MetadataName), evidence, 0o640))
			a := b.run(t)
			if c.text != "" {
				b.mustRecord(t, a, state.ResultRefused, c.text)
				return
			}
			b.mustRecord(t, a, state.ResultHandedOn, "")
			for name, want := range map[string][]byte{state.PayloadName: b.bundle.payload, state.MetadataName: evidence, "0": []byte(program1(t))} {
				if got, err := os.ReadFile(filepath.Join(b.out(), attempt, name)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: %v, %d bytes", name, err, len(got))
				}
			}
		})
	}
}

// TestList checks what root reads about an archive.
func TestList(t *testing.T) {
	list := func(content []byte) (l Listing) {
		path := filepath.Join(t.TempDir(), "archive")
		must(t, os.WriteFile(path, content, 0o600))
		f, err := os.Open(path)
		must(t, err)
		defer f.Close()
		var out bytes.Buffer
		must(t, List(f, &out))
		must(t, json.Unmarshal(out.Bytes(), &l))
		return l
	}
	l := list(pack(t, files{"agent": "x", "README": ""}))
	if len(l.Contents) != 2 || l.Contents["agent"] != (manifest.Content{SHA256: manifest.Digest([]byte("x")), Size: 1}) || l.Error != "" {
		t.Errorf("%+v", l)
	}
	if l := list([]byte("no archive")); len(l.Contents) != 0 || !strings.HasPrefix(l.Error, "it is neither an archive") {
		t.Errorf("%+v", l)
	}
}
