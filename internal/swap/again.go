package swap

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/snapshot"
	"github.com/machinemon/machinemon-update/internal/state"
)

// This file is about rollbacks that failed for want of space. The old program runs by
// then. Such a rollback is tried again, for a limited time and number, but only as long as
// the data are exactly what it left: what the old program or the operator has written
// since must not be overwritten.

// unreturned notes that a rollback could not bring everything back, before the old program
// starts: from then on the data may be that program's. It returns the error as the
// operator should read it.
func (s *Swapper) unreturned(j *state.Journal, err error) error {
	_, data := errors.AsType[*dataError](err)
	full := durable.Full(err)
	if !full && !data {
		return err // the operator decides about the files
	}
	again := &state.Again{Since: time.Now().UTC()}
	if j.Again != nil {
		again.Since, again.Tries = j.Again.Since, j.Again.Tries
	}
	mark, merr := markOf(j)
	switch again.Mark = mark; {
	case merr != nil:
		again.Over = state.Line(merr.Error())
	case errors.Is(err, errTheirs):
		again.Over = errTheirs.Error()
	case errors.Is(err, errWritten):
		again.Over = errWritten.Error()
	case !full && lacks(j) == nil: // the owner's process does not say why it failed
		again.Over = "space is not what it lacked"
	}
	j.Again = again
	s.note(j)
	if !data {
		return err
	}
	return fmt.Errorf("%s starts although not all data came back from %s; those from before the update are kept in %s: %w",
		named(j), state.Called(j.Version), s.backups(j), err)
}

// A dataError says that data did not come back.
type dataError struct{ error }

func (e *dataError) Unwrap() error { return e.error }

// withData joins the error of a rollback's files with that of its data.
func withData(err, data error) error {
	if data != nil {
		data = &dataError{data}
	}
	return errors.Join(err, data)
}

// backups returns the directory of the backups of the data, for people.
func (s *Swapper) backups(j *state.Journal) string {
	own, theirs, dir := saved(j)
	switch {
	case len(own) > 0:
		return filepath.Dir(own[0].Backup)
	case len(theirs) > 0:
		return dir
	}
	return "no place, because there were none"
}

// errWritten says that the data are not what a failed rollback left.
var errWritten = errors.New("the data were written since the rollback failed, and stay")

// mayReturn returns nil if a rollback may restore the data, although an earlier one failed
// to.
func mayReturn(j *state.Journal) error {
	if j.Again == nil || j.Back || j.Again.Going {
		return nil
	}
	mark, err := markOf(j)
	if err == nil && mark != j.Again.Mark {
		err = errWritten
	}
	return err
}

// markOf returns a digest of the metadata of all data that come back.
func markOf(j *state.Journal) (string, error) {
	all := sha256.New()
	for _, c := range j.Changes {
		if c.Kind != state.KindSnapshot || c.Pending {
			continue
		}
		mark, err := snapshot.Mark(c.To)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(all, "%q %s\n", c.To, mark)
	}
	return hex.EncodeToString(all.Sum(nil)), nil
}

// lacks returns an error that says where a rollback has not enough space; nil if there is
// enough for all.
func lacks(j *state.Journal) error {
	type need struct {
		at             string
		bytes, entries int64
	}
	needs := map[uint64]*need{}
	own, theirs, _ := saved(j)
	for _, c := range append(own, theirs...) {
		var st unix.Stat_t
		at := c.To
		if err := unix.Stat(at, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if at = filepath.Dir(at); unix.Stat(at, &st) != nil {
				continue // that is not for want of space
			}
		}
		sum, err := snapshot.Measure(c.Backup)
		if err != nil {
			continue // a damaged backup
		}
		n := needs[st.Dev]
		if n == nil {
			n = &need{at: at}
			needs[st.Dev] = n
		}
		n.bytes += sum.Allocated + sum.Entries*snapshot.EntrySize
		n.entries += sum.Entries
	}
	for _, n := range needs {
		var st unix.Statfs_t
		if err := unix.Statfs(n.at, &st); err != nil {
			return fmt.Errorf("cannot read the free space of %s: %w", n.at, err)
		}
		if free := int64(st.Bavail) * st.Bsize; free < n.bytes {
			return fmt.Errorf("it needs %d bytes in %s, and %d are free", n.bytes, n.at, free)
		}
		if st.Files > 0 && int64(st.Ffree) < n.entries {
			return fmt.Errorf("it needs %d free inodes in %s, and there are %d", n.entries, n.at, st.Ffree)
		}
	}
	return nil
}

// tryAgain reports whether a failed rollback is to be tried again now. If it is to be
// later, tryAgain arms the timer.
func (s *Swapper) tryAgain(ctx context.Context, j *state.Journal) bool {
	a := j.Again
	if a == nil || a.Over != "" {
		return false
	}
	if over := s.overWith(j); over != "" {
		a.Over = over
		s.note(j)
		s.logf("%s: %s", describe(j), a)
		return false
	}
	wait := s.notYet(j)
	if wait == nil {
		a.Tries, a.Going = a.Tries+1, true
		if wait = s.Tree.SetJournal(j); wait == nil {
			s.logf("%s: there is space: rolling back once more", describe(j))
			return true
		}
		a.Tries, a.Going = a.Tries-1, false
	}
	s.logf("%s: the rollback waits: %v", describe(j), wait)
	s.wake(ctx, j)
	return false
}

// overWith returns why a rollback is not tried again; "" if it is.
func (s *Swapper) overWith(j *state.Journal) string {
	if err := mayReturn(j); err != nil {
		return state.Line(err.Error())
	}
	switch a := j.Again; {
	case a.Tries >= state.MostTries:
		return "it was tried often enough"
	case time.Since(a.Since) > state.TriedFor:
		return "there was no space for too long"
	}
	return ""
}

// notYet returns why a rollback is not tried again now.
func (s *Swapper) notYet(j *state.Journal) error {
	st, err := s.Tree.Status(state.RoleSwap, j.Target)
	if err == nil {
		err = policy.Held(j.Target, st).Err()
	}
	if err == nil {
		err = lacks(j)
	}
	return err
}

// wake makes the timer of the trial start its rollback again, more and more rarely.
func (s *Swapper) wake(ctx context.Context, j *state.Journal) {
	after := min(max(time.Since(j.Again.Since), time.Minute), time.Hour)
	s.logError(j, s.Systemd.Arm(ctx, deadlineOf(j.Target), after))
}
