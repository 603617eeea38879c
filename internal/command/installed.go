package command

import (
	"context"

	"github.com/machinemon/machinemon-update/internal/installed"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// installedVersion returns the version that is on the machine, or "". While a trial is
// open, only root asks a program that the record does not know: for other users it would
// run with their rights, before it has proved itself.
func (a *app) installedVersion(ctx context.Context, t *target.Target, st state.Status) string {
	if !a.root && (st.Installed == nil || !installed.Unchanged(st.Installed)) {
		if j, err := a.tree.Journal(t.Name); err != nil || j != nil {
			return ""
		}
	}
	return installed.Version(ctx, t, st)
}
