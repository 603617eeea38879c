package fetch

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// ofApp returns a release of one program of several in a repository. Its archive has the
// version in its name, not the tag.
func ofApp(tag, version string) releases.Tagged {
	name := "app_" + version + ".tar.gz"
	return releases.Tagged{Tag: tag, Assets: []releases.Asset{releases.Digested(name, payload),
		releases.Digested("checksums.txt", []byte(manifest.Digest(payload)+"  "+name+"\n"))}}
}

func prerelease(r releases.Tagged) releases.Tagged {
	r.Prerelease = true
	return r
}

// TestTags has a row for each form of a tag: which release is taken, or which words say
// that none is.
func TestTags(t *testing.T) {
	testkit.Slow(t)
	several := []releases.Tagged{ofApp("app/v1.2.3", "v1.2.3"), ofApp("app/v1.10.0", "v1.10.0"), ofApp("app/v1.9.9", "v1.9.9"), ofApp("cli/v7.0.0", "v7.0.0"), ofApp("v9.0.0", "v9.0.0"), {Tag: "helm-chart-0.9.1"}}
	for _, c := range []struct {
		name        string
		releases    []releases.Tagged // from the oldest to the newest
		prefix      string
		prereleases bool
		versions    string
		tag         string
		limited     bool
		version     string       // what is handed on
		result      state.Result // if nothing is
		text        string
		asked       []string
	}{
		{name: "v1.2.3", releases: []releases.Tagged{ofApp("v1.2.3", "v1.2.3")}, version: "v1.2.3"},
		{name: "release-1.4.0", releases: []releases.Tagged{ofApp("release-1.4.0", "release-1.4.0")}, version: "release-1.4.0"},
		{name: "24.4.1.2088-stable", releases: []releases.Tagged{ofApp("24.4.1.2088-stable", "24.4.1.2088-stable")}, version: "24.4.1.2088-stable"},
		{name: "build-82", releases: []releases.Tagged{ofApp("build-82", "build-82")}, version: "build-82"},
		{name: "app/v1.2.3", releases: several, prefix: "app/", version: "v1.10.0",
			asked: []string{"/repos/the-owner/agent/releases", "/download/app/v1.10.0/app_v1.10.0.tar.gz"}},
		{name: "app@1.2.3", releases: []releases.Tagged{ofApp("app@1.2.3", "1.2.3"), ofApp("lib@4.0.0", "4.0.0")}, prefix: "app@", version: "1.2.3"},
		{name: "x@1", releases: []releases.Tagged{ofApp("x@9", "9"), ofApp("x@10", "10")}, prefix: "x@", version: "10"},
		{name: "release-1.4.0, without release-", releases: []releases.Tagged{ofApp("release-1.4.0", "1.4.0")}, prefix: "release-", version: "1.4.0"},
		{name: "app-, and not app-cli-", releases: []releases.Tagged{ofApp("app-1.2.3", "1.2.3"), ofApp("app-cli-7.0.0", "7.0.0")}, prefix: "app-", version: "1.2.3"},
		{name: "a range of one program's versions", releases: several, prefix: "app/", versions: "<1.10", version: "v1.9.9"},
		{name: "one tag of one program", releases: several, prefix: "app/", tag: "app/v1.2.3", version: "v1.2.3",
			asked: []string{"/repos/tags/app/v1.2.3", "/download/app/v1.2.3/app_v1.2.3.tar.gz"}},
		{name: "limited, the latest is the program's", releases: []releases.Tagged{ofApp("app/v1.2.3", "v1.2.3")}, prefix: "app/", limited: true, version: "v1.2.3"},

		{name: "a prerelease", releases: []releases.Tagged{ofApp("v1.2.3", "v1.2.3"), prerelease(ofApp("v1.3.0-rc.1", "v1.3.0-rc.1"))}, prereleases: true, version: "v1.3.0-rc.1"},
		{name: "a prerelease, and its release", releases: []releases.Tagged{prerelease(ofApp("v1.3.0-rc.1", "v1.3.0-rc.1")), ofApp("v1.3.0", "v1.3.0")}, prereleases: true, version: "v1.3.0"},
		{name: "a prerelease without order", releases: []releases.Tagged{ofApp("build-81", "build-81"), prerelease(ofApp("build-82", "build-82"))}, prereleases: true, version: "build-82"},
		{name: "a prerelease in a range", releases: []releases.Tagged{prerelease(ofApp("v3.5.0-rc.1", "v3.5.0-rc.1")), prerelease(ofApp("v4.0.0-rc.1", "v4.0.0-rc.1"))}, prereleases: true, versions: ">=3, <4", version: "v3.5.0-rc.1"},
		{name: "a prerelease of one program", releases: []releases.Tagged{prerelease(ofApp("app@2.0.0-rc.1", "2.0.0-rc.1")), prerelease(ofApp("lib@9.0.0", "9.0.0"))}, prefix: "app@", prereleases: true, version: "2.0.0-rc.1"},
		{name: "no prerelease unless asked for", releases: []releases.Tagged{ofApp("app/v1.2.3", "v1.2.3"), prerelease(ofApp("app/v1.3.0", "v1.3.0"))}, prefix: "app/", version: "v1.2.3"},
		{name: "no draft, even among prereleases", releases: []releases.Tagged{ofApp("v1.2.3", "v1.2.3"), {Tag: "v2.0.0", Draft: true, Prerelease: true}}, prereleases: true, version: "v1.2.3"},

		{name: "app/v1.2.3 without source.tag_prefix", releases: several[:2], result: state.ResultRefused,
			text: `its tag "app/v1.10.0" is no version, 1 to 64 of A-Z a-z 0-9 . + _ ~ -, the first a letter or digit (hint: set source.tag_prefix to what stands before the version)`},
		{name: "the latest is another product's", releases: []releases.Tagged{ofApp("v1.2.3", "v1.2.3"), {Tag: "helm-chart-0.9.1", Assets: []releases.Asset{releases.Digested("chart-0.9.1.tgz", payload)}}}, result: state.ResultRefused,
			text: "cannot use release helm-chart-0.9.1 of the-owner/agent: it has no file app_helm-chart-0.9.1.tar.gz; it has chart-0.9.1.tgz (hint: set source.asset)"},
		{name: "another program's only", releases: several, prefix: "lib/", result: state.ResultNotAttempted,
			text: "none of the 6 newest releases of the-owner/agent is tagged lib/ and a version (hint: source.tag names one that is older)"},
		{name: "nothing in the range", releases: several, prefix: "app/", versions: ">=2", result: state.ResultNotAttempted,
			text: `none of the 6 newest releases of the-owner/agent is tagged app/ and a version and in source.versions ">=2"`},
		{name: "limited, the latest is another program's", releases: several, prefix: "app/", limited: true, result: state.ResultNotDownloaded,
			text: `; meanwhile the latest release there, "helm-chart-0.9.1", is not tagged app/ and a version (hint: with source.token_file `},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := newGitHubServer(c.releases...)
			if c.limited {
				g.Limit(http.StatusForbidden, http.Header{"Retry-After": {"60"}})
			}
			b := onGitHub(t, serve(t, g))
			s := &b.target.Source
			s.TagPrefix, s.Prereleases, s.Tag = c.prefix, c.prereleases, c.tag
			if s.Asset = "app_{version}.tar.gz"; c.versions != "" {
				s.Versions = rangeOf(t, c.versions)
			}
			if c.prereleases {
				s.Versions = s.Versions.WithPrereleases()
			}
			a := b.run(t, b.order(state.VerbApply, "v1"))
			if c.result != "" {
				b.mustFail(t, a, c.result, c.text)
				return
			}
			if a.Result != state.ResultHandedOn || a.Version != c.version {
				t.Fatalf("%+v", a)
			}
			if got := asked(g); c.asked != nil && !slices.Equal(got, c.asked) {
				t.Errorf("asked for %q\nwant      %q", got, c.asked)
			}
		})
	}
}

