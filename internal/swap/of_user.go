package swap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/units"
)

// This file is about programs in a directory of the unit's user. Root works only on copies in
// a directory of its own; a process of that user reads and replaces the program itself, in
// the unit that also saves the user's data. That user may control the process: what it
// hands to root is bytes to be copied and hashed, and the harm it can do is the user's own.

// ofUser returns the programs that a target installs in a user's directories.
func ofUser(t *target.Target) (programs []string) {
	for _, i := range t.Install {
		if durable.OfUser(i.To) {
			programs = append(programs, i.To)
		}
	}
	return programs
}

// programOwner returns the user of these units, for programs in that user's directories.
func (s *Swapper) programOwner(ctx context.Context, names []string, programs ...string) (*state.Owner, error) {
	var all []systemd.Unit
	for _, name := range names {
		u, err := s.Systemd.Unit(ctx, name)
		if err != nil {
			return nil, err
		}
		all = append(all, u)
	}
	owner, err := ownerOf(all)
	for _, u := range all {
		if err == nil && (u.DynamicUser || u.UID != owner.UID) {
			err = fmt.Errorf("others than root can write there, and %s and %s run as different users", all[0].Name, u.Name)
		}
	}
	for _, path := range programs {
		dir, uid, looked := durable.UserOf(path)
		if err == nil && looked && uid >= 0 && uid != int(owner.UID) { // root does not look into /home
			err = fmt.Errorf("user %d owns %s, and %s runs as user %d", uid, dir, all[0].Name, owner.UID)
		}
	}
	if err != nil {
		return nil, state.Fail(state.ResultMisconfigured, "cannot install a program in a user's directory: %w", err)
	}
	return owner, nil
}

// knowOwner refuses an attempt that must replace a program in a user's directory, unless the
// units run as a user.
func (b *beginning) knowOwner(ctx context.Context) error {
	programs := ofUser(b.target)
	if len(programs) == 0 {
		return nil
	}
	names, err := units.Names(ctx, b.Systemd, b.target)
	if err == nil {
		_, err = b.programOwner(ctx, names, programs...)
	}
	return err
}

// stranded returns a file of the kept release whose backup root does not use: root made it
// beside a program whose directory is a user's by now, or the other way round.
func (s *Swapper) stranded(name string, previous *state.Release) *state.File {
	if previous != nil {
		for i, f := range previous.Files {
			if f.Backup != "" && durable.OfUser(f.To) != s.Tree.OfProgram(name, f.Backup) {
				return &previous.Files[i]
			}
		}
	}
	return nil
}

// leaveStranded forgets a kept release whose backups root does not use any more.
func (b *beginning) leaveStranded() error {
	f := b.stranded(b.name, b.status.Previous)
	if f == nil {
		return nil
	}
	b.logf("%s: release %s, which was kept for a rollback by command, is given up: %s has another owner since the backup %s was made",
		b.name, state.Called(b.status.Previous.Version), filepath.Dir(f.To), f.Backup)
	b.status.Previous = nil
	return b.Tree.Update(state.RoleSwap, b.name, func(st *state.Status) { st.Previous = nil })
}

// stagingDir returns the directory for files that wait to be installed.
func (sw *swapping) stagingDir(to string) (string, error) {
	if durable.OfUser(to) {
		return sw.Tree.ProgramDir(sw.name, sw.journal.Attempt)
	}
	return sideDir(to)
}

// stageOfUser makes bring write the new file of a program in a user's directory into root's, and keeps a copy of the old one there.
func (sw *swapping) stageOfUser(ctx context.Context, to string, bring func(staged string, room int64) (string, error)) (c state.Change, err error) {
	j := sw.journal
	c = state.Change{Kind: state.KindReplace, To: to, Private: true, Pending: true, Theirs: true}
	if j.Owner == nil {
		if j.Owner, err = sw.programOwner(ctx, j.Units(), to); err != nil {
			return c, err
		}
	}
	failed := func(err error) (state.Change, error) {
		return c, fmt.Errorf("cannot stage %s: %w%s", to, brief(err), hint(err))
	}
	dir, err := sw.Tree.ProgramDir(sw.name, j.Attempt)
	if err != nil {
		return failed(err)
	}
	room, err := state.Free(dir)
	if err != nil {
		return failed(err)
	}
	at := filepath.Join(dir, strconv.Itoa(len(j.Changes)))
	c.Staged, c.Backup = at+".new", at+".old"
	if c.New, err = bring(c.Staged, room); err != nil {
		return failed(err)
	}
	if err := os.Chmod(c.Staged, 0o755); err != nil { // for the pre-flight's user, too
		return failed(err)
	}
	if c.Old, err = sw.lookAsUser(ctx, j, to, c.Backup); err != nil {
		return failed(err)
	}
	return c, errors.Join(durable.SyncFile(c.Staged), durable.SyncDir(dir))
}

// unattended refuses to replace a program in a user's directory that was changed since the last
// update, unless a person asked for it. Only this attempt has looked at it.
func (sw *swapping) unattended(c state.Change, was *state.File) error {
	if !c.OfUser() || was == nil || c.Old == was.SHA256 || c.Old == c.New || sw.journal.Origin == state.OriginOperator {
		return nil
	}
	return state.Fail(state.ResultNotAttempted, "%s was changed by hand (hint: machinemon-update apply %s)", c.To, sw.name)
}

