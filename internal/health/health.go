// Package health finds out how a target fares: before a swap, during a trial,
// and after a rollback.
//
// It owns nothing on disk. What it finds goes, through package state, into
// /run/machinemon-update/gate/T/, which belongs to machinemon-gate, the user
// that its program runs as. From there commit and rollback read it.
//
// Trusted are the journal and the order, which are root's, the target files,
// which root alone can write, and what systemd and /proc say. The managed
// program is not: its answers are bounded in size and time, never followed
// elsewhere, and reach a report as one printable line. The commands of a target
// run without the capability that lets the gate read /proc/PID/exe.
//
// A judgement is a state machine, [trial], that is fed with what was seen of
// the unit, with the outcomes of probes, and with the time; [watch] is the loop
// around it.
package health

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

const (
	// afterSettle is how long at most an old program is watched after a
	// rollback: it has shown before that it can keep running.
	afterSettle = time.Second
)

// Gate judges targets.
type Gate struct {
	tree    state.Tree
	dirs    target.Dirs
	log     *log.Log
	connect func(ctx context.Context, unit string) (manager, error)
}

// NewGate makes a gate that asks the running systemd. The log is told which
// attempt it judges.
func NewGate(tree state.Tree, dirs target.Dirs, log *log.Log) Gate {
	return Gate{tree, dirs, log, func(ctx context.Context, unit string) (manager, error) { return systemd.Connect(ctx, unit) }}
}

// manager is systemd, as far as a judgement needs it.
type manager interface {
	Unit(ctx context.Context, name string) (systemd.Unit, error)
	Processes(ctx context.Context, unit string) ([]int, error)
	Changes() <-chan struct{}
	Close()
}

// Baseline finds out how the target fares without a trial and writes it down:
// before the swap, or after a rollback when the open journal's verdict is one.
func (g Gate) Baseline(ctx context.Context, name string) (state.Baseline, error) {
	j, err := g.tree.Journal(name)
	if err != nil {
		return state.Baseline{}, err
	}
	t, err := g.dirs.Load(name)
	if err != nil {
		return state.Baseline{}, err
	}
	p := plan{unit: t.Unit, main: program{path: t.Health.Main}, probes: probers(t.Health)}
	// As long as one try may take: what passes in a trial passes here. Nothing is
	// down meanwhile.
	p.timeout = answerLimit
	for _, probe := range p.probes {
		p.timeout = max(p.timeout, probe.limit)
	}
	b := state.Baseline{}
	moment := state.BeforeSwap
	if j != nil && j.Verdict == state.VerdictRollback {
		moment = state.AfterRollback
	}
	if j != nil {
		b.Attempt, g.log.Version = j.Attempt, j.Version
	} else {
		if b.Attempt, p.main.id, err = g.next(name); err != nil {
			return state.Baseline{}, err
		}
	}
	g.log.Attempt = b.Attempt
	if moment == state.AfterRollback {
		before, err := g.tree.Baseline(name, j.Attempt, state.BeforeSwap)
		if err != nil {
			return state.Baseline{}, err
		}
		p.unit, p.main = j.Unit, program{j.Main, j.MainID}
		p.timeout, p.settle = j.Timeout, min(j.Settle, afterSettle)
		p.fresh, p.since = true, j.Started
		p.excuse(before, j.Probes)
	}
	out, err := g.judge(ctx, p)
	if err != nil && moment == state.AfterRollback {
		return state.Baseline{}, err
	}
	if err != nil {
		out.why, out.unjudgeable = err.Error(), err.Error()
	}
	b.Standing, b.Detail, b.Probes = out.standing, out.why, out.probes
	b.Unjudgeable = out.unjudgeable
	return b, g.tree.SetBaseline(name, b, moment)
}

// next is the attempt that the swapper is about to start, or the operator's look at
// the probes, and the main file that is installed: this look and a wish to go back
// wait as a request, everything else has its order.
func (g Gate) next(name string) (state.AttemptID, state.FileID, error) {
	r, err := g.tree.Request(name)
	if err == nil && r != nil && (r.Verb == state.VerbRollback || r.Verb == state.VerbProbe) {
		return r.Attempt, r.MainID, nil
	}
	o, err := g.tree.Order(name)
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNoAttempt
	}
	return o.Attempt, o.MainID, err
}

