package gate

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/rollout"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestCount shows which reports count for a release, v2, and which do not.
func TestCount(t *testing.T) {
	started := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	m := &manifest.Manifest{Version: "v2", Sequence: 2, Platforms: map[string]manifest.Platform{"linux-amd64": {}}}
	lotOf := lotsOf(t)
	first, last := "", ""
	for n := 0; first == "" || last == ""; n++ {
		switch lot := lotOf(n); rollout.Place(lot, "v2") {
		case 0:
			first = lot
		case 50:
			last = lot
		}
	}
	for name, c := range map[string]struct {
		change func(*report)
		want   rollout.Counts
	}{
		"waited for":               {func(r *report) {}, rollout.Counts{Pending: 1}},
		"has it":                   {func(r *report) { r.Version = "2"; r.Result = "committed"; r.ResultVersion = "v2" }, rollout.Counts{Have: 1}},
		"has it, without a status": {func(r *report) { *r = report{Version: "v2", OS: "linux", Arch: "amd64"} }, rollout.Counts{Have: 1}},
		"has it, unproven":         {func(r *report) { r.Version = "v2"; r.Result = "committed unproven"; r.ResultVersion = "v2" }, rollout.Counts{Have: 1}},
		"rolled back":              {func(r *report) { r.Result = "rolled back"; r.ResultVersion = "v2"; r.Rejected = "v2" }, rollout.Counts{Failed: 1}},
		"rolled back, clock behind": {func(r *report) {
			r.Result = "rolled back"
			r.ResultVersion = "v2"
			r.Attempted = started.Add(-4 * time.Minute)
		}, rollout.Counts{Failed: 1}},
		"rollback failed, runs it":   {func(r *report) { r.Version = "v2"; r.Result = "rollback failed"; r.ResultVersion = "v2" }, rollout.Counts{Failed: 1}},
		"refused":                    {func(r *report) { r.Result = "refused"; r.ResultVersion = "v2" }, rollout.Counts{Failed: 1}},
		"failed":                     {func(r *report) { r.Result = "failed"; r.ResultVersion = "v2" }, rollout.Counts{Failed: 1}},
		"rejected":                   {func(r *report) { r.Result = "already current"; r.ResultVersion = "v1"; r.Rejected = "v2" }, rollout.Counts{Failed: 1}},
		"rejected, has it by now":    {func(r *report) { r.Version = "v2"; r.Result = "committed"; r.ResultVersion = "v2"; r.Rejected = "v2" }, rollout.Counts{Have: 1}},
		"rejected, may try it again": {func(r *report) { r.Result = "available"; r.ResultVersion = "v2"; r.Rejected = "v2" }, rollout.Counts{}},
		"rejected, tries it again":   {func(r *report) { r.Result = "on trial"; r.ResultVersion = "v2"; r.Rejected = "v2" }, rollout.Counts{Pending: 1}},
		"rejected before": {func(r *report) {
			r.Result = "rolled back"
			r.ResultVersion = "v2"
			r.Rejected = "v2"
			r.Attempted = started.Add(-time.Hour)
		}, rollout.Counts{Pending: 1}},
		"another version rolled back": {func(r *report) { r.Result = "rolled back"; r.ResultVersion = "v1.5"; r.Rejected = "v1.5" }, rollout.Counts{Pending: 1}},
		"interrupted":                 {func(r *report) { r.Result = "interrupted"; r.ResultVersion = "v2" }, rollout.Counts{Pending: 1}},
		"not downloaded":              {func(r *report) { r.Result = "not downloaded"; r.ResultVersion = "v2" }, rollout.Counts{Pending: 1}},
		"only checks":                 {func(r *report) { r.Result = "available"; r.ResultVersion = "v2" }, rollout.Counts{}},
		"checked before the step":     {func(r *report) { r.Result = "available"; r.ResultVersion = "v2"; r.Attempted = started.Add(time.Hour) }, rollout.Counts{Pending: 1}},
		"later step":                  {func(r *report) { r.Lot = last }, rollout.Counts{}},
		"held":                        {func(r *report) { r.Held = true }, rollout.Counts{}},
		"silent since before":         {func(r *report) { r.Seen = started.Add(-time.Second) }, rollout.Counts{}},
		"silent since":                {func(r *report) { r.Seen = started.Add(time.Second) }, rollout.Counts{Pending: 1}},
		"no lot":                      {func(r *report) { r.Lot = "" }, rollout.Counts{}},
		"another platform":            {func(r *report) { r.Arch = "riscv64" }, rollout.Counts{}},
		"no version":                  {func(r *report) { r.Version = "" }, rollout.Counts{}},
	} {
		p := rollout.New(m, []int{1, 10, 100}, 6*time.Hour, 10, started)
		p.Percent, p.Since = 10, started.Add(6*time.Hour)
		r := report{ClientID: "c-1", OS: "linux", Arch: "amd64", Version: "v1", Lot: first, Seen: started.Add(8 * time.Hour), Attempted: started.Add(7 * time.Hour), Target: "agent"}
		c.change(&r)
		var got rollout.Counts
		if count(&got, p, rollout.At(m, 10), r, place(m, r)); got != c.want {
			t.Errorf("%s: counted as %+v, want %+v", name, got, c.want)
		}
	}
}

