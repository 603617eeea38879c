package fetch

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

const archiveName = "agent-build-18.tar.gz"

// build18 returns a release as GitHub has them today, with more files.
func build18(more ...releases.Asset) releases.Tagged {
	return releases.Tagged{Tag: "build-18", Assets: append(more, releases.Digested(archiveName, payload),
		releases.Digested("agent.deb", []byte("a package")))}
}

// undigested returns a release from before GitHub published digests.
func undigested(more ...releases.Asset) releases.Tagged {
	return releases.Tagged{Tag: "build-18", Assets: append(more, releases.Asset{Name: archiveName, Content: payload})}
}

func sums(line string) releases.Asset {
	return releases.Digested("checksums.txt", []byte(line))
}

var payloadSum = manifest.Digest(payload) + "  " + archiveName + "\n"

// theManifest is the manifest that results from each way to build-18.
func theManifest(t *testing.T) string {
	return string(marshal(t, &manifest.Manifest{Schema: 1, Version: "build-18", Platforms: map[string]manifest.Platform{
		manifest.Host(): {File: archiveName, SHA256: manifest.Digest(payload), Size: int64(len(payload))},
	}}))
}

// onGitHub returns a machine whose target has its source on GitHub.
func onGitHub(t *testing.T, url string) *bench {
	b := newBench(t, url)
	b.target.Source = target.Source{Type: target.SourceGitHub, Repo: "the-owner/agent", Asset: "*.tar.gz", URL: url}
	b.target.Trust.Product = ""
	return b
}

func newGitHubServer(r ...releases.Tagged) *releases.GitHub {
	g := &releases.GitHub{Repo: "the-owner/agent"}
	for _, r := range r {
		g.Publish(r)
	}
	return g
}

