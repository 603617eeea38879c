package fetch

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
	"github.com/machinemon/machinemon-update/internal/version"
)

// forge returns a server with these releases, and a machine whose target has its source
// there.
func forge(t *testing.T, kind string, published ...releases.Tagged) (*releases.Forge, *bench) {
	t.Helper()
	f := &releases.Forge{Repo: "the-owner/agent", GitLab: kind == target.SourceGitLab}
	if f.GitLab {
		f.Repo = "the-group/sub/agent"
	}
	for _, r := range published {
		f.Publish(r)
	}
	b := newBench(t, "")
	b.target.Source = target.Source{Type: kind, Repo: f.Repo, Asset: "*.tar.gz", URL: serve(t, f) + f.API()}
	b.target.Trust.Product = ""
	return f, b
}

func bothForges(t *testing.T, test func(t *testing.T, kind string)) {
	for _, kind := range []string{target.SourceForgejo, target.SourceGitLab} {
		t.Run(kind, func(t *testing.T) { test(t, kind) })
	}
}

func TestForge(t *testing.T) {
	testkit.Slow(t)
	tagged := func(tag string) releases.Tagged {
		r := undigested(sums(payloadSum))
		r.Tag = tag
		return r
	}
	only := func(r releases.Tagged, change func(r *releases.Tagged)) releases.Tagged {
		change(&r)
		return r
	}
	for _, c := range []struct {
		name    string
		kind    string // "" for both
		list    []releases.Tagged
		set     func(t *target.Target)
		version string // "" for a failure
		result  state.Result
		text    string
	}{
		{name: "the newest", list: []releases.Tagged{tagged("build-17"), tagged("build-18")}, version: "build-18"},
		{name: "by its tag", list: []releases.Tagged{tagged("build-18"), tagged("build-19")}, set: func(t *target.Target) { t.Source.Tag = "build-18" }, version: "build-18"},
		{name: "the highest in a range", list: []releases.Tagged{tagged("v1.2.0"), tagged("v2.0.0"), tagged("v1.1.9")},
			set: func(t *target.Target) { t.Source.Versions, _ = version.ParseRange("<2") }, version: "v1.2.0"},
		{name: "of several programs", list: []releases.Tagged{tagged("other@3.0.0"), tagged("agent@1.1.0"), tagged("agent@1.2.0")},
			set: func(t *target.Target) { t.Source.TagPrefix = "agent@" }, version: "1.2.0"},
		{name: "with prereleases", kind: target.SourceForgejo, list: []releases.Tagged{tagged("v1.2.0"), only(tagged("v1.3.0-rc1"), func(r *releases.Tagged) { r.Prerelease = true })},
			set: func(t *target.Target) { t.Source.Prereleases = true }, version: "v1.3.0-rc1"},
		{name: "a prerelease", kind: target.SourceForgejo, list: []releases.Tagged{tagged("build-18"), only(tagged("build-19"), func(r *releases.Tagged) { r.Prerelease = true })}, version: "build-18"},
		{name: "planned for later", kind: target.SourceGitLab, list: []releases.Tagged{only(tagged("build-19"), func(r *releases.Tagged) { r.Upcoming = true }), tagged("build-18")}, version: "build-18"},
		{name: "nothing but that", kind: target.SourceGitLab, list: []releases.Tagged{only(tagged("build-19"), func(r *releases.Tagged) { r.Upcoming = true })},
			result: state.ResultNotDownloaded, text: "none of its 1 newest releases is one to take: they are drafts, prereleases or planned for later (hint: source.tag names one)"},
		{name: "a link with a name of words", kind: target.SourceGitLab, version: "build-18",
			list: []releases.Tagged{only(tagged("build-18"), func(r *releases.Tagged) { r.Assets[1].Label = "binary: Linux amd64" })}},
		{name: "no release", result: state.ResultNotDownloaded, text: "it has no release (hint: is source.repo right?)"},
		{name: "no such tag", list: []releases.Tagged{tagged("build-18")}, set: func(t *target.Target) { t.Source.Tag = "build-19" }, result: state.ResultNotDownloaded, text: "answered 404 Not Found (hint: is source.repo right"},
		{name: "no digest", list: []releases.Tagged{undigested()}, result: state.ResultRefused,
			text: "no sha256 or sha512 of agent-build-18.tar.gz is known: the API states none, and it has no checksum file "},
		{name: "other bytes", list: []releases.Tagged{undigested(sums(strings.Repeat("ab", 32) + "  " + archiveName + "\n"))}, result: state.ResultRefused, text: "its sha256 is"},
	} {
		bothForges(t, func(t *testing.T, kind string) {
			if c.kind != "" && c.kind != kind {
				return
			}
			t.Run(c.name, func(t *testing.T) {
				_, b := forge(t, kind, c.list...)
				if c.set != nil {
					c.set(b.target)
				}
				a := b.run(t, b.order(state.VerbApply, "build-1"))
				if c.version == "" {
					b.mustFail(t, a, c.result, c.text)
					if strings.Contains(a.Reason, "allow_unauthenticated") {
						t.Errorf("a hint gives up authentication: %s", a.Reason)
					}
					return
				}
				want := strings.Replace(theManifest(t), "build-18", c.version, 1)
				b.brought(t, a, want)
			})
		})
	}
}

