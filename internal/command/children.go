package command

import (
	"context"
	"fmt"

	"github.com/machinemon/machinemon-update/internal/installed"
	"github.com/machinemon/machinemon-update/internal/state"
)

// checkOne makes the chain check one target. It also warns if the available release could
// make the unit kill its children.
func (a *app) checkOne(ctx context.Context, name string) (state.Attempt, error) {
	at, err := a.asking(state.VerbCheck)(ctx, name)
	if err == nil && at.Result == state.ResultAvailable {
		at.Warning, err = a.otherUnitFile(ctx, name, at.Version)
	}
	return at, err
}

// otherUnitFile returns a warning if a release has another unit file than the installed
// one and the running unit leaves its children alone when it stops: the new file may not,
// which is unknown before the download. It returns "" if that cannot happen.
func (a *app) otherUnitFile(ctx context.Context, name, version string) (string, error) {
	st, err := a.tree.Status(state.RoleFetch, name)
	if err != nil || st.Offer == nil || st.Offer.Version != version || st.Offer.Unit == nil {
		return "", err
	}
	if installed.Unchanged(&state.Release{Files: []state.File{*st.Offer.Unit}}) {
		return "", nil
	}
	t, err := a.targets.Load(name)
	if err != nil {
		return "", err
	}
	m := a.see(ctx)
	if m == nil {
		return "", nil
	}
	defer m.Close()
	u, err := m.Unit(ctx, t.Unit)
	if err != nil || !u.SparesChildren() {
		return "", err
	}
	return fmt.Sprintf("%s brings another %s; the running one leaves its children alone (KillMode=%s), and a stop under one that does not would end them", version, t.Unit, u.KillMode), nil
}
