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
	"time": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") },
	"iso":  func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
}).Parse(pageText))

// pageData is the overview, and the links of the page.
type pageData struct {
	*overview
	Style template.CSS
	Post  string // where the switch is
	query url.Values
}

// With is a link to the same page with one filter changed; "" takes it away.
func (d pageData) With(key, value string) string { return d.link(map[string]string{key: value}) }

// Sort is a link to the page sorted by a column, the other way round if it is already.
func (d pageData) Sort(column string) string {
	order := ""
	if d.Sorted(column) == "ascending" {
		order = "desc"
	}
	return d.link(map[string]string{"sort": column, "order": order})
}

// Sorted is the value of aria-sort for a column.
func (d pageData) Sorted(column string) string {
	by := d.query.Get("sort")
	if by == "" {
		by = "host"
	}
	switch {
	case by != column:
		return "none"
	case d.query.Get("order") == "desc":
		return "descending"
	}
	return "ascending"
}

// Is tells whether a filter is set to this.
func (d pageData) Is(key, value string) bool { return d.query.Has(key) && d.query.Get(key) == value }

// Get is the value of a filter.
func (d pageData) Get(key string) string { return d.query.Get(key) }

// Kept are the parameters that a search keeps.
func (d pageData) Kept() (keys []string) {
	for _, key := range []string{"version", "update", "result", "sort", "order"} {
		if d.query.Get(key) != "" {
			keys = append(keys, key)
		}
	}
	return keys
}

// Filtered tells whether any filter is set.
func (d pageData) Filtered() bool {
	return d.query.Has("version") || d.query.Get("update") != "" || d.query.Get("result") != "" || d.query.Get("q") != ""
}

func (d pageData) link(change map[string]string) string {
	q := url.Values{}
	for _, key := range []string{"version", "update", "result", "q", "sort", "order"} {
		value, changed := change[key]
		if !changed {
			value = d.query.Get(key)
		}
		if value != "" {
			q.Set(key, value)
		}
	}
	return "?" + q.Encode()
}

// Trouble tells whether somebody should look at a client.
func (v clientView) Trouble() bool { return v.trouble() }

func (g *Gate) page(w http.ResponseWriter, r *http.Request, o *overview) {
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, pageData{o, template.CSS(style), g.config.BasePath + "/updates", r.URL.Query()}); err != nil {
		http.Error(w, fmt.Sprintf("cannot write the page: %v", err), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	b.WriteTo(w) // a reader that left needs no page
}

// releases is the directory that the publisher writes.
func (g *Gate) releases() string {
	return filepath.Join(g.config.DownloadDir, path.Dir(g.config.Manifest))
}