// brought checks that an attempt handed on the payload with this manifest.
func (b *bench) brought(t *testing.T, a state.Attempt, wanted string) {
	t.Helper()
	if a.Result != state.ResultHandedOn {
		t.Fatalf("%s: %s", a.Result, a.Reason)
	}
	dir := filepath.Join(b.tree.Ready(state.RoleFetch, "agent"), string(a.ID))
	for name, want := range map[string]string{"payload": string(payload), "manifest.json": wanted} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %v\n%.2000s\nwant\n%.2000s", name, err, got, want)
		}
	}
	if a.Manifest != manifest.Digest([]byte(wanted)) {
		t.Errorf("the manifest is recorded as %s", a.Manifest)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

// asked lists the requests except those to the storage.
func asked(g *releases.GitHub) (paths []string) {
	for _, r := range g.Requests() {
		if !strings.HasPrefix(r.URL.Path, "/storage/") {
			paths = append(paths, strings.Replace(r.URL.Path, "the-owner/agent/releases/", "", 1))
		}
	}
	return paths
}

func TestGitHub(t *testing.T) {
	testkit.Slow(t)
	const spent = http.StatusForbidden
	document := marshal(t, edit(release1(), func(p *manifest.Platform) { p.File = archiveName }))
	with := func(p func(p *manifest.Platform)) releases.Tagged {
		return build18(releases.Digested("client-manifest.json", marshal(t, edit(release1(), p))))
	}
	another := releases.Digested("agent-linux-mips.tar.gz", []byte("not ours"))
	os, arch, _ := strings.Cut(manifest.Host(), "-")
	placed := releases.Tagged{Tag: "build-18", Assets: []releases.Asset{another,
		releases.Digested("agent-"+os+"-"+arch+"_build-18.tar.gz", payload)}}
	longSums := strings.Repeat(strings.Repeat("a", 64)+"  something-else\n", 10)

	for _, c := range []struct {
		name    string
		release releases.Tagged
		set     func(t *target.Target)
		limit   int         // status of the API's answer
		header  http.Header // of that answer; nil for one with Retry-After
		want    string      // the manifest; "" for theManifest
		result  state.Result
		text    string
		asked   []string
	}{
		{name: "the API tells the digest", release: build18(), asked: []string{"/repos/latest", "/download/build-18/" + archiveName}},
		{name: "and a list does, too", release: build18(sums("not asked for")), asked: []string{"/repos/latest", "/download/build-18/" + archiveName}},
		{name: "checksums.txt", release: undigested(sums(longSums + payloadSum)),
			asked: []string{"/repos/latest", "/download/build-18/checksums.txt", "/download/build-18/" + archiveName}},
		{name: "SHA256SUMS, binary mark, no newline at the end", release: undigested(releases.Digested("SHA256SUMS",
			[]byte(manifest.Digest(payload)+" *"+archiveName)))},
		{name: "both lists", release: undigested(sums(longSums), releases.Digested("SHA256SUMS", []byte(payloadSum)))},
		{name: "a list of older days itself", release: undigested(releases.Asset{Name: "checksums.txt", Content: []byte(payloadSum)})},
		{name: "the release's own manifest", release: build18(releases.Digested("client-manifest.json", document)), want: string(document),
			asked: []string{"/repos/latest", "/download/build-18/client-manifest.json", "/download/build-18/" + archiveName}},
		{name: "its product", release: build18(releases.Digested("client-manifest.json", document)), want: string(document),
			set: func(t *target.Target) { t.Trust.Product = "agent" }},
		{name: "one of several, by a glob", release: build18(another), set: func(t *target.Target) { t.Source.Asset = "agent-{version}.tar.*" }},
		{name: "one of several, by its name", release: build18(another), set: func(t *target.Target) { t.Source.Asset = archiveName }},
		{name: "a named tag", release: build18(), set: func(t *target.Target) { t.Source.Tag = "build-18" }, asked: []string{"/repos/tags/build-18", "/download/build-18/" + archiveName}},
		{name: "a named prerelease", release: releases.Tagged{Tag: "build-18", Prerelease: true, Assets: build18().Assets}, set: func(t *target.Target) { t.Source.Tag = "build-18" }},

		{name: "no digest", release: undigested(), result: state.ResultRefused, text: "cannot use release build-18 of the-owner/agent: no sha256 or sha512 of agent-build-18.tar.gz is known: the API states none, and it has no checksum file such as checksums.txt, SHA256SUMS or agent-build-18.tar.gz.sha256 (hint: "},
		{name: "another's digest", release: undigested(sums(longSums)), result: state.ResultRefused, text: "the API states none, and checksums.txt lists something-else, but not agent-build-18.tar.gz (hint: "},
		{name: "another kind of digest", release: releases.Tagged{Tag: "build-18", Assets: []releases.Asset{{Name: archiveName, Content: payload, Digest: "sha512:" + strings.Repeat("0", 128)}}}, result: state.ResultRefused, text: "no sha256 or sha512 of "},
		{name: "nobody's digest", release: releases.Tagged{Tag: "build-18", Assets: []releases.Asset{{Name: archiveName, Content: payload, Digest: "sha256:" + download.UnknownDigest}}}, result: state.ResultRefused, text: "its sha256 is"},
		{name: "no digest but something", release: releases.Tagged{Tag: "build-18", Assets: []releases.Asset{{Name: archiveName, Content: payload, Digest: "sha256:\x1b[31m"}}}, result: state.ResultRefused, text: "64 lower-case hex digits"},
		{name: "other bytes", release: undigested(sums(strings.Repeat("ab", 32) + "  " + archiveName + "\n")), result: state.ResultRefused, text: "its sha256 is"},
		{name: "a list that is none", release: undigested(sums("<html>\x1b[31m")), result: state.ResultRefused, text: "checksums.txt has no line of a known form (line 1 is none)"},
		{name: "a list with two digests", release: undigested(sums(payloadSum + strings.Repeat("ab", 32) + "  " + archiveName + "\n")), result: state.ResultRefused, text: "cannot use release build-18 of the-owner/agent: its checksums.txt has two different sha256 digests of agent-build-18.tar.gz, " + payloadSum[:64] + " and " + strings.Repeat("ab", 32)},
		{name: "a list with escaped names", release: undigested(sums("\\" + payloadSum)), result: state.ResultRefused, text: "no line of a known form"},
		{name: "two lists that differ", release: undigested(sums(payloadSum), releases.Digested("SHA256SUMS", []byte(strings.Repeat("ab", 32)+"  "+archiveName))), result: state.ResultRefused, text: "its SHA256SUMS has the sha256 " + strings.Repeat("ab", 32) + " of agent-build-18.tar.gz, a checksum file before it " + payloadSum[:64]},
		{name: "an endless list", release: undigested(sums(strings.Repeat(payloadSum, 20_000))), result: state.ResultRefused, text: "larger than 1048576 bytes"},
		{name: "an altered list", release: undigested(releases.Asset{Name: "checksums.txt", Content: []byte(payloadSum), Digest: "sha256:" + strings.Repeat("ab", 32)}), result: state.ResultRefused, text: "its sha256 is"},

		{name: "several files match", release: build18(another), result: state.ResultRefused, text: `it has 2 files *.tar.gz, among them "agent-linux-mips.tar.gz" and "agent-build-18.tar.gz" (hint: set source.asset, with {os}, {arch}, {machine}, {version} or {number})`},
		{name: "no file matches", release: build18(), set: func(t *target.Target) { t.Source.Asset = "*.zip" }, result: state.ResultRefused, text: "it has no file *.zip; it has "},
		{name: "another product", release: build18(), set: func(t *target.Target) { t.Trust.Product = "agent" }, result: state.ResultRefused, text: `it is of product ""`},
		{name: "a manifest that names another server", release: with(func(p *manifest.Platform) { p.File = "https://198.51.100.7/" + archiveName }), result: state.ResultRefused, text: "an archive that is not among its files"},
		{name: "a manifest that names a file that is not there", release: with(func(p *manifest.Platform) {}), result: state.ResultNotDownloaded, text: "/download/build-18/agent.tar.gz: the server answered 404"},
		{name: "a manifest that is none", release: build18(releases.Digested("client-manifest.json", []byte("<html>"))), result: state.ResultRefused, text: "cannot use release build-18"},
		{name: "an empty manifest", release: build18(releases.Digested("client-manifest.json", nil)), result: state.ResultRefused, text: "it is empty"},
		{name: "only a prerelease", release: releases.Tagged{Tag: "build-18", Prerelease: true, Assets: build18().Assets}, result: state.ResultNotDownloaded, text: "404 Not Found (hint: is source.repo right"},
		{name: "another tag", release: build18(), set: func(t *target.Target) { t.Source.Tag = "build-16" }, result: state.ResultNotDownloaded, text: "/tags/build-16: the server answered 404"},

		// These are without the API.
		{name: "limited, checksums.txt", release: undigested(sums(payloadSum)), limit: spent,
			asked: []string{"/repos/latest", "/latest", "/download/build-18/client-manifest.json", "/download/build-18/checksums.txt",
				"/download/build-18/SHA256SUMS", "/download/build-18/sha256sums.txt", "/download/build-18/SHA256SUMS.txt", "/download/build-18/SHA512SUMS",
				"/download/build-18/agent_build-18_checksums.txt", "/download/build-18/" + archiveName, "/download/build-18/" + archiveName}},
		{name: "limited, SHA256SUMS", release: undigested(releases.Digested("SHA256SUMS", []byte(payloadSum))), limit: http.StatusTooManyRequests},
		{name: "limited, its own manifest", release: build18(releases.Digested("client-manifest.json", document)), want: string(document), limit: spent,
			asked: []string{"/repos/latest", "/latest", "/download/build-18/client-manifest.json", "/download/build-18/" + archiveName}},
		{name: "limited, a named tag", release: undigested(sums(payloadSum)), limit: spent, set: func(t *target.Target) { t.Source.Tag = "build-18" }},
		{name: "limited, no list", release: build18(), limit: spent, result: state.ResultNotDownloaded, text: "; meanwhile no file *.tar.gz of build-18 is known (hint: with source.token_file the API takes more requests)"},
		{name: "limited, no list, a name", release: build18(), limit: spent, set: func(t *target.Target) { t.Source.Asset = "agent-{version}.tar.gz" }, result: state.ResultNotDownloaded, text: "the server answered 403 Forbidden: it takes no more requests until "},
		{name: "too many, no time", release: build18(), limit: http.StatusTooManyRequests, header: http.Header{}, set: func(t *target.Target) { t.Source.Asset = "agent-{version}.tar.gz" }, result: state.ResultNotDownloaded, text: "the server answered 429 Too Many Requests: it takes no more requests until "},
		{name: "limited, another's digest", release: undigested(sums(longSums)), limit: spent, set: func(t *target.Target) { t.Source.Asset = "agent-{version}.tar.gz" }, result: state.ResultNotDownloaded, text: "; meanwhile no file agent-build-18.tar.gz of build-18 is known (hint: "},
		{name: "limited, several match", release: build18(another, sums(payloadSum+strings.Repeat("ab", 32)+"  a.tar.gz\n")), limit: spent, result: state.ResultRefused, text: `among them "a.tar.gz" and "agent-build-18.tar.gz"`},
		{name: "limited, only a prerelease", release: releases.Tagged{Tag: "build-18", Prerelease: true}, limit: spent, result: state.ResultNotDownloaded, text: "/repos/the-owner/agent/releases/latest: the server answered 403 Forbidden: it takes no more requests until "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := newGitHubServer(releases.Tagged{Tag: "build-17"}, c.release)
			if c.release.Prerelease {
				g = newGitHubServer(c.release)
			}
			if c.limit != 0 {
				if c.header == nil {
					c.header = http.Header{"Retry-After": {"60"}}
				}
				g.Limit(c.limit, c.header)
			}
			b := onGitHub(t, serve(t, g))
			if c.set != nil {
				c.set(b.target)
			}
			a := b.run(t, b.order(state.VerbApply, "build-17"))
			if c.result != "" {
				b.mustFail(t, a, c.result, c.text)
				if c.limit != 0 && c.result == state.ResultNotDownloaded && a.RetryAfter.Before(a.Time.Add(50*time.Second)) {
					t.Errorf("it may be asked again at %s", a.RetryAfter)
				}
				if strings.Contains(a.Reason, "allow_unauthenticated") {
					t.Errorf("a hint gives up authentication: %s", a.Reason)
				}
				return
			}
			if c.want == "" {
				c.want = theManifest(t)
			}
			b.brought(t, a, c.want)
			if got := asked(g); c.asked != nil && !slices.Equal(got, c.asked) {
				t.Errorf("asked for %q\nwant      %q", got, c.asked)
			}
		})
	}

	t.Run("by platform and version", func(t *testing.T) {
		b := onGitHub(t, serve(t, newGitHubServer(placed)))
		b.target.Source.Asset = "agent-{os}-{arch}_{version}.tar.gz"
		if a := b.run(t, b.order(state.VerbApply, "build-17")); a.Result != state.ResultHandedOn || a.Version != "build-18" {
			t.Errorf("%+v", a)
		}
	})
	t.Run("already current", func(t *testing.T) {
		b := onGitHub(t, serve(t, newGitHubServer(build18())))
		if a := b.run(t, b.order(state.VerbApply, "build-18")); a.Result != state.ResultCurrent {
			t.Errorf("%+v", a)
		}
	})
}

