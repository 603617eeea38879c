package fetch

import (
	"bytes"
	"cmp"
	"crypto/sha512"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

const app = "app-1.2.0.linux-amd64.tar.gz"

var (
	app256  = manifest.Digest(payload)
	app512  = fmt.Sprintf("%x", sha512.Sum512(payload))
	zero256 = strings.Repeat("00ff", 16)
	zero512 = strings.Repeat("00ff", 32)
)

// appRelease returns release v1.2.0 with the archive app, the API's digest of it, and a
// checksum file with this name and content.
func appRelease(digest, name, content string) releases.Tagged {
	r := releases.Tagged{Tag: "v1.2.0", Assets: []releases.Asset{{Name: app, Content: payload, Digest: digest}, releases.Digested("app.deb", []byte("a package"))}}
	if name != "" {
		r.Assets = append(r.Assets, releases.Asset{Name: name, Content: []byte(content)})
	}
	return r
}

// TestChecksumFiles has a row for each name and form of a checksum file, as publishers use
// them: accepted, or refused with which words.
func TestChecksumFiles(t *testing.T) {
	testkit.Slow(t)
	const none = "cannot use release v1.2.0 of the-owner/agent: no sha256 or sha512 of " + app + " is known: the API states none, and "
	var rows []testkit.Row
	for _, c := range []struct {
		name, content string
		checksums     string // source.checksums
		digest        string // of the API
		text          string // of the refusal; "": the archive is handed on
	}{
		// The forms.
		{name: "sha256sums.txt", content: app256 + "  " + app},
		{name: "app_1.2.0_checksums.txt", content: app256 + "  " + app + "\n"},
		{name: app + ".sha256", content: app256},
		{name: app + ".sha256", content: app256 + "\n"},
		{name: app + ".sha256sum", content: app256 + "  " + app + "\n"},
		{name: "SHA256SUMS", content: app256 + " *" + app},
		{name: "SHA256SUMS", content: app256 + "  ./" + app},
		{name: "checksums.txt", content: zero256 + "  app.zip\r\n" + app256 + "  " + app + "\r\n"},
		{name: "checksums.txt", content: "# sha256\n\n" + app256 + "  " + app + "\n"},
		{name: "checksums.txt", content: strings.ToUpper(app256) + "  " + app},
		{name: "CHECKSUMS", content: "SHA256 (" + app + ") = " + app256},
		{name: "checksums.txt", content: "SHA2-256(" + app + ")= " + app256},
		{name: "checksums.txt", content: app256 + "  dist/" + app},

		// The names.
		{name: "checksum.txt", content: app256 + "  " + app},
		{name: "SHA256SUMS.txt", content: app256 + "  " + app},
		{name: "sha256sum.txt", content: app256 + "  " + app},
		{name: "checksums.sha256", content: app256 + "  " + app},
		{name: "sha256-checksums.txt", content: app256 + "  " + app},
		{name: "app-1.2.0-SHA256SUMS", content: app256 + "  " + app},
		{name: "app-1.2.0.linux-amd64_checksums.txt", content: app256 + "  " + app},
		{name: "other_1.2.0_checksums.txt", content: app256 + "  " + app},

		// SHA-512.
		{name: "SHA512SUMS", content: app512 + "  " + app},
		{name: app + ".sha512", content: app512},
		{name: app + ".sha512sum", content: app512 + "  " + app},
		{name: "checksums.txt", content: "SHA512 (" + app + ") = " + app512},
		{name: "checksums.txt", content: app512 + "  " + app + "\n" + app256 + "  " + app},
		{name: "SHA512SUMS", content: zero512 + "  " + app, text: ": its sha512 is " + app512 + " instead of " + zero512},

		// A name of the operator's, and the API.
		{name: "digests", content: app256 + "  " + app, checksums: "digests"},
		{name: "app.1.2.0.sum256", content: app256 + "  " + app, checksums: "app.{number}.sum*"},
		{name: "digests", content: app256 + "  " + app, checksums: "digests", digest: "sha256:" + app256},
		{name: "digests", content: app512 + "  " + app, checksums: "digests", digest: "sha256:" + app256},
		{name: "checksums.txt", content: "not asked for", digest: "sha256:" + app256},
		{name: "digests", content: zero256 + "  " + app, checksums: "digests", digest: "sha256:" + app256,
			text: "a checksum file of it states the sha256 " + zero256 + " of " + app + `, the API "` + app256 + `"`},
		{name: "digests", content: zero512 + "  " + app, checksums: "digests", digest: "sha256:" + app256, text: ": its sha512 is " + app512 + " instead of " + zero512},
		{name: "digests", content: app256 + "  app.zip", checksums: "digests", digest: "sha256:" + app256,
			text: "cannot use release v1.2.0 of the-owner/agent: source.checksums does not lead to a digest of " + app + ": digests lists app.zip, but not " + app + " (hint: set source.checksums)"},
		{name: "checksums.txt", content: app256 + "  " + app, checksums: "digests", text: ": it has no file digests (hint: set source.checksums)"},

		// What does not serve.
		{text: none + "it has no checksum file such as checksums.txt, SHA256SUMS or " + app + ".sha256 (hint: source.checksums names a file with another name; its publisher can add one; machinemon-update import agent FILE#sha256=DIGEST takes "},
		{name: "digests", content: app256 + "  " + app, text: none + "it has no checksum file such as "},
		{name: "app.deb.sha256", content: app256, text: none + "it has no checksum file such as "},
		{name: "checksums.txt.sig", content: app256 + "  " + app, text: none + "it has no checksum file such as "},
		{name: "checksums.txt", content: zero256 + "  app.zip\n" + zero256 + "  app.rpm\n", text: none + "checksums.txt lists 2 files, but not " + app},
		{name: "checksums.txt", content: app256[:32] + "  " + app, text: none + "checksums.txt has a digest of " + app + " by md5 only"},
		{name: "MD5SUMS", content: app256[:32] + "  " + app, text: none + "MD5SUMS has a digest of " + app + " by md5 only"},
		{name: app + ".md5", content: app256[:32], text: none + app + ".md5 has a digest of " + app + " by md5 only"},
		{name: "checksums.txt", content: "SHA1 (" + app + ") = " + app256[:40], text: none + "checksums.txt has a digest of " + app + " by sha1 only"},
		{name: "checksums.txt", content: app256, text: none + "checksums.txt has a digest without a file's name"},
		{name: "checksums.txt", content: "<html>\x1b[31m", text: none + "checksums.txt has no line of a known form (line 1 is none)"},
		{name: "checksums.txt", text: none + "checksums.txt is empty"},
		{name: "checksums.txt", content: app256 + "  " + app + "\n" + zero256 + "  " + app,
			text: "cannot use release v1.2.0 of the-owner/agent: its checksums.txt has two different sha256 digests of " + app + ", " + app256 + " and " + zero256},
		{name: app + ".sha256", content: app256 + "  app.tar.gz", text: none + app + ".sha256 lists app.tar.gz, but not " + app},
	} {
		if c.checksums == "" && c.digest == "" { // the forms have a table of their own
			rows = append(rows, testkit.Row{What: cmp.Or(c.name, "no such file"), Refused: strings.TrimPrefix(c.text, none)})
		}
		t.Run(c.name+" "+c.checksums, func(t *testing.T) {
			t.Parallel()
			b := onGitHub(t, serve(t, newGitHubServer(appRelease(c.digest, c.name, c.content))))
			b.target.Source.Checksums = c.checksums
			a := b.run(t, b.order(state.VerbApply, "v1.1.0"))
			if c.text != "" {
				b.mustFail(t, a, state.ResultRefused, c.text)
				return
			}
			want := manifest.Platform{File: app, SHA256: app256, Size: int64(len(payload))}
			if strings.Contains(c.content, app512) && !strings.Contains(c.content, app256) {
				want.SHA512 = app512
			}
			b.brought(t, a, string(marshal(t, &manifest.Manifest{Schema: 1, Version: "v1.2.0", Platforms: map[string]manifest.Platform{manifest.Host(): want}})))
		})
	}
	testkit.Accepted(t, "Names of checksum files", rows)
}

// TestManyChecksumFiles: of the files for each archive of a release only those of the
// target's are read, and of the others at most eight, if they may have its digest.
func TestManyChecksumFiles(t *testing.T) {
	r := appRelease("", app+".sha256", app256)
	for i := range 20 {
		r.Assets = append(r.Assets, releases.Digested(fmt.Sprintf("app-%d.tar.gz.sha256", i), []byte("x")), releases.Digested(fmt.Sprintf("tool%d-v1.2.0_checksums.txt", i), []byte("x")))
	}
	g := newGitHubServer(r)
	b := onGitHub(t, serve(t, g))
	b.target.Source.Asset = "app-{number}.linux-*.tar.gz"
	if a := b.run(t, b.order(state.VerbCheck, "v1.1.0")); a.Result != state.ResultAvailable {
		t.Errorf("%+v", a)
	}
	if got, want := asked(g), []string{"/repos/latest", "/download/v1.2.0/" + app + ".sha256"}; !slices.Equal(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
	r.Assets = slices.DeleteFunc(r.Assets, func(a releases.Asset) bool { return a.Name == app+".sha256" })
	g.Publish(r)
	b.mustFail(t, b.run(t, b.order(state.VerbApply, "v1.1.0")), state.ResultRefused, "tool0-v1.2.0_checksums.txt has no line of a known form (line 1 is none); tool1-")
	if n := len(asked(g)); n != 2+1+8 {
		t.Errorf("asked for %d things: %q", n, asked(g))
	}
}

// TestSHA512Only: the archive's sha256 is learned by a download that has the sha512. From
// then on a rejection is found by it, and no other archive is taken.
func TestSHA512Only(t *testing.T) {
	g := newGitHubServer(appRelease("", "SHA512SUMS", app512+"  "+app))
	b := onGitHub(t, serve(t, g))
	wanted := string(marshal(t, &manifest.Manifest{Schema: 1, Version: "v1.2.0", Platforms: map[string]manifest.Platform{
		manifest.Host(): {File: app, SHA256: app256, SHA512: app512, Size: int64(len(payload))}}}))
	b.brought(t, b.run(t, b.order(state.VerbApply, "v1.1.0")), wanted)
	if err := b.tree.SetStatus(state.RoleSwap, "agent", state.Status{Rejected: []state.Rejection{{Version: "v1.2.0", Reason: "it did not answer", Archive: app256, Fingerprint: "x"}}}); err != nil {
		t.Fatal(err)
	}
	n := len(asked(g))
	b.mustFail(t, b.run(t, b.order(state.VerbApply, "v1.1.0")), state.ResultNotAttempted, "it was rejected")
	if got := asked(g)[n:]; !slices.Equal(got, []string{"/repos/latest"}) {
		t.Errorf("asked for %q", got)
	}
	if err := b.tree.SetStatus(state.RoleSwap, "agent", state.Status{}); err != nil {
		t.Fatal(err)
	}
	b.brought(t, b.run(t, b.order(state.VerbApply, "v1.1.0")), wanted)
	// The API describes the same file, but the server has another.
	r := appRelease("", "SHA512SUMS", app512+"  "+app)
	r.Assets[0].Content = []byte(strings.Repeat("x", len(payload)))
	g.Publish(r)
	b.mustFail(t, b.run(t, b.order(state.VerbApply, "v1.1.0")), state.ResultRefused, "its sha256 is")
}

// TestForgeSHA512Only is TestSHA512Only for servers that state neither sizes nor digests.
// There the checksum file, and not the size, shows that the archive is still the same.
func TestForgeSHA512Only(t *testing.T) {
	bothForges(t, func(t *testing.T, kind string) {
		f, b := forge(t, kind, appRelease("", "SHA512SUMS", app512+"  "+app))
		b.target.Source.Asset = app
		sent := func() (n int) {
			for _, r := range f.Requests() {
				if strings.HasSuffix(r.URL.Path, "/v1.2.0/"+app) && !strings.HasPrefix(r.URL.Path, "/storage/") {
					n++
				}
			}
			return n
		}
		wanted := func(content []byte) string {
			return string(marshal(t, &manifest.Manifest{Schema: 1, Version: "v1.2.0", Platforms: map[string]manifest.Platform{
				manifest.Host(): {File: app, SHA256: manifest.Digest(content), SHA512: fmt.Sprintf("%x", sha512.Sum512(content)), Size: int64(len(content))}}}))
		}
		b.brought(t, b.run(t, b.order(state.VerbApply, "v1.1.0")), wanted(payload))
		must(t, b.tree.SetStatus(state.RoleSwap, "agent", state.Status{Rejected: []state.Rejection{{Version: "v1.2.0", Reason: "it did not answer", Archive: app256, Fingerprint: "x"}}}))
		before := sent()
		b.mustFail(t, b.run(t, b.order(state.VerbApply, "v1.1.0")), state.ResultNotAttempted, "it was rejected")
		if n := sent() - before; n > 1 { // one is for its size
			t.Errorf("the rejected archive was downloaded again: %d requests", n)
		}
		// Its publisher has replaced the archive, under the same name.
		other := slices.Clone(payload)
		slices.Reverse(other)
		r := appRelease("", "SHA512SUMS", fmt.Sprintf("%x  %s", sha512.Sum512(other), app))
		r.Assets[0].Content = other
		f.Publish(r)
		if a := b.run(t, b.order(state.VerbApply, "v1.1.0")); a.Result != state.ResultHandedOn {
			t.Errorf("the other archive: %+v", a)
		}
	})
}

// TestSHA512Resumed: an archive of which only the sha512 is known is resumed by the next
// attempt, and the whole of it is verified.
func TestSHA512Resumed(t *testing.T) {
	for _, c := range []struct {
		name string
		rest []byte // what the second attempt gets, if it asks for the end of this
		ok   bool
	}{{"the rest", payload, true}, {"another rest", []byte(strings.Repeat("x", len(payload))), false}} {
		t.Run(c.name, func(t *testing.T) {
			g := newGitHubServer(appRelease("", "SHA512SUMS", app512+"  "+app))
			var cut atomic.Bool // an aborted answer does not order the server's reads before what follows here
			var whole atomic.Int32
			cut.Store(true)
			b := onGitHub(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.HasPrefix(r.URL.Path, "/storage/0-0") {
					g.ServeHTTP(w, r)
					return
				}
				w.Header().Set("ETag", `"1"`)
				resumed := r.Header.Get("Range") != ""
				if !resumed {
					whole.Add(1)
				}
				if !cut.Load() {
					http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(c.rest))
					return
				}
				if !resumed {
					w.Header().Set("Content-Length", fmt.Sprint(len(payload)))
					w.Write(payload[:1<<17])
				}
				panic(http.ErrAbortHandler)
			})))
			a := b.run(t, b.order(state.VerbApply, "v1.1.0"))
			stored, err := os.ReadFile(filepath.Join(b.tree.Dir(state.RoleFetch, "agent"), "partial"))
			if a.Result != state.ResultNotDownloaded || err != nil || len(stored) < 4<<10 {
				t.Fatalf("%+v; %d bytes are stored, %v", a, len(stored), err)
			}
			cut.Store(false)
			a = b.run(t, b.order(state.VerbApply, "v1.1.0"))
			switch {
			case c.ok && (a.Result != state.ResultHandedOn || whole.Load() != 1):
				t.Errorf("%+v, %d requests for the whole", a, whole.Load())
			case !c.ok && (a.Result != state.ResultRefused || !strings.Contains(a.Reason, "its sha512 is") || whole.Load() != 2):
				t.Errorf("%+v, %d requests for the whole", a, whole.Load())
			}
		})
	}
}

