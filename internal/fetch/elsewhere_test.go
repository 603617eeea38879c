package fetch

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
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

// store is a publisher's own server: files by their paths.
func store(t *testing.T, files map[string]string, tokens *[]string) (address, ca string) {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*tokens = append(*tokens, r.Header.Get("Authorization")+r.Header.Get("Private-Token"))
		content, ok := files[r.URL.Path]
		switch {
		case !ok:
			http.Error(w, "AccessDenied", http.StatusForbidden) // as a store whose list is not public
		case strings.HasPrefix(content, "http:"):
			http.Redirect(w, r, content, http.StatusFound)
		default:
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
		}
	}))
	t.Cleanup(s.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o644))
	return s.URL, ca
}

// TestElsewhere has a row for each way in which a publisher has the files of a release on a
// server of its own: accepted, or refused with which words.
func TestElsewhere(t *testing.T) {
	testkit.Slow(t)
	handOver(t, "hunter2\n")
	const name = "agent_1.2.0.tar.gz"
	sum := manifest.Digest(payload)
	listed := sum + "  " + name + "\n"
	for _, c := range []struct {
		name      string
		files     map[string]string // beside the archive
		checksums string
		release   []releases.Asset
		anybody   bool
		missing   bool   // the archive is not there
		notYet    bool   // no fault, but not complete
		text      string // of the refusal
	}{
		{name: "FILE.sha256", files: map[string]string{"/1.2.0/" + name + ".sha256": sum}},
		{name: "FILE.sha256sum", files: map[string]string{"/1.2.0/" + name + ".sha256sum": listed}},
		{name: "a named file", files: map[string]string{"/sums/v1.2.0/DIGESTS": listed}, checksums: "@/sums/{version}/DIGESTS"},
		{name: "a file of the release", release: []releases.Asset{{Name: "SUMS", Content: []byte(listed)}}, checksums: "SUMS"},
		{name: "no file", text: "no sha256 of " + name + " is known: there is no https://"},
		{name: "no file, and consent", anybody: true, text: "no sha256 of " + name + " is known: there is no https://"},
		{name: "no named file", checksums: "@/sums", notYet: true, text: "release v1.2.0 of the-"},
		{name: "no named file yet", checksums: "@/sums", notYet: true, text: "/sums (hint: if it is never there, correct source.checksums)"},
		{name: "no archive", files: map[string]string{"/1.2.0/" + name + ".sha256": sum}, missing: true, notYet: true, text: " is not complete yet: there is no https://"},
		{name: "no archive yet", files: map[string]string{"/1.2.0/" + name + ".sha256": sum}, missing: true, notYet: true, text: "/1.2.0/" + name + " (hint: if it is never there, correct source.asset)"},
		{name: "another digest", files: map[string]string{"/1.2.0/" + name + ".sha256": strings.Repeat("0", 64)}, text: "its sha256 is"},
		{name: "another file's", files: map[string]string{"/1.2.0/" + name + ".sha256": sum + "  other"}, text: name + ".sha256 lists other, but not " + name},
		{name: "a file of the release with this name", release: []releases.Asset{releases.Digested(name, payload)}, text: "no sha256 of " + name + " is known"},
		{name: "sha512 alone", files: map[string]string{"/S": app512 + "  " + name}, checksums: "@/S", text: "only its sha512 is stated"},
		{name: "a redirect to http", files: map[string]string{"/1.2.0/" + name + ".sha256": "http://192.0.2.1/x"}, text: "it was redirected from https to http://192.0.2.1/x"},
	} {
		for _, kind := range []string{target.SourceGitHub, target.SourceForgejo, target.SourceGitLab} {
			t.Run(c.name+" "+kind, func(t *testing.T) {
				files := map[string]string{"/1.2.0/" + name: string(payload)}
				if c.missing {
					clear(files)
				}
				for at, content := range c.files {
					files[at] = content
				}
				var tokens []string
				address, ca := store(t, files, &tokens)
				tagged := releases.Tagged{Tag: "v1.2.0", Assets: append(c.release, releases.Digested(manifest.FileName, marshal(t, release1())))}
				var b *bench
				if kind == target.SourceGitHub {
					g := newGitHubServer(tagged)
					g.Token = "hunter2"
					b = onGitHub(t, serve(t, g))
				} else {
					var f *releases.Forge
					f, b = forge(t, kind, tagged)
					f.Token = "hunter2"
				}
				s := &b.target.Source
				s.TokenFile, s.CAFile, s.Asset = "/etc/agent/token", ca, address+"/{number}/agent_{number}.tar.gz"
				s.Checksums = strings.Replace(c.checksums, "@", address, 1)
				b.target.Trust.AllowUnauthenticated = c.anybody
				a := b.run(t, b.order(state.VerbApply, "v1.1.0"))
				for _, token := range tokens {
					if token != "" {
						t.Errorf("the store got the token %s", token)
					}
				}
				if c.text != "" {
					result := state.ResultRefused
					if c.notYet {
						result = state.ResultNotAttempted
					}
					b.mustFail(t, a, result, c.text)
					return
				}
				b.brought(t, a, string(marshal(t, &manifest.Manifest{Schema: 1, Version: "v1.2.0", Platforms: map[string]manifest.Platform{
					manifest.Host(): {File: name, SHA256: sum, Size: int64(len(payload))}}})))
			})
		}
	}
}

