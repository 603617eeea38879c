package swap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/snapshot"
	"github.com/machinemon/machinemon-update/internal/state"
)

// sideRoom is the space that is kept beside installed files, in bytes: a rollback makes
// links there, which take names only.
const sideRoom = 64 << 10

// reserve occupies the space that a rollback will need, on each file system where it
// writes: the new version may fill them. It is an error if there is not enough. The
// operator's own way back does not depend on it.
func (sw *swapping) reserve(ctx context.Context) error {
	log.Status("reserving space for a rollback")
	err := sw.reserveAll(ctx)
	if err != nil && sw.journal.GoingBack {
		sw.logf("%s: no space is kept for a rollback: %v", describe(sw.journal), err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot keep space for a rollback: %w", err)
	}
	return nil
}

func (sw *swapping) reserveAll(ctx context.Context) error {
	j := sw.journal
	if err := sw.Tree.Reserve(sw.name, j.Attempt); err != nil {
		return fmt.Errorf("%w%s", err, hint(err))
	}
	done := map[string]bool{}
	for i, c := range j.Changes {
		if dir := filepath.Dir(c.To); c.Kind != state.KindSnapshot && !c.OfUser() && !done[dir] {
			done[dir] = true
			if err := reserveBeside(roomBeside(j, i)); err != nil {
				return fmt.Errorf("a rollback needs %d bytes in %s: %w%s", sideRoom, dir, brief(err), hint(err))
			}
		}
	}
	own, theirs, dir := saved(j)
	for _, c := range own {
		if err := snapshot.Reserve(c.Backup, c.To); err != nil {
			return err
		}
	}
	return sw.forOwner(ctx, j, "snapshot-reserve", dir, theirs)
}

func reserveBeside(path string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return durable.Reserve(f, sideRoom)
}

// roomBeside returns the path of the room beside the file of a change.
func roomBeside(j *state.Journal, change int) string {
	return sidePath(filepath.Join(filepath.Dir(j.Changes[change].To), sideName), j.Target, j.Attempt, change, "room")
}

// freeBeside frees the space beside the installed files.
func (s *Swapper) freeBeside(j *state.Journal) {
	for i, c := range j.Changes {
		if c.Kind != state.KindSnapshot && !c.OfUser() {
			s.logError(j, remove(roomBeside(j, i)))
		}
	}
	s.logError(j, syncDirs(j.Changes))
}

// saved returns the changes whose data have a backup: those that root restores and those
// that their owner restores, with the directory of the latter's backups.
func saved(j *state.Journal) (own, theirs []state.Change, dir string) {
	for _, c := range j.Changes {
		switch {
		case c.Saved == "":
		case c.Theirs:
			theirs = append(theirs, c)
			dir = filepath.Dir(c.Backup)
		default:
			own = append(own, c)
		}
	}
	return own, theirs, dir
}

// forOwner runs a verb of package snapshot for these backups as the owner of the data.
func (s *Swapper) forOwner(ctx context.Context, j *state.Journal, verb, dir string, changes []state.Change) error {
	if len(changes) == 0 {
		return nil
	}
	argv := []string{verb}
	for _, c := range changes {
		argv = append(argv, filepath.Join(state.SnapshotMount, filepath.Base(c.Backup)), c.To)
	}
	if err := s.asOwner(ctx, j, dir, snapshotMost, argv); err != nil {
		return fmt.Errorf("%s of the data of user %s: %w (hint: journalctl -u %s)", verb, j.Owner.User, err, ownersUnit(verb, j.Target))
	}
	return nil
}

// release frees what is kept with the data of an attempt. The rest is removed with the
// backups. Root can remove what the owner of the data has made.
func (s *Swapper) release(j *state.Journal) {
	for _, c := range j.Changes {
		if c.Kind == state.KindSnapshot {
			s.logError(j, snapshot.Release(c.Backup, c.To))
		}
	}
}

// giveUp frees what an attempt without a trial has reserved with the data. The swap's unit
// may not write to data that their owner restores.
func (sw *swapping) giveUp(ctx context.Context) {
	j := sw.journal
	own, theirs, dir := saved(j)
	for _, c := range own {
		sw.logError(j, snapshot.Release(c.Backup, c.To))
	}
	sw.logError(j, sw.forOwner(ctx, j, "snapshot-release", dir, theirs))
}

// dropRooms frees what a killed swap of a target may have reserved with its data. Without
// a journal only the target file names them.
func (s *Swapper) dropRooms(name string) {
	t, err := s.Targets.Load(name)
	if err != nil {
		return // there is no such target, or its swap did not begin
	}
	for _, path := range t.Snapshot {
		place, err := t.SnapshotPlace(path)
		if err != nil {
			continue // for the same reason the swap saved nothing
		}
		more, err := snapshot.Companions(place.Path)
		for _, p := range append(more, place.Path) {
			err = errors.Join(err, snapshot.Release("", p))
		}
		if err != nil {
			s.logf("%s: %v", name, err)
		}
	}
}
