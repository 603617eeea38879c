package state

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

func TestStatus(t *testing.T) {
	tree := newTree(t)
	if s, err := tree.Status(RoleSwap, "agent"); err != nil || len(s.Attempts) != 0 {
		t.Errorf("never written: %+v, %v", s, err)
	}
	var s Status
	for i := range keep + 7 {
		s.Record(Attempt{ID: AttemptID(fmt.Sprintf("a%03d", i)), Result: ResultFailed})
		s.Reject(Rejection{Fingerprint: fmt.Sprint(i), Sequence: 1})
	}
	must(t, tree.SetStatus(RoleSwap, "agent", s))
	got, err := tree.Status(RoleSwap, "agent")
	must(t, err)
	if len(got.Attempts) != keep || got.Attempts[0].ID != "a007" || len(got.Rejected) != keep || got.Rejected[0].Fingerprint != "7" {
		t.Errorf("kept %d attempts from %s, %d rejections from %s", len(got.Attempts), got.Attempts[0].ID, len(got.Rejected), got.Rejected[0].Fingerprint)
	}
	if info, err := os.Stat(tree.status(RoleSwap, "agent")); err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if got.Attempts[0].Time.IsZero() {
		t.Error("no time")
	}
	got.Record(Attempt{ID: "a010", Result: ResultCommitted})
	if last := got.Attempts[keep-1]; len(got.Attempts) != keep || last.ID != "a010" || last.Result != ResultCommitted {
		t.Errorf("a second record of an attempt: %d, %+v", len(got.Attempts), last)
	}
}

// TestSizeOfRecords checks the size that machinemon-update.units(7) promises.
func TestSizeOfRecords(t *testing.T) {
	testkit.Slow(t)
	tree := newTree(t)
	longest := strings.Repeat("<", 64) // six bytes each in JSON
	var total int64
	for _, r := range []Role{RoleFetch, RoleVerify, RoleSwap} {
		var s Status
		for i := range 2 * keep {
			s.Record(Attempt{ID: AttemptID(fmt.Sprintf("%040d", i)), Origin: OriginOperator, From: longest, Version: longest, Sequence: math.MaxInt64,
				Manifest: longest, Stage: "rollback", Result: ResultRollbackFailed, Reason: strings.Repeat("<", 1<<20)})
			if r == RoleFetch {
				s.Attempts[len(s.Attempts)-1].NoDelta = Line(strings.Repeat("<", 1<<20))
			}
			if r == RoleSwap {
				last := &s.Attempts[len(s.Attempts)-1]
				last.Unhealthy, last.Unit, last.Rejected = Line(strings.Repeat("<", 1<<20)), strings.Repeat("<", 255), longest
				last.Said = slices.Repeat([]string{strings.Repeat("<", 200)}, 5) // the limits of package swap
				s.Reject(Rejection{Version: longest, Sequence: math.MaxInt64, Fingerprint: fmt.Sprintf("%064d", i), Archive: longest,
					Reason: strings.Repeat("<", 1<<20), Interruptions: MaxInterruptions})
			}
		}
		must(t, tree.SetStatus(r, "agent", s))
		info, err := os.Stat(tree.status(r, "agent"))
		must(t, err)
		total += info.Size()
		if _, err := tree.Status(r, "agent"); err != nil {
			t.Error(err)
		}
	}
	if total > 3e6 {
		t.Errorf("%d bytes of records, the manual page promises at most 3 MB", total)
	}
}

