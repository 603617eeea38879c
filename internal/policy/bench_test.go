package policy

import (
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
)

func BenchmarkDecide(b *testing.B) {
	k := Known{
		Rules:   Rules{AutoUpdate: true},
		Order:   state.Order{Origin: state.OriginDirective, Verb: state.VerbApply, Installed: "v0.1.11"},
		Release: &Release{Version: "v0.1.12"},
	}
	b.ReportAllocs()
	for b.Loop() {
		if Decide(k).Refused() {
			b.Fatal("refused")
		}
	}
}
