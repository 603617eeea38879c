package fetch

import (
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/rollout"
)

// notYet returns [policy.NotYet] for this machine.
func (f *fetcher) notYet(m *manifest.Manifest) string {
	return policy.NotYet(m.Rollout, rollout.Place(rollout.ID(f.machineID), m.Version))
}
