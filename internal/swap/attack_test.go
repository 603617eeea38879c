package swap

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/trust/trusttest"
)

// TestAttacks: every attack, with the help of a fetcher and a verifier that were
// taken over and hand on whatever the mirror has. What is refused changes neither
// the installed files nor the floor, and root remembers only what is good.
func TestAttacks(t *testing.T) {
	for _, a := range trusttest.Attacks() {
		t.Run(a.Name, func(t *testing.T) {
			r, _ := signed(t)
			n := 0
			var repo *trusttest.Repo
			check := func(want any) {
				t.Helper()
				n++
				attempt := fmt.Sprint("a", n)
				must(t, r.tree.SetOrder("agent", state.Order{Attempt: attempt, Origin: state.Operator, Verb: state.Apply, Installed: r.status(t).Installed.Version}))
				must(t, r.tree.SetBaseline("agent", state.Baseline{Attempt: attempt, Standing: true}, false))
				r.spool(t, attempt, "v1", 1, release2, nil)
				entry := filepath.Join(r.tree.Ready(state.Verify, "agent"), attempt)
				bundle := repo.Bundle(1)
				must(t, os.WriteFile(filepath.Join(entry, state.ManifestName), bundle.Manifest, 0o640))
				metadata(t, entry, bundle)

				known, floor, installed := r.known(t), r.floor(t), r.installed(t)
				if text, refused := want.(string); refused {
					r.fails(t, "swap", state.Refused, text)
					r.ended(t, attempt, state.Refused, text)
					if r.floor(t) != floor || !maps.Equal(r.installed(t), installed) {
						t.Errorf("floor %d, was %d; installed %v", r.floor(t), floor, r.installed(t))
					}
					if learned := trusttest.Learned(text, known, r.known(t)); learned != nil {
						t.Errorf("refused, and stored all the same: %v", learned)
					}
					return
				}
				r.step(t, "swap")
				open, err := r.tree.OpenTrials()
				must(t, err)
				if len(open) > 0 { // else these bytes are installed
					r.gate(t, attempt, state.Healthy, "")
					r.step(t, "commit")
				}
				r.closed(t)
				if got := r.status(t).Installed; got.Sequence != int64(want.(int)) || r.floor(t) != got.Sequence {
					t.Errorf("installed %+v, floor %d, want %d", got, r.floor(t), want)
				}
			}
			r.spool(t, "a0", "v1", 1, release2, func(_ string, m *manifest.Manifest) { repo = trusttest.New(t, m) })
			must(t, os.RemoveAll(filepath.Join(r.tree.Ready(state.Verify, "agent"), "a0")))
			r.pin(t, repo)
			repo.Check = check
			a.Run(repo)
		})
	}
}
