package health

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

// TestBaselineWithoutAttempt: the first of two starts of a swap has already taken the order.
func TestBaselineWithoutAttempt(t *testing.T) {
	b := newBench(t, fake{unit: running(os.Getpid())}, true)
	if _, err := b.tree.TakeOrder("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Baseline(t.Context(), "x"); !errors.Is(err, ErrNoAttempt) {
		t.Errorf("got %v", err)
	}
}

// TestBaselineOfRequest shows that an operator's request to try the probes, to go back or
// to drill has its own attempt, even if there is an order that was never carried out. A
// request for a release becomes an order.
func TestBaselineOfRequest(t *testing.T) {
	for verb, want := range map[state.Verb]state.AttemptID{state.VerbProbe: "looked", state.VerbRollback: "looked", state.VerbDrill: "looked", state.VerbApply: "ordered"} {
		b := newBench(t, fake{unit: running(os.Getpid())}, true)
		if err := os.MkdirAll(filepath.Join(b.tree.Run, "request"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := b.tree.SetRequest("x", state.Request{Attempt: "looked", Verb: verb}); err != nil {
			t.Fatal(err)
		}
		got, err := b.Baseline(t.Context(), "x")
		if err != nil || got.Attempt != want || !got.Standing || got.Probes[0].Detail != "a connection is accepted" {
			t.Errorf("%s: got %+v, %v", verb, got, err)
		}
	}
}

// TestBaselineOfSlowCommand shows that a probe has the same limit before the swap as in the trial.
func TestBaselineOfSlowCommand(t *testing.T) {
	b := newBench(t, fake{unit: running(os.Getpid())}, true)
	file := filepath.Join(b.dirs.Root, "etc", "x.toml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(text, "[[health.probe]]\ncommand = [\"/bin/sleep\", \"2.5\"]\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := b.Baseline(t.Context(), "x")
	if err != nil || len(got.Probes) != 2 || !got.Probes[1].Passed || got.Probes[1].Millis < 2500 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestBaseline(t *testing.T) {
	self := fake{unit: running(os.Getpid())}
	for _, c := range []struct {
		name     string
		systemd  manager
		listens  bool
		verdict  state.Verdict // of the open journal; "" if there is none
		excused  bool          // the probe failed before
		standing bool
		passed   bool
		most     time.Duration
	}{
		{"before, healthy", self, true, "", false, true, true, time.Second},
		{"before, does not listen", self, false, "", false, true, false, 3 * time.Second},
		{"before, crash loop", fake{unit: crashed.Unit}, true, "", false, false, false, time.Second},
		{"after, healthy", self, true, state.VerdictRollback, false, true, true, time.Second},
		{"after, does not listen", self, false, state.VerdictRollback, false, true, false, time.Second},
		{"after, does not listen, nor before", self, false, state.VerdictRollback, true, true, false, 200 * ms},
		{"after, down", fake{unit: failed.Unit}, true, state.VerdictRollback, false, false, false, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, c.systemd, c.listens)
			attempt := state.AttemptID("ordered")
			if c.verdict != "" {
				attempt = "tried"
				b.open(t, state.PhaseTrial, c.verdict)
				before := state.Baseline{Attempt: "tried", Standing: true, Probes: []state.ProbeResult{{Probe: "tcp " + b.port, Passed: !c.excused}}}
				if err := b.tree.SetBaseline("x", before); err != nil {
					t.Fatal(err)
				}
			}
			begin := time.Now()
			got, err := b.Baseline(t.Context(), "x")
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); took > c.most {
				t.Errorf("took %s", took)
			}
			if b.log.Attempt != attempt {
				t.Errorf("the log is of attempt %q", b.log.Attempt)
			}
			if got.Attempt != attempt || got.Standing != c.standing || (got.Detail == "") != c.standing || len(got.Probes) != 1 || got.Probes[0].Passed != c.passed {
				t.Errorf("baseline %+v", got)
			}
		})
	}
}

// TestBlindBaseline: without systemd's answers a gate reports before the swap that it is
// unable to judge. After a rollback it writes no report; then systemd's view must do.
func TestBlindBaseline(t *testing.T) {
	for name, m := range map[string]manager{"no systemd": nil, "systemd lost": fake{err: errors.New("systemd does not answer")}} {
		b := newBench(t, m, true)
		before, err := b.Baseline(t.Context(), "x")
		if err != nil || before.Standing || !strings.HasSuffix(before.Unjudgeable, "systemd does not answer") {
			t.Errorf("%s, before: %+v, %v", name, before, err)
		}
	}
	b := newBench(t, nil, true)
	b.open(t, state.PhaseTrial, state.VerdictRollback)
	if after, err := b.Baseline(t.Context(), "x"); err == nil {
		t.Errorf("after: %+v", after)
	}
}

// TestBaselineOfOpenTrial: a trial without a verdict is not one that was rolled back.
func TestBaselineOfOpenTrial(t *testing.T) {
	b := newBench(t, nil, true)
	b.open(t, state.PhaseTrial, "")
	if got, err := b.Baseline(t.Context(), "x"); err != nil || got.Attempt != "tried" || !strings.HasSuffix(got.Unjudgeable, "systemd does not answer") {
		t.Errorf("%+v, %v", got, err)
	}
}
