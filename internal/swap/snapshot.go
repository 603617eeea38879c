package swap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/snapshot"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// planSnapshot adds the data that come back at a rollback, with the files that SQLite
// keeps beside a database.
func (sw *swapping) planSnapshot() error {
	for _, path := range sw.target.Snapshot {
		place, err := sw.target.SnapshotPlace(path)
		if err != nil {
			return err
		}
		more, err := snapshot.Companions(place.Path)
		if err != nil {
			return err
		}
		info, err := os.Lstat(place.Path)
		live := place.Theirs != "" || len(more) > 0 || err == nil && info.IsDir()
		for _, to := range append([]string{place.Path}, more...) {
			sw.add(state.Change{Kind: state.KindSnapshot, To: to, Pending: true, Live: live, Theirs: place.Theirs != ""})
		}
	}
	return nil
}

// checkData refuses, before anything stops, a snapshot that cannot be taken. It returns
// how long the snapshot may take, and as much again for the space of its restore, which
// some file systems keep only for what is written.
func (sw *swapping) checkData(running []systemd.Unit) (time.Duration, error) {
	j := sw.journal
	var all int64
	saving := time.Duration(0)
	for _, c := range j.Changes {
		if c.Kind != state.KindSnapshot {
			continue
		}
		if c.Theirs && j.Owner == nil {
			owner, err := ownerOf(running)
			if err != nil {
				return 0, state.Fail(state.ResultMisconfigured, "cannot take a snapshot of %s: %w", c.To, err)
			}
			j.Owner = owner
		}
		sum, err := snapshot.Measure(c.To)
		if c.Theirs && errors.Is(err, snapshot.ErrLinked) {
			saving = dataTime(2 * sw.target.SnapshotMax) // only the owner can measure it, when it saves
			continue
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, state.Fail(state.ResultMisconfigured, "cannot take a snapshot: %w", err)
		}
		all += sum.Allocated
	}
	if most := sw.target.SnapshotMax; all > most {
		return 0, state.Fail(state.ResultMisconfigured, "cannot take a snapshot: the data have %d bytes, more than %d (hint: rollback.snapshot_max_bytes, or name less in rollback.snapshot)", all, most)
	}
	room, err := state.Free(sw.Tree.Dir(state.RoleSwap, sw.name))
	if err != nil {
		return 0, err
	}
	if all > room {
		return 0, fmt.Errorf("cannot take a snapshot: it needs %d bytes, %d are free in %s (hint: df shows what is full)", all, room, sw.Tree.Var)
	}
	return max(saving, dataTime(2*all)), nil
}

// dataTime returns how long it may take to copy so many bytes on a slow disk, which
// writes ten million of them a second.
func dataTime(bytes int64) time.Duration { return time.Duration(bytes/10_000_000) * time.Second }

// ownerOf returns the user whose data the units work on: the first one's.
func ownerOf(all []systemd.Unit) (*state.Owner, error) {
	if len(all) == 0 {
		return nil, errors.New("others than root can write there, and the target has no unit whose user they belong to (hint: name what root alone can write)")
	}
	u := all[0]
	switch {
	case u.DynamicUser:
		return nil, fmt.Errorf("others than root can write there, and %s has a user for its run only (DynamicUser=)", u.Name)
	case u.User == "" || u.User == "root" || u.UID == 0:
		return nil, fmt.Errorf("others than root can write there, and %s runs as root (hint: name what root alone can write, or set User= in the unit)", u.Name)
	case u.UID == systemd.NoUID:
		return nil, fmt.Errorf("systemd does not know the user %s of %s (hint: it knows once the unit has run)", u.User, u.Name)
	}
	return &state.Owner{User: u.User, UID: u.UID, Group: u.Group, Groups: u.Groups}, nil
}

// saveData takes the snapshot.
func (sw *swapping) saveData(ctx context.Context) error {
	j := sw.journal
	var roots, theirs []int
	for i, c := range j.Changes {
		switch {
		case c.Kind != state.KindSnapshot:
		case c.Theirs:
			theirs = append(theirs, i)
		default:
			roots = append(roots, i)
		}
	}
	if len(roots)+len(theirs) == 0 {
		return nil
	}
	log.Status("saving the data")
	room := sw.target.SnapshotMax
	if len(roots) > 0 {
		dir, err := sw.Tree.MakeSnapshotDir(sw.name, string(j.Attempt))
		if err != nil {
			return err
		}
		for _, i := range roots {
			if room, err = saveOwn(&j.Changes[i], filepath.Join(dir, strconv.Itoa(i)), room); err != nil {
				return err
			}
		}
	}
	if len(theirs) == 0 {
		return nil
	}
	return sw.saveTheirs(ctx, theirs, room)
}

// saveOwn saves data that root alone can write, and returns the bytes of room that are
// left. If there were no data, a rollback removes what it finds. An error that a file is
// missing may be about the backup, so saveOwn looks for the data itself.
func saveOwn(c *state.Change, backup string, room int64) (left int64, err error) {
	sum, err := snapshot.Save(c.To, backup, room)
	if err == nil {
		c.Saved, c.Backup = sum.String(), backup
	} else if _, missing := os.Lstat(c.To); !errors.Is(missing, fs.ErrNotExist) {
		return 0, fmt.Errorf("%w%s", err, hint(err))
	}
	c.Pending = false
	return room - sum.Allocated, nil
}

