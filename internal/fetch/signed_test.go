package fetch

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/signature"
	"github.com/machinemon/machinemon-update/internal/signature/signaturetest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

const signedName = "agent-2.0.0.tar.gz"

// bySignature returns a bench whose target has this source and trusts these keys.
func bySignature(t *testing.T, source, trust string, keys ...[]byte) *bench {
	t.Helper()
	b := newBench(t, "")
	dir := t.TempDir()
	var all []byte
	for _, k := range keys {
		all = append(all, k...)
	}
	for name, text := range map[string]string{"trust/agent.key": string(all), "admin/agent.toml": `unit = "agent.service"
auto_update_enabled = true
health = { version_command = ["/usr/local/bin/agent", "--version"] }
install = [{ from = "agent", to = "/usr/local/bin/agent" }]
[trust]
mode = "signature"
` + trust + `
[source]
` + source} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	var err error
	b.target, err = target.Dirs{Root: dir, Vendor: "/vendor", Admin: "/admin"}.Load("agent")
	must(t, err)
	return b
}

func hubSource(url string) string {
	return fmt.Sprintf("type = 'github'\nrepo = 'the-owner/agent'\nasset = 'agent-{number}.tar.gz'\napi_url = %q\n", url)
}

// TestSignatures downloads releases of which something is signed, and those of which
// nothing is, or not by the publisher.
func TestSignatures(t *testing.T) {
	testkit.Slow(t)
	var (
		mini, stranger = signaturetest.NewMinisign(t), signaturetest.NewMinisign(t)
		pgp            = signaturetest.NewOpenPGP(t, time.Now().Add(-time.Hour), 0)
		listed         = []byte(manifest.Digest(payload) + "  " + signedName + "\n")
		file           = func(name string, content []byte) releases.Asset { return releases.Asset{Name: name, Content: content} }
		sums           = file("agent_2.0.0_checksums.txt", listed)
		own            = release1()
		ownManifest    = marshal(t, own)
	)
	for _, c := range []struct {
		name    string
		files   []releases.Asset
		product bool
		limited bool // the API refuses requests
		of      signature.Of
		beside  string
		text    string // "": handed on
	}{
		{name: "checksums, minisign", files: []releases.Asset{sums, file(sums.Name+".minisig", mini.Sign(listed, ""))}, of: signature.OfChecksums},
		{name: "checksums, OpenPGP", files: []releases.Asset{sums, file(sums.Name+".asc", pgp.Sign(listed))}, of: signature.OfChecksums},
		{name: "checksums, OpenPGP binary", files: []releases.Asset{sums, file(sums.Name+".sig", pgp.SignBinary(listed))}, of: signature.OfChecksums},
		{name: "checksums, clear-signed", files: []releases.Asset{sums, file("sha256sum.txt.asc", pgp.Clear(listed))}, of: signature.OfChecksums},
		{name: "the archive, minisign", files: []releases.Asset{file(signedName+".minisig", mini.Sign(payload, signedName))}, of: signature.OfArchive},
		{name: "the archive, OpenPGP", files: []releases.Asset{file(signedName+".asc", pgp.Sign(payload))}, of: signature.OfArchive},
		{name: "Sigstore's, and the archive", files: []releases.Asset{sums, file(sums.Name+".sig", []byte("MEUCIQ==")), file(signedName+".asc", pgp.Sign(payload))}, of: signature.OfArchive},
		{name: "a manifest that nothing signs", files: []releases.Asset{releases.Digested(manifest.FileName, ownManifest), sums, file(sums.Name+".minisig", mini.Sign(listed, ""))}, of: signature.OfChecksums},
		{name: "checksums of others, and the archive", files: []releases.Asset{file("SHA256SUMS", []byte(manifest.Digest(nil)+"  other\n")), file("SHA256SUMS.asc", pgp.Sign(nil)), file(signedName+".minisig", mini.Sign(payload, signedName))}, of: signature.OfArchive},
		{name: "by the web pages", files: []releases.Asset{file("SHA256SUMS", listed), file("SHA256SUMS.minisig", mini.Sign(listed, ""))}, limited: true, of: signature.OfChecksums},
		{name: "the manifest", files: []releases.Asset{releases.Digested(manifest.FileName, ownManifest), file(manifest.FileName+".minisig", mini.Sign(ownManifest, ""))}, product: true, of: signature.OfManifest},

		{name: "nothing", text: "cannot verify release v2.0.0 of the-owner/agent: it has no signature of a file of checksums or of " + signedName + " (hint: has its publisher signed it, as FILE.minisig, FILE.asc or FILE.sig?)"},
		{name: "checksums alone", files: []releases.Asset{sums}, text: "it has no signature of a file of checksums"},
		{name: "a stranger's", files: []releases.Asset{sums, file(sums.Name+".minisig", stranger.Sign(listed, ""))},
			text: "cannot verify agent_2.0.0_checksums.txt of release v2.0.0 of the-owner/agent: it is signed by minisign key "},
		{name: "Sigstore's only", files: []releases.Asset{sums, file(sums.Name+".sig", []byte("MEUCIQ=="))}, text: "neither one of minisign nor of OpenPGP"},
		{name: "a large one", files: []releases.Asset{sums, file(sums.Name+".sig", make([]byte, signature.MaxSignature+1))}, text: "it has more than 65536 bytes"},
		{name: "a product, but checksums", files: []releases.Asset{releases.Digested(manifest.FileName, ownManifest), sums, file(sums.Name+".minisig", mini.Sign(listed, ""))}, product: true,
			text: "it has no signature of client-manifest.json (hint: trust.product is set"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGitHubServer(releases.Tagged{Tag: "v2.0.0", Assets: append(c.files, releases.Digested(signedName, payload), releases.Digested("agent.tar.gz", payload))})
			if c.limited {
				g.Limit(http.StatusForbidden, http.Header{"Retry-After": {"60"}})
			}
			trust := ""
			if c.product {
				trust = "product = 'agent'"
			}
			b := bySignature(t, hubSource(serve(t, g)), trust, mini.Public(), pgp.Public())
			a := b.run(t, b.order(state.VerbApply, "v1"))
			if c.text != "" {
				b.mustFail(t, a, state.ResultRefused, c.text)
				return
			}
			b.proven(t, a, c.of)
			if o := b.status(t).Offer; o == nil || o.Unsigned {
				t.Errorf("offers %+v", o)
			}
		})
	}
}

