package swap

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// This file is about drills. A drill is a trial whose new file is a program that ends at
// once. Everything from the backup to the rollback is as in any other trial, except that no
// hook runs, and that what is in the snapshot is always saved while the units are stopped,
// because nothing that they write may be lost by a test. No drill is committed, and no
// release is rejected for one.

// drillVersion is what a drill tries, in place of a version.
const drillVersion = "drill"

// drillProgram fails under any unit: where it cannot be executed, that is a failure, too.
const drillProgram = `#!/bin/sh
echo "machinemon-update: this is a drill: this program ends at once, so that the installed one must come back" >&2
exit 1
`

// planDrill stages the program that fails, in the place of the one that the unit runs.
func (sw *swapping) planDrill(ctx context.Context) error {
	j, t := sw.journal, sw.target
	j.Version = drillVersion
	cannot := func(why string) error {
		return state.Fail(state.ResultNotAttempted, "cannot drill %s: %s", sw.name, why)
	}
	if len(j.Units()) == 0 {
		return cannot("no unit runs it")
	}
	to := j.Main
	for _, i := range t.Install {
		if to == "" && !i.Tree {
			to = i.To
		}
		if i.Tree && strings.HasPrefix(to, i.To+"/") {
			return cannot(to + " is in " + i.To + ", which is installed as a whole, and a drill replaces a single file")
		}
	}
	if to == "" {
		return cannot("it installs no single file")
	}
	if durable.OfUser(to) {
		return cannot(to + " is in a user's directory, and a drill replaces only what root installs")
	}
	if err := t.CheckDestinations(sw.others(t.Name)); err != nil {
		return err
	}
	c, err := sw.stage(ctx, to, ownership{uid: -1, gid: -1}, func(staged string, room int64) (string, error) {
		return copyFile(staged, strings.NewReader(drillProgram), min(room, int64(len(drillProgram))), true)
	})
	if err != nil {
		return err
	}
	if c.Old == "" || c.Old == c.New {
		return cannot(to + " is not there, or is what a drill has left (hint: sudo machinemon-update apply " + sw.name + ")")
	}
	sw.add(c)
	return sw.planSnapshot()
}

// tryDrill starts the trial of the program that fails, if the installed one is healthy: only
// then shows its health after the rollback that it is back.
func (sw *swapping) tryDrill(ctx context.Context, consume func()) error {
	j := sw.journal
	before, err := sw.Tree.Look(sw.name, j.Attempt)
	if err == nil && before != nil {
		err = sw.Tree.SetBaseline(sw.name, *before)
	}
	sw.logError(j, err)
	if err := sw.judgeable(before); err != nil {
		return err
	}
	ill := "the health gate could not look at it"
	if before != nil {
		ill = illness(nil, before)
	}
	if ill != "" {
		return state.Fail(state.ResultNotAttempted, "cannot drill %s: it is not healthy now: %s (hint: sudo machinemon-update probe %s)", sw.name, ill, sw.name)
	}
	if err := sw.weigh(before); err != nil {
		return err
	}
	if err := sw.startGate(ctx); err != nil {
		return err
	}
	all, err := sw.knowUnits(ctx, before)
	if err != nil {
		return err
	}
	j.Stopped = sw.target.StopFirst || slices.ContainsFunc(j.Changes, func(c state.Change) bool { return c.Kind == state.KindSnapshot })
	return sw.replace(ctx, all, consume)
}

// watchDrill watches for the moment at which the installed program stops in a drill. The
// function that it returns ends that, and returns the moment; 0 if it is not known.
func (s *Swapper) watchDrill(ctx context.Context, j *state.Journal) (left func() time.Duration, err error) {
	if !j.Drill || j.Left > 0 {
		return func() time.Duration { return j.Left }, nil
	}
	return s.Systemd.Leaving(ctx, j.Units()...)
}

// unnoticed is why a drill that the gate found healthy has failed.
const unnoticed = "the health gate found a program healthy that ends at once"

// judgeDrill records how a drill ended. It is judge for a program that is to fail.
func (s *Swapper) judgeDrill(ctx context.Context, j *state.Journal, after *state.Baseline, changed bool, st *state.Status) {
	a := s.ended(j, "rollback", state.ResultInterrupted, j.Reason)
	if after != nil {
		a.Unhealthy = illness(nil, after)
		a.Healthy = a.Unhealthy == "" && !after.Unprobed
	}
	switch {
	case a.Unhealthy != "":
		a.Result, a.Reason = state.ResultRolledBack, j.Reason+"; after the rollback it is not healthy: "+a.Unhealthy
	case after != nil && j.Finding == state.FindingBad:
		a.Result, a.Reason = state.ResultDrilled, "rolled back to "+state.Called(j.From)+s.away(ctx, j, &a)+"; the failure that was seen: "+j.Reason
	case j.Finding == state.FindingUnsure:
		a.Result, a.Reason = state.ResultFailed, "the health gate could not tell that a program fails that ends at once: "+j.Reason
	case strings.HasSuffix(j.Failure, unnoticed):
		a.Result, a.Reason = state.ResultFailed, unnoticed+" (hint: [health] of the target file has nothing that notices it: see settle_seconds and [[health.probe]])"
	case j.Failure != "" && j.Phase == state.PhasePrepared && !changed:
		a.Result = state.ResultFailed
	}
	s.Log.Event(log.Event(a.Result), "%s: %s: %s", describe(j), a.Result, a.Reason)
	st.Record(a)
}

// away notes how long the units were away, and returns that as the end of a sentence; "" if
// it is not known.
func (s *Swapper) away(ctx context.Context, j *state.Journal, a *state.Attempt) string {
	all, err := s.unitsOf(ctx, j)
	s.logError(j, err)
	last := slices.MaxFunc(append(all, systemd.Unit{}), func(a, b systemd.Unit) int { return cmp.Compare(a.Entered, b.Entered) }).Entered
	if j.Left == 0 || last <= j.Left {
		return ""
	}
	away := last - j.Left
	a.AwayMillis = max(1, away.Milliseconds())
	return fmt.Sprintf(", the service was away %.1f s", away.Seconds())
}
