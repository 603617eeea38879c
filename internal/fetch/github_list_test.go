package fetch

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
	"github.com/machinemon/machinemon-update/internal/version"
)

func rangeOf(t *testing.T, text string) version.Range {
	t.Helper()
	r, err := version.ParseRange(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// taggedAs returns a release with an archive, and its digest for use without the API.
func taggedAs(tag string) releases.Tagged {
	return releases.Tagged{Tag: tag, Assets: []releases.Asset{releases.Digested("agent-"+tag+".tar.gz", payload),
		releases.Digested("checksums.txt", []byte(manifest.Digest(payload)+"  agent-"+tag+".tar.gz\n"))}}
}

func untaken(tag string, draft, prerelease bool) releases.Tagged {
	r := taggedAs(tag)
	r.Draft, r.Prerelease = draft, prerelease
	return r
}

// nightlies returns n releases whose tags have no order.
func nightlies(n int) (all []releases.Tagged) {
	for i := range n {
		all = append(all, releases.Tagged{Tag: fmt.Sprintf("nightly-%d", i)})
	}
	return all
}

// TestGitHubVersions checks that source.versions with bounds selects the highest release
// in the list that fits.
func TestGitHubVersions(t *testing.T) {
	testkit.Slow(t)
	const list = "/repos/the-owner/agent/releases"
	for _, c := range []struct {
		name     string
		releases []releases.Tagged // from the oldest to the newest
		set      func(t *target.Target)
		versions string
		limited  bool
		version  string
		result   state.Result // if no release is handed on
		text     string
		asked    []string
	}{
		{name: "the latest is of another line", releases: []releases.Tagged{taggedAs("v3.4.0"), taggedAs("v3.5.0"), taggedAs("v2.53.9")}, versions: ">=3, <4", version: "v3.5.0",
			asked: []string{list, "/download/v3.5.0/agent-v3.5.0.tar.gz"}},
		{name: "the highest, not the newest", releases: []releases.Tagged{taggedAs("v3.10.0"), taggedAs("v3.9.1")}, versions: ">=3", version: "v3.10.0"},
		{name: "no prerelease, no draft, no other product", releases: []releases.Tagged{taggedAs("release-3.5.0"), untaken("v3.6.0", false, true), taggedAs("v3.7.0-rc.1"),
			untaken("v3.8.0", true, false), taggedAs("app/v3.9.0"), taggedAs("build-82"), {Tag: "helm-chart-0.9.1"}}, versions: ">=3", version: "release-3.5.0",
			set: func(t *target.Target) { t.Source.Asset = "*.tar.gz" }},
		{name: "behind a hundred others", releases: append([]releases.Tagged{taggedAs("v3.5.0")}, nightlies(250)...), versions: ">=3", version: "v3.5.0",
			asked: []string{list, list, list, "/download/v3.5.0/agent-v3.5.0.tar.gz"}},
		{name: "a named tag", releases: []releases.Tagged{taggedAs("v3.4.0"), taggedAs("v3.5.0")}, versions: ">=3", version: "v3.4.0",
			set: func(t *target.Target) { t.Source.Tag = "v3.4.0" }, asked: []string{"/repos/tags/v3.4.0", "/download/v3.4.0/agent-v3.4.0.tar.gz"}},
		{name: "limited, the latest fits", releases: []releases.Tagged{taggedAs("v3.5.0")}, versions: ">=3", limited: true, version: "v3.5.0"},

		{name: "a named tag that does not fit", releases: []releases.Tagged{taggedAs("v3.4.0")}, versions: ">=4", set: func(t *target.Target) { t.Source.Tag = "v3.4.0" },
			result: state.ResultNotAttempted, text: `v3.4.0 is not in source.versions ">=4"`},
		{name: "nothing fits", releases: []releases.Tagged{taggedAs("v2.53.9"), taggedAs("build-82")}, versions: ">=3, <4",
			result: state.ResultNotAttempted, text: `none of the 2 newest releases of the-owner/agent is in source.versions ">=3, <4" (hint: source.tag names one that is older)`},
		{name: "nothing fits, on as many pages as are read", releases: append([]releases.Tagged{taggedAs("v3.5.0")}, nightlies(1000)...), versions: ">=3",
			result: state.ResultNotAttempted, text: "none of the 1000 newest releases"},
		{name: "no releases", versions: ">=3", result: state.ResultNotDownloaded, text: list + ": it has no release (hint: is source.repo right?)"},
		{name: "another repository", versions: ">=3", set: func(t *target.Target) { t.Source.Repo = "the-owner/else" }, result: state.ResultNotDownloaded, text: "404 Not Found (hint: is source.repo right"},
		{name: "limited, the latest does not fit", releases: []releases.Tagged{taggedAs("v3.5.0"), taggedAs("v2.53.9")}, versions: ">=3", limited: true,
			result: state.ResultNotDownloaded, text: `it takes no more requests until `},
		{name: "limited, and says why the latest will not do", releases: []releases.Tagged{taggedAs("v3.5.0"), taggedAs("v2.53.9")}, versions: ">=3", limited: true,
			result: state.ResultNotDownloaded, text: `; meanwhile the latest release there, "v2.53.9", is not in source.versions ">=3"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := newGitHubServer(c.releases...)
			if c.limited {
				g.Limit(http.StatusForbidden, http.Header{"Retry-After": {"60"}})
			}
			b := onGitHub(t, serve(t, g))
			b.target.Source.Versions = rangeOf(t, c.versions)
			if c.set != nil {
				c.set(b.target)
			}
			a := b.run(t, b.order(state.VerbApply, "v1"))
			if c.result != "" {
				b.mustFail(t, a, c.result, c.text)
				if c.limited != !a.RetryAfter.IsZero() {
					t.Errorf("%+v", a)
				}
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

// TestGitHubVersionsCache checks that a cached answer is used for its range only, and that
// it is used if the API does not answer.
func TestGitHubVersionsCache(t *testing.T) {
	g := newGitHubServer(taggedAs("v2.53.8"), taggedAs("v3.5.0"))
	b := onGitHub(t, serve(t, g))
	check := func(versions, want, etag string) {
		t.Helper()
		b.target.Source.Versions = rangeOf(t, versions)
		n := len(g.Requests())
		a := b.run(t, b.order(state.VerbCheck, "v1"))
		if a.Result != state.ResultAvailable || a.Version != want {
			t.Errorf("%s: %+v", versions, a)
		}
		if got := g.Requests()[n].Header.Get("If-None-Match"); (got != "") != (etag != "") {
			t.Errorf("%s: asked with the ETag %q", versions, got)
		}
	}
	check(">=3", "v3.5.0", "")
	check(">=3", "v3.5.0", "known")
	check("<3", "v2.53.8", "")
	check(">=2", "v3.5.0", "")
	g.Limit(http.StatusForbidden, http.Header{"Retry-After": {"60"}})
	check(">=2", "v3.5.0", "known")
	g.Publish(taggedAs("v2.53.9")) // the site's latest, but lower than what the API said
	check(">=2", "v3.5.0", "known")
	g.Publish(taggedAs("v3.6.0"))
	b.target.Source.Asset = "agent-{version}.tar.gz"
	check(">=2", "v3.6.0", "known")
	g.Publish(taggedAs("v1.0.0")) // not in the range, but the cached release is
	check(">=2", "v3.5.0", "known")
	g.Limit(0, nil)
	check(">=2", "v3.6.0", "known")
}

// TestGitHubVersionsHostile has hostile lists.
func TestGitHubVersionsHostile(t *testing.T) {
	testkit.Slow(t)
	for _, c := range []struct {
		name, answer string
		result       state.Result
		text         string
	}{
		{"a release", `{"tag_name":"v3.5.0","assets":[]}`, state.ResultRefused, "not a list of releases as GitHub's API describes one"},
		{"no JSON", "<html>\x1b[31m", state.ResultRefused, "not a list of releases"},
		{"nothing", "", state.ResultRefused, "not a list of releases"},
		{"null", "null", state.ResultNotDownloaded, "it has no release"},
		{"a list of nothing", `[null,{}]`, state.ResultNotAttempted, "none of the 2 newest"},
		{"other tags", `[{"tag_name":"../../3.5.0"},{"tag_name":"3.5.0\n\u001b[31m"},{"tag_name":"` + strings.Repeat("3.", 40) + `5"}]`, state.ResultNotAttempted, "none of the 3 newest"},
		{"bad files in a release that is not taken", `[{"tag_name":"v2.0.0","assets":[{"name":"../a"}]},{"tag_name":"v3.5.0","assets":[{"name":"a"}]}]`, state.ResultRefused, "release v3.5.0 of the-owner/agent: it has no file *.tar.gz"},
		{"bad files in the one that is", `[{"tag_name":"v3.5.0","assets":[{"name":"../a"}]}]`, state.ResultRefused, `has a file with the name "../a"`},
		{"half uploaded", `[{"tag_name":"v3.5.0","assets":[{"name":"a.tar.gz","state":"starter","size":1}]}]`, state.ResultNotAttempted, "the upload of a.tar.gz is not finished"},
		{"too long", `["` + strings.Repeat("x", 32<<20) + `"]`, state.ResultRefused, "a release that is larger than 4194304 bytes"},
		{"long in all", "[" + strings.Repeat(`{"x":"`+strings.Repeat("x", 1<<20)+`"},`, 33) + "{}]", state.ResultRefused, "larger than 33554432 bytes"},
		{"nothing but blanks", "[" + strings.Repeat(" ", 5<<20) + "]", state.ResultRefused, "a release that is larger than 4194304 bytes"},
		{"too many", "[" + strings.Repeat("{},", 1000) + "{}]", state.ResultRefused, "more than 1000 releases on one page"},
		{"too many files in one", `[{"tag_name":"v3.5.0","assets":[` + strings.Repeat("{},", 1000) + "{}]}]", state.ResultRefused, "more than 1000 files"},
		{"files that are no list", `[{"tag_name":"v3.5.0","assets":{}}]`, state.ResultRefused, "not a list of releases"},
		{"something behind", `[{"tag_name":"v2"}]{}`, state.ResultRefused, "not a list of releases"},
		{"no end", `[{"tag_name":"v2"}`, state.ResultRefused, "not a list of releases"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := onGitHub(t, serve(t, site{"/repos/the-owner/agent/releases": bytesHandler([]byte(c.answer))}))
			b.target.Source.Versions = rangeOf(t, ">=3")
			b.mustFail(t, b.run(t, b.order(state.VerbApply, "v1")), c.result, c.text)
		})
	}
	// A list without end is read up to the limits.
	t.Run("endless pages", func(t *testing.T) {
		n := 0
		b := onGitHub(t, serve(t, site{"/repos/the-owner/agent/releases": func(w http.ResponseWriter, r *http.Request) {
			n++
			w.Header().Set("Link", `<http://127.0.0.1:9/elsewhere>; rel="next"`)
			w.Write([]byte(`[{"tag_name":"v2"}]`))
		}}))
		b.target.Source.Versions = rangeOf(t, ">=3")
		b.mustFail(t, b.run(t, b.order(state.VerbApply, "v1")), state.ResultNotAttempted, "none of the 10 newest")
		if n != 10 {
			t.Errorf("%d pages were asked for", n)
		}
	})
}
