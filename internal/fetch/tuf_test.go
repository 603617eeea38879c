package fetch

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
	"github.com/machinemon/machinemon-update/internal/trust"
	"github.com/machinemon/machinemon-update/internal/trust/trusttest"
)

// mirror serves a repository's files as they are now, and the archive.
type mirror struct {
	files map[string][]byte
	asked []string
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	m.asked = append(m.asked, name)
	switch b := m.files[name]; {
	case name == "agent.tar.gz":
		w.Write(payload)
	case b == nil:
		http.NotFound(w, r)
	default:
		w.Write(b)
	}
}

func (m *mirror) asks() string {
	all := strings.Join(m.asked, " ")
	m.asked = nil
	return all
}

// signed returns a bench whose target requires signed releases, from a mirror over an
// unauthenticated transport.
func signed(t *testing.T) (*bench, *trusttest.Repo, *mirror) {
	t.Helper()
	repo := trusttest.New(t, release1())
	m := &mirror{files: repo.Files}
	b := newBench(t, serve(t, m))
	dir := t.TempDir()
	for name, text := range map[string]string{"trust/agent.root.json": string(repo.Pin), "admin/agent.toml": `unit = "agent.service"
auto_update_enabled = true
source.url = "` + b.target.Source.URL + `"
trust = { mode = "tuf", product = "agent" }
install = [{ from = "agent", to = "/usr/local/bin/agent" }]
`} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	var err error
	b.target, err = target.Dirs{Root: dir, Vendor: "/vendor", Admin: "/admin"}.Load("agent")
	must(t, err)
	b.pinned = filepath.Join(dir, "trust/agent.root.json")
	return b, repo, m
}

var must = testkit.Must

// bundle returns the metadata that was handed on, with the manifest, and removes it.
func (b *bench) bundle(t *testing.T) trust.Metadata {
	t.Helper()
	dir := filepath.Join(b.tree.Ready(state.RoleFetch, "agent"), attempt)
	raw, err := os.ReadFile(filepath.Join(dir, state.ManifestName))
	must(t, err)
	metadata, err := os.ReadFile(filepath.Join(dir, state.MetadataName))
	must(t, err)
	got, err := trust.Decode(metadata, raw)
	must(t, err)
	must(t, os.RemoveAll(dir))
	return got
}

// rootKnows makes root remember the repository's present metadata.
func (b *bench) rootKnows(t *testing.T, repo *trusttest.Repo) {
	t.Helper()
	_, known, err := trust.Client{Pin: repo.Pin, Clock: time.Now()}.Check(repo.Bundle(1))
	must(t, err)
	must(t, b.tree.SetTrust(state.RoleSwap, "agent", known))
}