// TestChecksumsOffline has a row for each checksum file that is found although the API
// answers nothing.
func TestChecksumsOffline(t *testing.T) {
	for _, c := range []struct {
		name, content, asset, checksums string
		text                            string
	}{
		{name: "sha256sums.txt", content: app256 + "  " + app, asset: "*.tar.gz"},
		{name: "agent_1.2.0_checksums.txt", content: app256 + "  " + app, asset: "*.tar.gz"},
		{name: "SHA512SUMS", content: app512 + " *./" + app, asset: "*.tar.gz"},
		{name: app + ".sha256", content: app256, asset: "app-{number}.linux-amd64.tar.gz"},
		{name: "digests-1.2.0", content: app256 + "  " + app, asset: "*.tar.gz", checksums: "digests-{number}"},
		{name: "digests", content: app256 + "  " + app, asset: "*.tar.gz", text: "; meanwhile no file *.tar.gz of v1.2.0 is known (hint: with source.token_file "},
		{name: "digests", content: app256 + "  " + app, asset: "*.tar.gz", checksums: "dig*", text: "; meanwhile no file *.tar.gz of v1.2.0 is known (hint: "},
		{name: app + ".sha256", content: app256[:32], asset: "app-{number}.linux-amd64.tar.gz", text: "; meanwhile no sha256 or sha512 of " + app + " is known: " + app + ".sha256 has a digest of " + app + " by md5 only (hint: "},
	} {
		t.Run(c.name+" "+c.asset, func(t *testing.T) {
			t.Parallel()
			g := newGitHubServer(appRelease("", c.name, c.content))
			g.Limit(http.StatusForbidden, http.Header{"Retry-After": {"60"}})
			b := onGitHub(t, serve(t, g))
			b.target.Source.Asset, b.target.Source.Checksums = c.asset, c.checksums
			a := b.run(t, b.order(state.VerbApply, "v1.1.0"))
			if c.text != "" {
				b.mustFail(t, a, state.ResultNotDownloaded, c.text)
			} else if a.Result != state.ResultHandedOn || a.Version != "v1.2.0" {
				t.Errorf("%+v", a)
			}
		})
	}
}

// TestChecksumsUnauthenticated: the operator's consent replaces a digest that no one
// states, and no digest that somebody does.
func TestChecksumsUnauthenticated(t *testing.T) {
	for _, c := range []struct {
		name, content, checksums string
		text                     string
	}{
		{name: "checksums.txt", content: app256 + "  app.zip"},
		{name: "checksums.txt", content: zero256 + "  " + app, text: "its sha256 is"},
		{name: "SHA512SUMS", content: zero512 + "  " + app, text: "its sha512 is"},
		{name: "checksums.txt", content: app256 + "  app.zip", checksums: "checksums.txt", text: "source.checksums does not lead to a digest"},
	} {
		b := onGitHub(t, serve(t, newGitHubServer(appRelease("", c.name, c.content))))
		b.target.Trust = target.Trust{Mode: target.TrustChecksum, AllowUnauthenticated: true}
		b.target.Source.Checksums = c.checksums
		a := b.run(t, b.order(state.VerbApply, "v1.1.0"))
		if c.text != "" {
			b.mustFail(t, a, state.ResultRefused, c.text)
		} else if a.Result != state.ResultHandedOn {
			t.Errorf("%s: %+v", c.content, a)
		}
	}
}