func TestRejects(t *testing.T) {
	for _, c := range []struct {
		name     string
		reject   []Rejection // Interruptions marks an interrupted trial
		digest   string
		archive  string
		sequence int64
		want     bool
	}{
		{name: "nothing", digest: "d", archive: "x", sequence: 1},
		{name: "the same", reject: []Rejection{{Fingerprint: "d", Archive: "x", Sequence: 5}}, digest: "d", archive: "x", sequence: 5, want: true},
		{name: "the same bytes in another archive", reject: []Rejection{{Fingerprint: "d", Archive: "x", Sequence: 5}}, digest: "d", archive: "y", sequence: 5, want: true},
		{name: "other bytes of the same archive", reject: []Rejection{{Fingerprint: "d", Archive: "x", Sequence: 5}}, digest: "e", archive: "x", sequence: 5, want: true},
		{name: "a lower sequence", reject: []Rejection{{Fingerprint: "d", Sequence: 5}}, digest: "d", sequence: 4, want: true},
		{name: "no sequence", reject: []Rejection{{Fingerprint: "d"}}, digest: "d", want: true},
		{name: "a higher sequence", reject: []Rejection{{Fingerprint: "d", Sequence: 5}}, digest: "d", sequence: 6},
		{name: "another release", reject: []Rejection{{Fingerprint: "d", Archive: "x"}}, digest: "e", archive: "y"},
		{name: "no archive is no archive", reject: []Rejection{{Fingerprint: "d"}}, digest: "e"},
		{name: "no digest is no digest", reject: []Rejection{{Archive: "x"}}, archive: "y"},
		{name: "interrupted twice", reject: []Rejection{{Fingerprint: "d", Interruptions: 1}, {Fingerprint: "d", Interruptions: 1}}, digest: "d"},
		{name: "interrupted three times", reject: []Rejection{{Fingerprint: "d", Interruptions: 1}, {Fingerprint: "d", Interruptions: 1}, {Fingerprint: "d", Interruptions: 1}}, digest: "d", want: true},
		{name: "three times, but not the same release", reject: []Rejection{{Fingerprint: "d", Interruptions: 1}, {Fingerprint: "d", Interruptions: 1}, {Fingerprint: "e", Interruptions: 1}}, digest: "d"},
		{name: "counted from one at a new sequence", reject: []Rejection{{Fingerprint: "d", Sequence: 1, Interruptions: 1}, {Fingerprint: "d", Sequence: 1, Interruptions: 1}, {Fingerprint: "d", Sequence: 2, Interruptions: 1}}, digest: "d", sequence: 2},
		{name: "bad after an interruption", reject: []Rejection{{Fingerprint: "d", Interruptions: 1}, {Fingerprint: "d"}}, digest: "d", want: true},
		{name: "an interruption changes no rejection", reject: []Rejection{{Fingerprint: "d"}, {Fingerprint: "d", Interruptions: 1}}, digest: "d", want: true},
		{name: "rejected again at a higher sequence", reject: []Rejection{{Fingerprint: "d", Sequence: 1}, {Fingerprint: "d", Sequence: 2}}, digest: "d", sequence: 2, want: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := Status{Rejected: []Rejection{{Fingerprint: "unrelated", Archive: "unrelated", Time: time.Now()}}}
			for _, r := range c.reject {
				r.Time = time.Now()
				s.Reject(r)
			}
			if got := s.Rejects(c.digest, c.archive, c.sequence); (got != nil) != c.want {
				t.Errorf("got %+v of %+v", got, s.Rejected)
			}
			if s.Rejects("unrelated", "", 0) == nil {
				t.Error("an unrelated rejection is gone")
			}
		})
	}
}

