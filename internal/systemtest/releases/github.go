package releases

import (
	"bytes"
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

// GitHub answers as GitHub does for one repository. The API, the web pages and the
// storage of the files are on one server. The zero value of each optional field stands
// for GitHub's usual behaviour.
type GitHub struct {
	Repo    string // OWNER/NAME
	Old     string // the name that the repository had before it was renamed; "" for none
	Token   string // the token of a private repository: each request without it gets 404
	Storage string // the address of another GitHub that serves the files, such as "https://127.0.0.1:1"; "" for this one

	mu        sync.Mutex
	releases  []Tagged
	limit     http.Header
	status    int
	downloads int
	requests  []*http.Request
}

// Tagged is a release on GitHub.
type Tagged struct {
	Tag        string
	Prerelease bool // a prerelease is never the latest release
	Draft      bool // a draft is never the latest release, and only requests with the token list it
	Upcoming   bool // of GitLab: its date is in the future, so it is the first of the list
	Assets     []Asset
}

// Asset is a file of a release.
type Asset struct {
	Name    string
	Content []byte
	Digest  string // as the API reports it; "" for null, as of files older than this feature
	State   string // "starter" or "open" while it is uploaded; "" for "uploaded"
	Label   string // the name of GitLab's link; "" for Name
	At      string // the address of a file that only a Forge links; "" for the Forge's own
}

// complete reports whether the whole file is there. Before, the API lists it without a
// digest, and it cannot be downloaded.
func (a Asset) complete() bool { return a.State == "" || a.State == "uploaded" }

// Digested returns a file whose digest the API reports.
func Digested(name string, content []byte) Asset {
	return Asset{Name: name, Content: content, Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(content))}
}

// Publish adds a release, or replaces the one with the same tag.
func (g *GitHub) Publish(r Tagged) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.releases = append(slices.DeleteFunc(g.releases, func(old Tagged) bool { return old.Tag == r.Tag }), r)
}

// Latest returns the newest release that is not a prerelease.
func (g *GitHub) Latest() Tagged {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.releases[g.latest()]
}

// Limit makes the API refuse every request with this status and header, as it does after
// too many requests. The status 0 ends the refusal.
func (g *GitHub) Limit(status int, header http.Header) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.status, g.limit = status, header
}

// Requests returns all requests so far.
func (g *GitHub) Requests() []*http.Request {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.requests)
}

func (g *GitHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.requests = append(g.requests, r.Clone(r.Context()))
	if rest, ok := strings.CutPrefix(r.URL.Path, "/storage/"); ok { // GitHub's real addresses of files are valid for five minutes and need no token
		g.file(w, r, rest)
		return
	}
	path := r.URL.Path
	if g.Old != "" && g.moved(w, r) {
		return
	}
	if rest, ok := strings.CutPrefix(path, "/repositories/1/"); ok && g.Old != "" {
		path = "/repos/" + g.Repo + "/" + rest
	}
	rest, ok := strings.CutPrefix(path, "/repos/"+g.Repo+"/releases/")
	if path == "/repos/"+g.Repo+"/releases" {
		g.api(w, r, "")
	} else if ok && rest != "" { // a slash at the end is not the path of the list
		g.api(w, r, rest)
	} else if rest, ok = strings.CutPrefix(r.URL.Path, "/"+g.Repo+"/releases/"); ok && g.Token == "" {
		g.page(w, r, rest)
	} else {
		http.NotFound(w, r)
	}
}

// moved redirects requests for the old name of the repository: the API to the number of the
// repository, the web pages to its new name.
func (g *GitHub) moved(w http.ResponseWriter, r *http.Request) bool {
	rest, api := strings.CutPrefix(r.URL.Path, "/repos/"+g.Old+"/")
	if api && (g.Token == "" || r.Header.Get("Authorization") == "Bearer "+g.Token) {
		to := origin(r) + "/repositories/1/" + rest
		if r.URL.RawQuery != "" {
			to += "?" + r.URL.RawQuery
		}
		w.Header().Set("Location", to)
		say(w, http.StatusMovedPermanently, map[string]any{"message": "Moved Permanently", "url": to})
		return true
	}
	if rest, page := strings.CutPrefix(r.URL.Path, "/"+g.Old+"/"); page && g.Token == "" {
		http.Redirect(w, r, (&url.URL{Path: "/" + g.Repo + "/" + rest}).String(), http.StatusMovedPermanently)
		return true
	}
	return false
}

