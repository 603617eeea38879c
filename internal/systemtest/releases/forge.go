package releases

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Forge answers as Forgejo or GitLab does for one repository. Its files need the token, too,
// if the repository is private; GitLab redirects to a store, whose addresses are signed for
// GET alone.
type Forge struct {
	Repo    string // OWNER/NAME
	GitLab  bool
	Token   string // of a private repository: each request without it gets 404
	Storage string // GitLab: the address of another Forge that has the files; "" for this one

	mu       sync.Mutex
	releases []Tagged
	limit    http.Header // nil for no limit
	requests []*http.Request
}

// Publish adds a release, which is then the newest one.
func (f *Forge) Publish(r Tagged) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.releases = append(slices.DeleteFunc(f.releases, func(old Tagged) bool { return old.Tag == r.Tag }), r)
}

// Limit makes the server refuse every request with 429 and this header; nil ends that.
func (f *Forge) Limit(header http.Header) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limit = header
}

// Requests returns all requests so far.
func (f *Forge) Requests() []*http.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

// API returns the path of the API.
func (f *Forge) API() string {
	if f.GitLab {
		return "/api/v4"
	}
	return "/api/v1"
}

func (f *Forge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r.Clone(r.Context()))
	given, token := r.Header.Get("Authorization"), "token "+f.Token
	list, byTag, files := f.API()+"/repos/"+f.Repo+"/releases", f.API()+"/repos/"+f.Repo+"/releases/tags/", "/"+f.Repo+"/releases/download/"
	if f.GitLab {
		given, token = r.Header.Get("Private-Token"), f.Token
		list = f.API() + "/projects/" + url.PathEscape(f.Repo) + "/releases"
		byTag, files = list+"/", f.API()+"/projects/1/packages/generic/testd/"
	}
	path := r.URL.EscapedPath()
	if id, ok := strings.CutPrefix(path, "/storage/"); ok && f.GitLab {
		if r.Method != http.MethodGet {
			http.Error(w, "the signature does not match", http.StatusForbidden)
			return
		}
		f.file(w, r, id)
		return
	}
	switch {
	case f.limit != nil:
		maps.Copy(w.Header(), f.limit)
		w.WriteHeader(http.StatusTooManyRequests)
		return
	case f.Token != "" && given != token:
		say(w, http.StatusNotFound, map[string]any{"message": "404 Project Not Found"})
		return
	}
	if id, ok := strings.CutPrefix(path, files); ok {
		if f.GitLab {
			http.Redirect(w, r, f.Storage+"/storage/"+id+"?X-Amz-Signature=secret", http.StatusFound)
		} else {
			f.file(w, r, id)
		}
		return
	}
	at := "http://" + r.Host
	if r.TLS != nil {
		at = "https://" + r.Host
	}
	if path == list {
		f.answer(w, r, f.list(w.Header(), r, at+list, at+files))
		return
	}
	if tag, ok := strings.CutPrefix(path, byTag); ok && (!f.GitLab || tag != "") {
		for _, release := range f.releases {
			if url.PathEscape(release.Tag) == tag {
				f.answer(w, r, f.describe(release, at+files))
				return
			}
		}
	}
	say(w, http.StatusNotFound, map[string]any{"message": "404 Not found"})
}

// answer says v. Of the two servers only GitLab sends an ETag.
func (f *Forge) answer(w http.ResponseWriter, r *http.Request, v any) {
	if f.GitLab {
		b, _ := json.Marshal(v)
		etag := fmt.Sprintf(`W/"%x"`, sha256.Sum256(b))
		w.Header().Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	say(w, http.StatusOK, v)
}

// list returns a page of the list of releases, the one with the latest date first.
func (f *Forge) list(h http.Header, r *http.Request, list, files string) []any {
	size, per, most := "limit", 30, 50
	if f.GitLab {
		size, per, most = "per_page", 20, 100
	}
	if n, err := strconv.Atoi(r.URL.Query().Get(size)); err == nil && n > 0 {
		per = min(n, most)
	}
	page, _ := strconv.Atoi(cmp.Or(r.URL.Query().Get("page"), "1"))
	all := slices.Clone(f.releases)
	slices.Reverse(all)
	slices.SortStableFunc(all, func(a, b Tagged) int {
		return cmp.Compare(map[bool]int{true: 0, false: 1}[a.Upcoming], map[bool]int{true: 0, false: 1}[b.Upcoming])
	})
	all = slices.DeleteFunc(all, func(t Tagged) bool { return t.Draft && f.Token == "" })
	answer := []any{}
	for i, release := range all {
		if i >= (page-1)*per && i < page*per {
			answer = append(answer, f.describe(release, files))
		}
	}
	if len(all) > page*per {
		h.Set("Link", fmt.Sprintf(`<%s?%s=%d&page=%d>; rel="next"`, list, size, per, page+1))
	}
	return answer
}

func (f *Forge) describe(release Tagged, files string) map[string]any {
	assets := []any{}
	for i, a := range release.Assets {
		at := cmp.Or(a.At, files+url.PathEscape(release.Tag)+"/"+url.PathEscape(a.Name))
		if f.GitLab {
			assets = append(assets, map[string]any{"id": i, "name": cmp.Or(a.Label, a.Name), "url": at, "direct_asset_url": at, "link_type": "other"})
			continue
		}
		kind, size := "attachment", len(a.Content)
		if a.At != "" {
			kind, size = "external", 0
		}
		assets = append(assets, map[string]any{"id": i, "name": a.Name, "size": size, "download_count": 0, "created_at": "2026-11-01T12:00:00Z",
			"uuid": "c1f3fb2e-4f1b-4b0f-8f5f-1d0a4a0b7a11", "browser_download_url": at, "type": kind})
	}
	if f.GitLab {
		return map[string]any{"tag_name": release.Tag, "name": release.Tag, "description": "What is new",
			"created_at": "2026-11-01T11:00:00.000Z", "released_at": "2026-11-01T12:00:00.000Z", "upcoming_release": release.Upcoming,
			"assets": map[string]any{"count": len(assets) + 1, "links": assets,
				"sources": []any{map[string]any{"format": "tar.gz", "url": "https://gitlab.example.com/source.tar.gz"}}}}
	}
	return map[string]any{"id": 1, "tag_name": release.Tag, "target_commitish": "main", "name": release.Tag, "body": "What is new",
		"draft": release.Draft, "prerelease": release.Prerelease, "hide_archive_links": false,
		"created_at": "2026-11-01T12:00:00+01:00", "published_at": "2026-11-01T12:00:00+01:00", "assets": assets}
}

func (f *Forge) file(w http.ResponseWriter, r *http.Request, id string) {
	for _, release := range f.releases {
		for _, a := range release.Assets {
			if id == url.PathEscape(release.Tag)+"/"+url.PathEscape(a.Name) {
				w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(a.Content)))
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.Content))
				return
			}
		}
	}
	http.NotFound(w, r)
}
