package state

import (
	"errors"
	"fmt"
	"slices"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// Result is how an attempt ended, in the words that status and history print.
type Result string

// The results of attempts. resultTable has their properties.
const (
	ResultHandedOn       Result = "handed on" // not the end: the next role continues
	ResultOnTrial        Result = "on trial"  // not the end: [Tree.History] returns it while the journal is open
	ResultCurrent        Result = "already current"
	ResultAvailable      Result = "available"
	ResultAdopted        Result = "adopted" // the same bytes were installed already; recorded without a restart
	ResultCommitted      Result = "committed"
	ResultUnproven       Result = "committed unproven" // no probe passed, and none ever passed here
	ResultFailed         Result = "failed"
	ResultMisconfigured  Result = "misconfigured"
	ResultRolledBack     Result = "rolled back"
	ResultInterrupted    Result = "interrupted" // the trial was undone; this says nothing about the release
	ResultRollbackFailed Result = "rollback failed"
	ResultRefused        Result = "refused"
	ResultNotDownloaded  Result = "not downloaded"
	ResultNotAttempted   Result = "not attempted"
	// ResultSettled means that the operator ended a trial whose rollback had failed.
	ResultSettled Result = "settled"
	// ResultDrilled means that a drill did what it must: a release that fails on purpose was
	// found to fail, and what ran before runs again.
	ResultDrilled Result = "drill passed"
)

// trait is a set of properties of a result.
type trait uint

const (
	alarms    trait = 1 << iota // a person should look
	backsOff                    // unattended attempts wait before they try again
	replaced                    // the attempt got as far as replacing one version by another
	ofFetch                     // the fetcher's record may have this result
	ofVerify                    // the verifier's may
	ofSwap                      // the swapper's may
	available                   // the command exits with [ExitAvailable], the fetcher with 0
)

// Priorities of syslog(3): info if all is well or as the operator wants it, warning if an
// update failed, crit if a person must act.
const (
	crit    = 2
	warning = 4
	info    = 6
)

type resultRow struct {
	result   Result
	exit     int // exit status of a step
	priority int
	traits   trait
}

// resultTable has one row for each result, the worst first. A command for several targets
// exits with the status that comes first here.
var resultTable = []resultRow{
	{ResultRollbackFailed, 5, crit, alarms | replaced | ofSwap},
	{ResultRolledBack, 4, warning, alarms | replaced | ofSwap},
	{ResultInterrupted, 4, warning, alarms | replaced | ofSwap},
	{ResultRefused, 6, warning, alarms | backsOff | ofFetch | ofVerify | ofSwap},
	// No alarm: the attempt is repeated, and a server that is down has alarms of its own.
	{ResultNotDownloaded, 7, warning, backsOff | ofFetch},
	{ResultFailed, 1, warning, alarms | backsOff | ofFetch | ofVerify | ofSwap},
	{ResultHandedOn, 1, info, 0},
	{ResultOnTrial, 1, info, replaced},
	{ResultMisconfigured, 2, warning, alarms | backsOff | ofFetch | ofVerify | ofSwap},
	{ResultNotAttempted, 8, info, ofFetch | ofSwap},
	{ResultAvailable, 0, info, available | ofFetch | ofVerify | ofSwap},
	{ResultUnproven, 0, info, alarms | replaced | ofSwap},
	{ResultSettled, 0, info, ofSwap},
	{ResultDrilled, 0, info, ofSwap},
	{ResultCommitted, 0, info, replaced | ofSwap},
	{ResultAdopted, 0, info, replaced | ofSwap},
	{ResultCurrent, 0, info, ofFetch},
}

// row returns the result's row. An unknown result, as from a later version, counts as a
// failure without traits.
func (r Result) row() resultRow {
	for _, row := range resultTable {
		if row.result == r {
			return row
		}
	}
	return resultRow{r, 1, warning, 0}
}

func (r Result) is(t trait) bool { return r.row().traits&t != 0 }

// Exit returns the exit status of a step with this result.
func (r Result) Exit() int { return r.row().exit }

// ExitAvailable is the command's exit status for [ResultAvailable].
const ExitAvailable = 3

// CommandExit returns the command's exit status for this result.
func (r Result) CommandExit() int {
	if r.is(available) {
		return ExitAvailable
	}
	return r.Exit()
}

// WorseExit reports whether the command's exit status a is worse than b.
func WorseExit(a, b int) bool {
	place := func(exit int) int { // -1, worse than every result, for a status that no result has
		return slices.IndexFunc(resultTable, func(row resultRow) bool { return row.result.CommandExit() == exit })
	}
	return place(a) < place(b)
}

// Alarming reports whether a person should look. It returns false for an unknown result.
func (r Result) Alarming() bool { return r.is(alarms) }

// Priority returns the syslog priority of the event.
func (r Result) Priority() int { return r.row().priority }

// endsAt reports whether an attempt can end with this result at a role. Other results in a
// fetcher's or verifier's record are not believed.
func (r Result) endsAt(role Role) bool {
	return r.is(map[Role]trait{RoleFetch: ofFetch, RoleVerify: ofVerify, RoleSwap: ofSwap}[role])
}

// Failure is an error with the result that it gives the attempt.
type Failure struct {
	Result Result
	Err    error
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// Fail makes a Failure. Its format and args are those of [fmt.Errorf].
func Fail(r Result, format string, args ...any) error {
	return &Failure{r, fmt.Errorf(format, args...)}
}

// Refused makes a Failure with [ResultRefused].
func Refused(format string, args ...any) error { return Fail(ResultRefused, format, args...) }

// NotDownloaded makes a Failure with [ResultNotDownloaded].
func NotDownloaded(format string, args ...any) error {
	return Fail(ResultNotDownloaded, format, args...)
}

// ResultOf returns the result of the error's Failure, or [ResultFailed] if it has none, and
// if what should be refused or is misconfigured could not even be read.
func ResultOf(err error) Result {
	f, ok := errors.AsType[*Failure](err)
	if ok && (f.Result == ResultRefused || f.Result == ResultMisconfigured) && durable.Faulty(err) {
		return ResultFailed
	}
	if ok {
		return f.Result
	}
	return ResultFailed
}