// TestGitHubHostile has hostile answers of the API.
func TestGitHubHostile(t *testing.T) {
	answer := func(tag string, names ...string) http.HandlerFunc {
		var assets []any
		for _, n := range names {
			assets = append(assets, map[string]any{"name": n, "size": 3, "digest": "sha256:" + strings.Repeat("ab", 32)})
		}
		b, err := json.Marshal(map[string]any{"tag_name": tag, "assets": assets, "more": []any{nil, map[string]any{}}})
		if err != nil {
			t.Fatal(err)
		}
		return bytesHandler(b)
	}
	many := make([]string, 1000+1)
	for i := range many {
		many[i] = fmt.Sprintf("%d.zip", i)
	}
	text := func(s string) http.HandlerFunc { return bytesHandler([]byte(s)) }
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		result state.Result
		text   string
	}{
		{"good but for the download", answer("build-18", "a.tar.gz"), state.ResultNotDownloaded, "/the-owner/agent/releases/download/build-18/a.tar.gz: the server answered 404"},
		{"a path", answer("build-18", "a.tar.gz", "../a"), state.ResultRefused, `has a file with the name "../a"`},
		{"a parent", answer("build-18", "a.tar.gz", ".."), state.ResultRefused, `the name ".."`},
		{"no name", answer("build-18", "a.tar.gz", ""), state.ResultRefused, `the name ""`},
		{"a backslash", answer("build-18", `..\a.tar.gz`), state.ResultRefused, `the name "..\\a.tar.gz"`},
		{"control characters", answer("build-18", "a\x1b[31m\n.tar.gz"), state.ResultRefused, `the name "a\x1b[31m\n.tar.gz"`},
		{"a long name", answer("build-18", strings.Repeat("a", 300)), state.ResultRefused, "the name"},
		{"a name that is no file of a manifest", answer("build-18", "ä ö.tar.gz"), state.ResultRefused, "must be a plain file name"},
		{"a query as a name", answer("build-18", "a?b#.tar.gz"), state.ResultRefused, "must be a plain file name"},
		{"the same name twice", answer("build-18", "a.tar.gz", "a.tar.gz"), state.ResultRefused, "has two files a.tar.gz"},
		{"too many files", answer("build-18", many...), state.ResultRefused, "more than 1000 files"},
		{"no files", answer("build-18"), state.ResultNotAttempted, "release build-18 of the-owner/agent is not complete yet: it has no files"},
		{"no tag", answer("", "a.tar.gz"), state.ResultRefused, "not a release as GitHub's API describes one"},
		{"a path as a tag", answer("../../x", "a.tar.gz"), state.ResultRefused, `its tag "../../x" is no version`},
		{"a slash in the tag", answer("release/1", "a.tar.gz"), state.ResultRefused, "is no version"},
		{"control characters in the tag", answer("1\r\nx: y", "a.tar.gz"), state.ResultRefused, `its tag "1\r\nx: y"`},
		{"not JSON", text("<html>\x1b[31m"), state.ResultRefused, "not a release as"},
		{"nothing", text(""), state.ResultRefused, "not a release as"},
		{"a list", text("[]"), state.ResultRefused, "not a release as"},
		{"a string for a size", text(`{"tag_name":"x","assets":[{"size":"1"}]}`), state.ResultRefused, "not a release as"},
		{"a size beyond all", text(`{"tag_name":"x","assets":[{"size":1e99}]}`), state.ResultRefused, "not a release as"},
		{"something behind", text(`{"tag_name":"x"}{}`), state.ResultRefused, "not a release as"},
		{"deep", text(strings.Repeat("[", 20_000)), state.ResultRefused, "not a release as"},
		{"no size", text(`{"tag_name":"x","assets":[{"name":"a.tar.gz","digest":"sha256:` + strings.Repeat("ab", 32) + `"}]}`), state.ResultRefused, "size: must be a plain whole number from 1"},
		{"below zero", text(`{"tag_name":"x","assets":[{"name":"a.tar.gz","size":-1,"digest":"sha256:` + strings.Repeat("ab", 32) + `"}]}`), state.ResultRefused, "size: must be a plain whole number from 1"},
		{"half uploaded", text(`{"tag_name":"x","assets":[{"name":"a.tar.gz","state":"starter","size":1}]}`), state.ResultNotAttempted, "release x of the-owner/agent is not complete yet: the upload of a.tar.gz is not finished"},
		{"endless", endless, state.ResultRefused, "larger than 4194304 bytes"},
		{"elsewhere", redirect("http://127.0.0.1:9/"), state.ResultRefused, "which is not authenticated"},
		{"403 without a limit", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-RateLimit-Remaining", "12")
			w.Header().Set("X-RateLimit-Reset", "1")
			w.WriteHeader(http.StatusForbidden)
		}, state.ResultNotDownloaded, "answered 403 Forbidden"},
		{"500", status(500), state.ResultNotDownloaded, "answered 500"},
		{"unsolicited 304", status(304), state.ResultNotDownloaded, "answered 304"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := onGitHub(t, serve(t, site{"/repos/the-owner/agent/releases/latest": c.answer}))
			b.mustFail(t, b.run(t, b.order(state.VerbApply, "build-17")), c.result, c.text)
		})
	}
	t.Run("another tag than the one asked for", func(t *testing.T) {
		b := onGitHub(t, serve(t, site{"/repos/the-owner/agent/releases/tags/build-1": answer("build-18", "a.tar.gz")}))
		b.target.Source.Tag = "build-1"
		b.mustFail(t, b.run(t, b.order(state.VerbApply, "")), state.ResultRefused, "about another tag, build-18")
	})
	t.Run("a redirect to the tag on another server", func(t *testing.T) {
		b := onGitHub(t, serve(t, site{"/repos/the-owner/agent/releases/latest": status(429),
			"/the-owner/agent/releases/latest": redirect("http://127.0.0.1:9/the-owner/agent/releases/tag/x")}))
		b.mustFail(t, b.run(t, b.order(state.VerbApply, "")), state.ResultRefused, "which is not authenticated")
	})
	t.Run("a tag that is none behind the redirect", func(t *testing.T) {
		b := onGitHub(t, serve(t, site{"/repos/the-owner/agent/releases/latest": status(429),
			"/the-owner/agent/releases/latest": redirect("/the-owner/agent/releases/tag/a%2f..%2f..%2fb")}))
		b.mustFail(t, b.run(t, b.order(state.VerbApply, "")), state.ResultRefused, `its tag "a/../../b"`)
	})
}

