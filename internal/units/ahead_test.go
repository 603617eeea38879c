package units

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// alone is a systemd in which at most one unit is alive, whose name Alive gets whole.
type alone struct {
	fake
	unit string
}

func (a alone) Alive(_ context.Context, names ...string) (alive []string, err error) {
	for _, n := range names {
		if n == a.unit {
			alive = append(alive, n)
		}
	}
	return alive, nil
}

// TestAhead: an update waits for another target's attempt or open trial.
func TestAhead(t *testing.T) {
	for _, c := range []struct {
		after       []string
		alive, open string
		want        string
	}{
		{after: []string{"db"}},
		{after: []string{"cache", "db"}, alive: "machinemon-fetch@db.service", want: "an attempt on db is under way"},
		{after: []string{"db"}, alive: "machinemon-rollback@db.service", want: "an attempt on db is under way"},
		{after: []string{"db"}, open: "db", want: "the trial of db is open"},
		{alive: "machinemon-fetch@db.service", open: "db"},
		{after: []string{"db"}, alive: "machinemon-fetch@cache.service", open: "cache"},
	} {
		tree := state.Tree{Var: t.TempDir()}
		if c.open != "" {
			if err := os.MkdirAll(filepath.Join(tree.Var, "swap", c.open), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := tree.SetJournal(&state.Journal{Attempt: "a1", Target: c.open}); err != nil {
				t.Fatal(err)
			}
		}
		got, err := Ahead(t.Context(), alone{fake{"x.service": systemd.Unit{}}, c.alive}, tree, &target.Target{Name: "app", After: c.after})
		if got != c.want || err != nil {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
}
