package signature_test

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/signature"
	"github.com/machinemon/machinemon-update/internal/signature/signaturetest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

var clock = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

const (
	day      = 24 * time.Hour
	platform = "linux-amd64"
	asset    = "app-1.2.0-linux-amd64.tar.gz"
)

// machine is a target whose releases are signed.
type machine struct {
	testing.TB
	dirs target.Dirs
	tree state.Tree
}

func newMachine(t testing.TB, keys ...[]byte) *machine {
	t.Helper()
	root := t.TempDir()
	varDir, runDir := testkit.Tree(t)
	m := &machine{TB: t, dirs: target.Dirs{Root: root, Vendor: "/vendor", Admin: "/etc/targets.d"}, tree: state.Tree{Var: varDir, Run: runDir}}
	testkit.Put(t, filepath.Join(root, "etc/trust/app.key"), string(bytes.Join(keys, nil)))
	return m
}

const onGitHub = `type = "github"
repo = "a/b"
asset = "app-{number}-{os}-{arch}.tar.gz"
`

func (m *machine) verifier(source, trust, more string) signature.Verifier {
	m.Helper()
	testkit.Put(m, filepath.Join(m.dirs.Root, "etc/targets.d/app.toml"), fmt.Sprintf(`unit = "app.service"
[source]
%s
[trust]
mode = "signature"
%s
[[install]]
from = "app"
to = "/usr/local/bin/app"
[health]
%s
`, source, trust, more))
	t, err := m.dirs.Load("app")
	if err != nil {
		m.Fatal(err)
	}
	return signature.Verifier{Tree: m.tree, Target: t, Platform: platform, From: "the release", Clock: clock}
}

// bare returns a manifest as the fetcher makes it.
func bare(version, file string, archive []byte) *manifest.Manifest {
	return &manifest.Manifest{Schema: 1, Version: version, Platforms: map[string]manifest.Platform{
		platform: {File: file, SHA256: manifest.Digest(archive), Size: int64(len(archive))}}}
}

func bytesOf(t testing.TB, m *manifest.Manifest) []byte {
	t.Helper()
	raw, err := m.Marshal()
	testkit.Must(t, err)
	return raw
}

// verify checks manifest and archive, and returns the first error.
func verify(t testing.TB, v signature.Verifier, e signature.Evidence, raw, archive []byte) (unnamed bool, err error) {
	t.Helper()
	encoded, err := e.Encode()
	testkit.Must(t, err)
	m, a, err := v.Manifest(encoded, raw)
	if err != nil {
		return false, err
	}
	if m == nil || m.Version != "v1.2.0" {
		t.Errorf("read %+v", m)
	}
	if a == nil {
		return false, nil
	}
	return a.Unnamed, a.Check(bytes.NewReader(archive))
}

func sums(lines ...string) []byte { return []byte(strings.Join(lines, "\n") + "\n") }

func sumOf(archive []byte, name string) string { return manifest.Digest(archive) + "  " + name }

