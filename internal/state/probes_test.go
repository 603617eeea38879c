package state

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestLearn checks that only the target's own probes are remembered, each with its time.
func TestLearn(t *testing.T) {
	long := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := Status{Installed: &Release{Version: "1", Unproven: "no probe proves it"},
		Probes: map[string]time.Time{"kept": long, "gone": long}}
	known := s.Passed([]string{"kept", "new", "bad"})
	if !known.Any() || len(known) != 3 || known["kept"] != long || !known["new"].IsZero() {
		t.Errorf("known: %v", known)
	}
	s.Learn(known, []ProbeResult{{Key: "bad"}, {Key: "kept"}, {Key: "foreign", Passed: true}, {Probe: "version_command x", Passed: true}})
	if s.Installed.Unproven == "" {
		t.Error("a probe that is not the target's proves it")
	}
	s.Learn(known, []ProbeResult{{Key: "new", Passed: true}})
	if got := slices.Sorted(maps.Keys(s.Probes)); !slices.Equal(got, []string{"kept", "new"}) || s.Probes["kept"] != long || time.Since(s.Probes["new"]) > time.Minute {
		t.Errorf("remembered: %v", s.Probes)
	}
	if s.Installed.Unproven != "" {
		t.Error("it is unproven, although a probe passes")
	}
	before := maps.Clone(s.Probes)
	s.Learn(nil, []ProbeResult{{Key: "new", Passed: true}}) // the journal of an earlier version
	if !maps.Equal(s.Probes, before) {
		t.Errorf("remembered: %v", s.Probes)
	}
	if (Passed{"a": {}}).Any() || (Passed)(nil).Any() || (Passed)(nil).Note([]ProbeResult{{Passed: true}}) {
		t.Error("passes that never were")
	}
}

// TestCauses checks that each probe gets part of the space, and that a record does not cut
// a reason with a hint.
func TestCauses(t *testing.T) {
	if got := Causes([]ProbeResult{{Probe: "tcp 1", Detail: "refused"}, {Probe: "tcp 2", Passed: true}, {Probe: "tcp 3"}}); got != "tcp 1: refused; tcp 3" {
		t.Errorf("got %q", got)
	}
	var many []ProbeResult
	for i := range 16 {
		many = append(many, ProbeResult{Probe: fmt.Sprintf("http %02d", i), Detail: strings.Repeat("ü", 500)})
	}
	got := Causes(many)
	if len(got) > 550 {
		t.Errorf("%d bytes", len(got))
	}
	for _, p := range many {
		if !strings.Contains(got, p.Probe) {
			t.Errorf("lacks %s: %s", p.Probe, got)
		}
	}
}

// TestUnsaid checks that what the commands of probes said is not where all users can read.
func TestUnsaid(t *testing.T) {
	tree := Tree{Var: t.TempDir(), Run: t.TempDir()}
	probes := []ProbeResult{{Probe: "command /x", Detail: "exited with status 1" + SaidMark + "secret"}, {Probe: "tcp y", Detail: "refused"}}
	const want = "command /x: exited with status 1; tcp y: refused"
	if got := Causes(probes); got != want {
		t.Errorf("Causes: %q, want %q", got, want)
	}
	if err := os.Mkdir(filepath.Join(tree.Run, "baseline"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := tree.SetBaseline("x", Baseline{Attempt: "a1", Probes: probes}); err != nil {
		t.Fatal(err)
	}
	b, err := tree.Baseline("x", "a1")
	if err != nil {
		t.Fatal(err)
	}
	if got := b.Probes[0].Detail; got != "exited with status 1" {
		t.Errorf("the baseline has %q", got)
	}
	if !strings.HasSuffix(probes[0].Detail, "secret") {
		t.Error("the caller's probes were changed")
	}
}