// TestGitHubUndigested checks that an archive without digest needs allow_unauthenticated,
// and that later downloads must be the same.
func TestGitHubUndigested(t *testing.T) {
	g := newGitHubServer(undigested())
	b := onGitHub(t, serve(t, g))
	b.target.Trust.AllowUnauthenticated = true
	if a := b.run(t, b.order(state.VerbCheck, "build-17")); a.Result != state.ResultAvailable || len(g.Requests()) != 1 {
		t.Errorf("a check asked for %q: %+v", asked(g), a)
	}
	b.brought(t, b.run(t, b.order(state.VerbApply, "build-17")), theManifest(t))

	// The digest is now known, so a check finds the rejection.
	if err := b.tree.SetStatus(state.RoleSwap, "agent", state.Status{Rejected: []state.Rejection{
		{Version: "build-18", Reason: "it did not answer", Archive: manifest.Digest(payload), Fingerprint: "x"}}}); err != nil {
		t.Fatal(err)
	}
	b.mustFail(t, b.run(t, b.order(state.VerbApply, "build-17")), state.ResultNotAttempted, "it was rejected")
	if err := b.tree.SetStatus(state.RoleSwap, "agent", state.Status{}); err != nil {
		t.Fatal(err)
	}
	g.Publish(releases.Tagged{Tag: "build-18", Assets: []releases.Asset{{Name: archiveName, Content: []byte(strings.Repeat("x", len(payload)))}}})
	b.mustFail(t, b.run(t, b.order(state.VerbApply, "build-17")), state.ResultRefused, "its sha256 is")
	g.Publish(undigested())
	b.brought(t, b.run(t, b.order(state.VerbApply, "build-17")), theManifest(t))

	b.target.Trust.AllowUnauthenticated = false
	b.mustFail(t, b.run(t, b.order(state.VerbApply, "build-17")), state.ResultRefused, "no sha256 or sha512 of ")

	// The same is true without the API.
	b = onGitHub(t, b.target.Source.URL)
	b.target.Trust.AllowUnauthenticated = true
	b.target.Source.Asset = "agent-{version}.tar.gz"
	g.Limit(429, http.Header{"Retry-After": {"60"}})
	b.brought(t, b.run(t, b.order(state.VerbApply, "build-17")), theManifest(t))
}

