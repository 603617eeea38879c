package policy

import (
	"fmt"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

func TestBackoff(t *testing.T) {
	last := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	of := func(manifest string, results ...state.Result) (h []state.Attempt) {
		for i, r := range results {
			h = append(h, state.Attempt{ID: state.AttemptID(fmt.Sprint("a-", i)), Manifest: manifest, Result: r,
				Time: last.Add(time.Duration(i+1-len(results)) * time.Hour)})
		}
		return h
	}
	for _, c := range []struct {
		name     string
		history  []state.Attempt
		from, to time.Duration // the wait after the last attempt; zero: none
	}{
		{name: "no history"},
		{name: "installed", history: of("m", state.ResultCommitted)},
		{name: "one failure", history: of("m", state.ResultNotDownloaded), from: time.Hour, to: time.Hour},
		{name: "two", history: of("m", state.ResultNotDownloaded, state.ResultRefused), from: 2 * time.Hour, to: 132 * time.Minute},
		{name: "three", history: of("m", state.ResultFailed, state.ResultMisconfigured, state.ResultRefused), from: 4 * time.Hour, to: 264 * time.Minute},
		{name: "a hundred", history: of("m", make100(state.ResultFailed)...), from: 24 * time.Hour, to: 1584 * time.Minute},
		{name: "not attempted says nothing", history: of("m", state.ResultFailed, state.ResultFailed, state.ResultNotAttempted), from: time.Hour, to: 72 * time.Minute},
		{name: "a trial that began says nothing", history: of("m", state.ResultFailed, state.ResultFailed, state.ResultOnTrial), from: time.Hour, to: 72 * time.Minute},
		{name: "nor does what was handed on", history: of("m", state.ResultFailed, state.ResultFailed, state.ResultHandedOn), from: time.Hour, to: 72 * time.Minute},
		{name: "a success in between", history: of("m", state.ResultFailed, state.ResultFailed, state.ResultCurrent, state.ResultFailed), from: time.Hour, to: time.Hour},
		{name: "a trial is no failure before one", history: of("m", state.ResultRolledBack)},
		{name: "rolled back and not rejected", history: []state.Attempt{{Manifest: "m", Result: state.ResultRolledBack, Blameless: true, Time: last}}, from: time.Hour, to: time.Hour},
		{name: "again", history: []state.Attempt{{Manifest: "m", Result: state.ResultRolledBack, Blameless: true, Time: last.Add(-time.Hour)}, {Manifest: "m", Result: state.ResultNotAttempted, Time: last.Add(-time.Minute)},
			{Manifest: "m", Result: state.ResultRolledBack, Blameless: true, Time: last}}, from: 2 * time.Hour, to: 132 * time.Minute},
		{name: "expired", history: []state.Attempt{{Result: state.ResultRefused, Expired: true, Time: last}}},
		{name: "expired after failures", history: append(of("m", state.ResultFailed, state.ResultFailed), state.Attempt{Result: state.ResultRefused, Expired: true, Time: last}), from: 2 * time.Hour, to: 132 * time.Minute},
		{name: "a drill says nothing", history: append(of("m", state.ResultFailed, state.ResultFailed), state.Attempt{Result: state.ResultDrilled, Drill: true, Time: last}), from: 2 * time.Hour, to: 132 * time.Minute},
		{name: "a drill that failed", history: []state.Attempt{{Manifest: "m", Result: state.ResultFailed, Drill: true, Time: last}}},
		{name: "another manifest", history: of("n", state.ResultFailed, state.ResultFailed)},
		{name: "a success without a manifest last", history: append(of("m", state.ResultFailed, state.ResultFailed), state.Attempt{Result: state.ResultCommitted, Time: last})},
		{name: "another manifest last", history: append(of("m", state.ResultFailed), of("n", state.ResultFailed)...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			until := Backoff(c.history, "m", time.Hour, last)
			if c.from == 0 {
				if !until.IsZero() {
					t.Errorf("waits until %s", until)
				}
				return
			}
			if wait := until.Sub(last); wait < c.from || wait > c.to {
				t.Errorf("waits %s, want %s to %s", wait, c.from, c.to)
			}
		})
	}
	// A server's Retry-After counts if it is later, and for a day at most. Other failures
	// back off as usual, beyond what a source says.
	for _, c := range []struct {
		after, want time.Duration
		n           int
	}{
		{after: -time.Hour, want: time.Hour, n: 1},
		{after: time.Minute, want: time.Hour, n: 1},
		{after: 3 * time.Hour, want: 3 * time.Hour, n: 1},
		{after: 1e6 * time.Hour, want: 24 * time.Hour, n: 1},
		{after: time.Minute, want: 24 * time.Hour, n: 100},
	} {
		h := of("", make100(state.ResultNotDownloaded)[:c.n]...)
		h[c.n-1].RetryAfter = last.Add(c.after)
		if got := Backoff(h, "", time.Hour, last).Sub(last); got < c.want || got > c.want*11/10 {
			t.Errorf("%d limited for %s: waits %s, want %s", c.n, c.after, got, c.want)
		}
	}
	// A source whose signatures have expired has answered. The next attempt looks for new ones.
	h := append(of("", state.ResultNotDownloaded), state.Attempt{Result: state.ResultRefused, Expired: true, Time: last})
	if until := Backoff(h, "", time.Hour, last); !until.IsZero() {
		t.Errorf("after expired signatures it waits until %s", until)
	}
	// Machines that failed together do not retry together.
	soonest, latest := last.Add(1000*time.Hour), last
	for i := range 40 {
		h := of("m", state.ResultFailed, state.ResultFailed)
		h[1].ID = state.AttemptID(fmt.Sprint("machine-", i))
		until := Backoff(h, "m", time.Hour, last)
		if until.Before(soonest) {
			soonest = until
		}
		if until.After(latest) {
			latest = until
		}
	}
	if spread := latest.Sub(soonest); spread < 6*time.Minute {
		t.Errorf("forty machines retry within %s", spread)
	}
	// Failures a minute apart, after a boot or by an operator, count as one.
	h = of("m", state.ResultFailed, state.ResultFailed, state.ResultNotDownloaded, state.ResultNotDownloaded, state.ResultNotDownloaded)
	for i := range h {
		h[i].Time = last.Add(time.Duration(i-4) * time.Minute)
	}
	if got := Backoff(h, "m", time.Hour, last).Sub(last); got != time.Hour {
		t.Errorf("after five failures in as many minutes it waits %s", got)
	}
	// An attempt that did not begin has asked no source.
	h = of("m", state.ResultCurrent, state.ResultMisconfigured)
	if h[1].Stage = "begin"; !Backoff(h, "m", time.Hour, last).IsZero() {
		t.Error("waits after an attempt that did not begin")
	}
	// A clock that was at 2100 blocks nothing until then, and one that was at 1970
	// changes nothing.
	for year, waits := range map[int]bool{2100: false, 1970: true} {
		h := of("m", state.ResultFailed, state.ResultFailed)
		h[1].Time = time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
		until := Backoff(h, "m", time.Hour, last)
		if until.IsZero() == waits || until.After(last) {
			t.Errorf("a failure in %d: waits until %s", year, until)
		}
	}
	// A check, or a source that was down for a while, is no success.
	h = of("m", state.ResultFailed, state.ResultFailed, state.ResultAvailable, state.ResultNotDownloaded)
	h[3].Manifest = ""
	if got := Backoff(h, "m", time.Hour, last).Sub(h[1].Time); got < 2*time.Hour {
		t.Errorf("after it was looked at: waits %s", got)
	}
	if h[2].Manifest = "n"; !Backoff(h, "m", time.Hour, last).IsZero() {
		t.Error("waits after another manifest was used")
	}
	// These are recorded by unattended attempts with the same reason.
	var s state.Status
	for i := range 4 {
		s.Record(state.Attempt{ID: state.AttemptID(fmt.Sprint("a-", i)), Origin: state.OriginSchedule, Manifest: "m", Result: state.ResultRefused, Reason: "no",
			Time: last.Add(time.Duration(i-3) * 8 * time.Hour)})
	}
	if got := Backoff(s.Attempts, "m", time.Hour, last).Sub(last); got < 8*time.Hour {
		t.Errorf("after four failures waits %s", got)
	}
	// The wait is a day at most, but never less than the configured interval.
	if got := Backoff(of("m", state.ResultFailed, state.ResultFailed), "m", 48*time.Hour, last).Sub(last); got < 48*time.Hour {
		t.Errorf("waits %s, less than the interval", got)
	}
}

// TestBackoffMended: after the target file was changed, an unattended attempt does not wait,
// once, for what failed before its trial.
func TestBackoffMended(t *testing.T) {
	failed := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	now := failed.Add(10 * time.Minute)
	for _, c := range []struct {
		name    string
		failure state.Attempt
		changed time.Time
		waits   bool
	}{
		{"misconfigured, mended", state.Attempt{Result: state.ResultMisconfigured}, failed.Add(time.Minute), false},
		{"mended while it ran", state.Attempt{ID: "20261101t110000000-1", Result: state.ResultRefused}, failed.Add(-time.Minute), false},
		{"misconfigured, unchanged", state.Attempt{Result: state.ResultMisconfigured}, failed.Add(-time.Minute), true},
		{"misconfigured, not known", state.Attempt{Result: state.ResultMisconfigured}, time.Time{}, true},
		{"a clock that was wrong", state.Attempt{Result: state.ResultMisconfigured}, now.Add(time.Hour), true},
		{"refused, mended", state.Attempt{Result: state.ResultRefused}, failed.Add(time.Minute), false},
		{"the source asks for a pause", state.Attempt{Result: state.ResultNotDownloaded, RetryAfter: failed.Add(time.Minute)}, failed.Add(time.Minute), true},
		{"a trial", state.Attempt{Result: state.ResultRolledBack, Blameless: true}, failed.Add(time.Minute), true},
	} {
		c.failure.Time = failed
		k := Known{Rules: Rules{AutoUpdate: true, CheckEvery: time.Hour, Changed: c.changed}, History: []state.Attempt{c.failure}, Now: now}
		if d := Decide(k); (d.Rule == RuleBackoff) != c.waits {
			t.Errorf("%s: %+v", c.name, d)
		}
	}
}

func make100(r state.Result) []state.Result {
	all := make([]state.Result, 100)
	for i := range all {
		all[i] = r
	}
	return all
}