// ErrNoAttempt says that no swap waits for a look: a daemon-reload can have the path
// unit start the swap once more, and the baseline with it, after the first one has
// taken the order.
var ErrNoAttempt = errors.New("no attempt waits for a look")

// Judge judges the open trial and writes the report; it returns nil when there
// is no trial to judge.
func (g Gate) Judge(ctx context.Context, name string) (*state.Report, error) {
	j, err := g.tree.Journal(name)
	if err != nil {
		return nil, err
	}
	if j == nil || j.Phase != state.PhaseTrial || j.Verdict != "" {
		return nil, nil
	}
	g.log.Attempt, g.log.Version = j.Attempt, j.Version
	t, err := g.dirs.Load(name)
	if err != nil {
		return nil, err
	}
	before, err := g.tree.Baseline(name, j.Attempt, state.BeforeSwap)
	if err != nil {
		return nil, err
	}
	p := plan{unit: j.Unit, main: program{j.Main, j.MainID}, timeout: j.Timeout, settle: j.Settle, probes: probers(t.Health),
		strict: true, fresh: true, since: j.Started}
	p.excuse(before, j.Probes)
	// Before the swap it would have told of another version.
	if argv := t.Health.VersionCommand; len(argv) > 0 && j.Version != "" { // else the operator goes back to what told none
		p.probes = append(p.probes, versionProber(argv, j.Version))
	}
	out, err := g.judge(ctx, p)
	if err != nil {
		out = outcome{finding: state.FindingUnsure, reason: oneLine(err.Error())}
	}
	if out.unproven {
		out.reason += " (hint: machinemon-update probe " + name + ")"
	}
	r := &state.Report{Attempt: j.Attempt, Finding: out.finding, Reason: out.reason,
		Unproven: out.unproven, Blamed: out.blamed, MainPID: out.pid, Probes: out.tried()}
	return r, g.tree.SetReport(name, *r)
}

// judge brings a judgement to its end. The error is that there is no systemd.
func (g Gate) judge(ctx context.Context, p plan) (outcome, error) {
	start := time.Now()
	m, err := g.connect(ctx, p.unit)
	if err != nil {
		return outcome{}, fmt.Errorf("cannot ask systemd for %s: %w", p.unit, err)
	}
	defer m.Close()
	if p.strict { // a start that takes long is part of the limit
		u, err := m.Unit(ctx, p.unit)
		if err != nil {
			return outcome{}, err
		}
		if began, err := systemd.Elapsed(u.Began); err == nil && u.Began > 0 {
			start = start.Add(-began)
		}
	}
	ends := exits{since: p.since}
	look := func(ctx context.Context) (sight, error) {
		s, err := observe(ctx, m, p.unit, p.main)
		if err == nil && p.fresh {
			s.declared = ends.declared(ctx, s)
		}
		return s, err
	}
	return watch(ctx, newTrial(p, start), look, m.Changes(), log.Status), nil
}

// plan is what a judgement goes by.
type plan struct {
	unit            string
	main            program
	timeout, settle time.Duration
	probes          []prober
	// before is what was wrong with the unit before the swap.
	before string
	// strict is the trial of a new release: no restart is forgiven, and a probe
	// that is excused still gets the whole timeout to prove the release.
	strict bool
	// fresh says that the program has just been started, by the swap that began at
	// since or by its rollback.
	fresh bool
	since time.Time
}

// excuse takes over what did not work before the swap. A probe that failed then
// and never passed here may itself be wrong. One that has passed says that the
// program was ill: the update may be the cure, and the probe must pass after it.
// Without a baseline nothing is excused.
func (p *plan) excuse(before *state.Baseline, passed state.Passed) {
	if before == nil {
		return
	}
	if !before.Standing {
		p.before = before.Detail
	}
	for i, r := range before.Probes {
		if i < len(p.probes) && p.probes[i].name == r.Probe {
			p.probes[i].excused = !r.Passed && !r.Unknown && passed[p.probes[i].key].IsZero()
		}
	}
}
