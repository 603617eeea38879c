package fetch

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
	"github.com/machinemon/machinemon-update/internal/trust"
	"github.com/machinemon/machinemon-update/internal/trust/trusttest"
)

// TestAttacks runs every attack by the server. What is refused is not handed on, and this
// role's memory of the repository stays valid.
func TestAttacks(t *testing.T) {
	testkit.Slow(t)
	// These are refused by the source before package trust sees them.
	sooner := map[string]string{
		"timestamp: it has more than 16384 bytes": "timestamp.json: it is larger than 16384 bytes",
		"timestamp: it is missing":                "there is no timestamp.json beside it, so its releases are not signed",
		"snapshot: it is missing":                 "snapshot.json: the server answered 404 Not Found",
	}
	for _, a := range trusttest.Attacks() {
		t.Run(a.Name, func(t *testing.T) {
			b, _, m := signed(t)
			first := release1()
			first.Version, first.Sequence = "v1", 1
			repo := trusttest.New(t, first)
			must(t, os.WriteFile(b.pinned, repo.Pin, 0o644))
			installed := ""
			repo.Check = func(want any) {
				t.Helper()
				m.files = repo.Files
				before := b.remembers(t)
				got := b.run(t, b.order(state.VerbApply, installed))
				sequence, good := want.(int)
				if good {
					if got.Result == state.ResultHandedOn {
						b.bundle(t)
					}
					if got.Failed() || got.Sequence != int64(sequence) {
						t.Errorf("%+v, want sequence %d", got, sequence)
					}
					installed = got.Version
					must(t, b.tree.RaiseFloor("agent", got.Sequence))
					return
				}
				text := want.(string)
				if other := sooner[text]; other != "" && !strings.Contains(got.Reason, text) {
					text = other
				}
				result := state.ResultRefused
				if want == "snapshot: it is missing" {
					result = state.ResultNotDownloaded
				}
				b.mustFail(t, got, result, text)
				if learned := trusttest.Learned(want.(string), before, b.remembers(t)); learned != nil {
					t.Errorf("refused, and stored all the same: %v", learned)
				}
			}
			a.Run(repo)
		})
	}
}

// remembers returns what this role stored of the repository.
func (b *bench) remembers(t *testing.T) (s trust.State) {
	t.Helper()
	must(t, b.tree.Trust(state.RoleFetch, "agent", &s))
	return s
}

// TestWithheld checks that a mirror without a file delivers no release. What was verified
// before is remembered, and later files are not requested.
func TestWithheld(t *testing.T) {
	for _, lacks := range []string{"2.snapshot.json", "2.targets.json"} {
		b, repo, m := signed(t)
		repo.Publish(release1())
		m.files = repo.Kept()
		delete(m.files, lacks)
		b.mustFail(t, b.run(t, b.order(state.VerbApply, "v1")), state.ResultNotDownloaded, lacks+": the server answered 404 Not Found")
		after := b.remembers(t)
		if !bytes.Equal(after.Timestamp, m.files[trust.TimestampFile]) || !bytes.Equal(after.Snapshot, m.files["2.snapshot.json"]) || after.Targets != nil {
			t.Errorf("remembers %s, %s, %s", after.Timestamp, after.Snapshot, after.Targets)
		}
		if asked := m.asks(); !strings.HasSuffix(asked, lacks) {
			t.Errorf("asked for %s", asked)
		}
		m.files = repo.Files
		if a := b.run(t, b.order(state.VerbApply, "v1")); a.Result != state.ResultHandedOn {
			t.Errorf("%+v", a)
		}
	}
}

// TestLostState checks that this role begins with root's roots after its directory was
// lost. Only root's memory then detects a mirror that withholds updates.
func TestLostState(t *testing.T) {
	b, repo, m := signed(t)
	repo.Rotate()
	b.rootKnows(t, repo)
	old := repo.Kept()
	repo.Refresh()
	for range 2 {
		if a := b.run(t, b.order(state.VerbApply, "v1")); a.Result != state.ResultHandedOn {
			t.Fatalf("%+v", a)
		}
		must(t, os.RemoveAll(b.tree.Dir(state.RoleFetch, "agent")))
		must(t, os.Mkdir(b.tree.Dir(state.RoleFetch, "agent"), 0o755)) // as StateDirectory= does
	}
	// A release that this role's lost state excluded goes on to the roles with a memory.
	m.files = old
	if a := b.run(t, b.order(state.VerbApply, "v1")); a.Result != state.ResultHandedOn {
		t.Errorf("%+v", a)
	}
	// A key that root knows to be revoked is refused without this role's state, too.
	must(t, os.RemoveAll(b.tree.Dir(state.RoleFetch, "agent")))
	must(t, os.Mkdir(b.tree.Dir(state.RoleFetch, "agent"), 0o755))
	m.files = trusttest.New(t, release1()).Files
	b.mustFail(t, b.run(t, b.order(state.VerbApply, "v1")), state.ResultRefused, "timestamp v1: too few valid signatures")
}
