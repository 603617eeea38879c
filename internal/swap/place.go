package swap

import (
	"context"
	"os"
	"slices"

	"github.com/machinemon/machinemon-update/internal/state"
)

// rename puts the new files in their places, the last step before the restart. A file
// whose content is installed already stays: systemd takes a new file of the same content
// for a changed unit.
func (sw *swapping) rename(ctx context.Context) error {
	for i, c := range sw.journal.Changes {
		if c.Kind != state.KindReplace {
			continue
		}
		if c.Old == c.New && !c.Linked() && !c.OfUser() {
			// Check again, because a hook may have changed the file meanwhile.
			if now, err := c.Digest(); err == nil && now == c.New && dressedLike(c.Staged, c.To) {
				continue
			}
		}
		put := os.Rename
		if c.Old == "" {
			put = renameNew // a file that was created there meanwhile has no backup
		}
		if c.Tree != nil {
			put = func(_, _ string) error { return placeTree(c) }
		}
		if c.OfUser() {
			put = func(_, _ string) error { return sw.placeAsUser(ctx, &sw.journal.Changes[i]) }
		}
		if err := put(c.Staged, c.To); err != nil {
			return state.Fail(state.ResultFailed, "cannot install %s: %w%s", c.To, brief(err), hint(err))
		}
	}
	return syncDirs(sw.journal.Changes)
}

// inPlace reports whether every file is installed already, byte for byte.
func (sw *swapping) inPlace() bool {
	return !slices.ContainsFunc(sw.journal.Changes, func(c state.Change) bool {
		return c.Kind == state.KindRemove || c.Kind == state.KindReplace && c.Old != c.New
	})
}

// adopt records a release whose files are installed already. It restarts nothing.
func (sw *swapping) adopt() error {
	sw.attempt.Result, sw.attempt.Reason = state.ResultAdopted, "its files were installed already"
	sw.attempt.Warning = sw.journal.Warning
	next := newRelease(sw.journal)
	if sw.status.Installed != nil { // the same program goes on running
		next.Unproven = sw.status.Installed.Unproven
	}
	sw.status.Installed = next
	if err := sw.raiseFloor(sw.journal); err != nil {
		return err
	}
	return sw.Tree.SetStatus(state.RoleSwap, sw.name, sw.status)
}