// TestTagsCache: a cached answer is used only for the same choice among the releases.
func TestTagsCache(t *testing.T) {
	g := newGitHubServer(ofApp("app/v1.2.3", "v1.2.3"), prerelease(ofApp("app/v1.3.0", "v1.3.0")), ofApp("cli/v7.0.0", "v7.0.0"))
	b := onGitHub(t, serve(t, g))
	b.target.Source.Asset = "app_{version}.tar.gz"
	for _, c := range []struct {
		prefix      string
		prereleases bool
		want        string
		cached      bool
	}{{"app/", false, "v1.2.3", false}, {"app/", false, "v1.2.3", true}, {"app/", true, "v1.3.0", false}, {"cli/", true, "v7.0.0", false}, {"cli/", false, "v7.0.0", false}} {
		b.target.Source.TagPrefix, b.target.Source.Prereleases = c.prefix, c.prereleases
		n := len(g.Requests())
		a := b.run(t, b.order(state.VerbCheck, "v1"))
		if a.Result != state.ResultAvailable || a.Version != c.want {
			t.Errorf("%+v: %+v", c, a)
		}
		if got := g.Requests()[n].Header.Get("If-None-Match"); (got != "") != c.cached {
			t.Errorf("%+v: asked with the ETag %q", c, got)
		}
	}
}