// TestArchives checks releases whose checksums or archive are signed.
func TestArchives(t *testing.T) {
	var (
		archive   = []byte("the archive")
		older     = []byte("an older archive")
		good      = bytesOf(t, bare("v1.2.0", asset, archive))
		listed    = sums(sumOf(archive, asset), sumOf(older, "app-1.1.0-linux-amd64.tar.gz"))
		mini      = signaturetest.NewMinisign(t)
		next      = signaturetest.NewMinisign(t)
		stranger  = signaturetest.NewMinisign(t)
		pgp       = signaturetest.NewOpenPGP(t, clock.Add(-30*day), 0)
		other     = signaturetest.NewOpenPGP(t, clock.Add(-30*day), 0)
		expired   = signaturetest.NewOpenPGP(t, clock.Add(-30*day), 20*day)
		revoked   = signaturetest.NewOpenPGP(t, clock.Add(-30*day), 0)
		ahead     = signaturetest.NewOpenPGP(t, clock.Add(-30*day), 0)
		early     = revoked.Sign(listed)
		checksums = func(content, sig []byte) signature.Evidence {
			return signature.Evidence{Of: signature.OfChecksums, File: "SHA256SUMS", Content: content, Signature: sig}
		}
		whole = func(sig []byte) signature.Evidence {
			return signature.Evidence{Of: signature.OfArchive, File: asset, Signature: sig}
		}
		changed = func(b []byte) []byte { return bytes.Replace(b, []byte("1.2.0"), []byte("1.2.1"), 1) }
		says    = `version_command = ["/usr/local/bin/app", "--version"]`
	)
	revoked.Revoke(t)
	ahead.Now = clock.Add(day)
	sha512sum := sha512.Sum512(archive)
	m := newMachine(t, mini.Public(), next.Public(), pgp.Public(), expired.Public(), revoked.Public(), ahead.Public())
	const notPinned = ", which is not pinned (hint: pinned are the keys in /etc/trust/app.key; add this one if its publisher says elsewhere that it is theirs)"

	for _, c := range []struct {
		name   string
		e      signature.Evidence
		raw    []byte // nil: good
		took   []byte // nil: archive
		health string
		err    string // "": accepted
	}{
		{name: "checksums, minisign", e: checksums(listed, mini.Sign(listed, "SHA256SUMS"))},
		{name: "checksums, minisign's old form", e: checksums(listed, mini.SignOld(listed, "SHA256SUMS"))},
		{name: "checksums, the second key", e: checksums(listed, next.Sign(listed, ""))},
		{name: "checksums, OpenPGP armoured", e: checksums(listed, pgp.Sign(listed))},
		{name: "checksums, OpenPGP binary", e: checksums(listed, pgp.SignBinary(listed))},
		{name: "checksums, two signatures, one by a stranger", e: checksums(listed, append(other.SignBinary(listed), pgp.SignBinary(listed)...))},
		{name: "checksums, clear-signed", e: checksums(pgp.Clear(listed), nil)},
		{name: "checksums, sha512", e: checksums(sums(hex.EncodeToString(sha512sum[:])+"  "+asset), mini.Sign(sums(hex.EncodeToString(sha512sum[:])+"  "+asset), ""))},
		{name: "archive, minisign with its name", e: whole(mini.Sign(archive, asset))},
		{name: "archive, minisign without a name", e: whole(mini.Sign(archive, "")), health: says},
		{name: "archive, OpenPGP", e: whole(pgp.Sign(archive)), health: says},

		{name: "tampered checksums, minisign", e: checksums(changed(listed), mini.Sign(listed, "")), err: "is not valid: file or signature were changed"},
		{name: "tampered checksums, minisign's old form", e: checksums(changed(listed), mini.SignOld(listed, "")), err: "is not valid: file or signature were changed"},
		{name: "tampered checksums, OpenPGP", e: checksums(changed(listed), pgp.Sign(listed)), err: "is not valid: "},
		{name: "tampered checksums, clear-signed", e: checksums(changed(pgp.Clear(listed)), nil), err: "is not valid: "},
		{name: "tampered comment", e: whole(bytes.Replace(mini.Sign(archive, asset), []byte("file:"), []byte("size:"), 1)), health: says, err: "is not valid: file or signature were changed"},
		{name: "tampered archive, by its checksum", e: checksums(listed, mini.Sign(listed, "")), raw: bytesOf(t, bare("v1.2.0", asset, older)), took: older,
			err: "cannot verify SHA256SUMS of the release: it says that " + asset + " has sha256 " + manifest.Digest(archive) + ", but the source has one with " + manifest.Digest(older)},
		{name: "tampered archive, sha512", e: checksums(sums(hex.EncodeToString(sha512sum[:])+"  "+asset), mini.Sign(sums(hex.EncodeToString(sha512sum[:])+"  "+asset), "")), took: older, err: " has sha512 "},
		{name: "tampered archive, minisign", e: whole(mini.Sign(archive, asset)), took: older, err: "cannot verify " + asset + " of the release: its signature by minisign key "},
		{name: "tampered archive, OpenPGP", e: whole(pgp.Sign(archive)), took: older, health: says, err: "is not valid: "},

		{name: "a stranger's minisign", e: checksums(listed, stranger.Sign(listed, "")), err: notPinned},
		{name: "a stranger's OpenPGP", e: checksums(listed, other.Sign(listed)), err: notPinned},
		{name: "a stranger's clear-signed", e: checksums(other.Clear(listed), nil), err: notPinned},
		{name: "a stranger's archive", e: whole(stranger.Sign(archive, asset)), err: notPinned},
		{name: "an expired key", e: checksums(listed, expired.Sign(listed)), err: "which has expired (hint: its publisher may have prolonged it: pin the newer copy)"},
		{name: "a revoked key", e: checksums(listed, early), err: "which its owner has revoked"},
		{name: "from the future", e: checksums(listed, ahead.Sign(listed)), err: "it has expired, or is from the future"},
		{name: "a text signature of an archive", e: whole(pgp.Text(string(archive))), health: says, err: "is of another type (1)"},

		{name: "text before", e: checksums(append([]byte(sumOf(older, asset)+"\n"), pgp.Clear(listed)...), nil), err: "it has text before the signed part"},
		{name: "text after", e: checksums(append(pgp.Clear(listed), sumOf(older, asset)...), nil), err: "it has text after the signature"},
		{name: "two clear-signed texts", e: checksums(append(pgp.Clear(listed), pgp.Clear(listed)...), nil), err: "it has text after the signature"},
		{name: "clear-signed and cut short", e: checksums(pgp.Clear(listed)[:200], nil), err: "it is clear-signed, but damaged"},
		{name: "a signed message", e: checksums(listed, []byte("-----BEGIN PGP MESSAGE-----\n\nkA0DAAoB\n-----END PGP MESSAGE-----\n")), err: "its signature is damaged, or no detached one"},
		{name: "Sigstore", e: checksums(listed, []byte("MEUCIQDx1+kg")), err: "(those of Sigstore and signify are not supported)"},
		{name: "no signature", e: checksums(listed, nil), err: "its signature is neither one of minisign nor of OpenPGP"},
		{name: "a large signature", e: checksums(listed, bytes.Repeat([]byte(" "), signature.MaxSignature+1)), err: "its signature has more than 65536 bytes"},
		{name: "many signatures", e: checksums(listed, bytes.Repeat(pgp.SignBinary(listed), 9)), err: "its OpenPGP signature is damaged"},

		{name: "the signature of another file", e: whole(mini.Sign(listed, "SHA256SUMS")), err: `its signature is of a file "SHA256SUMS", not of ` + asset},
		{name: "an older archive under a newer name, by its checksum", e: checksums(listed, mini.Sign(listed, "")), raw: bytesOf(t, bare("v1.3.0", "app-1.1.0-linux-amd64.tar.gz", older)), took: older,
			err: `the archive of version v1.3.0 would have the name "app-1.3.0-linux-amd64.tar.gz" by source.asset, not "app-1.1.0-linux-amd64.tar.gz"`},
		{name: "an older archive, not listed", e: checksums(listed, mini.Sign(listed, "")), raw: bytesOf(t, bare("v1.3.0", "app-1.3.0-linux-amd64.tar.gz", older)), took: older,
			err: "it lists 2 files, but not app-1.3.0-linux-amd64.tar.gz"},
		{name: "an older archive with its signature", e: whole(mini.Sign(older, "app-1.1.0-linux-amd64.tar.gz")), took: older, err: "its signature is of a file"},
		{name: "an archive without a name", e: whole(pgp.Sign(archive)), err: "(hint: set health.version_command, so that the program itself says it)"},
		{name: "a digest alone", e: signature.Evidence{Of: signature.OfChecksums, File: asset + ".sha256", Content: []byte(manifest.Digest(archive)), Signature: mini.Sign([]byte(manifest.Digest(archive)), "")}, err: "it has a digest without a file's name"},
		{name: "weak checksums", e: checksums(sums("MD5 ("+asset+") = "+manifest.Digest(archive)[:32]), mini.Sign(sums("MD5 ("+asset+") = "+manifest.Digest(archive)[:32]), "")), err: "by md5 only"},
		{name: "a sequence that nothing signs", e: checksums(listed, mini.Sign(listed, "")), raw: bytes.Replace(good, []byte(`"version"`), []byte("\"sequence\": 9,\n  \"version\""), 1), err: "the manifest is not signed, and has more than version and archive"},
		{name: "contents that nothing signs", e: checksums(listed, mini.Sign(listed, "")), raw: bytesOf(t, func() *manifest.Manifest {
			m := bare("v1.2.0", asset, archive)
			p := m.Platforms[platform]
			p.Contents = map[string]manifest.Content{"app": {SHA256: p.SHA256, Size: 1}}
			m.Platforms[platform] = p
			return m
		}()), err: "the manifest is not signed, and has more than version and archive"},
		{name: "a manifest", e: signature.Evidence{Of: signature.OfManifest, File: manifest.FileName, Signature: mini.Sign(good, "")}, err: "the manifest must be signed if trust.product is set, and only then"},
		{name: "nothing", e: signature.Evidence{}, err: "cannot verify it of the release: nothing of it is signed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.TB = t
			v := m.verifier(onGitHub, "", c.health)
			raw, took := c.raw, c.took
			if raw == nil {
				raw = good
			}
			if took == nil {
				took = archive
			}
			unnamed, err := verify(t, v, c.e, raw, took)
			switch {
			case c.err == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
				t.Errorf("got  %v\nwant %s", err, c.err)
			case err != nil && (strings.ContainsAny(err.Error(), "\n\x00") || state.ResultOf(err) != state.ResultRefused):
				t.Errorf("%s, %q", state.ResultOf(err), err)
			case err == nil && unnamed != (c.health != ""):
				t.Errorf("unnamed: %v", unnamed)
			}
		})
	}
}