// TestForgeFarBack: the list is read page by page until a release is in the range.
func TestForgeFarBack(t *testing.T) {
	bothForges(t, func(t *testing.T, kind string) {
		old := undigested(sums(payloadSum))
		old.Tag = "v1.0.0"
		f, b := forge(t, kind, old)
		for i := range 120 {
			f.Publish(releases.Tagged{Tag: fmt.Sprintf("v2.0.%d", i)})
		}
		b.target.Source.Versions, _ = version.ParseRange("<2")
		if a := b.run(t, b.order(state.VerbApply, "v0.1.0")); a.Version != "v1.0.0" || a.Result != state.ResultHandedOn {
			t.Errorf("%+v", a)
		}
	})
}

// TestForgeToken checks that the token of a private repository is sent to its server only:
// not to a store to which it redirects, and not to the address of a file elsewhere.
func TestForgeToken(t *testing.T) {
	handOver(t, "glpat-hunter2\n")
	bothForges(t, func(t *testing.T, kind string) {
		private, b := forge(t, kind, undigested(sums(payloadSum)))
		private.Token = "glpat-hunter2"
		store := &releases.Forge{Repo: private.Repo, GitLab: private.GitLab}
		store.Publish(undigested(sums(payloadSum)))
		elsewhere := serveTLS(t, store)
		private.Storage = elsewhere
		if kind == target.SourceForgejo {
			linked := undigested(sums(payloadSum))
			linked.Assets[1].At = elsewhere + "/the-owner/agent/releases/download/build-18/" + archiveName
			private.Publish(linked)
		}
		b.target.Source.TokenFile = "/etc/agent/token"
		b.brought(t, b.run(t, b.order(state.VerbApply, "build-17")), theManifest(t))
		for _, r := range private.Requests() {
			if got := r.Header.Get("Authorization") + r.Header.Get("Private-Token"); !strings.HasSuffix(got, "glpat-hunter2") {
				t.Errorf("%s without the token", r.URL.Path)
			}
		}
		if len(store.Requests()) == 0 {
			t.Error("nothing came from the store")
		}
		for _, r := range store.Requests() {
			if got := r.Header.Get("Authorization") + r.Header.Get("Private-Token"); got != "" {
				t.Errorf("%s with %s", r.URL.Path, got)
			}
		}
		for _, name := range []string{"status.json", "manifest.json"} {
			if kept, _ := os.ReadFile(filepath.Join(b.tree.Dir(state.RoleFetch, "agent"), name)); strings.Contains(string(kept), "hunter2") {
				t.Errorf("%s: %s", name, kept)
			}
		}
		b.target.Source.TokenFile = ""
		b.mustFail(t, b.run(t, b.order(state.VerbApply, "build-17")), state.ResultNotDownloaded, "or source.token_file set?)")
	})
}