func TestSigned(t *testing.T) {
	b, repo, m := signed(t)
	manifestOf := func(r *manifest.Manifest) string { return manifest.Digest(marshal(t, r)) + ".client-manifest.json" }
	apply := func(roots int) {
		t.Helper()
		if a := b.run(t, b.order(state.VerbApply, "v1")); a.Result != state.ResultHandedOn {
			t.Fatalf("%+v", a)
		}
		got, want := b.bundle(t), repo.Bundle(1)
		if len(got.Roots) != roots || !bytes.Equal(got.Timestamp, want.Timestamp) || !bytes.Equal(got.Manifest, want.Manifest) {
			t.Errorf("%d roots, want %d; %s", len(got.Roots), roots, got.Timestamp)
		}
	}
	apply(0)
	if got, want := m.asks(), "2.root.json timestamp.json 1.snapshot.json 1.targets.json "+manifestOf(release1())+" agent.tar.gz"; got != want {
		t.Errorf("asked for %s\nwant      %s", got, want)
	}
	// An unchanged timestamp ends the walk: two requests instead of five.
	check := func(want string) {
		t.Helper()
		if a := b.run(t, b.order(state.VerbCheck, "v2")); a.Result != state.ResultCurrent {
			t.Errorf("%+v", a)
		}
		if got := m.asks(); got != want {
			t.Errorf("asked for %s\nwant      %s", got, want)
		}
	}
	check("2.root.json timestamp.json")
	apply(0)
	if got, want := m.asks(), "2.root.json timestamp.json agent.tar.gz"; got != want {
		t.Errorf("asked for %s\nwant      %s", got, want)
	}
	o := b.status(t).Offer
	if o.Unsigned || len(o.Signed) != 4 || o.Signed[1].Role != "timestamp" || o.Signed[1].Version != 1 || time.Until(o.Signed[1].Expires) < 6*24*time.Hour {
		t.Errorf("on offer is %+v", o)
	}
	// The new timestamp names another snapshot; the manifest is the same.
	repo.Refresh()
	check("2.root.json timestamp.json 2.snapshot.json")
	// All roots are handed on, also those of earlier walks.
	repo.Rotate()
	repo.Rotate()
	apply(2)
	m.asks()
	check("4.root.json timestamp.json")
	apply(2)
	b.rootKnows(t, repo)
	repo.Rotate()
	apply(3)
	m.asks()
	// After its own state is lost, the fetcher begins with root's.
	must(t, os.Remove(filepath.Join(b.tree.Dir(state.RoleFetch, "agent"), "trust.json")))
	apply(3)
	if got := m.asks(); !strings.HasPrefix(got, "4.root.json 5.root.json timestamp.json ") {
		t.Errorf("asked for %s", got)
	}
	// Any user may look; a look stores nothing.
	before, err := os.ReadFile(filepath.Join(b.tree.Dir(state.RoleFetch, "agent"), "trust.json"))
	must(t, err)
	repo.Refresh()
	if a := Look(t.Context(), b.tree, b.target, "v1"); a.Result != state.ResultAvailable || a.Version != "v2" {
		t.Errorf("%+v", a)
	}
	if after, err := os.ReadFile(filepath.Join(b.tree.Dir(state.RoleFetch, "agent"), "trust.json")); err != nil || !bytes.Equal(before, after) {
		t.Error("a look has changed the state")
	}
	// An older release with a higher sequence withdraws a newer one.
	must(t, b.tree.RaiseFloor("agent", 7))
	old := release1()
	old.Version, old.Sequence = "v1", 8
	repo.Publish(old)
	if a := b.run(t, b.order(state.VerbCheck, "v2")); a.Result != state.ResultAvailable || a.Version != "v1" || a.Sequence != 8 {
		t.Errorf("%+v", a)
	}
}

// TestSignedArchiveElsewhere checks that a signed archive may be on any server.
func TestSignedArchiveElsewhere(t *testing.T) {
	b, repo, _ := signed(t)
	repo.Publish(edit(release1(), func(p *manifest.Platform) {
		p.File = serve(t, site{"/agent.tar.gz": bytesHandler(payload)}) + "/agent.tar.gz"
	}))
	if a := b.run(t, b.order(state.VerbApply, "v1")); a.Result != state.ResultHandedOn {
		t.Errorf("%+v", a)
	}
}

func TestSignedRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		play   func(t *testing.T, b *bench, repo *trusttest.Repo, m *mirror)
		result state.Result
		text   string
	}{
		{"archive A under B's name", func(_ *testing.T, _ *bench, repo *trusttest.Repo, _ *mirror) {
			repo.Publish(edit(release1(), func(p *manifest.Platform) { p.SHA256 = manifest.Digest(nil) }))
		}, "", "its sha256 is"},
		{"no root", func(t *testing.T, b *bench, _ *trusttest.Repo, _ *mirror) { must(t, os.Remove(b.pinned)) },
			"", "there is no /trust/agent.root.json (hint: sudo machinemon-update trust agent FILE --sha256 HEX)"},
		{"a new pin", func(t *testing.T, b *bench, repo *trusttest.Repo, _ *mirror) {
			b.rootKnows(t, repo)
			must(t, os.WriteFile(b.pinned, trusttest.NewOf(t, "another", time.Now(), release1()).Pin, 0o644))
		}, "", "timestamp v1: too few valid signatures"},
		{"expired", func(_ *testing.T, _ *bench, repo *trusttest.Repo, _ *mirror) {
			repo.Expire(-time.Hour)
			repo.Refresh()
		}, "", "timestamp v2: expired on "},
		{"GitHub", func(_ *testing.T, b *bench, _ *trusttest.Repo, _ *mirror) {
			b.target.Source = target.Source{Type: target.SourceGitHub, Repo: "o/n", URL: "http://127.0.0.1:9"}
		}, "", "only signed metadata authenticates its releases (trust.mode = \"tuf\"), and neither GitHub, Forgejo, GitLab nor an archive's address has any"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, repo, m := signed(t)
			c.play(t, b, repo, m)
			if c.result == "" {
				c.result = state.ResultRefused
			}
			a := b.run(t, b.order(state.VerbApply, "v1"))
			b.mustFail(t, a, c.result, c.text)
			if a.Expired != (c.name == "expired") {
				t.Errorf("%+v", a)
			}
		})
	}
	t.Run("an archive's address", func(t *testing.T) {
		b, _, m := signed(t)
		o := b.order(state.VerbApply, "v1")
		o.URL = strings.Replace(b.target.Source.URL, "client-manifest.json", "agent.tar.gz", 1)
		b.mustFail(t, b.run(t, o), state.ResultRefused, "only signed metadata authenticates")
		if got := m.asks(); got != "" {
			t.Errorf("asked for %s", got)
		}
	})
}