// TestManifests checks releases whose manifest is signed, which is used as under tuf.
func TestManifests(t *testing.T) {
	mini, pgp := signaturetest.NewMinisign(t), signaturetest.NewOpenPGP(t, clock.Add(-day), 0)
	m := newMachine(t, mini.Public(), pgp.Public())
	release := func(change func(*manifest.Manifest)) []byte {
		archive := []byte("x")
		r := bare("v1.2.0", asset, archive)
		r.Product, r.Sequence = "app", 5
		p := r.Platforms[platform]
		p.Contents = map[string]manifest.Content{"app": {SHA256: p.SHA256, Size: 1}}
		r.Platforms[platform] = p
		change(r)
		return bytesOf(t, r)
	}
	good := release(func(*manifest.Manifest) {})
	for _, c := range []struct {
		name   string
		raw    []byte
		signed []byte // nil: raw
		floor  int64
		err    string
	}{
		{name: "good", raw: good, floor: 5},
		{name: "tampered", raw: release(func(m *manifest.Manifest) { m.Version = "v1.2.1" }), signed: good, err: "is not valid: "},
		{name: "another product", raw: release(func(m *manifest.Manifest) { m.Product = "server" }), err: `it is of product "server", this target takes "app"`},
		{name: "an older release", raw: good, floor: 6, err: "its sequence 5 is older than 6, which was committed here"},
		{name: "no sequence", raw: release(func(m *manifest.Manifest) { m.Sequence = 0 }), err: "it has no sequence"},
		{name: "no contents", raw: bytesOf(t, func() *manifest.Manifest {
			m := bare("v1.2.0", asset, []byte("x"))
			m.Product, m.Sequence = "app", 5
			return m
		}()), err: "it does not say what is in " + asset},
		{name: "not JSON", raw: []byte("signed news"), err: "cannot verify client-manifest.json of the release: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.TB = t
			varDir, runDir := testkit.Tree(t)
			m.tree = state.Tree{Var: varDir, Run: runDir}
			testkit.Must(t, os.MkdirAll(m.tree.Dir(state.RoleSwap, "app"), 0o755))
			testkit.Must(t, m.tree.RaiseFloor("app", c.floor))
			v := m.verifier(`url = "https://example.com/client-manifest.json"`, `product = "app"`, "")
			signed := c.signed
			if signed == nil {
				signed = c.raw
			}
			for _, sig := range [][]byte{mini.Sign(signed, ""), pgp.Sign(signed)} {
				_, err := verify(t, v, signature.Evidence{Of: signature.OfManifest, File: manifest.FileName, Signature: sig}, c.raw, nil)
				if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
					t.Errorf("got  %v\nwant %s", err, c.err)
				}
			}
		})
	}
	v := m.verifier(`url = "https://example.com/client-manifest.json"`, `product = "app"`, "")
	listed := sums(sumOf([]byte("x"), asset))
	e := signature.Evidence{Of: signature.OfChecksums, File: "SHA256SUMS", Content: listed, Signature: mini.Sign(listed, "")}
	if _, err := verify(t, v, e, bytesOf(t, bare("v1.2.0", asset, []byte("x"))), nil); err == nil || !strings.Contains(err.Error(), "the manifest must be signed if trust.product is set") {
		t.Errorf("checksums in place of the manifest, which has a sequence: %v", err)
	}
}