func TestForgeLimit(t *testing.T) {
	bothForges(t, func(t *testing.T, kind string) {
		f, b := forge(t, kind, undigested(sums(payloadSum)))
		f.Limit(http.Header{"Retry-After": {"60"}})
		a := b.run(t, b.order(state.VerbApply, "build-17"))
		b.mustFail(t, a, state.ResultNotDownloaded, "the server answered 429 Too Many Requests: it takes no more requests until ")
		if a.RetryAfter.Before(a.Time.Add(50e9)) {
			t.Errorf("it may be asked again at %s", a.RetryAfter)
		}
		if n := len(f.Requests()); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestForgeElsewhere has files that an API says are where they must not be.
func TestForgeElsewhere(t *testing.T) {
	inside := serve(t, http.NotFoundHandler())
	bothForges(t, func(t *testing.T, kind string) {
		for _, c := range []struct {
			at     string
			result state.Result
			text   string
		}{
			{"ftp://192.0.2.1/agent.tar.gz", state.ResultRefused, `the address of its file "agent-build-18.tar.gz" is not valid`},
			{"/agent.tar.gz", state.ResultRefused, "is not valid"},
			{"https://user:hunter2@192.0.2.1/agent.tar.gz", state.ResultRefused, "is not valid"},
			{"http://192.0.2.1/agent.tar.gz", state.ResultRefused, `its file "agent-build-18.tar.gz" is at http://192.0.2.1/agent.tar.gz, which is not authenticated`},
			{"https://169.254.169.254/agent.tar.gz", state.ResultRefused, "its host is a link-local address"},
			{strings.Replace(inside, "http://", "https://", 1) + "/x?secret", state.ResultNotDownloaded, "on this machine or in a private network, and did not come from there"},
		} {
			r := undigested(sums(payloadSum))
			r.Assets[1].At = c.at
			_, b := forge(t, kind, r)
			a := b.run(t, b.order(state.VerbApply, "build-17"))
			b.mustFail(t, a, c.result, c.text)
			if strings.Contains(a.Reason+a.Cause, "secret") || strings.Contains(a.Reason, "hunter2") {
				t.Errorf("a secret: %s", a.Reason)
			}
		}
	})
}

// TestForgeHostile has answers that are none.
func TestForgeHostile(t *testing.T) {
	for _, c := range []struct{ kind, answer, text string }{
		{target.SourceForgejo, `{"message":"x"}`, "it is not a list of releases as Forgejo's API describes one"},
		{target.SourceForgejo, `[{"tag_name":1}]`, "it is not a release as Forgejo's API describes one"},
		{target.SourceForgejo, `[{"tag_name":"v1","assets":[{"name":"../a.tar.gz","browser_download_url":"https://x/y"}]}]`, `a file with the name "../a.tar.gz"`},
		{target.SourceForgejo, `[{"tag_name":"v1","assets":{"links":[]}}]`, "it is not a release as Forgejo's API describes one"},
		{target.SourceGitLab, `[{"tag_name":"v1","assets":[]}]`, "it is not a release as GitLab's API describes one"},
		{target.SourceGitLab, `[null]`, "it is not a release as GitLab's API describes one"},
		{target.SourceGitLab, `[{"tag_name":"v1","assets":{"links":[{"name":"a b","url":"%"}]}}]`, `it has no file *.tar.gz`},
		{target.SourceGitLab, `[{"tag_name":"v1","assets":{"links":[{"name":"a b","url":"https://x/"}]}}]`, `a file with the name "/"`},
	} {
		_, b := forge(t, c.kind)
		b.target.Source.URL = serve(t, bytesHandler([]byte(c.answer))) + "/api"
		b.mustFail(t, b.run(t, b.order(state.VerbApply, "v0")), state.ResultRefused, c.text)
	}
}
