package swap

import (
	"context"
	"time"

	"github.com/machinemon/machinemon-update/internal/installed"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/units"
)

// mayInstall asks the policy before a release is known. It examines the files and the
// unit only if neither the operator's hold nor the target file refuses the attempt.
func (b *beginning) mayInstall(ctx context.Context) (policy.Decision, error) {
	k := policy.Known{Rules: b.target.Rules(), Order: b.order, Status: b.status, Now: time.Now()}
	if d := policy.Decide(k); d.Refused() {
		return d, nil
	}
	if b.status.Installed != nil {
		k.Changed = !installed.UnchangedSince(b.status.Installed, b.order.Looked)
	}
	return b.decideWithUnits(ctx, k, b.target)
}

// decideWithUnits asks the policy, and tells it the states of the target's units, and
// which other target's update goes first. At last it asks whether this is a good time.
func (s *Swapper) decideWithUnits(ctx context.Context, k policy.Known, t *target.Target) (d policy.Decision, err error) {
	if k.Units, err = units.States(ctx, s.Systemd, t); err != nil {
		return d, err
	}
	if k.Ahead, err = units.Ahead(ctx, s.Systemd, s.Tree, t); err != nil {
		return d, err
	}
	return s.orDeferred(ctx, k, t)
}
