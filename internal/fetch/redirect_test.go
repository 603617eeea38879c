package fetch

import (
	"net/http"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
)

// TestRedirectedRepository has a repository whose server redirects all requests to another
// one on this machine, which is the source's. A missing root ends the walk as usual, but
// nothing that is missing there is recorded.
func TestRedirectedRepository(t *testing.T) {
	b, _, m := signed(t)
	there := strings.TrimSuffix(b.target.Source.URL, "/client-manifest.json")
	front := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, there+r.URL.Path, http.StatusFound)
	}))
	b.target.Source.URL = front + "/client-manifest.json"
	if a := b.run(t, b.order(state.VerbApply, "v1")); a.Result != state.ResultHandedOn {
		t.Fatalf("%+v", a)
	}
	b.bundle(t)
	delete(m.files, "timestamp.json")
	const said = "/timestamp.json, on this machine or in a private network, and did not come from there (hint: the journal has the cause)"
	a := b.run(t, b.order(state.VerbApply, "v1"))
	b.mustFail(t, a, state.ResultNotDownloaded, said)
	if !strings.Contains(a.Cause, "404 Not Found") {
		t.Errorf("the cause: %q", a.Cause)
	}
	// A look shows the cause, because it makes no record.
	if a := Look(t.Context(), b.tree, b.target, "v1"); !strings.Contains(a.Reason, "404 Not Found") || a.Cause != "" {
		t.Errorf("a look: %+v", a)
	}
}

// TestRedirectedElsewhere has redirects to pages inside that are no part of a release.
func TestRedirectedElsewhere(t *testing.T) {
	page := []byte("<html>a page of another service</html>")
	long := append(payload[:len(payload):len(payload)], 'x')
	texts := map[string]string{}
	for _, c := range []struct {
		name, file string
		there      http.HandlerFunc // nil if the port is closed
		cause      string
	}{
		{"a page", "/timestamp.json", bytesHandler(page), "it is not JSON"},
		{"an error", "/timestamp.json", status(500), "500"},
		{"nothing", "/timestamp.json", nil, "connection refused"},
		{"a page for the archive", "/agent.tar.gz", bytesHandler(page), "offers 38 bytes"},
		{"the same without a length", "/agent.tar.gz", raw(head+"\r\nabc", false), "it ends after 3 bytes"},
		{"a longer one", "/agent.tar.gz", raw(head+"\r\n"+string(long), false), "it is longer"},
		{"a cut one", "/agent.tar.gz", raw(head+"Content-Length: 340000\r\n\r\nabc", false), "the connection was cut"},
		{"no archive", "/agent.tar.gz", nil, "connection refused"},
	} {
		b, _, m := signed(t)
		to := "http://" + freePort(t)
		if c.there != nil {
			to = serve(t, c.there)
		}
		front := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == c.file {
				http.Redirect(w, r, to+"/page", http.StatusFound)
				return
			}
			m.ServeHTTP(w, r)
		}))
		b.target.Source.URL = front + "/client-manifest.json"
		a := b.run(t, b.order(state.VerbApply, "v1"))
		if a.Result != state.ResultNotDownloaded || !strings.Contains(a.Cause, c.cause) {
			t.Errorf("%s: %+v", c.name, a)
		}
		text := strings.NewReplacer(front, "FRONT", to, "THERE").Replace(a.Reason)
		if before, ok := texts[c.file]; ok && text != before {
			t.Errorf("%s: %s\nbefore: %s", c.name, text, before)
		}
		texts[c.file] = text
	}
}
