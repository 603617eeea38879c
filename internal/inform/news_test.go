package inform

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// history makes attempts with these results, an hour apart, each of another release.
func history(results ...state.Result) (all []state.Attempt) {
	at := time.Date(2026, 11, 29, 3, 0, 0, 0, time.UTC)
	for i, r := range results {
		at = at.Add(time.Hour)
		all = append(all, state.Attempt{ID: state.AttemptID(at.Format("20060102t150405000") + "-00000000"), Time: at, Result: r, Version: "1." + string(rune('0'+i))})
	}
	return all
}

func eventsOf(all []state.Notice) (events []string) {
	for _, n := range all {
		events = append(events, n.Event)
	}
	return events
}

// TestNews: which results are news, after which others.
func TestNews(t *testing.T) {
	const (
		failed, rolledBack, rollbackFailed = target.EventFailed, target.EventRolledBack, target.EventRollbackFailed
		recovered                          = target.EventRecovered
	)
	for _, c := range []struct {
		name    string
		results []state.Result
		want    []string
	}{
		{"all is well", []state.Result{state.ResultCommitted, state.ResultCurrent, state.ResultAvailable, state.ResultNotAttempted, state.ResultNotDownloaded}, nil},
		{"a rollback, and the next release", []state.Result{state.ResultRolledBack, state.ResultNotAttempted, state.ResultAvailable, state.ResultCommitted}, []string{rolledBack, recovered}},
		{"two rollbacks", []state.Result{state.ResultRolledBack, state.ResultInterrupted}, []string{rolledBack, rolledBack}},
		{"a refusal ends when a release is available", []state.Result{state.ResultRefused, state.ResultAvailable, state.ResultAvailable}, []string{failed, recovered}},
		{"a failed rollback", []state.Result{state.ResultRollbackFailed, state.ResultNotAttempted, state.ResultSettled}, []string{rollbackFailed, recovered}},
		{"an attempt that goes on", []state.Result{state.ResultRolledBack, state.ResultHandedOn, state.ResultOnTrial}, []string{rolledBack}},
		{"unproven", []state.Result{state.ResultRolledBack, state.ResultUnproven}, []string{rolledBack, recovered}},
	} {
		attempts := history(c.results...)
		var got []string
		var told *state.Told
		for i := range attempts { // as after each attempt
			notices, now := news(facts{name: "agent", attempts: attempts[:i+1]}, told, time.Now())
			got, told = append(got, eventsOf(notices)...), &now
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: told one by one %q, want %q", c.name, got, c.want)
		}
		notices, _ := news(facts{name: "agent", attempts: attempts}, &state.Told{}, time.Now()) // as after an outage
		if got := eventsOf(notices); !slices.Equal(got, c.want) {
			t.Errorf("%s: told at once %q, want %q", c.name, got, c.want)
		}
		if again, _ := news(facts{name: "agent", attempts: attempts}, told, time.Now()); len(again) > 0 {
			t.Errorf("%s: told again: %q", c.name, eventsOf(again))
		}
	}
}

// TestNewsOfDrill: nobody is told of a drill unless its rollback fails, and it neither ends
// nor begins a failure.
func TestNewsOfDrill(t *testing.T) {
	const rolledBack, rollbackFailed, recovered = target.EventRolledBack, target.EventRollbackFailed, target.EventRecovered
	for _, c := range []struct {
		drills, results []state.Result // of the drill, one after the other, after the results
		want            []string
	}{
		{[]state.Result{state.ResultDrilled}, []state.Result{state.ResultRolledBack}, []string{rolledBack, recovered}},
		{[]state.Result{state.ResultFailed}, []state.Result{state.ResultCommitted}, nil},
		{[]state.Result{state.ResultRolledBack}, nil, nil},
		{[]state.Result{state.ResultRollbackFailed, state.ResultSettled}, nil, []string{rollbackFailed, recovered}},
	} {
		var got []string
		told := &state.Told{}
		tell := func(attempts []state.Attempt) {
			notices, now := news(facts{name: "agent", attempts: attempts}, told, time.Now())
			got, told = append(got, eventsOf(notices)...), &now
		}
		all := history(append(c.results, c.drills[0], state.ResultCommitted)...)
		n := len(c.results)
		tell(all[:n])
		all[n].Drill = true
		for _, r := range c.drills {
			all[n].Result = r
			tell(all[:n+1])
		}
		tell(all)
		if !slices.Equal(got, c.want) {
			t.Errorf("%v after %v: told %q, want %q", c.drills, c.results, got, c.want)
		}
	}
}