// TestRolloutState shows what the gate says of a plan: only of one for the published
// release, without ever failing a check-in or the page.
func TestRolloutState(t *testing.T) {
	b := newBench(t)
	get := func() (int, string) {
		t.Helper()
		q := httptest.NewRecorder()
		r, err := http.NewRequestWithContext(t.Context(), "GET", "/rollout", nil)
		if err != nil {
			t.Fatal(err)
		}
		b.Local().ServeHTTP(q, r)
		return q.Code, q.Body.String()
	}
	const none = "the release has no plan for its rollout\n"
	if code, got := get(); code != 404 || got != none {
		t.Errorf("without a release: %d %s", code, got)
	}
	b.publish(func(m *manifest.Manifest) { m.Rollout = &manifest.Rollout{Percent: 10} })
	b.checkIn(request("amd64", "v0.1.12"))
	p := rollout.New(b.release(), []int{10, 100}, 6*time.Hour, 10, time.Now())
	put := func() {
		text, err := p.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		b.put(rollout.FileName, string(text))
	}
	put()
	if code, got := get(); code != 200 || !strings.Contains(got, `"have": 1`) || !strings.Contains(got, `"next_percent": 100`) {
		t.Errorf("%d %s", code, got)
	}
	if o := b.known(""); o.Rollout == nil || o.Rollout.Percent != 10 || o.Rollout.Have != 1 {
		t.Errorf("the API has %+v", o.Rollout)
	}
	if a := b.do("GET", "/updates", "", "Authorization: admin"); !strings.Contains(a.body, "Rollout by plan: 10 % since ") || !strings.Contains(a.body, ": 1 have it, 0 failed, 0 are to install it; 100 % from ") {
		t.Errorf("the page: %s", a.body)
	}
	if a := b.do("GET", "/download/"+rollout.FileName, ""); a.status == 200 {
		t.Error("the plan is served")
	}

	if _, err := b.decide(off, "test"); err != nil {
		t.Fatal(err)
	}
	if _, got := get(); !strings.Contains(got, `"updates_stopped": true`) || !strings.Contains(got, `"waits": "updates are stopped at the gate"`) {
		t.Errorf("with the switch off: %s", got)
	}
	p.Sequence++
	put()
	if code, got := get(); code != 404 || got != none {
		t.Errorf("of another sequence: %d %s", code, got)
	}
	for name, text := range map[string]string{"damaged": "{", "newer": `{"format": 2}`, "without steps": `{"format": 1}`} {
		b.put(rollout.FileName, text)
		if code, got := get(); code != 404 || got != none {
			t.Errorf("%s: %d %s", name, code, got)
		}
		if o := b.known(""); o.Rollout != nil || o.Release == nil {
			t.Errorf("%s: the API has %+v", name, o)
		}
	}
	if said := b.lines(); strings.Count(said, "cannot use the rollout's plan: ") != 1 {
		t.Errorf("it said %s", said)
	}
	s := b.store.Swap(nil)
	p.Sequence--
	put()
	if code, got := get(); code != 503 || !strings.HasPrefix(got, "the database cannot be used") {
		t.Errorf("without the database: %d %s", code, got)
	}
	b.store.Store(s)
}

// TestAsk shows that the publisher takes no counts but those of its own plan.
func TestAsk(t *testing.T) {
	testkit.Slow(t)
	s := newSimulation(t, false)
	s.release("v2", 1)
	s.plan()
	p, err := rollout.Read(s.config.DownloadDir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Ask(s.socket); err != nil {
		t.Error(err)
	}
	refused := func(what, socket, want string) {
		t.Helper()
		if _, err := p.Ask(socket); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want …%s…", what, err, want)
		}
	}
	p.Started = p.Started.Add(time.Second)
	refused("another plan", s.socket, `the gate has another rollout, of "v2", sequence 2 (hint: download_dir of the gate must be the directory of this release)`)
	refused("no gate", filepath.Join(t.TempDir(), "none"), "cannot reach the gate: dial unix ")
	s.release("v3", 1)
	refused("no plan", s.socket, "the gate cannot count the clients: the release has no plan for its rollout")
}
