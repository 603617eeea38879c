package fetch

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// TestPlace checks that each percentage has its share of many machines, and that another
// version begins with others.
func TestPlace(t *testing.T) {
	const machines = 10_000
	var count [100]int
	moved := 0
	for i := range machines {
		id := make([]byte, 16)
		binary.BigEndian.PutUint64(id, uint64(i))
		p := place(id, "v2")
		count[p]++
		if place(id, "v2") != p {
			t.Fatal("a machine's place is another one each time")
		}
		if place(id, "v3") != p {
			moved++
		}
	}
	for p, n := range count {
		if n < 60 || n > 140 { // four standard deviations from a hundred
			t.Errorf("%d of %d machines are at place %d", n, machines, p)
		}
	}
	if moved < machines*9/10 {
		t.Errorf("only %d machines are elsewhere for another version", moved)
	}
	// systemd-id128 makes 40755ef0668a459988cb675ce4da3a95 of this ID; the place is that
	// of the sha256sum of 40755ef0668a459988cb675ce4da3a95v2.
	if got := placeOf(t, theMachine+"\n", "v2"); got != 9 {
		t.Errorf("place %d", got)
	}
	for _, none := range []string{"", "uninitialized\n", theMachine[1:], theMachine + "00"} {
		if got := placeOf(t, none, "v2"); got != 99 {
			t.Errorf("%q: place %d", none, got)
		}
	}
}

const theMachine = "0123456789abcdef0123456789abcdef" // at place 9 for v2

func placeOf(t *testing.T, content, version string) int {
	t.Helper()
	file := filepath.Join(t.TempDir(), "machine-id")
	if err := os.WriteFile(file, []byte(content), 0o444); err != nil {
		t.Fatal(err)
	}
	return place(machineID(file), version)
}

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
			if placeOf(t, c.machineID, "v2") >= c.percent {
				want = fmt.Sprintf("not yet for this machine (rollout at %d %%)", c.percent)
			}
			if o := b.status(t).Offer; o == nil || o.NotYet != want {
				t.Errorf("the offer is %+v", o)
			}
		})
	}
}
