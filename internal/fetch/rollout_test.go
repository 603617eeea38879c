package fetch

import (
	"fmt"
	"os"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

const theMachine = "0123456789abcdef0123456789abcdef" // at place 9 for v2

// TestRollout checks that a machine that comes later only reports the release in
// unattended attempts, and that these do not count as failed.
func TestRollout(t *testing.T) {
	const notYet = "not yet for this machine (rollout at 9 %)"
	for _, c := range []struct {
		percent   int
		machineID string
		origin    state.Origin
		verb      state.Verb
		installed string
		result    state.Result
		text      string
	}{
		{9, theMachine, state.OriginSchedule, state.VerbApply, "v1", state.ResultAvailable, notYet},
		{9, theMachine, state.OriginSchedule, state.VerbCheck, "v1", state.ResultAvailable, notYet},
		{9, theMachine, state.OriginDirective, state.VerbApply, "v1", state.ResultAvailable, notYet},
		{9, theMachine, state.OriginOperator, state.VerbApply, "v1", state.ResultHandedOn, ""},
		{9, theMachine, state.OriginOperator, state.VerbCheck, "v1", state.ResultAvailable, ""},
		{9, theMachine, state.OriginSchedule, state.VerbApply, "v2", state.ResultCurrent, ""},
		{10, theMachine, state.OriginSchedule, state.VerbApply, "v1", state.ResultHandedOn, ""},
		{99, "", state.OriginSchedule, state.VerbApply, "v1", state.ResultAvailable, "not yet for this machine (rollout at 99 %)"},
		{100, "", state.OriginSchedule, state.VerbApply, "v1", state.ResultHandedOn, ""},
	} {
		t.Run(fmt.Sprint(c.percent, c.origin, c.verb), func(t *testing.T) {
			m := release1()
			m.Rollout = &manifest.Rollout{Percent: c.percent}
			s := newSite(t)
			s["/client-manifest.json"] = bytesHandler(marshal(t, m))
			b := newBench(t, serve(t, s))
			b.machineID = c.machineID
			o := b.order(c.verb, c.installed)
			o.Origin = c.origin
			for range 2 { // it does not back off
				a := b.run(t, o)
				if a.Result != c.result || a.Reason != c.text || (len(b.spool(t)) > 0) != (c.result == state.ResultHandedOn) {
					t.Errorf("%+v, in the spool: %q", a, b.spool(t))
				}
				if err := os.RemoveAll(b.tree.Ready(state.RoleFetch, "agent")); err != nil {
					t.Fatal(err)
				}
			}
			want := ""
			if c.percent == 9 || c.percent == 99 {
				want = fmt.Sprintf("not yet for this machine (rollout at %d %%)", c.percent)
			}
			if o := b.status(t).Offer; o == nil || o.NotYet != want {
				t.Errorf("the offer is %+v", o)
			}
		})
	}
}
