package fetch

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestBare checks that an archive that the operator names needs no manifest, but must meet
// the target's requirements.
func TestBare(t *testing.T) {
	testkit.Slow(t)
	sum := manifest.Digest(payload)
	named := func(t *target.Target) { t.Source.Asset = "agent-{version}.{os}.tar.gz" }
	asks := func(t *target.Target) { t.Health.VersionCommand = []string{"/usr/local/bin/agent", "--version"} }
	system, _, _ := strings.Cut(manifest.Host(), "-")
	build := "agent-build-18." + system + ".tar.gz"
	for _, c := range []struct {
		file    string
		sum     string
		set     func(*target.Target)
		says    string // the version that the operator says
		version string // of the release that is handed on; "" for none
		result  state.Result
		text    string
	}{
		{"x.tar.gz", "", nil, "", "sha256-" + sum[:12], state.ResultHandedOn, ""},
		{"x.tar.gz", sum, nil, "", "sha256-" + sum[:12], state.ResultHandedOn, ""},
		{build, "", named, "", "build-18", state.ResultHandedOn, ""},
		{build, sum, func(t *target.Target) { named(t); asks(t) }, "", "build-18", state.ResultHandedOn, ""},
		{"agent-build 18." + system + ".tar.gz", "", named, "", "sha256-" + sum[:12], state.ResultHandedOn, ""},
		{"agent-1.9." + system + ".tar.gz", "", func(t *target.Target) { t.Source.Asset = "agent-{number}.{os}.tar.gz" }, "", "1.9", state.ResultHandedOn, ""},
		{"x.tar.gz", "", asks, "", "", state.ResultRefused, "its version is not known, but /usr/local/bin/agent must report it"},
		{"x.tar.gz", "", asks, "1.9.4", "1.9.4", state.ResultHandedOn, ""},
		{build, sum, named, "1.9.4", "1.9.4", state.ResultHandedOn, ""},
		{"x.tar.gz", manifest.Digest(nil), nil, "", "", state.ResultRefused, "its sha256 is " + sum + " instead of " + manifest.Digest(nil) + " (hint: is that the digest that its publisher states, "},
	} {
		t.Run(c.file+" "+c.says+" "+fmt.Sprint(c.result), func(t *testing.T) {
			handler := site{"/d/" + c.file: func(w http.ResponseWriter, r *http.Request) {
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(payload)) // it sends the size
			}}
			b := newBench(t, "http://127.0.0.1:9")
			b.target.Source.InsecureSkipTLS, b.target.Trust.AllowUnauthenticated = true, true // these apply to the target's own source only
			if c.set != nil {
				c.set(b.target)
			}
			check := func(a state.Attempt) {
				t.Helper()
				if c.version == "" {
					b.mustFail(t, a, c.result, c.text)
					return
				}
				if a.Result != state.ResultHandedOn || a.Version != c.version {
					t.Fatalf("%+v", a)
				}
				raw, err := os.ReadFile(filepath.Join(b.tree.Ready(state.RoleFetch, "agent"), string(a.ID), "manifest.json"))
				if err != nil {
					t.Fatal(err)
				}
				m, err := manifest.Parse(raw)
				if err != nil {
					t.Fatal(err)
				}
				if p := m.Platforms[manifest.Host()]; m.Version != c.version || m.Product != "agent" || p.SHA256 != sum || p.Size != int64(len(payload)) {
					t.Errorf("the manifest is\n%s", raw)
				}
				if err := os.RemoveAll(b.tree.Ready(state.RoleFetch, "agent")); err != nil {
					t.Fatal(err)
				}
			}
			for _, root := range []string{serve(t, handler), serveTLS(t, handler)} {
				o := b.order(state.VerbApply, "v1")
				o.URL, o.SHA256 = root+"/d/"+strings.ReplaceAll(c.file, " ", "%20"), c.sum
				o.Version = c.says
				check(b.run(t, o))
			}
			if strings.Contains(c.file, " ") {
				return // a file with that name must be renamed
			}
			path := filepath.Join(t.TempDir(), c.file)
			if err := os.WriteFile(path, payload, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := b.tree.DropImport("agent"); err != nil {
				t.Fatal(err)
			}
			unvouched, err := Import(t.Context(), b.tree, b.target, target.Named{Path: path, SHA256: c.sum, Version: c.says}, b.tree.Import("agent"))
			if err != nil {
				b.mustFail(t, state.Attempt{Result: state.ResultOf(err), Reason: err.Error()}, c.result, c.text)
				return
			}
			if unvouched != (c.sum == "") {
				t.Errorf("unvouched: %v", unvouched)
			}
			o := b.order(state.VerbApply, "v1")
			o.Import = true
			check(b.run(t, o))
		})
	}
}

// TestDirectRefused checks that the exceptions for the target's own server do not apply to
// a server that the operator names.
func TestDirectRefused(t *testing.T) {
	other := serve(t, site{"/x": bytesHandler(payload)})
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		result  state.Result
		text    string
	}{
		"redirected out of the machine's own": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other+"/x", http.StatusFound) },
			state.ResultRefused, "it was redirected to " + other + "/x, which is not authenticated"},
		"not there": {http.NotFound, state.ResultNotDownloaded, "the server answered 404 Not Found (hint: is the address right, and public?)"},
		"no size": {func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush(); w.Write(payload) },
			state.ResultNotDownloaded, "the server does not send its size"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "http://127.0.0.1:9")
			b.target.Trust.AllowUnauthenticated = true
			o := b.order(state.VerbApply, "v1")
			o.URL = serve(t, site{"/x.tar.gz": c.handler}) + "/x.tar.gz?secret"
			a := b.run(t, o)
			b.mustFail(t, a, c.result, c.text)
			if strings.Contains(a.Reason, "secret") {
				t.Errorf("it tells the query: %s", a.Reason)
			}
		})
	}
}

// TestImportDigest checks that the operator's digest counts, even against a manifest.
func TestImportDigest(t *testing.T) {
	from := t.TempDir()
	for name, content := range map[string][]byte{"client-manifest.json": marshal(t, release1()), "agent.tar.gz": payload} {
		if err := os.WriteFile(filepath.Join(from, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := newBench(t, "http://127.0.0.1:9")
	n := target.Named{Path: from, SHA256: manifest.Digest([]byte("another"))}
	if _, err := Import(t.Context(), b.tree, b.target, n, b.tree.Import("agent")); err == nil || state.ResultOf(err) != state.ResultRefused ||
		!strings.Contains(err.Error(), "its archive is to have sha256 "+n.SHA256) {
		t.Errorf("got %v", err)
	}
	n.SHA256 = manifest.Digest(payload)
	if unvouched, err := Import(t.Context(), b.tree, b.target, n, b.tree.Import("agent")); err != nil || unvouched {
		t.Errorf("%v, %v", unvouched, err)
	}
}
