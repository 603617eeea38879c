package state

import "slices"

// Result is how an attempt ended, in the words that status and history print.
type Result string

// The results; resultTable says what each means.
const (
	ResultHandedOn       Result = "handed on" // not the end: the next role goes on
	ResultOnTrial        Result = "on trial"  // nor is this: [Tree.History] says so while the journal is open
	ResultCurrent        Result = "already current"
	ResultAvailable      Result = "available"
	ResultAdopted        Result = "adopted" // installed already, byte for byte; recorded without a restart
	ResultCommitted      Result = "committed"
	ResultUnproven       Result = "committed unproven" // no probe passed, and none ever did here
	ResultFailed         Result = "failed"
	ResultMisconfigured  Result = "misconfigured"
	ResultRolledBack     Result = "rolled back"
	ResultInterrupted    Result = "interrupted" // undone; says nothing about the release
	ResultRollbackFailed Result = "rollback failed"
	ResultRefused        Result = "refused"
	ResultNotDownloaded  Result = "not downloaded"
	ResultNotAttempted   Result = "not attempted"
	// ResultSettled ends a trial whose rollback failed by the operator's word.
	ResultSettled Result = "settled"
)

// trait is a set of properties of a result.
type trait uint

const (
	alarms    trait = 1 << iota // a person should look
	backsOff                    // unattended attempts wait before they try again
	replaced                    // the attempt came as far as to replace one version by another
	ofFetch                     // the fetcher's record may say so
	ofVerify                    // the verifier's
	ofSwap                      // the swapper's
	available                   // the command exits with [ExitAvailable], the fetcher with 0
)

// The priorities of syslog: info when all is well or as the operator wants it,
// warning when an update did not work, crit when a person must come.
const (
	crit    = 2
	warning = 4
	info    = 6
)

type resultRow struct {
	result   Result
	exit     int // of a step
	priority int
	traits   trait
}

// resultTable has one row for each result, the worst first: of several targets the
// command exits with the status that stands first here.
var resultTable = []resultRow{
	{ResultRollbackFailed, 5, crit, alarms | replaced | ofSwap},
	{ResultRolledBack, 4, warning, alarms | replaced | ofSwap},
	{ResultInterrupted, 4, warning, alarms | replaced | ofSwap},
	{ResultRefused, 6, warning, alarms | backsOff | ofFetch | ofVerify | ofSwap},
	// It is tried again without a person, and a server that is down has alarms of its own.
	{ResultNotDownloaded, 7, warning, backsOff | ofFetch},
	{ResultFailed, 1, warning, alarms | backsOff | ofFetch | ofVerify | ofSwap},
	{ResultHandedOn, 1, info, 0},
	{ResultOnTrial, 1, info, replaced},
	{ResultMisconfigured, 2, warning, alarms | backsOff | ofFetch | ofVerify | ofSwap},
	{ResultNotAttempted, 8, info, ofFetch | ofSwap},
	{ResultAvailable, 0, info, available | ofFetch},
	{ResultUnproven, 0, info, alarms | replaced | ofSwap},
	{ResultSettled, 0, info, ofSwap},
	{ResultCommitted, 0, info, replaced | ofSwap},
	{ResultAdopted, 0, info, replaced | ofSwap},
	{ResultCurrent, 0, info, ofFetch},
}

// row is the result's row. One that is not known, as of a later version, is a
// failure, and nothing more is known of it.
func (r Result) row() resultRow {
	for _, row := range resultTable {
		if row.result == r {
			return row
		}
	}
	return resultRow{r, 1, warning, 0}
}

func (r Result) is(t trait) bool { return r.row().traits&t != 0 }

// Exit is the exit status of a step for this result.
func (r Result) Exit() int { return r.row().exit }

// ExitAvailable is the command's exit status for [ResultAvailable].
const ExitAvailable = 3

// CommandExit is the exit status of the command for this result.
func (r Result) CommandExit() int {
	if r.is(available) {
		return ExitAvailable
	}
	return r.Exit()
}

// WorseExit reports whether the command's exit status a is worse than b.
func WorseExit(a, b int) bool {
	place := func(exit int) int { // -1, worse than every result, for a status that none has
		return slices.IndexFunc(resultTable, func(row resultRow) bool { return row.result.CommandExit() == exit })
	}
	return place(a) < place(b)
}

// Alarming reports whether a person should look. Of a result that is not known it
// is false.
func (r Result) Alarming() bool { return r.is(alarms) }

// Priority is syslog's priority of the event.
func (r Result) Priority() int { return r.row().priority }

// endsAt reports whether an attempt can end so at a role. A fetcher's or verifier's
// record that says more is not believed.
func (r Result) endsAt(role Role) bool {
	return r.is(map[Role]trait{RoleFetch: ofFetch, RoleVerify: ofVerify, RoleSwap: ofSwap}[role])
}
