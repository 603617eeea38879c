package policy

import (
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
)

// offeredUpdate is what the gate asks about most clients.
var offeredUpdate = Known{
	Rules:   Rules{AutoUpdate: true},
	Order:   state.Order{Origin: state.OriginDirective, Verb: state.VerbApply, Installed: "v0.1.11"},
	Release: &Release{Version: "v0.1.12"},
}

// TestNoText checks that rules that refuse nothing make no text for it: the gate decides
// about a million clients for a page.
func TestNoText(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { Decide(offeredUpdate) }); n > 4 {
		t.Errorf("a decision allocates %v times", n)
	}
}

func BenchmarkDecide(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if Decide(offeredUpdate).Refused() {
			b.Fatal("refused")
		}
	}
}
