package gate

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

func (b *bench) report(all ...report) {
	b.t.Helper()
	for _, r := range all {
		if err := b.store.Load().insertReports(b.t.Context(), []report{r}); err != nil {
			b.t.Fatal(err)
		}
	}
}

// TestHistory: the last attempts of a client that installed something or failed are kept.
func TestHistory(t *testing.T) {
	b := newBench(t)
	now := time.Now().UTC().Truncate(time.Second)
	for i := range keptAttempts + 5 {
		r := report{ClientID: "c-1", Seen: now, Result: "failed", ResultVersion: fmt.Sprintf("v%d", i), Reason: "disk full", Attempted: now.Add(time.Duration(i) * time.Hour)}
		b.report(r, r) // each check-in repeats the last attempt
		for _, result := range []state.Result{state.ResultCurrent, state.ResultOnTrial, state.ResultNotAttempted} {
			r.Result, r.Attempted = string(result), r.Attempted.Add(time.Minute)
			b.report(r)
		}
	}
	b.report(report{ClientID: "c-2", Seen: now, Result: "committed", Attempted: now}, report{ClientID: "c-3", Seen: now})
	h := b.known("?history=c-1").History
	if len(h) != keptAttempts || h[0] != (attempt{now.Add((keptAttempts + 4) * time.Hour), "failed", fmt.Sprintf("v%d", keptAttempts+4), "disk full"}) || h[keptAttempts-1].Version != "v5" {
		t.Errorf("%d attempts: %+v", len(h), h)
	}
	if h := b.known("?history=c-2").History; len(h) != 1 {
		t.Errorf("another client's: %+v", h)
	}
	if h := b.known("").History; h != nil {
		t.Errorf("nobody asked: %+v", h)
	}
	page := b.do("GET", "/updates?history=c-1", "", "Authorization: admin").body
	if n := strings.Count(page, "<li><span"); n != keptAttempts || !strings.Contains(page, "disk full") {
		t.Errorf("the page has %d attempts", n)
	}
	// What a client that is forgotten reported goes with it.
	if err := b.store.Load().forgetOld(t.Context(), now.Add(forgetAfter+time.Hour)); err != nil {
		t.Fatal(err)
	}
	if h := b.known("?history=c-1").History; len(h) > 0 {
		t.Errorf("forgotten: %+v", h)
	}
}

// TestSilent: a client that was told of a release and did not check in again is in trouble.
func TestSilent(t *testing.T) {
	b := newBench(t)
	b.publish()
	now := time.Now()
	at := func(id string, minutes int, told string) report {
		return report{ClientID: id, Version: "v0.1.11", OS: "linux", Arch: "amd64", Seen: now.Add(-time.Duration(minutes) * time.Minute), Told: told}
	}
	b.report(
		at("gone", 60, "v0.1.12"),
		at("soon", 20, "v0.1.12"),
		at("back", 60, "v0.1.12"), at("back", 50, ""),
		at("not told", 60, ""),
		at("told for long", 120, "v0.1.12"), at("told for long", 60, "v0.1.12"),
		at("told twice", 65, "v0.1.12"), at("told twice", 60, "v0.1.12"),
		at("told of the next", 300, "v0.1.12"), at("told of the next", 60, "v0.1.13"),
	)
	got := map[string]string{}
	o := b.known("")
	for _, c := range o.Clients {
		if c.Trouble != (c.Silent != "") {
			t.Errorf("%+v", c)
		}
		if c.Silent != "" {
			got[c.ClientID] = c.Silent
		}
	}
	if fmt.Sprint(got) != "map[gone:v0.1.12 told of the next:v0.1.13 told twice:v0.1.12]" || o.Trouble != 3 {
		t.Errorf("silent: %v, %d in trouble", got, o.Trouble)
	}
	if page := b.do("GET", "/updates?result=trouble", "", "Authorization: admin").body; strings.Count(page, "silent since it was told of v0.1.12") != 2 {
		t.Errorf("the page: %s", page)
	}
}

