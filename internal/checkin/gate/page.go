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
	"strings"
	"time"
)

//go:embed page.css
var style string

//go:embed page.html
var pageText string

// styleHash allows this style, and no other, in the Content-Security-Policy.
var styleHash = func() string {
	sum := sha256.Sum256([]byte(style))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}()

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"time": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") },
	"iso":  func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	// A command breaks only in paths and between words, and not before an option's name.
	"words":  strings.Fields,
	"isPath": func(word string) bool { return strings.Contains(word, "/") },
}).Parse(pageText))

// pageData is the data of the page's template. Its methods make the links.
type pageData struct {
	*overview
	Style    template.CSS
	Post     string // where the form of the switch is sent: pageHere
	Releases string // directory into which the publisher writes
	Problem  error  // why the overview has no more than the settings; or nil
	Now      time.Time
	query    url.Values
}

// filters and sorting are the names of the page's URL parameters.
var (
	filters = []string{"version", "update", "held", "result", "q"}
	sorting = []string{"sort", "order"}
	// showing are the names of those that add to the page. Each is off by default.
	showing = []string{"history", "refresh"}
)

// Toggle returns a link to the page with a filter set, or removed if it is set.
func (d pageData) Toggle(key, value string) string {
	if d.Is(key, value) {
		return d.link(key)
	}
	return d.link(key, value)
}

// Sort returns a link to the page sorted by a column; descending if it is ascending now.
func (d pageData) Sort(column string) string {
	if d.Sorted(column) == "ascending" {
		return d.link("sort", column, "order", "desc")
	}
	return d.link("sort", column, "order")
}

// Sorted returns the value of aria-sort for a column.
func (d pageData) Sorted(column string) string {
	switch {
	case d.query.Get("sort") != column:
		return "none"
	case d.query.Get("order") == "desc":
		return "descending"
	}
	return "ascending"
}

// set reports whether a parameter is set. Empty parameters are not, except version: an
// empty version selects clients that do not report theirs.
func (d pageData) set(key string) bool {
	return d.query.Get(key) != "" || key == "version" && d.query.Has(key)
}

// Is reports whether a filter is set to value.
func (d pageData) Is(key, value string) bool { return d.set(key) && d.query.Get(key) == value }

// Get returns the value of a parameter.
func (d pageData) Get(key string) string { return d.query.Get(key) }

// Kept returns the names of the set parameters that the search form sends along.
func (d pageData) Kept() []string {
	return slices.DeleteFunc(slices.Concat(filters, sorting, showing), func(key string) bool { return key == "q" || !d.set(key) })
}

// Filtered reports whether any filter is set.
func (d pageData) Filtered() bool { return slices.ContainsFunc(filters, d.set) }

// link returns a link to the page with changed parameters. change has pairs of key and
// value; a last key without a value is removed.
func (d pageData) link(change ...string) string {
	q := url.Values{}
	for _, key := range slices.Concat(filters, sorting, showing) {
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

// Page returns the address of a client's page of the MachineMon server, relative to this
// page: a proxy may strip a prefix of which the gate does not know.
func (d pageData) Page(c clientView) string { return "clients/" + url.PathEscape(c.ClientID) }

// Meanings explains the results.
func (d pageData) Meanings() []meaning { return meanings }

// First returns the five versions with the most clients, and Rest the others.
func (d pageData) First() []versionView { return d.Versions[:min(len(d.Versions), 5)] }

func (d pageData) Rest() []versionView { return d.Versions[len(d.First()):] }

// OpenRest reports whether the page is filtered by one of the versions in Rest.
func (d pageData) OpenRest() bool {
	return slices.ContainsFunc(d.Rest(), func(v versionView) bool { return d.Is("version", v.Version) })
}

// bar is one line in the list of versions.
type bar struct {
	versionView
	Share   int // percent of the clients
	Link    string
	Current bool
}

func (d pageData) Bar(v versionView) bar {
	return bar{v, 100 * v.Clients / max(d.Total, 1), d.Toggle("version", v.Version), d.Is("version", v.Version)}
}

// NoUpdates returns the number of clients without an available update.
func (d pageData) NoUpdates() int { return d.Total - d.Updates }

// Version returns the version by which the page is filtered, as it is shown.
func (d pageData) Version() string {
	if d.Is("version", "") {
		return "unknown"
	}
	return d.query.Get("version")
}

// Ago returns the time since t as text. By a wrong clock, t may be in the future.
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

// pageHere is the page's address, relative to itself: a proxy before the gate may strip a
// prefix of which the gate does not know.
const pageHere = "updates"

// page answers with the page or, if there is a problem, with 503, it and the settings.
func (g *Gate) page(w http.ResponseWriter, r *http.Request, o *overview, problem error) {
	status := http.StatusOK
	if problem != nil {
		status, o = http.StatusServiceUnavailable, &overview{Note: selfReportedNote, Settings: g.settingsView()}
	}
	var b bytes.Buffer
	d := pageData{o, template.CSS(style), pageHere, g.releases(), problem, time.Now(), r.URL.Query()}
	if err := pageTemplate.Execute(&b, d); err != nil {
		http.Error(w, fmt.Sprintf("cannot write the page: %v", err), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	b.WriteTo(w) // this fails only if the client has closed the connection
}

// releases returns the directory that the publisher writes.
func (g *Gate) releases() string {
	return filepath.Join(g.config.DownloadDir, path.Dir(g.config.Manifest))
}
