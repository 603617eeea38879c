package health

import (
	"context"
	"fmt"
)

// awaitSwap waits until the unit of the swap has ended. Meanwhile the unit of the target's
// commands starts. It returns an error if the swap failed in a trial, because the rollback then
// ends that. If systemd does not answer, the judgement reports that.
func (g Gate) awaitSwap(ctx context.Context, name string, commands *commander) error {
	unit := "machinemon-swap@" + name + ".service"
	m, err := g.connect(ctx, unit)
	if err != nil {
		return nil
	}
	defer m.Close()
	for waited := false; ; waited = true {
		u, err := m.Unit(ctx, unit)
		switch {
		case err != nil:
			return nil
		case u.Active == "failed":
			// Most often the release was refused, and this waited for nothing.
			if j, err := g.tree.Journal(name); err != nil || j == nil {
				return err
			}
			return fmt.Errorf("cannot judge the trial of %s: %s failed", name, unit)
		case u.Active != "activating" && u.Active != "deactivating":
			return nil
		}
		if t, err := g.dirs.Load(name); err == nil && !waited && t.HasCommands() {
			commands.warm(ctx)
		}
		select {
		case <-m.Changes():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