// origin returns the address of this server, by which it was asked.
func origin(r *http.Request) string {
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

func (g *GitHub) api(w http.ResponseWriter, r *http.Request, rest string) {
	h := w.Header()
	h.Set("X-RateLimit-Limit", "60")
	h.Set("X-RateLimit-Remaining", "59")
	switch {
	case g.status != 0:
		h.Del("X-RateLimit-Remaining")
		maps.Copy(h, g.limit)
		say(w, g.status, map[string]any{"message": "API rate limit exceeded for 192.0.2.1."})
		return
	case r.Header.Get("User-Agent") == "":
		http.Error(w, "Request forbidden by administrative rules. Please make sure your request has a User-Agent header", http.StatusForbidden)
		return
	case r.Header.Get("Authorization") != "" && g.Token != "" && r.Header.Get("Authorization") != "Bearer "+g.Token:
		say(w, http.StatusUnauthorized, map[string]any{"message": "Bad credentials"})
		return
	case g.Token != "" && r.Header.Get("Authorization") != "Bearer "+g.Token:
		say(w, http.StatusNotFound, map[string]any{"message": "Not Found"})
		return
	}
	if id, ok := strings.CutPrefix(rest, "assets/"); ok && r.Header.Get("Accept") == "application/octet-stream" {
		g.toStorage(w, r, id)
		return
	}
	at := origin(r)
	var answer any
	n := g.latest()
	if tag, ok := strings.CutPrefix(rest, "tags/"); ok {
		n = g.tag(tag)
	} else if rest != "latest" {
		n = -1
	}
	switch {
	case rest == "":
		answer = g.list(h, r, at)
	case n >= 0:
		answer = g.describe(n, at)
	default:
		say(w, http.StatusNotFound, map[string]any{"message": "Not Found"})
		return
	}
	b, _ := json.Marshal(answer)
	etag := fmt.Sprintf(`W/"%x"`, sha256.Sum256(b))
	h.Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	say(w, http.StatusOK, answer)
}

// list returns a page of the list of releases, the newest first.
func (g *GitHub) list(h http.Header, r *http.Request, at string) any {
	number := func(key string, otherwise, most int) int {
		if n, err := strconv.Atoi(r.URL.Query().Get(key)); err == nil && n > 0 {
			return min(n, most)
		}
		return otherwise
	}
	per, page := number("per_page", 30, 100), number("page", 1, 1<<20)
	answer := []any{} // an empty list, not null, if there are no releases
	seen := 0
	for n, release := range slices.Backward(g.releases) {
		if release.Draft && g.Token == "" {
			continue
		}
		if seen++; seen > (page-1)*per && seen <= page*per {
			answer = append(answer, g.describe(n, at))
		}
	}
	if seen > page*per {
		h.Set("Link", fmt.Sprintf(`<%s/repositories/1/releases?per_page=%d&page=%d>; rel="next", <%[1]s/repositories/1/releases?per_page=%[2]d&page=%[4]d>; rel="last"`,
			at, per, page+1, (seen+per-1)/per))
	}
	return answer
}

func (g *GitHub) describe(n int, at string) map[string]any {
	release := g.releases[n]
	assets := []any{}
	for i, a := range release.Assets {
		var digest any
		state, size := "uploaded", len(a.Content)
		if a.Digest != "" && a.complete() {
			digest = a.Digest
		}
		if !a.complete() {
			state, size = a.State, 0
		}
		assets = append(assets, map[string]any{
			"url":  fmt.Sprintf("%s/repos/%s/releases/assets/%d-%d", at, g.Repo, n, i),
			"id":   1000*n + i,
			"name": a.Name, "label": "", "state": state, "content_type": "application/gzip",
			"size": size, "digest": digest, "download_count": g.downloads,
			"created_at": "2026-11-01T12:00:00Z", "updated_at": "2026-11-01T12:00:01Z",
			"browser_download_url": fmt.Sprintf("%s/%s/releases/download/%s/%s", at, g.Repo, url.PathEscape(release.Tag), a.Name),
		})
	}
	return map[string]any{
		"id": n, "url": fmt.Sprintf("%s/repos/%s/releases/%d", at, g.Repo, n),
		"html_url": fmt.Sprintf("%s/%s/releases/tag/%s", at, g.Repo, url.PathEscape(release.Tag)),
		"tag_name": release.Tag, "name": release.Tag, "body": "What is new", "target_commitish": "main",
		"draft": release.Draft, "prerelease": release.Prerelease, "immutable": false,
		"created_at": "2026-11-01T11:00:00Z", "published_at": "2026-11-01T12:00:02Z", "assets": assets,
	}
}

// page serves a web page, which needs no token.
func (g *GitHub) page(w http.ResponseWriter, r *http.Request, rest string) {
	switch {
	case rest == "latest" && g.latest() >= 0:
		http.Redirect(w, r, "/"+g.Repo+"/releases/tag/"+url.PathEscape(g.releases[g.latest()].Tag), http.StatusFound)
		return
	case rest == "latest":
		http.Redirect(w, r, "/"+g.Repo+"/releases", http.StatusFound)
		return
	}
	if file, ok := strings.CutPrefix(rest, "download/"); ok {
		slash := max(strings.LastIndex(file, "/"), 0) // a tag may have slashes
		tag, name := file[:slash], strings.TrimPrefix(file[slash:], "/")
		if n := g.tag(tag); n >= 0 {
			if i := slices.IndexFunc(g.releases[n].Assets, func(a Asset) bool { return a.Name == name }); i >= 0 {
				g.toStorage(w, r, fmt.Sprintf("%d-%d", n, i))
				return
			}
		}
	}
	http.NotFound(w, r)
}

func (g *GitHub) toStorage(w http.ResponseWriter, r *http.Request, id string) {
	// A signature is valid for one request.
	http.Redirect(w, r, fmt.Sprintf("%s/storage/%s?signature=secret%d", g.Storage, id, len(g.requests)), http.StatusFound)
}

func (g *GitHub) file(w http.ResponseWriter, r *http.Request, id string) {
	var n, i int
	if _, err := fmt.Sscanf(id, "%d-%d", &n, &i); err != nil || n >= len(g.releases) || i >= len(g.releases[n].Assets) || !g.releases[n].Assets[i].complete() {
		http.NotFound(w, r)
		return
	}
	g.downloads++
	content := g.releases[n].Assets[i].Content
	w.Header().Set("ETag", fmt.Sprintf(`"0x%X"`, sha256.Sum256(content)))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

// latest returns the index of the newest release that is not a prerelease or draft; -1 for none.
func (g *GitHub) latest() int {
	for n, r := range slices.Backward(g.releases) {
		if !r.Prerelease && !r.Draft {
			return n
		}
	}
	return -1
}

func (g *GitHub) tag(tag string) int {
	return slices.IndexFunc(g.releases, func(r Tagged) bool { return r.Tag == tag && !r.Draft })
}

func say(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
