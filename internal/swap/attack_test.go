package swap

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
	"github.com/machinemon/machinemon-update/internal/trust"
	"github.com/machinemon/machinemon-update/internal/trust/trusttest"
)

// TestAttacks checks that the swapper refuses every attack when fetcher and verifier were
// taken over and hand on what the mirror has. A refused release changes neither the
// installed files nor the floor, and root stores no metadata from it that is not valid.
func TestAttacks(t *testing.T) {
	testkit.Slow(t)
	for _, a := range trusttest.Attacks() {
		t.Run(a.Name, func(t *testing.T) {
			r, _ := signedBelow(t, memory)
			n := 0
			var repo *trusttest.Repo
			check := func(want any) {
				t.Helper()
				n++
				attempt := state.AttemptID(fmt.Sprint("a", n))
				r.hand(t, attempt, repo.Bundle(1))
				known, floor, installed := r.known(t), r.floor(t), r.installed(t)
				if text, refused := want.(string); refused {
					r.fails(t, "swap", state.ResultRefused, text)
					r.ended(t, attempt, state.ResultRefused, text)
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
				if len(open) > 0 { // otherwise these bytes are installed already
					r.gate(t, attempt, state.FindingHealthy, "")
					r.step(t, "commit")
				}
				r.closed(t)
				if got := r.status(t).Installed; got.Sequence != int64(want.(int)) || r.floor(t) != got.Sequence {
					t.Errorf("installed %+v, floor %d, want %d", got, r.floor(t), want)
				}
			}
			r.spool(t, "a0", "v1", 1, release2, func(_ string, m *manifest.Manifest) { repo = trusttest.New(t, m) })
			must(t, os.RemoveAll(filepath.Join(r.tree.Ready(state.RoleVerify, "agent"), "a0")))
			r.pin(t, repo)
			repo.Check = check
			a.Run(repo)
		})
	}
}

// hand leaves release 2 in the verifier's spool with the metadata of b.
func (r *rig) hand(t *testing.T, attempt state.AttemptID, b trust.Metadata) {
	t.Helper()
	installed := ""
	if is := r.status(t).Installed; is != nil {
		installed = is.Version
	}
	must(t, r.tree.SetOrder("agent", state.Order{Attempt: attempt, Origin: state.OriginOperator, Verb: state.VerbApply, Installed: installed}))
	must(t, look(r.tree, state.Baseline{Attempt: attempt, Standing: true}))
	r.spool(t, attempt, "v2", 2, release2, nil)
	entry := filepath.Join(r.tree.Ready(state.RoleVerify, "agent"), string(attempt))
	must(t, os.WriteFile(filepath.Join(entry, state.ManifestName), b.Manifest, 0o640))
	metadata(t, entry, b)
}

// TestLostState checks a swapper that has lost its directory: the floor, the chain of
// roots and what is installed, but not the pin, which is configuration. It still refuses
// what is not signed. It accepts any signed release that has not expired, even an old
// one, because without its state it cannot tell which is the newest. After that it
// remembers all again.
func TestLostState(t *testing.T) {
	r, repo := signed(t)
	r.offerSigned(t, repo, "a1", "v2", 2, release2, nil, nil)
	r.commit(t, "a1")
	old := repo.Bundle(1)
	r.offerSigned(t, repo, "a2", "v3", 3, release3, nil, nil)
	r.commit(t, "a2")
	r.hand(t, "a3", old)
	r.fails(t, "swap", state.ResultRefused, "timestamp v2: it is older than timestamp v3, which was here before")

	must(t, os.RemoveAll(r.tree.Dir(state.RoleSwap, "agent")))
	must(t, r.tree.MakeSwapDir("agent"))
	stranger := trusttest.NewOf(t, "another", time.Now(), &manifest.Manifest{Schema: 1, Version: "v9"})
	r.hand(t, "a4", stranger.Bundle(1))
	r.fails(t, "swap", state.ResultRefused, "timestamp v1: too few valid signatures")
	r.hand(t, "a5", old)
	r.commit(t, "a5")
	if got := r.installed(t)["bin/agent"].content; got != "agent 2" || r.floor(t) != 2 {
		t.Errorf("installed %q, floor %d", got, r.floor(t))
	}
	r.offerSigned(t, repo, "a6", "v4", 4, release4, nil, nil)
	r.commit(t, "a6")
	r.hand(t, "a7", old)
	r.fails(t, "swap", state.ResultRefused, "timestamp v2: it is older than timestamp v4, which was here before")
}