// TestUploading: a file whose upload is not finished is not there yet, which is no failure.
func TestUploading(t *testing.T) {
	uploading := func(state string, more ...releases.Asset) releases.Tagged {
		return releases.Tagged{Tag: "build-18", Assets: append(more, releases.Asset{Name: archiveName, Content: payload, State: state})}
	}
	document := marshal(t, edit(release1(), func(p *manifest.Platform) { p.File = archiveName }))
	for _, c := range []struct {
		name    string
		release releases.Tagged
		text    string // "": the archive is handed on
	}{
		{"starter", uploading("starter"), "release build-18 of the-owner/agent is not complete yet: the upload of agent-build-18.tar.gz is not finished"},
		{"open", uploading("open"), "the upload of agent-build-18.tar.gz is not finished"},
		{"beside another that fits", uploading("open", releases.Digested("agent-linux-mips.tar.gz", []byte("x"))), "the upload of agent-build-18.tar.gz is not finished"},
		{"the checksum file", undigested(releases.Asset{Name: "checksums.txt", Content: []byte(payloadSum), State: "open"}), "the upload of checksums.txt is not finished"},
		{"the manifest", build18(releases.Asset{Name: "client-manifest.json", Content: document, State: "open"}), "the upload of client-manifest.json is not finished"},
		{"no file yet", releases.Tagged{Tag: "build-18"}, "release build-18 of the-owner/agent is not complete yet: it has no files"},
		{"a file that is not needed", build18(releases.Asset{Name: "agent.rpm", State: "starter"}), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGitHubServer(releases.Tagged{Tag: "build-17"}, c.release)
			b := onGitHub(t, serve(t, g))
			order := b.order(state.VerbApply, "build-17")
			order.Origin = state.OriginSchedule
			a := b.run(t, order)
			if c.text == "" {
				b.brought(t, a, theManifest(t))
				return
			}
			b.mustFail(t, a, state.ResultNotAttempted, c.text)
			if again := b.run(t, order); again.Result != a.Result || again.Reason != a.Reason { // by the cached answer
				t.Errorf("then %s: %s", again.Result, again.Reason)
			}
			// The next run, without a pause, takes the complete release.
			g.Publish(build18())
			b.brought(t, b.run(t, order), theManifest(t))
		})
	}
}

