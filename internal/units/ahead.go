package units

import (
	"context"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// chain are the steps of an attempt, of which one at least runs while it is under way.
var chain = []string{"fetch", "fetch-full", "verify", "swap", "health-gate", "commit", "rollback"}

// Ahead returns which update the target's own one waits for, because schedule.after names
// its target, as a sentence; "" for none.
func Ahead(ctx context.Context, m Reader, tree state.Tree, t *target.Target) (string, error) {
	for _, name := range t.After {
		// A damaged journal is a trial that is open, too.
		if j, err := tree.Journal(name); j != nil || err != nil {
			return "the trial of " + name + " is open", nil
		}
		var steps []string
		for _, step := range chain {
			steps = append(steps, "machinemon-"+step+"@"+name+".service")
		}
		if alive, err := m.Alive(ctx, steps...); err != nil || len(alive) > 0 {
			return "an attempt on " + name + " is under way", err
		}
	}
	return "", nil
}
