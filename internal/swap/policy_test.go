package swap

import (
	"os"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestLower checks that the swapper itself refuses a lower version in an unattended
// attempt, and a release outside source.versions, when the fetcher hands these on.
func TestLower(t *testing.T) {
	testkit.Slow(t)
	const allowed, bounded = "[source]\ndowngrade = true\n", "[source]\nversions = '>=1'\n"
	for _, c := range []struct {
		name     string
		origin   state.Origin
		sequence int64
		dropIn   string
		result   state.Result // "" if a trial begins
		text     string
	}{
		{name: "by schedule", origin: state.OriginSchedule, sequence: 1, result: state.ResultNotAttempted, text: "v0.9.0 is lower than the installed v1, and no schedule goes down"},
		{name: "by directive", origin: state.OriginDirective, result: state.ResultNotAttempted, text: "v0.9.0 is lower than the installed v1"},
		{name: "withdrawn", origin: state.OriginSchedule, sequence: 2},
		{name: "allowed", origin: state.OriginSchedule, dropIn: allowed},
		{name: "by a person", origin: state.OriginOperator},
		{name: "out of range", origin: state.OriginOperator, sequence: 2, dropIn: bounded, result: state.ResultNotAttempted, text: `v0.9.0 is not in source.versions ">=1"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			if c.dropIn != "" {
				r.override(t, c.dropIn)
			}
			must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a1", Origin: c.origin, Verb: state.VerbApply, Installed: "v1"}))
			must(t, look(r.tree, state.Baseline{Attempt: "a1", Standing: true}))
			r.spool(t, "a1", "v0.9.0", c.sequence, release2, nil)
			if c.result != "" {
				r.fails(t, "swap", c.result, c.text)
				r.ended(t, "a1", c.result, c.text)
				r.untouched(t)
				return
			}
			r.step(t, "swap")
			if j, err := r.tree.Journal("agent"); err != nil || j == nil || j.Version != "v0.9.0" {
				t.Errorf("journal: %+v, %v\n%s", j, err, r.log)
			}
			r.step(t, "rollback")
			r.closed(t)
		})
	}
	t.Run("an archive that a person names", func(t *testing.T) {
		r := newRig(t)
		r.override(t, bounded)
		must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a1", Origin: state.OriginOperator, Verb: state.VerbApply, Installed: "v1", Import: true}))
		must(t, look(r.tree, state.Baseline{Attempt: "a1", Standing: true}))
		r.spool(t, "a1", "v0.9.0", 0, release2, nil)
		r.step(t, "swap")
		r.gate(t, "a1", state.FindingHealthy, "")
		r.step(t, "commit")
		r.ended(t, "a1", state.ResultCommitted)
	})
}

// TestArchiveIsRemembered checks that a release that the operator left is known by its
// archive, which a check sees, and not only by its files.
func TestArchiveIsRemembered(t *testing.T) {
	r := newRig(t)
	r.offer(t, "a1", "v2", 2, release2)
	r.step(t, "swap")
	r.gate(t, "a1", state.FindingHealthy, "")
	r.step(t, "commit")
	if st := r.status(t); st.Installed.Archive != sum("v2") || st.Previous.Archive != "" {
		t.Errorf("installed: %+v, previous: %+v", st.Installed, st.Previous)
	}
	r.offer(t, "a2", "v3", 3, release3)
	must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a2", Origin: state.OriginOperator, Verb: state.VerbApply, Installed: "v2"}))
	r.step(t, "swap")
	r.gate(t, "a2", state.FindingHealthy, "")
	r.step(t, "commit")
	if st := r.status(t); st.Installed.Archive != sum("v3") || st.Previous.Archive != sum("v2") {
		t.Errorf("installed: %+v, previous: %+v", st.Installed, st.Previous)
	}

	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "b1", Verb: state.VerbRollback}))
	must(t, look(r.tree, state.Baseline{Attempt: "b1", Standing: true}))
	r.step(t, "swap")
	r.gate(t, "b1", state.FindingHealthy, "")
	r.step(t, "commit")
	st := r.status(t)
	if st.Installed.Version != "v2" || st.Installed.Archive != sum("v2") {
		t.Errorf("installed: %+v", st.Installed)
	}
	if st.Rejects("", sum("v3"), 3) == nil || st.Rejects("", sum("v2"), 2) != nil {
		t.Errorf("rejected: %+v", st.Rejected)
	}

	// An adopted release is known by its archive, too.
	r = newRig(t)
	r.offer(t, "a1", "v1-rebuilt", 7, release1)
	r.step(t, "swap")
	if st := r.status(t); st.Installed.Archive != sum("v1-rebuilt") {
		t.Errorf("installed: %+v", st.Installed)
	}
}

// override adds an operator's file to the target.
func (r *rig) override(t *testing.T, content string) {
	t.Helper()
	must(t, os.WriteFile(r.at("admin/agent.toml"), []byte(content), 0o644))
}
