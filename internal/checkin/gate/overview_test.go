package gate

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/rollout"
	"github.com/machinemon/machinemon-update/internal/state"
)

// rows returns the rows of all clients, without their classes.
func (s *store) rows(t *testing.T) (all []report) {
	t.Helper()
	rows, err := s.db.QueryContext(t.Context(), "SELECT "+columns+" FROM clients")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var r report
		var seen, attempted int64
		if err := rows.Scan(&r.ClientID, &r.Hostname, &r.OS, &r.Arch, &r.Version, &seen, &r.Target, &r.Result, &r.ResultVersion, &r.Reason, &r.Rejected, &attempted, &r.Held, &r.Lot); err != nil {
			t.Fatal(err)
		}
		r.Seen, r.Attempted = time.Unix(seen, 0).UTC(), unixTime(attempted)
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// countAll counts all clients one by one, as the gate did before it had classes. silent
// returns the version of which a client was told before it fell silent.
func countAll(rows []report, m *manifest.Manifest, p *rollout.Plan, q url.Values, silent func(report) string) *overview {
	o := &overview{Versions: []versionView{}, Clients: []clientView{}}
	if m != nil {
		o.Release = &releaseView{Version: m.Version, progress: newProgress(m, "")}
	}
	by := newOrder(q.Get("sort"), q.Get("order"))
	slices.SortFunc(rows, func(a, b report) int {
		c := map[string]int{"hostname": strings.Compare(a.Hostname, b.Hostname), "version": strings.Compare(a.Version, b.Version), "seen": a.Seen.Compare(b.Seen),
			"result": strings.Compare(a.Result, b.Result), "attempted": cmp.Compare(unixSeconds(a.Attempted), unixSeconds(b.Attempted))}[by.column]
		c = cmp.Or(c, strings.Compare(a.ClientID, b.ClientID))
		if by.desc {
			c = -c
		}
		return c
	})
	versions := map[string]int{}
	var others []clientView
	var counts rollout.Counts
	for _, r := range rows {
		v := view(r, m)
		v.Silent = silent(r)
		v.Trouble = v.Trouble || v.Silent != ""
		if d, meant := decide(m, r); meant {
			o.Release.Clients++
			switch {
			case manifest.SameVersion(m.Version, r.Version):
				o.Release.Have++
			case r.Rejected != "" && manifest.SameVersion(m.Version, r.Rejected), r.ResultVersion != "" && manifest.SameVersion(m.Version, r.ResultVersion) && state.Result(r.Result).Alarming():
				o.Release.Failed++
			case d.Rule == policy.RuleRollout:
				o.Release.Waiting++
			}
		}
		if p != nil {
			count(&counts, p, m, r, place(m, r))
		}
		o.Total++
		o.Trouble += boolToInt(v.Trouble)
		o.Updates += boolToInt(v.Available)
		o.Held += boolToInt(v.Held)
		versions[r.Version]++
		if !matches(v, q) || !strings.Contains(strings.ToLower(r.Hostname+" "+r.ClientID), strings.ToLower(q.Get("q"))) {
			continue
		}
		o.Matching++
		if q.Get("sort") == "" && !v.Trouble {
			others = append(others, v)
		} else {
			o.Clients = append(o.Clients, v)
		}
	}
	o.Clients = append(o.Clients, others...)
	o.Clients = o.Clients[:min(len(o.Clients), maxRows)]
	for version, n := range versions {
		o.Versions = append(o.Versions, versionView{version, n})
	}
	sortByClients(o.Versions)
	if p != nil {
		s := p.State(counts, time.Time{})
		o.Rollout = &s
	}
	return o
}

// same fails the test if the gate's overview differs from the clients counted one by one.
func (b *bench) same(when string, silent func(report) string, queries ...string) {
	b.t.Helper()
	rows, m := b.store.Load().rows(b.t), b.release()
	for _, query := range queries {
		q, err := url.ParseQuery(query)
		if err != nil {
			b.t.Fatal(err)
		}
		want := countAll(rows, m, b.plan(m), q, silent)
		got, err := b.overview(b.t.Context(), q)
		if err != nil {
			b.t.Fatal(err)
		}
		line := func(o *overview) string {
			s := fmt.Sprint(o.Total, " clients, ", o.Trouble, " in trouble, ", o.Updates, " with an update, ", o.Held, " held, ", o.Matching, " match; ", o.Versions)
			if o.Release != nil {
				s += fmt.Sprint("; ", o.Release.Clients, " meant, ", o.Release.Have, " have it, ", o.Release.Failed, " failed, ", o.Release.Waiting, " wait")
			}
			if o.Rollout != nil {
				s += fmt.Sprintf("; %+v", o.Rollout.Counts)
			}
			return s
		}
		if g, w := line(got), line(want); g != w {
			b.t.Errorf("%s: %q:\n     %s\nwant %s", when, query, g, w)
		}
		text := func(c clientView) string {
			return fmt.Sprint(c.ClientID, c.Hostname, c.Platform, c.Version, c.Available, c.Trouble, c.Result, c.About, c.Reason, c.Held, c.Rejected, c.Seen, c.Silent, c.Attempted != nil)
		}
		for i := range max(len(got.Clients), len(want.Clients)) {
			if i >= len(got.Clients) || i >= len(want.Clients) || text(got.Clients[i]) != text(want.Clients[i]) {
				b.t.Errorf("%s: %q: %d clients are listed, want %d; the lists differ at %d", when, query, len(got.Clients), len(want.Clients), i)
				break
			}
		}
	}
}

var everyQuery = func() (all []string) {
	for _, sort := range []string{"", "sort=host", "sort=version", "sort=seen", "sort=result", "sort=attempt"} {
		for _, order := range []string{"", "&order=desc"} {
			for _, filter := range []string{"", "&result=trouble", "&version=v0.1.11", "&update=yes", "&update=no&held=no", "&held=yes", "&result=committed", "&version=", "&q=HOST-1", "&q=%C3%84", "&q=t-1+c-&update=yes", "&q=100%25", "&result=trouble&q=_1"} {
				all = append(all, sort+order+filter)
			}
		}
	}
	return all
}()

// TestOverview checks the numbers and lists of the page against a count of all clients, one
// by one, after many check-ins through two gates, some of which are cut off, while releases
// are published, clients fall silent and are forgotten, and gates start again.
func TestOverview(t *testing.T) {
	const seed = 7
	random := rand.New(rand.NewPCG(seed, seed))
	one := func(of ...string) string { return of[random.IntN(len(of))] }
	b := newBench(t)
	other := b.data.open()
	lotOf := lotsOf(t)
	var lots []string
	for n := range 40 {
		lots = append(lots, lotOf(n))
	}
	now := time.Unix(1_800_000_000, 0).UTC()
	b.now = func() time.Time { return now }
	// told has of which version each client was told, since when, and in its last report.
	type toldOf struct {
		version string
		since   time.Time
		last    bool
	}
	told := map[string]toldOf{}
	silent := func(r report) string {
		if k := told[r.ClientID]; k.last && r.Seen.Sub(k.since) <= 15*time.Minute && r.Seen.Unix() < now.Add(-30*time.Minute).Unix() {
			return k.version
		}
		return ""
	}
	next := func(n int) report {
		r := report{ClientID: fmt.Sprintf("c-%d", n), Hostname: one(fmt.Sprintf("Host-%d", n), fmt.Sprintf("host-%d", n%50), "Änderung", "100%"), OS: one("linux", "linux", "linux", "darwin"), Arch: one("amd64", "arm"),
			Version: one("v0.1.11", "v0.1.12", "0.1.12", "v0.1.13", ""), Seen: now, Target: "agent", Held: random.IntN(9) == 0, Lot: one("", lots[n%len(lots)]), Told: one("", "", "v0.1.12", "v0.1.13"),
			Result: one("", "committed", "committed", "rolled back", "failed", "available", "on trial"), Reason: one("", "it died"), Rejected: one("", "", "v0.1.12", "v0.1.13")}
		if r.Result != "" {
			r.ResultVersion, r.Attempted = one("v0.1.12", "v0.1.13"), now.Add(-time.Duration(random.IntN(7200))*time.Second)
		}
		return r
	}
	last := map[string]report{}
	defer func(n int) { foundAtOnce = n }(foundAtOnce)
	for round := range 50 {
		foundAtOnce = []int{5, 5000}[round%2] // the database counts what a search finds, or the gate does
		now = now.Add(time.Duration(random.IntN(900)) * time.Second)
		var batch []report
		for range 60 {
			n := random.IntN(700)
			r, known := last[fmt.Sprintf("c-%d", n)]
			if !known || random.IntN(2) == 0 {
				r = next(n)
			}
			r.Seen = now
			batch = append(batch, r)
		}
		s := b.store.Load()
		if round%2 == 1 {
			s = other
		}
		if round%7 == 3 { // writing ends half-way: the transaction is undone
			batch[20].Result, batch[20].Attempted = "failed", now
			if _, err := s.db.Exec("ALTER TABLE attempts RENAME TO gone"); err != nil {
				t.Fatal(err)
			}
			if err := s.insertReports(t.Context(), batch); err == nil {
				t.Error("it is written without the table of attempts")
			}
			if _, err := s.db.Exec("ALTER TABLE gone RENAME TO attempts"); err != nil {
				t.Fatal(err)
			}
		} else if err := s.insertReports(t.Context(), batch); err != nil {
			t.Fatal(err)
		} else {
			for _, r := range newest(batch) {
				last[r.ClientID] = r
				k := told[r.ClientID]
				if k.last = r.Told != ""; k.last && k.version != r.Told {
					k.version, k.since = r.Told, now
				}
				told[r.ClientID] = k
			}
		}
		switch round {
		case 5:
			b.publish()
		case 12:
			b.publish(func(m *manifest.Manifest) {
				m.Version, m.Sequence, m.Rollout = "v0.1.13", 2, &manifest.Rollout{Percent: 30}
			})
		case 15, 25:
			p := rollout.New(b.release(), []int{30, 100}, time.Hour, 10, now.Add(-time.Hour))
			text, err := p.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			b.put(rollout.FileName, string(text))
		case 20, 40:
			ago := forgetAfter - 3*time.Hour
			if err := other.forgetOld(t.Context(), now.Add(ago)); err != nil {
				t.Fatal(err)
			}
			for _, r := range last {
				if r.Seen.Before(now.Add(ago - forgetAfter)) {
					delete(told, r.ClientID)
					delete(last, r.ClientID)
				}
			}
		case 30: // another start of the gate
			s := b.store.Load()
			b.store.Store(b.data.open())
			s.Close()
		case 45: // another day: classes without clients are deleted
			if _, err := other.db.Exec("UPDATE classes SET used = used - 3"); err != nil {
				t.Fatal(err)
			}
			other.known.day, b.store.Load().known.day = 0, 0
			if err := other.forgetClasses(t.Context()); err != nil {
				t.Fatal(err)
			}
			var idle int
			if err := other.db.QueryRow("SELECT COUNT(*) FROM classes WHERE id NOT IN (SELECT class FROM clients)").Scan(&idle); err != nil || idle != 0 {
				t.Errorf("%d classes have no clients, %v", idle, err)
			}
		}
		var queries []string
		for i := round; i < len(everyQuery); i += 50 {
			queries = append(queries, everyQuery[i])
		}
		b.same(fmt.Sprintf("round %d", round), silent, queries...)
		if t.Failed() {
			return
		}
	}
	if n := len(b.store.Load().rows(t)); n <= maxRows {
		t.Errorf("%d clients are too few to fill a list", n)
	}
}
