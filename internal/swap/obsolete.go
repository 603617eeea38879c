package swap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// planObsolete schedules for removal, at commit, files that an update created and this
// release no longer lists.
func (sw *swapping) planObsolete() error {
	if sw.status.Installed == nil {
		return nil
	}
	for _, f := range sw.status.Installed.Files {
		stays := func(c state.Change) bool { return c.To == f.To }
		if f.Created && sw.target.Listing.Covers(f.To) && !slices.ContainsFunc(sw.journal.Changes, stays) {
			if err := sw.gone(f.To); err != nil {
				return err
			}
		}
	}
	return nil
}

// gone schedules the removal of a file at commit, unless it was changed by hand or
// belongs to another target, to a Debian package or to the unit itself.
func (sw *swapping) gone(to string) error {
	stays := func(why string) error {
		sw.logf("%s: %s stays: %s", describe(sw.journal), to, why)
		return nil
	}
	info, err := os.Lstat(to)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("cannot look at %s, which is to go: %w", to, brief(err))
	case !info.Mode().IsRegular():
		return stays("it is not a regular file any more")
	case slices.Contains(sw.target.Units(), filepath.Base(to)):
		return stays("it is the unit's own file")
	}
	old, err := digest(to)
	if err != nil {
		return fmt.Errorf("cannot look at %s, which is to go: %w", to, brief(err))
	}
	was := sw.status.Installed.File(to)
	if was == nil || was.SHA256 != old {
		return stays("it was changed by hand")
	}
	alone := *sw.target
	alone.Install, alone.Snapshot, alone.Listing = []target.Install{{To: to, Listed: true}}, nil, nil
	if err := alone.CheckDestinations(sw.others(sw.name)); err != nil {
		return stays(err.Error())
	}
	sw.add(state.Change{Kind: state.KindRemove, To: to, Old: old, Created: was.Created})
	return nil
}

// removeGone removes, after the verdict commit, the files that the release no longer has.
// It returns in stayed those that were changed meanwhile or cannot be removed, and warns of
// them. They do not affect the verdict.
func (s *Swapper) removeGone(ctx context.Context, j *state.Journal) (stayed map[string]bool) {
	stayed = map[string]bool{}
	reload := false
	for _, c := range j.Changes {
		if c.Kind != state.KindRemove {
			continue
		}
		now, err := digest(c.To)
		switch {
		case err == nil && now == "": // another run or another program has removed it
		case err == nil && now == c.Old:
			if err = os.Remove(c.To); err == nil {
				s.logf("%s: removed %s, which it does not have any more", describe(j), c.To)
				err = durable.SyncDir(filepath.Dir(c.To))
			}
		case err == nil:
			err = errors.New("it was changed during the trial")
		}
		if err != nil {
			stayed[c.To] = true
			stays := fmt.Sprintf("%s stays: %v%s", c.To, brief(err), hint(err))
			s.logf("%s: %s", describe(j), stays)
			j.Warn(stays)
		}
		reload = reload || isUnitFile(c.To)
	}
	if reload {
		s.logError(j, s.Systemd.Reload(ctx))
	}
	return stayed
}