// proven checks that an attempt handed on evidence of this kind.
func (b *bench) proven(t *testing.T, a state.Attempt, of signature.Of) {
	t.Helper()
	if a.Result != state.ResultHandedOn {
		t.Fatalf("%s: %s", a.Result, a.Reason)
	}
	evidence, err := os.ReadFile(filepath.Join(b.tree.Ready(state.RoleFetch, "agent"), attempt, state.MetadataName))
	if err != nil || !strings.Contains(string(evidence), fmt.Sprintf(`"of":%q`, of)) {
		t.Errorf("%v: %.200s", err, evidence)
	}
}

// TestSignedManifests reads a signed manifest from a web server and from a disk.
func TestSignedManifests(t *testing.T) {
	mini := signaturetest.NewMinisign(t)
	raw := marshal(t, release1())
	dir := t.TempDir()
	files := map[string][]byte{manifest.FileName: raw, "agent.tar.gz": payload, manifest.FileName + ".minisig": mini.Sign(raw, "")}
	for name, content := range files {
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o644))
	}
	m := &mirror{files: files}
	web := fmt.Sprintf("url = %q\n", serve(t, m)+"/client-manifest.json")
	disk := fmt.Sprintf("type = 'file'\npath = %q\n", dir)
	for _, source := range []string{web, disk} {
		b := bySignature(t, web, "product = 'agent'", mini.Public())
		if source == disk { // Load would refuse a directory that others can write
			b.target.Source = target.Source{Type: target.SourceFile, Path: dir}
		}
		b.proven(t, b.run(t, b.order(state.VerbApply, "v1")), signature.OfManifest)
	}
	m.files[manifest.FileName+".minisig"] = mini.Sign([]byte("x"), "")
	b := bySignature(t, web, "product = 'agent'", mini.Public())
	b.mustFail(t, b.run(t, b.order(state.VerbApply, "v1")), state.ResultRefused, "cannot verify client-manifest.json of ")
	delete(m.files, manifest.FileName+".minisig")
	b.mustFail(t, b.run(t, b.order(state.VerbApply, "v1")), state.ResultRefused, "it has no signature of client-manifest.json")
}

// TestImportSigned imports archives with a signature beside them.
func TestImportSigned(t *testing.T) {
	mini := signaturetest.NewMinisign(t)
	pgp := signaturetest.NewOpenPGP(t, time.Now().Add(-time.Hour), 0)
	listed := []byte(manifest.Digest(payload) + "  " + signedName + "\n")
	for _, c := range []struct {
		name, archive string
		beside        map[string][]byte
		of            signature.Of
		text          string
	}{
		{name: "archive", archive: signedName, beside: map[string][]byte{signedName + ".minisig": mini.Sign(payload, signedName)}, of: signature.OfArchive},
		{name: "checksums", archive: signedName, beside: map[string][]byte{"SHA256SUMS": listed, "SHA256SUMS.asc": pgp.Sign(listed)}, of: signature.OfChecksums},
		{name: "clear-signed", archive: signedName, beside: map[string][]byte{"SHA256SUMS.asc": pgp.Clear(listed)}, of: signature.OfChecksums},
		{name: "unsigned", archive: signedName, text: "it has no signature of a file of checksums or of " + signedName},
		{name: "another name", archive: "agent.tar.gz", beside: map[string][]byte{"agent.tar.gz.minisig": mini.Sign(payload, "")}, text: "its version is not known"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bySignature(t, hubSource("https://api.github.com"), "", mini.Public(), pgp.Public())
			must(t, b.tree.MakeSwapDir("agent"))
			from := t.TempDir()
			must(t, os.WriteFile(filepath.Join(from, c.archive), payload, 0o600))
			for name, content := range c.beside {
				must(t, os.WriteFile(filepath.Join(from, name), content, 0o600))
			}
			unvouched, err := Import(t.Context(), b.tree, b.target, target.Named{Path: filepath.Join(from, c.archive)}, b.tree.Import("agent"))
			if c.text != "" {
				if err == nil || !strings.Contains(err.Error(), c.text) {
					t.Errorf("got %v, want %s", err, c.text)
				}
				return
			}
			if err != nil || unvouched {
				t.Fatalf("%v, unvouched: %v", err, unvouched)
			}
			o := b.order(state.VerbApply, "v1")
			o.Import = true
			b.proven(t, b.run(t, o), c.of)
		})
	}
	b := bySignature(t, hubSource("https://api.github.com"), "", mini.Public())
	o := b.order(state.VerbApply, "v1")
	address := serve(t, http.NotFoundHandler()) + "/" + signedName
	o.URL = address
	b.mustFail(t, b.run(t, o), state.ResultRefused, "an archive that is named by its address has no signature beside it")
}
