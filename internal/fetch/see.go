package fetch

import (
	"context"

	"github.com/machinemon/machinemon-update/internal/fetch/source"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// unseen reports whether the operator's check needs the release's archive: only that shows
// which scripts the target leaves out, and no verifier has unpacked it yet. A scheduled
// check downloads nothing, since it has no reader.
func (f *fetcher) unseen() bool {
	if f.inside == "" || f.order.Origin != state.OriginOperator {
		return false
	}
	st, err := f.tree.Status(state.RoleVerify, f.name)
	return err != nil || st.Inside == nil || st.Inside.Of != f.inside
}

// handOnToSee hands the release on to the verifier, which looks into the archive and hands
// nothing on. The check has its answer without that: if the archive cannot be downloaded, it
// only warns.
func (f *fetcher) handOnToSee(ctx context.Context, src source.Source, t *target.Target, r *source.Release, d policy.Decision) outcome {
	if _, err := f.handOn(ctx, src, t, r); err != nil {
		f.warning = state.Unseen(err)
		return outcome{release: r, result: d.Result, reason: d.String()}
	}
	return outcome{release: r, result: state.ResultHandedOn}
}
