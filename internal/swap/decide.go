package swap

import (
	"context"

	"github.com/machinemon/machinemon-update/internal/installed"
	"github.com/machinemon/machinemon-update/internal/policy"
)

// mayInstall asks the policy before a release is known. It examines the files and the
// unit only if neither the operator's hold nor the target file refuses the attempt.
func (b *beginning) mayInstall(ctx context.Context) (policy.Decision, error) {
	k := policy.Known{Rules: b.target.Rules(), Order: b.order, Status: b.status}
	if d := policy.Decide(k); d.Refused() {
		return d, nil
	}
	if b.status.Installed != nil && !b.asked() {
		k.Changed = !installed.Unchanged(b.status.Installed)
	}
	return b.decideWithUnit(ctx, k, b.target.Unit)
}

// decideWithUnit asks the policy, and tells it the state of the target's unit.
func (s *Swapper) decideWithUnit(ctx context.Context, k policy.Known, name string) (policy.Decision, error) {
	u, err := s.Systemd.Unit(ctx, name)
	if err != nil {
		return policy.Decision{}, err
	}
	k.Unit = &policy.Unit{Name: u.Name, Load: u.Load, Active: u.Active, Queued: u.Job != 0, Passing: u.Type == "oneshot" && !u.RemainAfterExit}
	return policy.Decide(k), nil
}