// TestOldNews: the first look tells only of the last attempt; the same failure is told once;
// an attempt is told again if it ended again; and a record that made room loses no news.
func TestOldNews(t *testing.T) {
	all, told := news(facts{name: "agent", attempts: history(state.ResultRolledBack, state.ResultRefused)}, nil, time.Now())
	if got := eventsOf(all); !slices.Equal(got, []string{target.EventFailed}) {
		t.Errorf("the first look tells %q", got)
	}
	same := history(state.ResultRolledBack, state.ResultRefused, state.ResultRefused)
	same[2].Version = same[1].Version
	if again, _ := news(facts{name: "agent", attempts: same}, &told, time.Now()); len(again) > 0 {
		t.Errorf("the same refusal is told again: %q", eventsOf(again))
	}
	ended := history(state.ResultRollbackFailed)
	_, told = news(facts{name: "agent", attempts: ended}, nil, time.Now())
	ended[0].Result = state.ResultRolledBack
	all, _ = news(facts{name: "agent", attempts: ended}, &told, time.Now())
	if got := eventsOf(all); !slices.Equal(got, []string{target.EventRolledBack}) {
		t.Errorf("the second end of an attempt is told as %q", got)
	}
	later := history(state.ResultCurrent, state.ResultCurrent, state.ResultRolledBack)
	_, told = news(facts{name: "agent", attempts: later[:1]}, nil, time.Now())
	all, _ = news(facts{name: "agent", attempts: later[1:]}, &told, time.Now()) // the first record made room for the second
	if got := eventsOf(all); !slices.Equal(got, []string{target.EventRolledBack}) {
		t.Errorf("after a record made room: %q", got)
	}
}

// TestTell: what is news waits in the spool for each way, once, also if telling it was cut
// off; and the sender is woken as long as anything waits.
func TestTell(t *testing.T) {
	i := informer(t, map[string]string{"agent": agent + "[notify]\nmail = ['root']\nwebhook = 'https://x'\nevents = ['rolled back', 'expiring']\n"})
	woken := 0
	i.Wake = func(string) error { woken++; return nil }
	waiting := func(want ...string) {
		t.Helper()
		for _, way := range []string{target.WayMail, target.WayWebhook} {
			var got []string
			all, err := i.Tree.WaitingNotices("agent", way)
			must(t, err)
			for _, w := range all {
				got = append(got, w.Event)
				if w.Target != "agent" || w.Host == "" {
					t.Errorf("the notice is %+v", w)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%q waits for %s, want %q", got, way, want)
			}
		}
	}
	must(t, i.Inform("agent"))
	if waiting(); woken != 0 {
		t.Error("the sender is woken for nothing")
	}
	must(t, i.Tree.Update(state.RoleSwap, "agent", func(s *state.Status) {
		s.Attempts = append(s.Attempts, history(state.ResultRolledBack)...)
	}))
	must(t, i.Inform("agent"))
	must(t, os.Remove(i.Tree.Var+"/notify/agent/told.json")) // as if root had been killed before it wrote that
	must(t, i.Inform("agent"))
	if waiting(target.EventRolledBack); woken != 2 {
		t.Errorf("the sender was woken %d times", woken)
	}
	must(t, i.Tree.Update(state.RoleSwap, "agent", func(s *state.Status) {
		failed := history(state.ResultRolledBack, state.ResultFailed)
		s.Attempts = append(s.Attempts, failed[1])
	}))
	must(t, i.Inform("agent"))
	waiting(target.EventRolledBack) // that is all that the target wants to be told
	expires := time.Now().Add(time.Hour)
	must(t, i.Tree.SetStatus(state.RoleFetch, "agent", state.Status{Offer: &state.Offer{Version: "1.3", Signed: []state.Signed{{Role: "timestamp", Version: 3, Expires: expires}}}}))
	must(t, i.Inform("agent"))
	must(t, i.Inform("agent"))
	waiting(target.EventRolledBack, target.EventExpiring)
}

// TestTellOfUnusable: that a target file cannot be used is told once, as notify.toml says.
func TestTellOfUnusable(t *testing.T) {
	i := informer(t, map[string]string{"agent": "unit = 3\n"})
	must(t, os.WriteFile(i.Targets.Root+"/notify.toml", []byte("[notify]\nmail = ['root']\n"), 0o644))
	for range 2 {
		must(t, i.Inform("agent"))
	}
	all, err := i.Tree.WaitingNotices("agent", target.WayMail)
	must(t, err)
	if len(all) != 1 || all[0].Event != target.EventFailed || !strings.Contains(all[0].Reason, "agent.toml:1: unit") {
		t.Errorf("%+v waits", all)
	}
}

// TestForeignNotice: what a taken-over sender puts into the spool does no harm.
func TestForeignNotice(t *testing.T) {
	i := informer(t, map[string]string{"agent": agent})
	must(t, i.Tree.AddNotice("mail", state.Notice{Target: "agent", Event: "test"}))
	dir := i.Tree.Notices("agent")
	must(t, os.Symlink("/etc/shadow", dir+"/a-link.mail"))
	must(t, os.Mkdir(dir+"/b-dir.mail", 0o755))
	must(t, os.WriteFile(dir+"/c-large.mail", make([]byte, 1<<20), 0o644))
	must(t, os.WriteFile(dir+"/d-other.mail", []byte(`{"target":"../../other","event":"\u001b[2J"}`), 0o644))
	all, err := i.Tree.WaitingNotices("agent", "mail")
	must(t, err)
	if len(all) != 2 || all[1].Target != "agent" || strings.Contains(all[1].Event, "\x1b") {
		t.Errorf("%+v waits", all)
	}
	if _, err := os.Lstat(dir + "/a-link.mail"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the link is there: %v", err)
	}
	for n := range 50 {
		must(t, os.WriteFile(dir+"/e-"+strings.Repeat("x", n+1)+".mail", []byte("{}"), 0o644))
	}
	if all, err = i.Tree.WaitingNotices("agent", "mail"); err != nil || len(all) != 30 {
		t.Errorf("%d notices wait: %v", len(all), err)
	}
}