func TestHistory(t *testing.T) {
	tree := newTree(t)
	at := func(minute int) time.Time { return time.Date(2026, 11, 1, 0, minute, 0, 0, time.UTC) }
	for role, attempts := range map[Role][]Attempt{
		RoleFetch: {{ID: "a", Time: at(1), Stage: "fetch", Result: ResultHandedOn, NoDelta: "it is\ndamaged"}, {ID: "b", Time: at(2), Stage: "fetch", Result: ResultHandedOn},
			{ID: "c", Time: at(3), Stage: "fetch", Result: ResultNotDownloaded}, {ID: "e", Time: at(4), Stage: "fetch", Result: ResultCommitted}, {ID: "../../x", Time: at(4)}, {ID: "", Time: at(5)}},
		RoleVerify: {{ID: "b", Time: at(8), Stage: "verify", Result: ResultRefused}, {ID: "a", Time: at(9), Stage: "verify", Result: ResultHandedOn}},
		RoleSwap:   {{ID: "a", Time: at(20), Stage: "swap", Result: ResultCommitted}, {ID: "d", Time: at(0), Stage: "begin", Result: ResultNotAttempted}},
	} {
		must(t, tree.SetStatus(role, "agent", Status{Attempts: attempts}))
	}
	// A result that the role cannot have is not believed.
	list := func() string {
		all, err := tree.History("agent")
		var rows []string
		for _, a := range all {
			rows = append(rows, string(a.ID)+" "+a.Stage+" "+string(a.Result)+a.Detour())
		}
		if err != nil {
			rows = append(rows, "error")
		}
		return strings.Join(rows, ", ")
	}
	if got, want := list(), "a swap committed (not by delta: it is; damaged), b verify refused, c fetch not downloaded, d begin not attempted, e fetch handed on"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// The open trial is listed as on trial, with or without records of the other roles.
	for _, c := range []struct {
		attempt AttemptID
		want    string
	}{
		{"e", "a swap committed (not by delta: it is; damaged), b verify refused, c fetch not downloaded, d begin not attempted, e swap on trial"},
		{"f", "a swap committed (not by delta: it is; damaged), b verify refused, c fetch not downloaded, d begin not attempted, e fetch handed on, f swap on trial"},
	} {
		must(t, tree.SetJournal(&Journal{Attempt: c.attempt, Target: "agent", Version: "v2", Phase: PhaseTrial}))
		if got := list(); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
	must(t, tree.Update(RoleSwap, "agent", func(s *Status) { s.Record(Attempt{ID: "f", Stage: "rollback", Result: ResultRollbackFailed}) }))
	if got := list(); !strings.HasSuffix(got, ", f rollback rollback failed") || strings.Contains(got, "on trial") {
		t.Errorf("got %s", got)
	}
	must(t, os.WriteFile(tree.journal("agent"), []byte("rot"), 0o644))
	if got := list(); !strings.HasSuffix(got, ", f rollback rollback failed, error") {
		t.Errorf("got %s", got)
	}
	must(t, tree.CloseJournal("agent"))
	must(t, tree.Update(RoleSwap, "agent", func(s *Status) { s.Attempts = s.Attempts[:len(s.Attempts)-1] }))
	// A damaged record of one role does not hide the others'.
	must(t, os.WriteFile(tree.status(RoleVerify, "agent"), []byte("rot"), 0o644))
	if got, want := list(), "a swap committed (not by delta: it is; damaged), b fetch handed on, c fetch not downloaded, d begin not attempted, e fetch handed on, error"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestUse checks that another URL or another TLS flag makes another source.
func TestUse(t *testing.T) {
	var s Status
	for _, c := range []struct {
		from     string
		url      string
		insecure bool
		another  bool
	}{
		{"x", "https://a/", false, true},
		{"x", "https://a/", false, false},
		{"x", "https://a/", true, true},
		{"x", "https://b/", true, true},
		{"y", "https://b/", true, true},
	} {
		was := s.Source
		if s.Uses(c.from, c.url, c.insecure) == c.another {
			t.Errorf("%+v is or is not %s, %t", was, c.url, c.insecure)
		}
		s.Use(c.from, c.url, c.insecure)
		if (s.Source != was) != c.another || !s.Uses(c.from, c.url, c.insecure) || s.Source.Since.IsZero() {
			t.Errorf("from %+v to %+v", was, s.Source)
		}
	}
}

// TestInOrder checks that the order is that of events, even if the clock was at 2100 or
// 1970 for a while.
func TestInOrder(t *testing.T) {
	for _, c := range []struct {
		name                string
		fetch, verify, swap string
		want                string
	}{
		{"by ID", "a c e", "c e", "b c d e", "a b c d e"},
		{"at 2100 once", "1 2 9 3 4", "2 9", "2 9 4", "1 2 9 3 4"},
		{"at 1970 once", "5 6 0 7", "6 0 7", "6 0", "5 6 0 7"},
		{"set back", "7 8 1 2", "8 1", "8 1 3", "7 8 1 2 3"},
		{"an end at root's only", "9 1", "", "9 0 1", "9 0 1"},
		{"contradictions", "a b", "b a", "b a", "a b"},
		{"none", "", "", "", ""},
	} {
		ids := func(s string) (ids []AttemptID) {
			for _, id := range strings.Fields(s) {
				ids = append(ids, AttemptID(id))
			}
			return ids
		}
		if got := inOrder([][]AttemptID{ids(c.fetch), ids(c.verify), ids(c.swap)}); !slices.Equal(got, ids(c.want)) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestRejectedAgain checks that several archives of one program do not hide that it failed
// again with a higher sequence.
func TestRejectedAgain(t *testing.T) {
	s := Status{Rejected: []Rejection{
		{Fingerprint: "d", Archive: "a1", Sequence: 1},
		{Fingerprint: "d", Archive: "a2", Sequence: 1},
	}}
	if s.Rejects("d", "a3", 2) != nil {
		t.Error("a higher sequence may not be tried")
	}
	s.Reject(Rejection{Fingerprint: "d", Archive: "a3", Sequence: 2})
	for _, archive := range []string{"a1", "a2", "a3", "a4"} {
		if s.Rejects("d", archive, 2) == nil {
			t.Errorf("%s: tried again after it failed with this sequence", archive)
		}
	}
	// An interrupted trial does not undo a rejection.
	s.Reject(Rejection{Fingerprint: "d", Archive: "a3", Sequence: 2, Interruptions: 1})
	if s.Rejects("d", "a3", 2) == nil || s.Rejects("d", "a3", 3) != nil {
		t.Errorf("%+v", s.Rejected)
	}
}

// TestRecordRepeated checks that a year of checks without news displaces no other record.
func TestRecordRepeated(t *testing.T) {
	var s Status
	s.Record(Attempt{ID: "a", Origin: OriginSchedule, Result: ResultFailed, Reason: "x"})
	for i := range 100 {
		// They alternate if a server keeps announcing a release that is not installed.
		origin := []Origin{OriginSchedule, OriginDirective}[i%2]
		s.Record(Attempt{ID: AttemptID(fmt.Sprint("b-", i)), Origin: origin, Result: ResultCurrent, Version: "v1"})
	}
	s.Record(Attempt{ID: "c", Origin: OriginOperator, Result: ResultCurrent, Version: "v1"})
	s.Record(Attempt{ID: "d", Origin: OriginOperator, Result: ResultCurrent, Version: "v1"})
	s.Record(Attempt{ID: "e", Origin: OriginDirective, Result: ResultCurrent, Version: "v1"})
	var ids []string
	for _, a := range s.Attempts {
		ids = append(ids, string(a.ID))
	}
	if got := fmt.Sprint(ids); got != "[a b-99 c d e]" {
		t.Errorf("kept %s", got)
	}
}

// TestStatusMemory checks that a status of millions of tiny items, which a worker could
// write, takes its readers little memory.
func TestStatusMemory(t *testing.T) {
	testkit.Slow(t)
	tree := newTree(t)
	for _, list := range []string{"attempts", "rejected"} {
		for _, item := range []string{"{},", "null,"} {
			text := `{"format":1,"` + list + `":[` + strings.Repeat(item, (maxFile-100)/len(item)) + `{}]}`
			must(t, os.WriteFile(tree.status(RoleFetch, "agent"), []byte(text), 0o644))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			s, err := tree.Status(RoleFetch, "agent")
			runtime.ReadMemStats(&after)
			if err != nil || len(s.Attempts)+len(s.Rejected) != keep {
				t.Errorf("%d attempts, %d rejections, %v", len(s.Attempts), len(s.Rejected), err)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 300e6 {
				t.Errorf("%s of %s: %d MB", list, item, used/1e6)
			}
			t.Logf("%s of %s: %d MB allocated", list, item, (after.TotalAlloc-before.TotalAlloc)/1e6)
		}
	}
}