// TestMoved: a repository under a new name is found by the old one, with a warning.
func TestMoved(t *testing.T) {
	const warning = `the-owner/agent has moved to "new-owner/the-agent" (hint: set source.repo, before another publisher takes the old name)`
	moved := func(r ...releases.Tagged) *releases.GitHub {
		g := newGitHubServer(r...)
		g.Repo, g.Old = "new-owner/the-agent", "the-owner/agent"
		return g
	}
	t.Run("public", func(t *testing.T) {
		g := moved(build18())
		b := onGitHub(t, serve(t, g))
		for range 2 { // the second time by the cached answer
			a := b.run(t, b.order(state.VerbApply, "build-17"))
			b.brought(t, a, theManifest(t))
			if a.Warning != warning {
				t.Errorf("warning %q", a.Warning)
			}
		}
	})
	t.Run("a list", func(t *testing.T) {
		b := onGitHub(t, serve(t, moved(append([]releases.Tagged{ofApp("app/v1.2.3", "v1.2.3")}, nightlies(150)...)...)))
		b.target.Source.TagPrefix = "app/"
		if a := b.run(t, b.order(state.VerbApply, "v1")); a.Result != state.ResultHandedOn || a.Version != "v1.2.3" || a.Warning != warning {
			t.Errorf("%+v", a)
		}
	})
	t.Run("limited", func(t *testing.T) {
		g := moved(undigested(sums(payloadSum)))
		g.Limit(http.StatusForbidden, http.Header{"Retry-After": {"60"}})
		b := onGitHub(t, serve(t, g))
		b.brought(t, b.run(t, b.order(state.VerbApply, "build-17")), theManifest(t))
	})
	t.Run("another way to write it", func(t *testing.T) {
		g := newGitHubServer(build18())
		g.Repo, g.Old = "The-Owner/Agent", "the-owner/agent"
		b := onGitHub(t, serve(t, g))
		if a := b.run(t, b.order(state.VerbApply, "build-17")); a.Result != state.ResultHandedOn || a.Warning != "" {
			t.Errorf("%+v", a)
		}
	})
	t.Run("private", func(t *testing.T) {
		handOver(t, "ghp_hunter2\n")
		g := moved(build18())
		g.Token = "ghp_hunter2"
		b := onGitHub(t, serve(t, g))
		b.target.Source.TokenFile = "/etc/agent/token"
		b.brought(t, b.run(t, b.order(state.VerbApply, "build-17")), theManifest(t))
	})
	// A redirect to another server gets no token, so it does not find a private repository.
	t.Run("to another server", func(t *testing.T) {
		handOver(t, "ghp_hunter2\n")
		elsewhere := moved(build18())
		elsewhere.Token = "ghp_hunter2"
		there := serveOn(t, httptest.NewUnstartedServer(elsewhere), &tls.Config{})
		api := serveTLS(t, site{"/repos/the-owner/agent/releases/latest": redirect(there + "/repositories/1/releases/latest")})
		b := onGitHub(t, api)
		b.target.Source.TokenFile = "/etc/agent/token"
		b.mustFail(t, b.run(t, b.order(state.VerbApply, "build-17")), state.ResultNotDownloaded, "and did not come from there")
		if n := len(elsewhere.Requests()); n != 1 {
			t.Errorf("%d requests", n)
		}
		for _, r := range elsewhere.Requests() {
			if got := r.Header.Get("Authorization"); got != "" {
				t.Errorf("%s with %s", r.URL.Path, got)
			}
		}
	})
	t.Run("hostile pages", func(t *testing.T) {
		for _, page := range []string{"", "%", "https://x/releases/tag/v1", "https://x/" + strings.Repeat("a", 4000) + "/b/releases/tag/v1", "https://x/a/b\\u001b[31m%0a/releases/tag/v1"} {
			answer := `{"tag_name":"build-18","html_url":"` + page + `","assets":[{"name":"a.tar.gz","size":3,"digest":"sha256:` + strings.Repeat("ab", 32) + `"}]}`
			b := onGitHub(t, serve(t, site{"/repos/the-owner/agent/releases/latest": bytesHandler([]byte(answer))}))
			a := b.run(t, b.order(state.VerbCheck, "build-17"))
			if a.Result != state.ResultAvailable || len(a.Warning) > 400 || strings.ContainsAny(a.Warning, "\n\x1b") {
				t.Errorf("%s: %+v", page, a)
			}
		}
	})
}
