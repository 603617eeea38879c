package verify

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
	"github.com/machinemon/machinemon-update/internal/trust"
	"github.com/machinemon/machinemon-update/internal/trust/trusttest"
)

// TestAttacks runs every attack by a fetcher under an attacker's control. What is refused
// is not handed on, and root's memory is not changed.
func TestAttacks(t *testing.T) {
	testkit.Slow(t)
	for _, a := range trusttest.Attacks() {
		t.Run(a.Name, func(t *testing.T) {
			b, _ := signed(t)
			b.target.Install = []target.Install{{From: "agent.service", To: filepath.Join(b.root, "agent.service")}}
			first := b.bundle.manifest
			first.Version, first.Sequence = "v1", 1
			repo := trusttest.New(t, first)
			b.pin(t, repo)
			var root trust.State
			installed := ""
			repo.Check = func(want any) {
				t.Helper()
				bundle := repo.Bundle(1)
				b.bundle.raw = append([]byte{}, bundle.Manifest...)
				b.hand(t)
				b.metadata(t, bundle)
				must(t, b.tree.SetOrder("agent", state.Order{Attempt: attempt, Installed: installed}))
				before := b.roots(t)
				got := b.run(t)
				if !bytes.Equal(before, b.roots(t)) {
					t.Error("it has changed what root remembers")
				}
				// An attacker who controls this role, too, can give root refused metadata.
				_, root, _ = trust.Client{Pin: repo.Pin, State: root, Clock: time.Now()}.Check(bundle)
				must(t, b.tree.SetTrust(state.RoleSwap, "agent", root))
				if text, refused := want.(string); refused {
					b.mustRecord(t, got, state.ResultRefused, text)
					return
				}
				b.mustRecord(t, got, state.ResultHandedOn, "")
				if got.Sequence != int64(want.(int)) {
					t.Errorf("%+v, want sequence %d", got, want)
				}
				must(t, os.RemoveAll(b.out()))
				installed = got.Version
				must(t, b.tree.RaiseFloor("agent", got.Sequence))
			}
			a.Run(repo)
		})
	}
}

// roots returns all that root remembers of the target.
func (b *bench) roots(t *testing.T) []byte {
	t.Helper()
	dir := os.DirFS(b.tree.Dir(state.RoleSwap, "agent"))
	var all bytes.Buffer
	for _, name := range ls(t, b.tree.Dir(state.RoleSwap, "agent")) {
		f, err := dir.Open(name)
		must(t, err)
		_, err = all.ReadFrom(f)
		must(t, err)
		must(t, f.Close())
	}
	return all.Bytes()
}