// TestReal checks what minisign 0.10 and GnuPG 2.2 have made.
func TestReal(t *testing.T) {
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		testkit.Must(t, err)
		return b
	}
	archive := read(asset)
	raw := bytesOf(t, bare("v1.2.0", asset, archive))
	for _, key := range [][]byte{append(read("minisign.pub"), read("gpg.key")...), read("gpg.bin.key")} {
		m := newMachine(t, key)
		for _, weak := range []signature.Evidence{{Content: read("SHA256SUMS"), Signature: read("SHA256SUMS.sha1.asc")}, {Content: read("SHA256SUMS.sha1.clear")}} {
			weak.Of = signature.OfChecksums
			if _, err := verify(t, m.verifier(onGitHub, "", ""), weak, raw, archive); err == nil || !strings.Contains(err.Error(), "is not valid: openpgp: invalid signature: insecure message hash algorithm: SHA-1") {
				t.Errorf("SHA-1: %v", err)
			}
		}
		for name, e := range map[string]signature.Evidence{
			"gpg --armor":      {Of: signature.OfChecksums, Content: read("SHA256SUMS"), Signature: read("SHA256SUMS.asc")},
			"gpg":              {Of: signature.OfChecksums, Content: read("SHA256SUMS"), Signature: read("SHA256SUMS.sig")},
			"gpg --clear-sign": {Of: signature.OfChecksums, Content: read("SHA256SUMS.clear")},
			"minisign -l":      {Of: signature.OfChecksums, Content: read("SHA256SUMS"), Signature: read("SHA256SUMS.minisig")},
			"minisign":         {Of: signature.OfArchive, File: asset, Signature: read(asset + ".minisig")},
		} {
			_, err := verify(t, m.verifier(onGitHub, "", ""), e, raw, archive)
			if has := !strings.HasPrefix(name, "mini") || key[0]&0x80 == 0; has && err != nil {
				t.Errorf("%s: %v", name, err)
			} else if !has && (err == nil || !strings.Contains(err.Error(), "signed by minisign key D8C6D56755F84F25, which is not pinned")) {
				t.Errorf("%s, without its key: %v", name, err)
			}
		}
	}
}

