package gate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/rollout"
	"github.com/machinemon/machinemon-update/internal/state"
)

// maxRows is the number of clients, and of versions, that one answer lists at most.
const maxRows = 500

// overview is the content of the API's answer and of the page.
type overview struct {
	Note     string        `json:"note"`    // selfReportedNote
	Release  *releaseView  `json:"release"` // nil: none
	Settings settingsView  `json:"settings"`
	Versions []versionView `json:"versions"` // totals of all clients
	Total    int           `json:"total"`
	Trouble  int           `json:"total_trouble"`
	Updates  int           `json:"total_update_available"`
	Held     int           `json:"total_held"`
	Matching int           `json:"matching"`
	Clients  []clientView  `json:"clients"` // the first maxRows that match
	// History has the attempts of the client that the parameter history names.
	History []attempt `json:"history,omitempty"`

	Rollout *rollout.State `json:"rollout,omitempty"` // nil unless the release has a plan
}

type releaseView struct {
	Version  string `json:"version"`
	Disabled bool   `json:"disabled"`
	Rollout  int    `json:"rollout_percent"`
	progress
}

type settingsView struct {
	Directives bool       `json:"directives"`
	ChangedBy  string     `json:"changed_by,omitempty"`
	ChangedAt  *time.Time `json:"changed_at,omitempty"`
	// StopSigned is the publisher's command that stops clients with signed manifests.
	StopSigned string `json:"stop_signed,omitempty"`
}

type versionView struct {
	Version string `json:"version"`
	Clients int    `json:"clients"`
}

type clientView struct {
	ClientID  string     `json:"client_id"`
	Hostname  string     `json:"hostname"`
	Platform  string     `json:"platform"`
	Version   string     `json:"version"`
	Available bool       `json:"update_available"`
	Trouble   bool       `json:"trouble"`
	Target    string     `json:"target,omitempty"`
	Attempted *time.Time `json:"last_attempt,omitempty"`
	Result    string     `json:"last_result,omitempty"`
	About     string     `json:"last_version,omitempty"`
	Reason    string     `json:"reason,omitempty"`
	Held      bool       `json:"held"`
	Rejected  string     `json:"rejected,omitempty"`
	Seen      time.Time  `json:"last_seen"`
	// Silent is the version of which the client was told in its last check-in, long ago.
	Silent    string `json:"silent_since_told_of,omitempty"`
	Unmanaged bool   `json:"unmanaged,omitempty"` // its system has no updater
	Namesake  bool   `json:"-"`                   // another client has the same host name
}

const selfReportedNote = "Status is self-reported: each client sends its own status, and the gate cannot verify it."

// maxQuery is the greatest length of a URL's query in bytes. It is bounded because the
// page repeats the query in each of its links.
const maxQuery = 2048

// admin answers requests that only administrators may make.
func (g *Gate) admin(w http.ResponseWriter, r *http.Request, path string) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src '"+styleHash+"'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	// With "no-referrer", browsers would send the form with Origin: null.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")

	// The check comes after the headers, so that its refusals have them too.
	if err := g.cross.Check(r); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	allowed := map[string][]string{"/updates": {"GET", "HEAD", "POST"}, "/api/v1/admin/updates": {"GET", "HEAD"}, "/api/v1/admin/updates/settings": {"GET", "HEAD", "PUT"}}[path]
	if !slices.Contains(allowed, r.Method) {
		h.Set("Allow", strings.Join(allowed, ", "))
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	if len(r.URL.RawQuery) > maxQuery {
		http.Error(w, fmt.Sprintf("the parameters must have %d bytes at most", maxQuery), http.StatusRequestURITooLong)
		return
	}
	// The body is read first, so that this connection does not wait for its client while the
	// check may take its time.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		err = refused{fmt.Errorf("cannot read the request: %w", err)}
		http.Error(w, err.Error(), refusal(err))
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	switch status := g.admins.check(r); status {
	case http.StatusOK:
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Basic realm="MachineMon", charset="UTF-8"`)
		http.Error(w, "the MachineMon administrator's name and password are needed", status)
		return
	case http.StatusTooManyRequests:
		h.Set("Retry-After", "60")
		http.Error(w, "too many wrong passwords from this address: wait a minute", status)
		return
	default:
		http.Error(w, "the gate cannot ask the MachineMon server whether you are an administrator", status)
		return
	}
	switch {
	case r.Method == http.MethodPut:
		g.putSettings(w, r)
	case r.Method == http.MethodPost:
		g.postSettings(w, r)
	case path == "/api/v1/admin/updates/settings":
		reply(w, g.settingsView())
	default:
		o, err := g.overview(r.Context(), r.URL.Query())
		if path == "/updates" {
			g.page(w, r, o, err)
		} else if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		} else {
			reply(w, o)
		}
	}
}

func view(r report, m *manifest.Manifest) clientView {
	v := clientView{r.ClientID, r.Hostname, platform(r), r.Version, available(m, r), trouble(r, m), r.Target, nil, r.Result, r.ResultVersion, r.Reason, r.Held, r.Rejected, r.Seen, "", unmanaged(r), false}
	if !r.Attempted.IsZero() {
		v.Attempted = &r.Attempted
	}
	return v
}

// matches reports whether a client passes the filters of a query, but for its text.
func matches(v clientView, q url.Values) bool {
	version, update, held, result := q.Get("version"), q.Get("update"), q.Get("held"), q.Get("result")
	return (!q.Has("version") || v.Version == version) &&
		(update == "" || v.Available == (update == "yes")) &&
		(held == "" || v.Held == (held == "yes")) &&
		(result == "" || v.Result == result || result == "trouble" && v.Trouble)
}

// trouble reports whether a client needs an operator's attention. A rejected version
// counts only while it is the published release. A reason without a result is an error
// that keeps the client from attempting anything.
func trouble(r report, m *manifest.Manifest) bool {
	if r.Result == "" {
		return r.Reason != ""
	}
	return state.Result(r.Result).Alarming() || m != nil && r.Rejected != "" && manifest.SameVersion(m.Version, r.Rejected)
}

// sortByClients sorts versions by their number of clients, the greatest first.
func sortByClients(all []versionView) {
	slices.SortStableFunc(all, func(a, b versionView) int {
		return cmp.Or(cmp.Compare(b.Clients, a.Clients), cmp.Compare(a.Version, b.Version))
	})
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.Encode(v) // this fails only if the client has closed the connection
}
