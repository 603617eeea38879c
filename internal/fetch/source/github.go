package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// github is a release of a repository on GitHub, or on a server with the same API. The
// API's description of the release becomes a manifest, unless the release has a manifest
// among its files.
//
// If source.versions has bounds, the release is the highest one in the list that fits, and
// not the latest.
//
// The API answers sixty requests per hour and address without a token. When it refuses
// more, GitHub's public web pages are enough if the release has its own manifest or a file
// of digests: they show where the latest release is, and its files. The manifest made of
// these has the same bytes. Without such a file, the attempt waits for the API.
type github struct {
	download.Client // url is the API's, for the release
	target          string
	site            *url.URL
	source          target.Source
	token           string // "" for none
	cache           cache

	offline bool // the API accepts no more requests
	etag    string
	release *published
}

func newGitHub(t *target.Target, dir string, l download.Limits) (*github, error) {
	c, err := download.NewClient(t, t.Source.URL, l)
	if err != nil {
		return nil, err
	}
	g := &github{Client: c, target: t.Name, site: siteOf(c.URL), source: t.Source}
	g.URL = c.URL.JoinPath("repos", t.Source.Repo, "releases")
	switch {
	case t.Source.Tag != "":
		g.URL = g.URL.JoinPath("tags", t.Source.Tag)
	case g.ranged():
		g.URL.RawQuery = "per_page=" + perPage
	default:
		g.URL = g.URL.JoinPath("latest")
	}
	g.cache = cache{dir: dir, url: g.cacheKey(), insecure: c.Anybody,
		usable: func(b []byte) bool { _, err := parsePublished(b); return err == nil }}
	if t.Source.TokenFile != "" {
		g.token, err = readToken(t.Name)
	}
	return g, err
}

// siteOf returns the address of the web pages of an API: https://github.com for
// https://api.github.com, https://HOST for a server's https://HOST/api/v3.
func siteOf(api *url.URL) *url.URL {
	site := &url.URL{Scheme: api.Scheme, Host: api.Host}
	if strings.Trim(api.Path, "/") == "" {
		site.Host = strings.TrimPrefix(api.Host, "api.")
	}
	return site
}

// name returns the release's name for messages.
func (g *github) name() string { return "release " + g.release.Tag + " of " + g.source.Repo }

func (g *github) Manifest(ctx context.Context) ([]byte, string, error) {
	ctx, cancel := g.Limits.Brief(ctx)
	defer cancel()
	known := g.cache.load()
	err := g.askAPI(ctx, known)
	limit := err
	if _, g.offline = errors.AsType[*download.RateLimit](err); g.offline {
		err = g.askSite(ctx, known)
	}
	var raw []byte
	if err == nil {
		raw, err = g.document(ctx)
	}
	if err != nil {
		if unfit, ok := errors.AsType[*unfit](err); ok && g.offline {
			err = state.NotDownloaded("%w; meanwhile %s%s", limit, unfit.problem, g.limitHint())
		} else if g.offline && state.ResultOf(err) == state.ResultNotDownloaded {
			err = limit
		}
		return nil, "", err
	}
	return raw, g.name(), nil
}

// limitHint returns the hint about a limit that a token raises.
func (g *github) limitHint() string {
	if g.token != "" {
		return ""
	}
	return " (hint: with source.token_file the API takes more requests)"
}

// askAPI finds the release at the API.
func (g *github) askAPI(ctx context.Context, known cached) error {
	resp, err := g.askFor(ctx, g.URL, known.ETag)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified && known.ETag != "" {
		g.etag = known.ETag
		g.release, err = parsePublished(known.Body)
		return err
	}
	if err := download.Whole(resp); err != nil {
		if resp.StatusCode == http.StatusNotFound {
			err = state.NotDownloaded("%w (hint: is source.repo right, has it a release, and is it public, or source.token_file set?)", err)
		}
		return g.Unusable(ctx, resp, err)
	}
	if g.ranged() {
		g.release, err = g.highest(ctx, resp)
	} else {
		g.release, err = g.only(resp)
	}
	if state.ResultOf(err) == state.ResultNotAttempted {
		return err // the answer was downloaded without error
	}
	if err != nil {
		return g.Unusable(ctx, resp, err)
	}
	if old, err := parsePublished(known.Body); err == nil {
		g.release.remember(old)
	}
	g.etag = resp.Header.Get("ETag")
	return g.store()
}

// askFor sends a request to the API, for a changed answer only if etag is not "".
func (g *github) askFor(ctx context.Context, u *url.URL, etag string) (*http.Response, error) {
	header := unless(etag)
	header.Set("Accept", "application/vnd.github+json")
	header.Set("X-GitHub-Api-Version", "2022-11-28")
	g.authorize(header)
	return g.Ask(ctx, http.MethodGet, u, header, g.SafeHop)
}

// only reads the answer about one release.
func (g *github) only(resp *http.Response) (*published, error) {
	body, err := readSmall(resp.Body, maxAnswer)
	if err != nil {
		return nil, err
	}
	p, err := parsePublished(body)
	if err == nil && g.source.Tag != "" && p.Tag != g.source.Tag {
		err = state.Refused("it is about another tag, %s", p.Tag)
	}
	return p, err
}

