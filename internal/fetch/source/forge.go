package source

import (
	"encoding/json"
	"math"
	"net/http"
	"net/url"
	"path"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// A forge is what another server than GitHub has of its own: its addresses, its header for
// a token, and its description of a release. None of them publishes digests, and none has
// web pages that take the place of its API.
type forge struct {
	product string // for messages
	// list and byTag return paths below the API's address. list's first page begins with
	// the newest release.
	list  func(repo string) string
	byTag func(repo, tag string) string
	query string // of the list, for its greatest page
	token func(h http.Header, token string)
	// release parses the description of a release.
	release func(b []byte) (listed, error)
}

var forges = map[string]*forge{target.SourceForgejo: &forgejo, target.SourceGitLab: &gitlab}

// forgejo is the API of Forgejo and Gitea. Without a parameter it also lists prereleases,
// and drafts to those who may write.
var forgejo = forge{
	product: "Forgejo",
	list:    func(repo string) string { return "repos/" + repo + "/releases" },
	byTag:   func(repo, tag string) string { return "repos/" + repo + "/releases/tags/" + url.PathEscape(tag) },
	query:   "limit=50",
	token:   func(h http.Header, token string) { h.Set("Authorization", "token "+token) },
	release: func(b []byte) (l listed, err error) {
		var files struct {
			Assets few[struct {
				Address string `json:"browser_download_url"`
			}] `json:"assets"`
		}
		if err = json.Unmarshal(b, &l); err == nil {
			err = json.Unmarshal(b, &files)
		}
		for i := range l.Assets {
			l.Assets[i].URL = files.Assets[i].Address
			if l.Assets[i].Size == 0 {
				l.Assets[i].Size = unknownSize // an external asset is an address only
			}
		}
		return l, err
	},
}

// gitlab is the API of GitLab. A release has links, with names that may be words, and
// neither sizes nor prereleases.
var gitlab = forge{
	product: "GitLab",
	list:    func(repo string) string { return "projects/" + url.PathEscape(repo) + "/releases" },
	byTag: func(repo, tag string) string {
		return "projects/" + url.PathEscape(repo) + "/releases/" + url.PathEscape(tag)
	},
	query: "per_page=" + perPage,
	token: func(h http.Header, token string) { h.Set("Private-Token", token) },
	release: func(b []byte) (l listed, err error) {
		var r struct {
			Tag      string `json:"tag_name"`
			Upcoming bool   `json:"upcoming_release"`
			Assets   struct {
				Links few[struct {
					Name string `json:"name"`
					URL  string `json:"url"`
				}] `json:"links"`
			} `json:"assets"`
		}
		err = json.Unmarshal(b, &r)
		l.Tag, l.Draft = r.Tag, r.Upcoming
		for _, link := range r.Assets.Links {
			name := link.Name
			if u, err := url.Parse(link.URL); err == nil && !manifest.ValidFile(name) {
				name = path.Base(u.Path)
			}
			l.Assets = append(l.Assets, asset{Name: name, Size: unknownSize, URL: link.URL})
		}
		return l, err
	},
}

// unknownSize is the size of a file that only its server knows.
const unknownSize = math.MinInt64

// newForge returns the releases of a repository on another server than GitHub.
func newForge(t *target.Target, dir string, l download.Limits) (*github, error) {
	g, err := newGitHub(t, dir, l)
	if err != nil {
		return nil, err
	}
	f := forges[t.Source.Type]
	api, err := url.Parse(t.Source.URL)
	if err != nil {
		return nil, state.Fail(state.ResultMisconfigured, "cannot fetch %s: source.api_url is not valid", t.Name)
	}
	g.forge, g.Linked = f, !t.Source.AllElsewhere()
	if t.Source.Tag != "" {
		g.URL = api.JoinPath(f.byTag(t.Source.Repo, t.Source.Tag))
	} else {
		g.URL = api.JoinPath(f.list(t.Source.Repo))
		g.URL.RawQuery = f.query
	}
	g.cache.url, g.cache.untagged = g.cacheKey(), true
	return g, nil
}

// parse parses the description of a release by this forge.
func (f *forge) parse(b []byte) (listed, error) {
	l, err := f.release(b)
	// The decoder's error is not used, because it quotes the input.
	if err != nil || l.Tag == "" {
		return listed{}, state.Refused("it is not a release as %s's API describes one", f.product)
	}
	return l, nil
}

// placeOnForge returns the address of a file of the release, and the header to request it with. A
// file may be anywhere: an external asset of Forgejo and a link of GitLab are addresses
// that the publisher wrote. Only the API's own server gets the token.
func (g *github) placeOnForge(name string) (*url.URL, http.Header, error) {
	a := g.release.asset(name)
	if a == nil {
		return nil, nil, state.Refused("cannot use %s: it has no file %.100s", g.name(), name)
	}
	u, err := url.Parse(a.URL)
	if err != nil || u.User != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, nil, state.Refused("cannot use %s: the address of its file %+.100q is not valid", g.name(), name)
	}
	if err := g.SafeHop(u); err != nil {
		return nil, nil, state.Refused("cannot use %s: its file %+.100q is at %.200s, which is not authenticated", g.name(), name, download.Show(u))
	}
	header := http.Header{}
	if download.Origin(u) == download.Origin(g.URL) {
		g.authorize(header)
	}
	return u, header, nil
}

// none returns the error that no release of a list is published and no prerelease.
func (g *github) none(seen int) error {
	return state.NotDownloaded("none of its %d newest releases is one to take: they are drafts, prereleases or planned for later (hint: source.tag names one)", seen)
}