// TestTold: the database has what the gate really told a client.
func TestTold(t *testing.T) {
	b := newBench(t)
	request, err := os.ReadFile("testdata/request.json")
	if err != nil {
		t.Fatal(err)
	}
	told := func() (version string) {
		b.store.Load().db.QueryRow("SELECT version FROM told WHERE client_id = 'c-1'").Scan(&version)
		return version
	}
	if b.checkIn(string(request)); told() != "" {
		t.Errorf("without a release, told of %s", told())
	}
	b.publish()
	if a := b.checkIn(string(request)); told() != "v0.1.12" || !strings.Contains(a.body, "update_version") {
		t.Errorf("told of %q, with %s", told(), a.body)
	}
}

func TestProgress(t *testing.T) {
	b := newBench(t, func(c *Config) { c.ReleaseNotes = "https://example.com/{version}/notes" })
	b.publish(func(m *manifest.Manifest) {
		m.ReleasedAt, m.Rollout = "2026-11-01T12:00:00Z", &manifest.Rollout{Percent: 1}
	})
	linux := report{OS: "linux", Arch: "amd64", Version: "v0.1.11", Seen: time.Now()}
	for i, change := range []func(*report){
		func(r *report) { r.Version = "v0.1.12" },
		func(r *report) { r.Version = "0.1.12" },
		func(r *report) { r.Rejected = "v0.1.12" },
		func(r *report) { r.Result, r.ResultVersion = "rollback failed", "v0.1.12" },
		func(r *report) { r.Result, r.ResultVersion = "rolled back", "v0.1.10" }, // an earlier release
		func(r *report) { r.OS, r.Hostname = "darwin", "mac" },
		func(r *report) { r.Version = "" },
	} {
		r := linux
		r.ClientID = fmt.Sprintf("c-%d", i)
		r.Hostname = r.ClientID
		change(&r)
		b.report(r)
	}
	p := b.known("").Release.progress
	if p.Clients != 5 || p.Have != 2 || p.Failed != 2 || p.Notes != "https://example.com/v0.1.12/notes" || p.Since == nil {
		t.Errorf("%+v", p)
	}
	page := b.do("GET", "/updates", "", "Authorization: admin").body
	for _, want := range []string{"<b>2</b> of 5 clients have it", "Released <time datetime=\"2026-11-01T12:00:00Z\">2026-11-01 12:00 UTC</time>", `<a href="https://example.com/v0.1.12/notes"`, "For 1 % of the clients"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Count(page, "not managed here") != 1 {
		t.Error("the Mac is managed")
	}
}

// TestNamesakes: the page tells clients of one host name apart, and links each to the
// server's own page of it.
func TestNamesakes(t *testing.T) {
	b := newBench(t)
	b.report(report{ClientID: "c-1", Hostname: "twin", Seen: time.Now()}, report{ClientID: "c/2", Hostname: "twin", Seen: time.Now()}, report{ClientID: "c-3", Hostname: "only", Seen: time.Now()})
	page := b.do("GET", "/updates", "", "Authorization: admin").body
	for text, n := range map[string]int{`<span class="quiet id">c-1</span>`: 1, `<span class="quiet id">c/2</span>`: 1, `<span class="quiet id">c-3`: 0,
		`href="clients/c-1"`: 1, `href="clients/c%2F2"`: 1, `http-equiv="refresh"`: 0} {
		if got := strings.Count(page, text); got != n {
			t.Errorf("%s is there %d times, want %d", text, got, n)
		}
	}
	if page := b.do("GET", "/updates?refresh=60", "", "Authorization: admin").body; !strings.Contains(page, `<meta http-equiv="refresh" content="60">`) {
		t.Error("the page is not refreshed")
	}
}

// TestMeanings: the page explains each result once.
func TestMeanings(t *testing.T) {
	known := map[state.Result]bool{}
	for _, m := range meanings {
		known[m.Result] = true
	}
	for _, r := range []state.Result{state.ResultHandedOn, state.ResultOnTrial, state.ResultCurrent, state.ResultAvailable, state.ResultAdopted, state.ResultCommitted,
		state.ResultUnproven, state.ResultFailed, state.ResultMisconfigured, state.ResultRolledBack, state.ResultInterrupted, state.ResultRollbackFailed,
		state.ResultRefused, state.ResultNotDownloaded, state.ResultNotAttempted, state.ResultSettled, state.ResultDrilled} {
		if !known[r] {
			t.Errorf("%s is not explained", r)
		}
		delete(known, r)
	}
	if len(known) > 0 || len(meanings) != 17 {
		t.Errorf("%d explanations, of which unknown: %v", len(meanings), known)
	}
}