// TestExpiredHeals checks that scheduled attempts notice new signatures at once.
func TestExpiredHeals(t *testing.T) {
	b, repo, _ := signed(t)
	repo.Expire(-time.Hour)
	repo.Refresh()
	b.target.CheckEvery = time.Hour
	scheduled := func(n int) state.Attempt {
		o := b.order(state.VerbApply, "v1")
		o.Origin, o.Attempt = state.OriginSchedule, state.AttemptID(fmt.Sprint("a-", n))
		return b.run(t, o)
	}
	for n := range 5 {
		if a := scheduled(n); !a.Expired || !strings.Contains(a.Reason, "(hint: its publisher must sign it again; the next check will notice)") {
			t.Fatalf("%+v", a)
		}
	}
	repo.Expire(time.Hour)
	repo.Refresh()
	if a := scheduled(5); a.Result != state.ResultHandedOn {
		t.Errorf("%+v", a)
	}
}

// TestSignedImport checks that a repository imported from a USB stick, where there is no
// network, is verified like any other.
func TestSignedImport(t *testing.T) {
	for _, c := range []struct {
		name, path string
		play       func(t *testing.T, b *bench, repo *trusttest.Repo, dir string)
		text       string
	}{
		{name: "a directory"},
		{name: "an archive", path: "agent.tar.gz"},
		{name: "a manifest", path: "client-manifest.json"},
		{name: "no metadata", path: "agent.tar.gz", play: func(t *testing.T, _ *bench, _ *trusttest.Repo, dir string) {
			must(t, os.Remove(filepath.Join(dir, trust.TimestampFile)))
		}, text: "there is no timestamp.json beside it"},
		{name: "no root", play: func(t *testing.T, b *bench, _ *trusttest.Repo, _ string) { must(t, os.Remove(b.pinned)) },
			text: "(hint: sudo machinemon-update trust agent FILE --sha256 HEX)"},
		{name: "another's", play: func(t *testing.T, b *bench, _ *trusttest.Repo, _ string) {
			must(t, os.WriteFile(b.pinned, trusttest.NewOf(t, "another", time.Now(), release1()).Pin, 0o644))
		}, text: "root v2: too few valid signatures"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, repo, _ := signed(t)
			repo.Rotate()
			dir := t.TempDir()
			for name, content := range repo.Files {
				must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
			}
			must(t, os.WriteFile(filepath.Join(dir, "agent.tar.gz"), payload, 0o600))
			if c.play != nil {
				c.play(t, b, repo, dir)
			}
			must(t, b.tree.MakeSwapDir("agent"))
			unvouched, err := Import(t.Context(), b.tree, b.target, target.Named{Path: filepath.Join(dir, c.path)}, b.tree.Import("agent"))
			a := state.Attempt{Result: state.ResultOf(err)}
			if err != nil {
				a.Reason = err.Error()
			} else {
				o := b.order(state.VerbApply, "v1")
				o.Import = true
				a = b.run(t, o)
			}
			if c.text != "" {
				b.mustFail(t, a, state.ResultRefused, c.text)
				return
			}
			if a.Result != state.ResultHandedOn || unvouched || len(b.bundle(t).Roots) != 1 {
				t.Errorf("%+v, unvouched %v", a, unvouched)
			}
		})
	}
}
