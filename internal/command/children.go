package command

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/machinemon/machinemon-update/internal/installed"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/units"
)

// checkOne makes the chain check one target. It also warns if the available release could
// make the unit kill its children.
func (a *app) checkOne(ctx context.Context, name string) (state.Attempt, error) {
	at, err := a.asking(state.Request{Verb: state.VerbCheck})(ctx, name)
	if err != nil || at.Result != state.ResultAvailable {
		return at, err
	}
	unitFile, err := a.otherUnitFile(ctx, name, at.Version)
	if err != nil {
		return at, err
	}
	unrun, _, err := a.unrun(name, at.Version)
	at.Warning = strings.Trim(at.Warning+"; "+unitFile+"; "+unrun, "; ")
	return at, err
}

// unrun warns of scripts in a release that its own updater would run, if they are not known
// to be the installed release's. known is false if no role has recorded which the release
// has.
func (a *app) unrun(name, version string) (warning string, known bool, err error) {
	fetched, err := a.tree.Status(state.RoleFetch, name)
	if err != nil || fetched.Offer == nil || fetched.Offer.Version != version {
		return "", false, err
	}
	leftOut := fetched.Offer.LeftOut
	if of := fetched.Offer.Inside; of != "" {
		verified, err := a.tree.Status(state.RoleVerify, name)
		if err != nil || verified.Inside == nil || verified.Inside.Of != of {
			return "", false, err
		}
		leftOut = verified.Inside.LeftOut
	}
	st, err := a.tree.Status(state.RoleSwap, name)
	return st.Installed.Unrun(version, leftOut, "the release's archive"), err == nil, err
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
	names, err := units.Names(ctx, m, t)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		u, err := m.Unit(ctx, name)
		if err != nil {
			return "", err
		}
		if filepath.Base(st.Offer.Unit.To) == name && u.SparesChildren() || t.Template() && u.SparesChildren() {
			return fmt.Sprintf("%s brings another %s; the running one leaves its children alone (KillMode=%s), and a stop under one that does not would end them",
				version, filepath.Base(st.Offer.Unit.To), u.KillMode), nil
		}
	}
	return "", nil
}
