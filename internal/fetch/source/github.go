package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// github is a release of a repository on GitHub, or on a server with the same API, or with
// that of a [forge]. The
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
	forge           *forge // nil for GitHub

	// unsigned says that a manifest among the files counts nothing, because signatures are
	// of the checksums or the archive.
	unsigned bool

	offline bool // the API accepts no more requests
	etag    string
	release *published
}

func newGitHub(t *target.Target, dir string, l download.Limits) (*github, error) {
	c, err := download.NewClient(t, t.Source.URL, l)
	if err != nil {
		return nil, err
	}
	g := &github{Client: c, target: t.Name, site: siteOf(c.URL), source: t.Source, unsigned: t.Trust.ByVersion()}
	g.URL = c.URL.JoinPath("repos", t.Source.Repo, "releases")
	switch {
	case t.Source.Tag != "":
		g.URL = g.URL.JoinPath("tags", url.PathEscape(t.Source.Tag))
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
	if _, limited := errors.AsType[*download.RateLimit](err); limited && g.forge == nil {
		g.offline = true
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
	if g.ranged() || g.forge != nil && g.source.Tag == "" {
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
	if g.forge == nil {
		header.Set("Accept", "application/vnd.github+json")
		header.Set("X-GitHub-Api-Version", "2022-11-28")
	}
	g.authorize(header)
	return g.Ask(ctx, http.MethodGet, u, header, g.SafeHop)
}

// only reads the answer about one release.
func (g *github) only(resp *http.Response) (*published, error) {
	body, err := readSmall(resp.Body, maxAnswer)
	if err != nil {
		return nil, err
	}
	var p *published
	if g.forge == nil {
		p, err = parsePublished(body)
	} else if l, wrong := g.forge.parse(body); wrong != nil {
		err = wrong
	} else {
		p, err = l.clean()
	}
	if err == nil {
		err = g.checkTag(p.Tag)
	}
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
	if g.ranged() && !g.takes(tag) {
		return &unfit{problem: fmt.Sprintf("the latest release there, %+.80q, is not %s", tag, g.wanted())}
	}
	g.release = &published{Tag: tag}
	if err := g.checkTag(tag); err != nil {
		return download.Failed(ctx, latest, err)
	}
	return nil
}

// store caches what is known of the release.
func (g *github) store() error {
	if g.etag == "" && g.forge == nil { // not every forge sends one
		return nil
	}
	body, err := json.Marshal(g.release)
	if err != nil {
		return fmt.Errorf("cannot keep the answer: %w", err)
	}
	return g.cache.store(body, g.etag)
}

// Learn records the digest of an archive that was published without one, if the operator
// accepts that, or with a sha512 only, which the download has. From then on the archive must have it, and a rejection is found by it.
func (g *github) Learn(r *Release, sum string) error {
	// The release's own manifest may have the placeholder as its digest.
	if !g.Anybody && r.Platform.SHA512 == "" {
		return state.Refused("cannot use %s: its sha256 is %s, the manifest says %s", g.name(), sum, download.UnknownDigest)
	}
	if err := r.complete(sum); err != nil {
		return err
	}
	if a := g.release.asset(r.Platform.File); a != nil {
		a.Digest, a.SHA512 = digestPrefix+sum, r.Platform.SHA512
		return g.store()
	}
	return nil
}