// saveTheirs makes the unit's own user save what others than root can write: root would
// follow links that they put in its way. The user owns the backup, whose directory lies
// in one of root's that only the unit that saves and restores it can enter.
func (sw *swapping) saveTheirs(ctx context.Context, changes []int, room int64) error {
	j := sw.journal
	dir, err := sw.Tree.MakeSnapshotDir(sw.name, string(j.Attempt)+"."+j.Owner.User)
	if err == nil {
		err = os.Chown(dir, int(j.Owner.UID), -1)
	}
	if err != nil {
		return fmt.Errorf("cannot make a place for the snapshot: %w", brief(err))
	}
	argv := []string{"snapshot-save", strconv.FormatInt(room, 10)}
	for _, i := range changes {
		c := &j.Changes[i]
		c.Backup = filepath.Join(dir, strconv.Itoa(i))
		argv = append(argv, c.To, filepath.Join(state.SnapshotMount, strconv.Itoa(i)))
	}
	if err := sw.asOwner(ctx, j, dir, room, argv); err != nil {
		return fmt.Errorf("cannot take a snapshot of the data of user %s: %w (hint: journalctl -u %s)", j.Owner.User, err, dataOf(sw.name))
	}
	for _, i := range changes {
		c := &j.Changes[i]
		sum, err := snapshot.Measure(c.Backup)
		switch {
		case errors.Is(err, fs.ErrNotExist): // there was nothing to save
			c.Backup = ""
		case err != nil:
			return err
		default:
			c.Saved = sum.String()
		}
		c.Pending = false
	}
	return nil
}

// dataReturns reports whether a rollback restores data. As long as the old program has
// not stopped, what it wrote since is its own, unless a hook may have written there.
func dataReturns(j *state.Journal) bool {
	return (j.Phase == state.PhaseTrial || j.Hooked) &&
		slices.ContainsFunc(j.Changes, func(c state.Change) bool { return c.Kind == state.KindSnapshot && !c.Pending })
}

// runsOn reports whether the old program, which the swap has not stopped, can go on while
// its data are restored: what the hook made of a plain file, such as the configuration,
// is undone without an interruption.
func runsOn(j *state.Journal) bool {
	return j.Phase == state.PhasePrepared && !j.Stopped && j.RollbackFailed == "" &&
		!slices.ContainsFunc(j.Changes, func(c state.Change) bool { return c.Kind == state.KindSnapshot && c.Live })
}

// restoreData restores the data. The unit must not run, except as runsOn allows.
func (s *Swapper) restoreData(ctx context.Context, j *state.Journal) error {
	log.Status("restoring the data")
	if err := mayReturn(j); err != nil {
		return err
	}
	var failed error
	var theirs []string
	dir, broken := "", ""
	for _, c := range j.Changes {
		if c.Kind != state.KindSnapshot || c.Pending || snapshot.CompanionOf(c.To, broken) {
			continue // with the files of a database that did not come back, what is there would be damaged
		}
		err := whole(c)
		switch {
		case err != nil:
		case c.Theirs && c.Backup == "":
			theirs = append(theirs, "-", c.To)
		case c.Theirs:
			dir = filepath.Dir(c.Backup)
			theirs = append(theirs, filepath.Join(state.SnapshotMount, filepath.Base(c.Backup)), c.To)
		case c.Saved != "":
			_, err = snapshot.Restore(c.Backup, c.To)
		case c.Backup != "": // a backup of version 0.1.0
			_, err = putBack(c, nil)
		default:
			_, err = snapshot.Remove(c.To)
		}
		if err != nil {
			broken = c.To
		}
		failed = errors.Join(failed, unrestored(c, err))
	}
	if len(theirs) > 0 {
		if err := s.asOwner(ctx, j, dir, snapshotMost, append([]string{"snapshot-restore"}, theirs...)); err != nil {
			failed = errors.Join(failed, fmt.Errorf("cannot restore the data of user %s: %w (hint: journalctl -u %s)", j.Owner.User, err, dataOf(j.Target)))
		}
	}
	return errors.Join(failed, syncDirs(j.Changes))
}

// snapshotMost is assumed as the size of a restore in bytes, for its time limit.
const snapshotMost = 1 << 40

// whole returns an error if a backup is not what was saved.
func whole(c state.Change) error {
	if c.Saved == "" {
		return nil
	}
	sum, err := snapshot.Measure(c.Backup)
	if err == nil && sum.String() != c.Saved {
		err = fmt.Errorf("its backup %s is damaged: it has %s, and had %s", c.Backup, sum, c.Saved)
	}
	return err
}

// asOwner runs a verb of package snapshot as the unit's user, in a unit of its own that
// sees the directory of the backups. The unit that copies data has another name than the
// one that only keeps space for them.
func (s *Swapper) asOwner(ctx context.Context, j *state.Journal, dir string, bytes int64, verb []string) error {
	h := systemd.Hook{
		Unit:        ownersUnit(verb[0], j.Target),
		Description: "The data of " + j.Target + ", before an update of it or after",
		Argv:        append([]string{program}, verb...),
		Limit:       hookTime + dataTime(bytes),
		User:        j.Owner.User, Group: j.Owner.Group, Groups: j.Owner.Groups,
	}
	if dir != "" {
		h.Bind = []systemd.Bind{{From: dir, To: state.SnapshotMount}}
	}
	return s.runHook(ctx, j, h)
}

// program is the path of this program as it is installed.
const program = "/usr/lib/machinemon-update/swapper"

func dataOf(name string) string { return unitOf("data", name) }

func ownersUnit(verb, name string) string {
	if verb == "snapshot-reserve" || verb == "snapshot-release" {
		return unitOf("space", name)
	}
	return dataOf(name)
}
