package gate

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"time"
)

//go:embed page.css
var style string

//go:embed page.html
var pageText string

// styleHash lets the page have this style, and no other.
var styleHash = func() string {
	sum := sha256.Sum256([]byte(style))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}()

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"time": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") },
	"iso":  func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
}).Parse(pageText))

// pageData is the overview, and the links of the page.
type pageData struct {
	*overview
	Style    template.CSS
	Post     string // where the switch is
	Releases string // what the publisher writes
	Problem  error  // why there is no more than the settings
	Now      time.Time
	query    url.Values
}

// filters and sorting are the parameters of the page.
var (
	filters = []string{"version", "update", "held", "result", "q"}
	sorting = []string{"sort", "order"}
)

// Toggle is a link to the same page with a filter, or without it if that is set.
func (d pageData) Toggle(key, value string) string {
	if d.Is(key, value) {
		return d.link(key)
	}
	return d.link(key, value)
}

// Sort is a link to the page sorted by a column, the other way round if it is already.
func (d pageData) Sort(column string) string {
	if d.Sorted(column) == "ascending" {
		return d.link("sort", column, "order", "desc")
	}
	return d.link("sort", column, "order")
}

// Sorted is the value of aria-sort for a column.
func (d pageData) Sorted(column string) string {
	switch {
	case d.query.Get("sort") != column:
		return "none"
	case d.query.Get("order") == "desc":
		return "descending"
	}
	return "ascending"
}

// set tells whether a parameter counts. Of parameters that are empty, version does:
// it asks for clients that do not tell theirs.
func (d pageData) set(key string) bool {
	return d.query.Get(key) != "" || key == "version" && d.query.Has(key)
}

// Is tells whether a filter is set to this.
func (d pageData) Is(key, value string) bool { return d.set(key) && d.query.Get(key) == value }

// Get is the value of a parameter.
func (d pageData) Get(key string) string { return d.query.Get(key) }

// Kept are the parameters that a search keeps.
func (d pageData) Kept() []string {
	return slices.DeleteFunc(slices.Concat(filters, sorting), func(key string) bool { return key == "q" || !d.set(key) })
}

// Filtered tells whether any filter is set.
func (d pageData) Filtered() bool { return slices.ContainsFunc(filters, d.set) }

// link is a link to the page with some parameters changed: pairs of key and value; a
// last key alone is taken away.
func (d pageData) link(change ...string) string {
	q := url.Values{}
	for _, key := range slices.Concat(filters, sorting) {
		if d.set(key) {
			q.Set(key, d.query.Get(key))
		}
	}
	for pair := range slices.Chunk(change, 2) {
		if q.Del(pair[0]); len(pair) == 2 {
			q.Set(pair[0], pair[1])
		}
	}
	return "?" + q.Encode()
}

// First are the versions that most clients have; Rest are the others.
func (d pageData) First() []versionView { return d.Versions[:min(len(d.Versions), 5)] }

func (d pageData) Rest() []versionView { return d.Versions[len(d.First()):] }

// OpenRest tells whether it is one of the others that is asked for.
func (d pageData) OpenRest() bool {
	return slices.ContainsFunc(d.Rest(), func(v versionView) bool { return d.Is("version", v.Version) })
}

// bar is a version in the list of them.
type bar struct {
	versionView
	Share   int // percent of the clients
	Link    string
	Current bool
}

func (d pageData) Bar(v versionView) bar {
	return bar{v, 100 * v.Clients / max(d.Total, 1), d.Toggle("version", v.Version), d.Is("version", v.Version)}
}

// NoUpdates is how many clients have no other version to go to.
func (d pageData) NoUpdates() int { return d.Total - d.Updates }

// Version is the version that is asked for, in words.
func (d pageData) Version() string {
	if d.Is("version", "") {
		return "unknown"
	}
	return d.query.Get("version")
}

// Ago is how long ago that was. Clients' clocks may be wrong.
func (d pageData) Ago(t time.Time) string {
	switch ago := d.Now.Sub(t); {
	case ago < -time.Minute:
		return "in the future"
	case ago < time.Minute:
		return "just now"
	case ago < time.Hour:
		return fmt.Sprintf("%d min ago", ago/time.Minute)
	case ago < 48*time.Hour:
		return fmt.Sprintf("%d h ago", ago/time.Hour)
	default:
		return fmt.Sprintf("%d days ago", ago/(24*time.Hour))
	}
}

// page answers with the page; without an overview it tells why, and the settings.
func (g *Gate) page(w http.ResponseWriter, r *http.Request, o *overview, problem error) {
	status := http.StatusOK
	if problem != nil {
		status, o = http.StatusServiceUnavailable, &overview{Note: selfReported, Settings: g.settingsView()}
	}
	var b bytes.Buffer
	d := pageData{o, template.CSS(style), g.config.BasePath + "/updates", g.releases(), problem, time.Now(), r.URL.Query()}
	if err := pageTemplate.Execute(&b, d); err != nil {
		http.Error(w, fmt.Sprintf("cannot write the page: %v", err), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	b.WriteTo(w) // a reader that left needs no page
}

// releases is the directory that the publisher writes.
func (g *Gate) releases() string {
	return filepath.Join(g.config.DownloadDir, path.Dir(g.config.Manifest))
}
