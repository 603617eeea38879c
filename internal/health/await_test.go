package health

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestJudgeAwaitsSwap: a gate that runs before the swap has ended judges only after that, and
// not at all if the swap failed. Then it fails only if there is a trial to be rolled back.
func TestJudgeAwaitsSwap(t *testing.T) {
	for _, c := range []struct {
		states               []string
		trial, judges, fails bool
	}{
		{nil, true, true, false},
		{[]string{"activating", "activating", "deactivating"}, true, true, false},
		{[]string{"activating", "failed"}, true, false, true},
		{[]string{"failed"}, true, false, true},
		{[]string{"activating", "failed"}, false, false, false},
		{[]string{"activating", "deactivating"}, false, false, false},
	} {
		left := slices.Clone(c.states)
		b := newBench(t, fake{unit: running(os.Getpid()), pids: []int{os.Getpid()}, swaps: &left}, true)
		if c.trial {
			b.open(t, state.PhaseTrial, "")
		}
		r, err := b.Judge(t.Context(), "x")
		if (err != nil) != c.fails || (r != nil) != c.judges || len(left) > 0 {
			t.Errorf("%q, trial %t: %+v, %v; not seen: %q", c.states, c.trial, r, err, left)
		}
	}
}

// TestAwaitWarms: while the gate waits, it makes systemd start the unit of the target's commands,
// if the target has any.
func TestAwaitWarms(t *testing.T) {
	for more, want := range map[string]int{"": 0, "[[health.probe]]\ncommand = [\"/bin/true\"]\n": 1} {
		for _, states := range [][]string{{"activating", "deactivating"}, {}} {
			left := slices.Clone(states)
			b := newBench(t, fake{unit: running(os.Getpid()), swaps: &left}, true)
			file := filepath.Join(b.dirs.Root, "etc", "x.toml")
			text, err := os.ReadFile(file)
			testkit.Must(t, err)
			testkit.Put(t, file, string(text)+more)
			c := commander{socket: b.tree.Commands("x")}
			testkit.Must(t, b.awaitSwap(t.Context(), "x", &c))
			if got := len(c.idle); got != min(want, len(states)) {
				t.Errorf("%q, %q: %d connections", more, states, got)
			}
			c.Close()
		}
	}
}

// TestPrepareWarms: a judgement makes systemd start the unit of the commands before the first
// probe, but not if the program has ended already.
func TestPrepareWarms(t *testing.T) {
	ended := running(0)
	ended.Active, ended.Sub = "activating", "auto-restart"
	for _, c := range []struct {
		unit  systemd.Unit
		idle  map[string]string
		warms int
	}{
		{unit: running(os.Getpid()), warms: 1},
		{unit: ended},
		{unit: ended, idle: map[string]string{"x.service": ""}, warms: 1},
	} {
		warmed := 0
		p := plan{target: &target.Target{}, units: subjects([]string{"x.service"}, program{}, c.idle), fresh: true, runs: func(context.Context) { warmed++ }}
		_, err := p.prepare(t.Context(), fake{unit: c.unit})
		testkit.Must(t, err)
		if warmed != c.warms {
			t.Errorf("%s, idle %v: %d times, want %d", c.unit, c.idle, warmed, c.warms)
		}
	}
}