// lookAsUser has the user's process copy a program, copies that copy to the new file keep,
// and returns its digest.
func (s *Swapper) lookAsUser(ctx context.Context, j *state.Journal, to, keep string) (sum string, err error) {
	dir, err := s.Tree.ProgramDir(j.Target, j.Attempt)
	if err != nil {
		return "", err
	}
	const theirs = "look" // the only place in dir where the user can write
	if err := os.RemoveAll(filepath.Join(dir, theirs)); err != nil {
		return "", err
	}
	if err := os.Mkdir(filepath.Join(dir, theirs), 0o700); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(filepath.Join(dir, theirs))) }()
	if err := os.Chown(filepath.Join(dir, theirs), int(j.Owner.UID), -1); err != nil {
		return "", err
	}
	room, err := state.Free(dir)
	if err != nil {
		return "", err
	}
	most := strconv.FormatInt(min(room/2, largest), 10) // root copies the copy
	if err := s.asOwner(ctx, j, dir, 0, []string{"program-look", most, to, filepath.Join(state.SnapshotMount, theirs, "program")}); err != nil {
		return "", fmt.Errorf("as user %s: %w (hint: journalctl -u %s)", j.Owner.User, err, dataOf(j.Target))
	}
	f, err := durable.OpenRegular(filepath.Join(dir, theirs, "program"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	st := info.Sys().(*syscall.Stat_t)
	if st.Uid != j.Owner.UID { // a hard link to a file that the user may not read
		return "", errors.New("its copy was replaced")
	}
	if sum, err = copyFile(keep, f, min(largest, info.Size()), true); err == nil {
		err = os.Chown(keep, 0, int(st.Gid))
	}
	if err == nil { // only the user's process reads it, as a member of its group
		err = os.Chmod(keep, 0o640)
	}
	return sum, err
}

// digestAsUser returns the digest of a program in a directory of the trial's user.
func (s *Swapper) digestAsUser(ctx context.Context, j *state.Journal, to string) (sum string, err error) {
	dir, err := s.Tree.ProgramDir(j.Target, j.Attempt)
	if err == nil && j.Owner == nil {
		err = fmt.Errorf("%s was not of a user when the trial began", filepath.Dir(to))
	}
	if err != nil {
		return "", err
	}
	now := filepath.Join(dir, "now")
	if err := remove(now); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, remove(now)) }()
	return s.lookAsUser(ctx, j, to, now)
}

// putAsUser has the user's process put a copy of root's file in the place of the user's
// program, if that has one of the digests.
func (s *Swapper) putAsUser(ctx context.Context, j *state.Journal, file, to string, replaces ...string) error {
	argv := append([]string{"program-put", filepath.Join(state.SnapshotMount, filepath.Base(file)), to}, replaces...)
	if err := s.asOwner(ctx, j, filepath.Dir(file), 0, argv); err != nil {
		return fmt.Errorf("as user %s: %w (hint: journalctl -u %s)", j.Owner.User, err, dataOf(j.Target))
	}
	return nil
}

// placeAsUser puts the new file in the place of a program in a user's directory. The journal
// says so before, so that a rollback leaves the program alone if that was not tried.
func (sw *swapping) placeAsUser(ctx context.Context, c *state.Change) error {
	c.Pending = false
	if err := sw.Tree.SetJournal(sw.journal); err != nil {
		return err
	}
	err := sw.putAsUser(ctx, sw.journal, c.Staged, c.To, c.Old)
	if err != nil {
		// What the user has put there meanwhile stays, and a rollback need not end in a failure.
		if now, looked := sw.digestAsUser(ctx, sw.journal, c.To); looked == nil && now != c.New {
			c.Pending = true
		}
	}
	return err
}

// putBackAsUser restores the old program, if the trial may have replaced it.
func (s *Swapper) putBackAsUser(ctx context.Context, j *state.Journal, c state.Change) (changed bool, err error) {
	if c.Pending {
		return false, nil
	}
	kept, err := digest(c.Backup)
	if err == nil && kept != c.Old {
		err = fmt.Errorf("its backup %s is missing or damaged", c.Backup)
	}
	if err != nil {
		return false, err
	}
	replaces := []string{"-"}
	if !j.Restored { // as in ours
		replaces = append(replaces, c.New)
	}
	return true, s.putAsUser(ctx, j, c.Backup, c.To, replaces...)
}

// provenOfUser returns an error unless a process runs the bytes of the release: its file
// may be elsewhere by now.
func provenOfUser(j *state.Journal, pid uint32) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/exe", pid)) // the file that runs, not what is at its path
	if err != nil {
		return fmt.Errorf("cannot commit %s: %w", j.Target, err)
	}
	defer f.Close()
	sum, _, err := durable.SHA256(io.LimitReader(f, largest)) // a user can make a program of any size
	for _, c := range j.Changes {
		if err == nil && c.To == j.Main && c.New == sum {
			return nil
		}
	}
	return errors.Join(err, fmt.Errorf("cannot commit %s: process %d does not run the new %s", j.Target, pid, j.Main))
}

// rootsOwn returns the directory of an installed file; none if root does not work there.
func rootsOwn(to string) []string {
	if durable.OfUser(to) {
		return nil
	}
	return []string{filepath.Dir(to)}
}