// TestKeys checks what a key file may have.
func TestKeys(t *testing.T) {
	mini, pgp := signaturetest.NewMinisign(t), signaturetest.NewOpenPGP(t, clock, 0)
	bare := []byte("# the key of 2026\n\n" + strings.SplitN(string(mini.Public()), "\n", 2)[1])
	for _, c := range []struct {
		name string
		file []byte
		keys int
		err  string
	}{
		{"one", mini.Public(), 1, ""},
		{"without its comment", bare, 1, ""},
		{"two", append(mini.Public(), pgp.Public()...), 2, ""},
		{"CRLF", bytes.ReplaceAll(append(mini.Public(), pgp.Public()...), []byte("\n"), []byte("\r\n")), 2, ""},
		{"none", []byte("# soon\n"), 0, "it has no key"},
		{"twice", append(pgp.Public(), pgp.Public()...), 0, "twice (hint: keep the newer copy)"},
		{"secret", pgp.Secret(), 0, "it has a secret key (hint: "},
		{"cut", pgp.Public()[:100], 0, "its OpenPGP key is cut short"},
		{"damaged", bytes.Replace(pgp.Public(), []byte("\n\n"), []byte("\n\nAAAA"), 1), 0, "its OpenPGP key cannot be read: "},
		{"binary and damaged", []byte("\xff\x00"), 0, "it has no key"},
		{"a page", []byte("<html>"), 0, "line 1 is neither"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, err := signature.ParseKeys(c.file)
			if c.err == "" && (err != nil || len(k.IDs()) != c.keys) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("%v, %v", k.IDs(), err)
			}
		})
	}
	if ids := must(signature.ParseKeys(append(mini.Public(), pgp.Public()...))).IDs(); !strings.HasPrefix(ids[0], "minisign key ") || !strings.HasPrefix(ids[1], "OpenPGP key ") || len(ids[1]) < 52 {
		t.Errorf("%q", ids)
	}
	m := newMachine(t)
	v := m.verifier(onGitHub, "", "")
	if _, _, err := v.Manifest([]byte("{}"), nil); err == nil || !strings.Contains(err.Error(), "cannot use /etc/trust/app.key: it has no key") {
		t.Errorf("an empty file: %v", err)
	}
	testkit.Must(t, os.Remove(filepath.Join(m.dirs.Root, "etc/trust/app.key")))
	if _, _, err := v.Manifest([]byte("{}"), nil); err == nil || !strings.Contains(err.Error(), "there is no /etc/trust/app.key (hint: sudo machinemon-update trust app FILE --sha256 HEX)") {
		t.Errorf("no file: %v", err)
	}
	if _, _, err := v.Manifest([]byte("["), nil); err == nil || !strings.Contains(err.Error(), "the evidence is damaged") {
		t.Errorf("damaged evidence: %v", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// FuzzVerify checks that any bytes in place of evidence cause no panic, and that they prove
// nothing.
func FuzzVerify(f *testing.F) {
	mini, pgp, other := signaturetest.NewMinisign(f), signaturetest.NewOpenPGP(f, clock.Add(-day), 0), signaturetest.NewOpenPGP(f, clock.Add(-day), 0)
	archive := []byte("the archive")
	listed := sums(sumOf(archive, asset))
	forged := []byte("another archive")
	raw := bytesOf(f, bare("v1.2.0", asset, forged))
	for _, sig := range [][]byte{mini.Sign(listed, asset), mini.SignOld(listed, ""), pgp.Sign(listed), pgp.SignBinary(listed), other.SignBinary(listed)} {
		f.Add(listed, sig)
	}
	f.Add(pgp.Clear(listed), []byte{})
	m := newMachine(f, mini.Public(), pgp.Public())
	v := m.verifier(onGitHub, "", `version_command = ["/usr/local/bin/app"]`)
	f.Fuzz(func(t *testing.T, content, sig []byte) {
		for _, of := range []signature.Of{signature.OfChecksums, signature.OfArchive} {
			e := signature.Evidence{Of: of, File: asset, Content: content, Signature: sig}
			encoded, err := e.Encode()
			if err != nil {
				continue
			}
			_, a, err := v.Manifest(encoded, raw)
			if err == nil {
				err = a.Check(bytes.NewReader(forged))
			}
			if err == nil {
				t.Fatalf("%s: believed %q with %q", of, content, sig)
			}
			if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("the error is not one line: %q", err)
			}
		}
	})
}

// FuzzKeys checks that any bytes in place of a key file cause no panic.
func FuzzKeys(f *testing.F) {
	mini, pgp := signaturetest.NewMinisign(f), signaturetest.NewOpenPGP(f, clock, 0)
	f.Add(append(mini.Public(), pgp.Public()...))
	f.Add(pgp.Secret())
	f.Fuzz(func(t *testing.T, file []byte) {
		k, err := signature.ParseKeys(file)
		if err == nil && len(k.IDs()) == 0 {
			t.Error("a file without a key")
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\x00") {
			t.Errorf("the error is not one line: %q", err)
		}
	})
}