// TestElsewhereSigned: what is signed, and its signature, are on the publisher's server.
func TestElsewhereSigned(t *testing.T) {
	testkit.Slow(t)
	mini, stranger := signaturetest.NewMinisign(t), signaturetest.NewMinisign(t)
	sum := manifest.Digest(payload)
	listed := sum + "  " + signedName + "\n"
	for _, c := range []struct {
		name, checksums string
		files           map[string]string
		of              signature.Of
		text            string
	}{
		{name: "the named file", checksums: "checksums = '@/DIGESTS'\n", files: map[string]string{"/DIGESTS": listed, "/DIGESTS.sig": string(mini.Sign([]byte(listed), ""))}, of: signature.OfChecksums},
		{name: "FILE.sha256", files: map[string]string{"/" + signedName + ".sha256": listed, "/" + signedName + ".sha256.minisig": string(mini.Sign([]byte(listed), ""))}, of: signature.OfChecksums},
		{name: "the archive", files: map[string]string{"/" + signedName + ".sha256": listed, "/" + signedName + ".minisig": string(mini.Sign(payload, signedName))}, of: signature.OfArchive},
		{name: "nothing", files: map[string]string{"/" + signedName + ".sha256": listed}, text: "it has no signature of a file of checksums or of " + signedName},
		{name: "a stranger's", checksums: "checksums = '@/DIGESTS'\n", files: map[string]string{"/DIGESTS": listed, "/DIGESTS.sig": string(stranger.Sign([]byte(listed), ""))}, text: "which is not pinned"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := map[string]string{"/" + signedName: string(payload)}
			for at, content := range c.files {
				files[at] = content
			}
			var tokens []string
			address, ca := store(t, files, &tokens)
			g := newGitHubServer(releases.Tagged{Tag: "v2.0.0", Assets: []releases.Asset{releases.Digested("SHA256SUMS", []byte("x"))}})
			source := strings.Replace(hubSource(serve(t, g)), "asset = '", "asset = '"+address+"/", 1) + strings.Replace(c.checksums, "@", address, 1)
			b := bySignature(t, source, "", mini.Public())
			b.target.Source.CAFile = ca
			a := b.run(t, b.order(state.VerbApply, "v1"))
			if c.text != "" {
				b.mustFail(t, a, state.ResultRefused, c.text)
				return
			}
			b.proven(t, a, c.of)
		})
	}
}

// TestForgeSigned: a release on Forgejo or GitLab is signed as one on GitHub.
func TestForgeSigned(t *testing.T) {
	mini := signaturetest.NewMinisign(t)
	listed := []byte(manifest.Digest(payload) + "  " + signedName + "\n")
	bothForges(t, func(t *testing.T, kind string) {
		f, b := forge(t, kind, releases.Tagged{Tag: "v2.0.0", Assets: []releases.Asset{{Name: signedName, Content: payload},
			{Name: "SHA256SUMS", Content: listed}, {Name: "SHA256SUMS.minisig", Content: mini.Sign(listed, "")}}})
		url := b.target.Source.URL
		b = bySignature(t, fmt.Sprintf("type = %q\nrepo = %q\nasset = 'agent-{number}.tar.gz'\napi_url = %q\n", kind, f.Repo, url), "", mini.Public())
		b.proven(t, b.run(t, b.order(state.VerbApply, "v1")), signature.OfChecksums)
	})
}
