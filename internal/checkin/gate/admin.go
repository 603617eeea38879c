package gate

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// maxRows is how many clients are shown at once.
const maxRows = 500

// overview is what the API and the page tell.
type overview struct {
	// Note reminds whoever reads it by a program, too.
	Note     string        `json:"note"`
	Release  *releaseView  `json:"release"` // nil: none
	Settings settingsView  `json:"settings"`
	Versions []versionView `json:"versions"` // totals of all clients
	Total    int           `json:"total"`
	Trouble  int           `json:"total_trouble"`
	Updates  int           `json:"total_update_available"`
	Held     int           `json:"total_held"`
	Matching int           `json:"matching"`
	Clients  []clientView  `json:"clients"` // of those that match, the first
}

type releaseView struct {
	Version  string `json:"version"`
	Disabled bool   `json:"disabled"`
	Rollout  int    `json:"rollout_percent"`
}

type settingsView struct {
	Directives bool       `json:"directives"`
	ChangedBy  string     `json:"changed_by,omitempty"`
	ChangedAt  *time.Time `json:"changed_at,omitempty"`
	// StopSigned is what stops clients that trust signatures.
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
}

const selfReported = "Status is self-reported: each client tells its own, and nobody verifies it."

// maxQuery is how long the parameters may be: each link of the page has them.
const maxQuery = 2048

// admin answers what only administrators may ask.
func (g *Gate) admin(w http.ResponseWriter, r *http.Request, path string) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src '"+styleHash+"'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	// Not "no-referrer": a form would be sent without its origin then.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")

	// Here, and not around all of this, so that its refusals have the headers too.
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
	change := r.Method == http.MethodPut || r.Method == http.MethodPost
	switch status := g.admins.check(r, change); status {
	case http.StatusOK:
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Basic realm="MachineMon", charset="UTF-8"`)
		http.Error(w, "the MachineMon administrator's name and password are needed", status)
		return
	case http.StatusTooManyRequests:
		h.Set("Retry-After", "60")
		http.Error(w, "too many wrong passwords from this address, or too many requests at once: wait a minute", status)
		return
	default:
		http.Error(w, "the MachineMon server cannot be asked who is an administrator", status)
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

func (g *Gate) overview(ctx context.Context, q url.Values) (*overview, error) {
	s := g.store.Load()
	if s == nil {
		return nil, errNoDatabase
	}
	o := &overview{Note: selfReported, Settings: g.settingsView(), Versions: []versionView{}, Clients: []clientView{}}
	m := g.release()
	if m != nil {
		o.Release = &releaseView{m.Version, m.Disabled, 100}
		if m.Rollout != nil {
			o.Release.Rollout = m.Rollout.Percent
		}
	}
	at := map[string]int{}
	var others []clientView
	err := s.clients(ctx, q.Get("sort"), q.Get("order") == "desc", func(r report) {
		v := view(r, m)
		o.Total++
		o.Trouble += number(v.Trouble)
		o.Updates += number(v.Available)
		o.Held += number(v.Held)
		if i, there := at[r.Version]; there {
			o.Versions[i].Clients++
		} else if len(at) < maxRows { // clients say what they like
			at[r.Version] = len(o.Versions)
			o.Versions = append(o.Versions, versionView{r.Version, 1})
		}
		if !matches(v, q) {
			return
		}
		o.Matching++
		to := &o.Clients
		// Whoever asks for no order wants to know what is wrong.
		if q.Get("sort") == "" && !v.Trouble {
			to = &others
		}
		if len(*to) < maxRows {
			*to = append(*to, v)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the clients: %w", err)
	}
	o.Clients = append(o.Clients, others[:min(len(others), maxRows-len(o.Clients))]...)
	byClients(o.Versions)
	return o, nil
}

func view(r report, m *manifest.Manifest) clientView {
	v := clientView{r.ClientID, r.Hostname, platform(r), r.Version, available(m, r), trouble(r, m), r.Target, nil, r.Result, r.ResultVersion, r.Reason, r.Held, r.Rejected, r.Seen}
	if !r.Attempted.IsZero() {
		v.Attempted = &r.Attempted
	}
	return v
}

// matches tells whether a client is among those that are asked for.
func matches(v clientView, q url.Values) bool {
	version, update, held, result, text := q.Get("version"), q.Get("update"), q.Get("held"), q.Get("result"), strings.ToLower(q.Get("q"))
	return (!q.Has("version") || v.Version == version) &&
		(update == "" || v.Available == (update == "yes")) &&
		(held == "" || v.Held == (held == "yes")) &&
		(result == "" || v.Result == result || result == "trouble" && v.Trouble) &&
		(text == "" || strings.Contains(strings.ToLower(v.Hostname+" "+v.ClientID), text))
}

// trouble tells whether somebody should look at a client. What it rejected once is no
// trouble any more when there is another release. A reason without a result is an
// error that keeps it from attempting anything.
func trouble(r report, m *manifest.Manifest) bool {
	if r.Result == "" {
		return r.Reason != ""
	}
	return state.Result(r.Result).Alarming() || m != nil && r.Rejected != "" && manifest.SameVersion(m.Version, r.Rejected)
}

// byClients puts the versions of most clients first.
func byClients(all []versionView) {
	slices.SortStableFunc(all, func(a, b versionView) int {
		return cmp.Or(cmp.Compare(b.Clients, a.Clients), cmp.Compare(a.Version, b.Version))
	})
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.Encode(v) // a client that left needs no answer
}