// askSite finds the release's tag at the web pages if the API does not answer. What the
// API said earlier of that release is still used.
func (g *github) askSite(ctx context.Context, known cached) error {
	tag := g.source.Tag
	latest := g.site.JoinPath(g.source.Repo, "releases/latest")
	if tag == "" {
		resp, err := g.Ask(ctx, http.MethodGet, latest, nil, func(to *url.URL) error {
			if err := g.SafeHop(to); err != nil {
				return err
			}
			if _, t, ok := strings.Cut(to.Path, "/releases/tag/"); ok {
				tag = t
				return http.ErrUseLastResponse
			}
			return nil
		})
		if err != nil {
			return err
		}
		resp.Body.Close()
		if tag == "" {
			return g.Unusable(ctx, resp, errors.New("it does not lead to a release"))
		}
	}
	old, err := parsePublished(known.Body)
	if err == nil && (old.Tag == tag || g.ranged() && !g.better(tag, old.Tag)) {
		g.release = old
		return nil
	}
	if g.ranged() && !g.source.Versions.Has(tag) {
		return &unfit{problem: fmt.Sprintf("the latest release there, %.80q, is not in source.versions %q", tag, g.source.Versions)}
	}
	g.release = &published{Tag: tag}
	if err := g.release.check(); err != nil {
		return download.Failed(ctx, latest, err)
	}
	return nil
}

// store caches what is known of the release.
func (g *github) store() error {
	if g.etag == "" {
		return nil
	}
	body, err := json.Marshal(g.release)
	if err != nil {
		return fmt.Errorf("cannot keep the answer: %w", err)
	}
	return g.cache.store(body, g.etag)
}

// Learn records the digest of an archive that was published without one, if the operator
// accepts that. From then on the archive must have it, and a rejection is found by it.
func (g *github) Learn(r *Release, sum string) error {
	if !g.Anybody { // the release's own manifest has the placeholder as its digest
		return state.Refused("cannot use %s: its sha256 is %s, the manifest says %s", g.name(), sum, download.UnknownDigest)
	}
	if err := r.complete(sum); err != nil {
		return err
	}
	if a := g.release.asset(r.Platform.File); a != nil {
		a.Digest = digestPrefix + sum
		return g.store()
	}
	return nil
}

// document returns the release's manifest: the one among its files, or one made of the
// name, size and digest of the archive that the target uses.
func (g *github) document(ctx context.Context) ([]byte, error) {
	raw, err := g.small(ctx, manifest.FileName)
	if raw != nil || err != nil {
		return raw, err
	}
	var sums map[string]string
	if g.release.Assets == nil { // only the sum files list the names
		if sums, err = g.sums(ctx); err != nil {
			return nil, err
		}
	}
	name, err := g.choose(sums)
	if err != nil {
		return nil, err
	}
	p := manifest.Platform{File: name}
	if a := g.release.asset(name); a != nil {
		p.Size = a.Size
		p.SHA256 = a.sha256()
	} else if p.Size, err = g.size(ctx, name); err != nil {
		return nil, err
	}
	if p.SHA256 == "" && sums == nil {
		if sums, err = g.sums(ctx); err != nil {
			return nil, err
		}
	}
	if p.SHA256 == "" {
		p.SHA256 = sums[name]
	}
	if p.SHA256 == "" {
		if !g.Anybody {
			return nil, g.lacks(fmt.Sprintf("the sha256 of %s is known neither from the API nor from a %s", name, strings.Join(sumFiles, " or ")),
				fmt.Sprintf("its publisher can add one; machinemon-update import %s FILE#sha256=DIGEST takes an archive whose digest you know from elsewhere", g.target))
		}
		p.SHA256 = download.UnknownDigest
	}
	m := manifest.Manifest{Schema: manifest.Schema, Version: g.release.Tag, Platforms: map[string]manifest.Platform{manifest.Host(): p}}
	return m.Marshal()
}

// lacks returns the error that the release lacks something that the target needs.
func (g *github) lacks(problem, hint string) error {
	return state.Refused("cannot use %s: %w", g.name(), &unfit{problem, hint})
}

// choose returns the name of the archive that the target uses.
func (g *github) choose(sums map[string]string) (string, error) {
	pattern := g.source.AssetPattern(manifest.Host(), g.release.Tag)
	names := slices.Sorted(maps.Keys(sums))
	if g.release.Assets != nil {
		names = nil
		for _, a := range g.release.Assets {
			names = append(names, a.Name)
		}
	} else if len(names) == 0 && !strings.ContainsAny(pattern, "*?[") {
		return pattern, nil
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		fits, err := path.Match(pattern, name)
		return err != nil || !fits
	})
	switch len(names) {
	case 0:
		if g.release.Assets == nil {
			return "", g.lacks("no file "+pattern+" of "+g.release.Tag+" is known", "set source.asset to its name")
		}
		return "", g.lacks("it has no file "+pattern, "set source.asset")
	case 1:
		return names[0], nil
	}
	return "", state.Refused("cannot use %s: it has %d files %s, among them %+.80q and %+.80q (hint: set source.asset, with {os}, {arch}, {machine}, {version} or {number})",
		g.name(), len(names), pattern, names[0], names[1])
}
