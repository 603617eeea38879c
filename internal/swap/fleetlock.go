package swap

import (
	"context"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// MayUnlock returns an error while an attempt on a target is under way, which needs the lock
// of the fleet. After a rollback that failed it is, until the operator has settled the trial.
//
// An attempt only moves on, so it is looked for in the order of its steps: what has left one
// before it was looked for there is found in a later one. A verifier may send it back once.
func (s *Swapper) MayUnlock(ctx context.Context, name string) error {
	if !target.ValidName(name) {
		return state.Fail(state.ResultMisconfigured, "cannot unlock %q: that is no name for a target", name)
	}
	for _, step := range []string{"fetch", "verify", "fetch-full", "verify", "swap"} {
		alive, err := s.Systemd.Alive(ctx, unitOf(step, name))
		if err != nil {
			return err
		}
		role := map[string]state.Role{"fetch": state.RoleFetch, "fetch-full": state.RoleFetch, "verify": state.RoleVerify}[step]
		if len(alive) > 0 || role != "" && s.Tree.Waits(role, name) {
			return state.Fail(state.ResultNotAttempted, "%s keeps the lock of the fleet: an attempt is under way", name)
		}
	}
	if j, err := s.Tree.Journal(name); err != nil || j != nil {
		return state.Fail(state.ResultNotAttempted, "%s keeps the lock of the fleet: a trial is open", name)
	}
	return nil
}

// QueueUnlock has the lock of the fleet given back, if a target holds it and no timer will do
// so. The unit is skipped while an attempt is under way, whose end calls this again.
func (s *Swapper) QueueUnlock(ctx context.Context, name string) error {
	l, err := s.Tree.FleetLock(name)
	if err != nil || l == nil {
		return err
	}
	timers, err := s.Systemd.Alive(ctx, systemd.UnlockTimer(name))
	if err != nil || len(timers) > 0 {
		return err
	}
	return s.Systemd.Queue(ctx, systemd.UnlockUnit(name))
}

// UnlockLater is called after a try to give the lock of the fleet back. If that has failed, it
// has it tried again: after a minute, and later after up to ten.
func (s *Swapper) UnlockLater(ctx context.Context, name string) error {
	l, err := s.Tree.FleetLock(name)
	if err != nil || l == nil {
		return err
	}
	return s.Systemd.Arm(ctx, systemd.UnlockTimer(name), min(max(l.Tried.Sub(l.Failing), time.Minute), 10*time.Minute))
}

// lockedFor refuses an unattended attempt that does not hold the lock of the fleet, for
// instance because the target file has changed since it was fetched.
func (sw *swapping) lockedFor(order state.Order) error {
	if sw.target.FleetLock.URL == "" || order.Origin == state.OriginOperator {
		return nil
	}
	l, err := sw.Tree.FleetLock(sw.name)
	if err == nil && l != nil && l.Attempt == order.Attempt && l.URL == sw.target.FleetLock.URL && l.Group == sw.target.FleetLock.Group {
		return nil
	}
	return state.Fail(state.ResultNotAttempted, "it waits: it does not hold the lock of %s (group %s)", sw.target.FleetLock.URL, sw.target.FleetLock.Group)
}

// unlock gives the lock of the fleet back, if a target holds it, before the package is
// removed. Otherwise no machine of the fleet would be updated any more.
func (s *Swapper) unlock(ctx context.Context, name string) {
	l, err := s.Tree.FleetLock(name)
	if err == nil && l != nil {
		if err = s.Systemd.Start(ctx, systemd.UnlockUnit(name)); err == nil {
			l, err = s.Tree.FleetLock(name)
		}
	}
	if err != nil {
		s.logf("%s: cannot give the lock of the fleet back: %v", name, err)
	} else if l != nil {
		s.logf("%s: %s (hint: give it back on that server)", name, l)
	}
}
