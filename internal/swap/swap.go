// Package swap changes installed programs. A change is a journalled transaction over one
// or several files, from the verified tree to the verdict.
//
// It runs as root and is the sole writer of the installed files, of swap/T/ under the
// state directory, and of the 0700 directories .machinemon-update/ beside the installed
// files. The new files wait in these, and the old ones are kept there: a rename cannot
// cross mounts, so both must be on the destination's. Only programs in the home of the
// unit's user are read and replaced by a process of that user.
//
// Package swap does not trust the other roles. A verified tree is bytes to be copied,
// hashed and compared; the gate's report says only how the trial went. Package swap
// trusts what root wrote: target files, order, journal and status. For a target with
// trust.mode = "tuf" it also trusts the manifest to which root's own chain of keys leads,
// from the pin on, and which names every file by its digest. Under "signature" it trusts
// what the pinned keys have signed: such a manifest, or else an archive, of which it makes a
// copy. It parses no archive: it checks the copy, and has another user list it in a sandbox
// without anything to write to. Under "checksum" it takes the
// fetcher's word, not the verifier's, which manifest the server sent. Only if that manifest
// has no contents, it takes the verifier's word which files were in the archive.
//
// The steps of a trial follow. After a crash between two steps, the journal tells
// rollback and recover how to get back:
//
//  1. copy the new files beside their destinations, hashing; check; start the gate, which
//     waits for the swap's end; pre-flight
//  2. link (or copy) the old files to backups beside them, and take the snapshot
//  3. write the journal: prepared; arm the deadline; with rollback.stop the unit is
//     stopped now, and the snapshot taken after that; run the hooks before the swap
//  4. rename each new file to its destination
//  5. write the journal: trial; restart the unit
//  6. the gate watches; its exit status starts commit or rollback
//  7. write the verdict into the journal; carry it out; record; close the journal
package swap

import (
	"context"
	"errors"
	"time"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// Manager is what a swapper needs of systemd; *systemd.Conn implements it.
type Manager interface {
	Unit(ctx context.Context, name string) (systemd.Unit, error)
	Units(ctx context.Context, names ...string) ([]systemd.Unit, error)
	Processes(ctx context.Context, unit string) ([]int, error)
	Alive(ctx context.Context, patterns ...string) ([]string, error)
	Start(ctx context.Context, name string) error
	Queue(ctx context.Context, name string) error
	Restart(ctx context.Context, name string, limit time.Duration) error
	ReloadUnit(ctx context.Context, name string) error
	Stop(ctx context.Context, name string) error
	Kill(ctx context.Context, name string) error
	ResetFailed(ctx context.Context, names ...string) error
	Reload(ctx context.Context) error
	Uptime(ctx context.Context) (time.Duration, error)
	Arm(ctx context.Context, timer string, after time.Duration) error
	RunHook(ctx context.Context, h systemd.Hook) error
	Try(ctx context.Context, p systemd.Sandbox) (systemd.SandboxResult, error)
	Leaving(ctx context.Context, units ...string) (left func() time.Duration, err error)
	Inhibitors(ctx context.Context) ([]systemd.Inhibitor, error)
	Delay(ctx context.Context, why string) (release func(), err error)
	LastLines(ctx context.Context, unit, boot string, n int) ([]systemd.LogLine, error)
}

// Swapper carries out the steps for the targets of one machine.
type Swapper struct {
	Tree    state.Tree
	Targets target.Dirs
	Systemd Manager // nil if systemd does not run, for [Swapper.Leave] only
	Log     *log.Log
	Boot    string // the ID of this boot, to find lines of systemd's journal
}

func (s *Swapper) logf(format string, args ...any) { s.Log.Printf(format, args...) }

// logError logs an error, if there is one, that must not stop what is done to a trial.
func (s *Swapper) logError(j *state.Journal, err error) {
	if err != nil {
		s.logf("%s: %v", describe(j), err)
	}
}

// about makes the log lines that follow carry the trial's attempt and version.
func (s *Swapper) about(j *state.Journal) { s.Log.Attempt, s.Log.Version = j.Attempt, j.Version }

// resultOf returns the result that an error means.
func resultOf(err error) state.Result {
	if _, ok := errors.AsType[*target.ConfigError](err); ok {
		return state.ResultMisconfigured
	}
	return state.ResultOf(err)
}

// ExitStatus returns the exit status that an error of this package means.
func ExitStatus(err error) int {
	if err == nil {
		return 0
	}
	return resultOf(err).Exit()
}

func unitOf(step, name string) string { return "machinemon-" + step + "@" + name + ".service" }

func pathOf(step, name string) string { return "machinemon-" + step + "@" + name + ".path" }

// deadlineOf returns the name of the timer that bounds a trial. The service of that name
// is another name of the rollback unit.
func deadlineOf(name string) string { return "machinemon-deadline@" + name + ".timer" }

// recordAttempt adds an attempt to the swapper's status.
func (s *Swapper) recordAttempt(name string, a state.Attempt) error {
	return s.Tree.Update(state.RoleSwap, name, func(st *state.Status) { st.Record(a) })
}

// journal reads the open trial. If its journal is damaged, it moves that aside and
// returns an error that tells the operator to look.
func (s *Swapper) journal(name string) (*state.Journal, error) {
	j, err := s.Tree.Journal(name)
	if err == nil && j != nil && j.RollbackFailed == "" {
		// Version 0.1.0 wrote this into the status only.
		st, serr := s.Tree.Status(state.RoleSwap, name)
		j.RollbackFailed, err = st.RollbackFailure(j.Attempt), serr
	}
	if !errors.Is(err, state.ErrDamaged) {
		return j, err
	}
	aside, err := s.Tree.PutJournalAside(name)
	if err != nil {
		return nil, err
	}
	err = state.Fail(state.ResultRollbackFailed, "cannot close the open trial of %s: its journal is damaged (hint: it is now %s; see which files are installed)", name, aside)
	a := state.Attempt{ID: state.NewAttempt(), Origin: state.OriginSchedule,
		Stage: "rollback", Result: state.ResultRollbackFailed, Reason: err.Error()}
	of := *s.Log // a copy: the caller may be at work on another attempt
	of.Ended(a)
	return nil, errors.Join(err, s.recordAttempt(name, a))
}