// TestGitHubCache checks that an unchanged answer is not sent again, and that the cached
// one is used if the API refuses.
func TestGitHubCache(t *testing.T) {
	g := newGitHubServer(build18())
	b := onGitHub(t, serve(t, g))
	b.run(t, b.order(state.VerbCheck, "build-17"))
	b.brought(t, b.run(t, b.order(state.VerbApply, "build-17")), theManifest(t))
	if got := g.Requests()[1].Header.Get("If-None-Match"); got == "" {
		t.Error("the second check was unconditional")
	}
	g.Limit(http.StatusForbidden, http.Header{"Retry-After": {"60"}})
	before := len(asked(g))
	b.brought(t, b.run(t, b.order(state.VerbApply, "build-17")), theManifest(t))
	if got, want := asked(g)[before:], []string{"/repos/latest", "/latest", "/download/build-18/" + archiveName}; !slices.Equal(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
	g.Publish(releases.Tagged{Tag: "build-19", Assets: build18().Assets})
	b.mustFail(t, b.run(t, b.order(state.VerbApply, "build-17")), state.ResultNotDownloaded, "; meanwhile no file *.tar.gz of build-19 is known")
	g.Limit(0, nil)
	if a := b.run(t, b.order(state.VerbCheck, "build-17")); a.Result != state.ResultAvailable || a.Version != "build-19" {
		t.Errorf("%+v", a)
	}
}

// TestRateLimit checks that unattended attempts wait as long as a server demands.
func TestRateLimit(t *testing.T) {
	reset := time.Now().Add(3 * time.Hour).Truncate(time.Second).UTC()
	g := newGitHubServer()
	g.Limit(http.StatusForbidden, http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {fmt.Sprint(reset.Unix())}})
	b := onGitHub(t, serve(t, g))
	b.target.CheckEvery = time.Hour
	scheduled := b.order(state.VerbApply, "build-17")
	scheduled.Origin, scheduled.Booted = state.OriginSchedule, true

	a := b.run(t, scheduled)
	b.mustFail(t, a, state.ResultNotDownloaded, "it takes no more requests until "+reset.Format("2006-01-02 15:04:05 UTC"))
	if !a.RetryAfter.Equal(reset) {
		t.Errorf("%+v", a)
	}
	scheduled.Attempt += "-2"
	b.mustFail(t, b.run(t, scheduled), state.ResultNotAttempted, "backing off until "+reset.Format("2006-01-02 15:04 UTC"))
	g.Limit(0, nil)
	g.Publish(build18())
	b.brought(t, b.run(t, b.order(state.VerbApply, "build-17")), theManifest(t)) // an operator need not wait
}
