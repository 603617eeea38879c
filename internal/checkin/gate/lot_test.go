package gate

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/rollout"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// lotsOf returns a function that returns the ID for rollouts of the n-th machine, as the
// machine derives it.
func lotsOf(t *testing.T) func(n int) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "machine-id")
	return func(n int) string {
		if err := os.WriteFile(file, fmt.Appendf(nil, "%032x\n", n), 0o644); err != nil {
			t.Fatal(err)
		}
		return rollout.ID(file)
	}
}

// withCheck returns a check-in of a client whose script check prints a status line.
func withCheck(t *testing.T, id, version string, s checkin.Status) string {
	t.Helper()
	inner, err := json.Marshal(map[string]string{"output": s.Line() + "\n"})
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{"hostname": id, "os": "linux", "arch": "amd64", "client_version": version, "client_id": id,
		"checks": []any{map[string]any{"check_type": "script", "state": string(inner)}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestSameLot checks that the gate tells exactly the machines that install, at each
// percentage, and however the status line comes. Machines that send a wrong ID, or none,
// are told and decide by themselves.
func TestSameLot(t *testing.T) {
	testkit.Slow(t)
	b, lotOf := newBench(t, behind), lotsOf(t)
	for _, percent := range []int{0, 1, 12, 50, 88, 99, 100} {
		b.publish(func(m *manifest.Manifest) { m.Rollout = &manifest.Rollout{Percent: percent} })
		told, installs := 0, 0
		for n := range 60 {
			lot := lotOf(n)
			m := b.release()
			d := policy.Decide(policy.Known{Rules: policy.Rules{Target: "agent", AutoUpdate: true}, Order: state.Order{Origin: state.OriginDirective, Verb: state.VerbApply, Installed: "v0.1.11"},
				Release: &policy.Release{Version: m.Version, NotYet: policy.NotYet(m.Rollout, rollout.Place(lot, m.Version))}})
			if !d.Refused() {
				installs++
			}
			id := fmt.Sprintf("c-%d", n)
			b.up.answers(`{"client_id":"` + id + `"}`)
			s := checkin.Status{Target: "agent", Installed: "v0.1.11", Lot: lot}
			from := fmt.Sprintf("X-Forwarded-For: 203.0.113.%d", n) // the server limits the check-ins of an address
			header := b.checkIn(withCheck(t, id, "v0.1.11", checkin.Status{}), checkin.StatusHeader+": "+s.Header(), from)
			check := b.checkIn(withCheck(t, id, "v0.1.11", s), from)
			for how, a := range map[string]answer{"header": header, "check": check} {
				if tells := strings.Contains(a.body, "update_version"); tells == d.Refused() {
					t.Errorf("%d %%: machine %d: by %s: told: %t, the machine: %q", percent, n, how, tells, d)
				} else if tells && how == "header" {
					told++
				}
			}
			s.Lot = strings.ToUpper(lot)
			if a := b.checkIn(withCheck(t, id, "v0.1.11", s), from); strings.Contains(a.body, "update_version") != (percent > 0) {
				t.Errorf("%d %%: with the malformed ID %s: %s", percent, s.Lot, a.body)
			}
		}
		t.Logf("at %d %%: %d of 60 machines are told, %d install", percent, told, installs)
	}
}
