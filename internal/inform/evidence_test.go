package inform

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
)

// TestKeep: what is known of a trial that failed is kept for root alone, until ten later ones
// have failed; after a rollback that was tried again, what the first look found stays.
func TestKeep(t *testing.T) {
	i := informer(t, map[string]string{"agent": agent})
	record := func(a state.Attempt) {
		t.Helper()
		must(t, i.Tree.Update(state.RoleSwap, "agent", func(s *state.Status) { s.Record(a) }))
		must(t, i.Inform("agent"))
	}
	first := history(state.ResultRollbackFailed)[0]
	first.Reason = "GET /healthz: 503"
	gate := i.Tree.Gate("agent")
	must(t, os.MkdirAll(gate, 0o755))
	report, err := os.Create(filepath.Join(gate, "report.json"))
	must(t, err)
	must(t, state.Report{Attempt: first.ID, Finding: state.FindingBad, Reason: first.Reason,
		Probes: []state.ProbeResult{{Probe: "http", Detail: "503 \x1b[2J", Millis: 17}}}.Write(report))
	must(t, report.Close())
	record(first)
	got, err := i.Tree.Evidence("agent", first.ID)
	must(t, err)
	if got != nil && (len(got.Digests) != 1 || got.Digests[0].File != "/usr/local/bin/agent") {
		t.Errorf("the digests are %+v", got.Digests)
	}
	if got == nil || got.Attempt.Reason != first.Reason || got.Trial == nil || got.Trial.Probes[0].Millis != 17 || got.Trial.Probes[0].Detail != "503  [2J" {
		t.Fatalf("what was kept is %+v", got)
	}
	dir := i.Tree.Var + "/evidence/agent"
	for file, mode := range map[string]os.FileMode{dir: 0o700, dir + "/" + string(first.ID) + ".json": 0o600} {
		info, err := os.Stat(file)
		must(t, err)
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v", file, info.Mode())
		}
	}
	must(t, os.Remove(report.Name()))
	first.Result = state.ResultRolledBack
	record(first)
	if got, err = i.Tree.Evidence("agent", first.ID); err != nil || got.Attempt.Result != state.ResultRolledBack || got.Trial == nil {
		t.Errorf("after the second end: %+v, %v", got, err)
	}
	before := *got
	must(t, i.Inform("agent"))
	if again, err := i.Tree.Evidence("agent", first.ID); err != nil || len(again.Log) != len(before.Log) {
		t.Errorf("it was collected again: %+v, %v", again, err)
	}
	good := first
	good.ID, good.Result = "20261130t000000000-00000000", state.ResultCommitted
	record(good)
	if got, err = i.Tree.Evidence("agent", good.ID); err != nil || got != nil {
		t.Errorf("of a release that was committed: %+v, %v", got, err)
	}
	for n := range 10 {
		next := first
		next.ID = state.AttemptID(fmt.Sprintf("20261201t00000%d000-00000000", n))
		must(t, i.Tree.SetEvidence("agent", state.Evidence{Attempt: next}))
	}
	if got, err = i.Tree.Evidence("agent", first.ID); err != nil || got != nil {
		t.Errorf("after ten more: %+v, %v", got, err)
	}
}
