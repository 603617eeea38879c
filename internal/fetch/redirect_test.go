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
