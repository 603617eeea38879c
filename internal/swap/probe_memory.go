package swap

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// foresee writes into the order of a scheduled attempt why its release would not be
// installed, so that it is not even downloaded. If a probe has ever passed here there is
// nothing to find out; otherwise the gate's user runs the probes now.
func (s *Swapper) foresee(ctx context.Context, t *target.Target, st *state.Status, order *state.Order) error {
	known := st.Passed(t.ProbeKeys())
	if order.Origin == state.OriginOperator || order.Verb != state.VerbApply || len(known) == 0 || known.Any() {
		return nil
	}
	log.Status("trying the probes")
	now, err := s.look(ctx, t.Name, order.Attempt, t.Name+": no look at the probes")
	if now == nil || err != nil {
		return err // without an answer, the swap will run the probes itself
	}
	if known, err = s.learn(t, now); err != nil {
		return err
	}
	if order.Doubt = doubt(t, known, now); order.Doubt == "" {
		return nil
	}
	return s.Tree.SetOrder(t.Name, *order)
}

// look makes the gate's user examine the program. If that cannot tell how the program
// fares, look logs the cause after the words of unable, and returns nil. An error means
// that systemd does not answer.
func (s *Swapper) look(ctx context.Context, name string, attempt state.AttemptID, unable string) (now *state.Baseline, err error) {
	step := unitOf("baseline", name)
	if err = s.Systemd.ResetFailed(ctx, step); err == nil {
		err = s.Systemd.Start(ctx, step)
	}
	if _, failed := errors.AsType[*systemd.JobError](err); err != nil && !failed {
		return nil, err
	}
	if err == nil { // a unit that failed may have written a report before
		now, err = s.Tree.Look(name, attempt)
	}
	if now == nil {
		s.logf("%s: %v", unable, err)
	}
	return now, nil
}

// lookBefore makes the gate's user look at the target before the swap. The verification, if
// there was one, has started that, and systemd has waited for its end. The order must still
// be there.
func (sw *swapping) lookBefore(ctx context.Context, attempt state.AttemptID, verified bool) error {
	if verified {
		before, err := sw.Tree.Look(sw.name, attempt)
		if err != nil || before != nil {
			return nil // what is wrong with the report is told when it is used
		}
		// The verifier's unit of an earlier version starts no look.
		if u, err := sw.Systemd.Unit(ctx, unitOf("baseline", sw.name)); err != nil || u.Active == "failed" {
			return err
		}
	}
	_, err := sw.look(ctx, sw.name, attempt, fmt.Sprintf("%s: attempt %s: no look before the swap", sw.name, attempt))
	return err
}

// weigh records, also for the gate, which probes have passed here. It refuses an
// unattended attempt if no probe could prove the release.
func (sw *swapping) weigh(before *state.Baseline) error {
	known, err := sw.learn(sw.target, before)
	if err != nil {
		return err
	}
	if sw.status, err = sw.Tree.Status(state.RoleSwap, sw.name); err != nil {
		return err
	}
	sw.journal.Probes = known
	if sw.journal.Origin == state.OriginOperator {
		return nil
	}
	if why := doubt(sw.target, known, before); why != "" {
		return state.Fail(state.ResultNotAttempted, "%s", why)
	}
	return nil
}

// learn records and returns which of the target's probes have ever passed here. now is
// what the gate has just found; it may be nil.
func (s *Swapper) learn(t *target.Target, now *state.Baseline) (state.Passed, error) {
	var known state.Passed
	err := s.Tree.Update(state.RoleSwap, t.Name, func(st *state.Status) {
		known = st.Passed(t.ProbeKeys())
		var results []state.ProbeResult
		if now != nil {
			results = now.Probes
		}
		st.Learn(known, results)
	})
	return known, err
}

// doubt returns why a release that no person asked for is not installed, or "". The
// reason is that the unit stands, but each of its probes fails and never passed here, so
// nothing could tell a good release from a bad one. If the unit does not stand, the
// update may be the cure.
func doubt(t *target.Target, known state.Passed, now *state.Baseline) string {
	if now == nil || !now.Standing || len(known) == 0 || known.Any() {
		return ""
	}
	found := map[string]state.ProbeResult{}
	for _, r := range now.Probes {
		found[r.Key] = r
	}
	var failed []state.ProbeResult
	for _, p := range t.Health.Probes {
		r, ok := found[p.Key()]
		if !ok || r.Unknown { // without an answer the probe has not failed
			return ""
		}
		failed = append(failed, state.ProbeResult{Probe: p.String(), Detail: r.Detail})
	}
	return fmt.Sprintf("no probe would prove it, for none ever passed here: %s (hint: sudo machinemon-update probe %s shows them; "+
		"mend them in /etc/machinemon-update/targets.d/%s.toml; machinemon-update apply %s installs it unproven)",
		state.Causes(failed), t.Name, t.Name, t.Name)
}

// unchanged returns the probe for which alone the release was found bad, if it failed
// before the swap, although it had passed earlier, and fails with the old version again:
// the release is no worse. It returns "" if there is no such probe, or if another probe
// that failed in the trial passes now.
func unchanged(report state.Report, before, after *state.Baseline) string {
	better := func(p state.ProbeResult) bool { return !p.Passed && passed(after, p.Probe) }
	if slices.ContainsFunc(report.Probes, better) || !failed(before, report.Blamed) || !failed(after, report.Blamed) {
		return ""
	}
	return report.Blamed
}
