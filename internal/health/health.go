// Package health judges whether a target is healthy: before a swap, during a trial, and
// after a rollback.
//
// It writes nothing but its report, to a file in /run/machinemon-update/gate/T/ that
// systemd opens for it as root; commit and rollback read the file. Each target's gate runs
// as a user of its own.
//
// It trusts root's journal and order, the target files, which only root can write,
// systemd, and /proc. It does not trust the managed program: answers are bounded in size
// and time, redirects are not followed, and a report quotes an answer as one printable
// line. The commands of a target run in another unit; see command.go. The capability with
// which /proc/PID/exe can be read is left to a child; see executable.go.
//
// A judgement is a state machine, [trial], whose inputs are states of the unit, outcomes
// of probes, and the time; [watch] is the loop that feeds it.
package health

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/units"
)

// afterSettle limits the settle time after a rollback: the old program has run before.
const afterSettle = time.Second

// Gate judges targets.
type Gate struct {
	tree    state.Tree
	dirs    target.Dirs
	log     *log.Log
	inspect inspector
	connect func(ctx context.Context, units ...string) (manager, error)
}

// NewGate makes a gate that uses the running systemd, and the child of [SplitOff]. It sets
// the attempt of the log.
func NewGate(tree state.Tree, dirs target.Dirs, log *log.Log) (Gate, error) {
	inspect, err := inspecting()
	return Gate{tree, dirs, log, inspect, func(ctx context.Context, units ...string) (manager, error) { return systemd.Connect(ctx, units...) }}, err
}

// manager is the part of [systemd.Conn] that a judgement uses.
type manager interface {
	units.Reader
	Processes(ctx context.Context, unit string) ([]int, error)
	Changes() <-chan struct{}
	Close()
}

// Baseline judges the health of the target outside a trial: before the swap or, if the
// verdict in the open journal is a rollback, after it.
func (g Gate) Baseline(ctx context.Context, name string) (state.Baseline, error) {
	j, err := g.tree.Journal(name)
	if err != nil {
		return state.Baseline{}, err
	}
	t, err := g.dirs.Load(name)
	if err != nil {
		return state.Baseline{}, err
	}
	commands := commander{socket: g.tree.Commands(name)}
	defer commands.Close()
	p := plan{target: t, probes: probers(t.Health, commands.run)}
	main := program{path: t.Health.Main}
	// A single try may take its whole limit, so that what passes in a trial passes here.
	p.timeout = answerLimit
	for _, probe := range p.probes {
		p.timeout = max(p.timeout, probe.limit)
	}
	b := state.Baseline{}
	rolledBack := j != nil && j.Verdict == state.VerdictRollback
	if j != nil {
		b.Attempt, g.log.Version = j.Attempt, j.Version
	} else if b.Attempt, main.id, err = g.waitingAttempt(name); err != nil {
		return state.Baseline{}, err
	}
	g.log.Attempt = b.Attempt
	if rolledBack {
		before, err := g.tree.Baseline(name, j.Attempt)
		if err != nil {
			return state.Baseline{}, err
		}
		p.units = subjects(j.Units(), program{j.Main, j.MainID}, j.Idle)
		p.timeout, p.settle = j.Timeout, min(j.Settle, afterSettle)
		p.fresh, p.since = true, j.Started
		p.excuse(before, j.Probes)
	} else if names, err := g.names(ctx, t); err != nil {
		return state.Baseline{}, err
	} else {
		p.units = subjects(names, main, nil)
	}
	out, err := g.judge(ctx, p)
	if err != nil && rolledBack {
		return state.Baseline{}, err
	}
	if err != nil {
		out.why, out.unjudgeable = err.Error(), err.Error()
	}
	b.Standing, b.Detail, b.Probes = out.standing, out.why, out.probes
	b.Unjudgeable = out.unjudgeable
	return b, nil
}

// waitingAttempt returns the ID of the attempt that waits for a baseline, and the
// identity of its installed main file. A rollback, drill or probe that the operator asked for
// waits as a request; any other attempt waits as an order.
func (g Gate) waitingAttempt(name string) (state.AttemptID, state.FileID, error) {
	r, err := g.tree.Request(name)
	if err == nil && r != nil && (r.Verb.FromHere() || r.Verb == state.VerbProbe) {
		return r.Attempt, r.MainID, nil
	}
	o, err := g.tree.Order(name)
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNoAttempt
	}
	return o.Attempt, o.MainID, err
}

// ErrNoAttempt says that no attempt waits for a baseline. A daemon-reload can make the
// path unit start a swap, and its baseline, a second time after the first start has taken
// the order.
var ErrNoAttempt = errors.New("no attempt waits for a look")

// Judge judges the open trial and returns the report; nil if no trial waits for one. The
// swapper starts the gate before it restarts the program; Judge waits until the swap ends.
func (g Gate) Judge(ctx context.Context, name string) (*state.Report, error) {
	commands := commander{socket: g.tree.Commands(name)}
	defer commands.Close()
	if err := g.awaitSwap(ctx, name, &commands); err != nil {
		return nil, err
	}
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
	before, err := g.tree.Baseline(name, j.Attempt)
	if err != nil {
		return nil, err
	}
	p := plan{target: t, units: subjects(j.Units(), program{j.Main, j.MainID}, j.Idle), timeout: j.Timeout, settle: j.Settle, probes: probers(t.Health, commands.run),
		strict: true, fresh: true, since: j.Started, unitFile: j.Reload}
	for i := range p.units {
		p.units[i].reloaded = j.ByReload
	}
	p.began = j.Restarted
	if t.HasCommands() {
		p.runs = commands.warm
	}
	p.excuse(before, j.Probes)
	// Not in the baseline: the old program has another version.
	if len(t.Health.VersionCommand) > 0 && !j.OfUser(t.Health.VersionCommand[0]) && j.Version != "" { // the operator may go back to a program whose version is unknown
		p.probes = append(p.probes, versionProber(t.Health, j.Version, commands.run))
	}
	out, err := g.judge(ctx, p)
	if err != nil {
		out = outcome{finding: state.FindingUnsure, reason: oneLine(err.Error())}
	}
	if out.unproven {
		out.reason += " (hint: sudo machinemon-update probe " + name + ")"
	}
	return &state.Report{Attempt: j.Attempt, Finding: out.finding, Reason: out.reason,
		Unproven: out.unproven, Blamed: out.blamed, MainPID: out.pid, PIDs: out.pids, Probes: out.tried}, nil
}

// names returns the units of a target outside of a trial.
func (g Gate) names(ctx context.Context, t *target.Target) ([]string, error) {
	if !t.Template() {
		return t.Units(), nil
	}
	m, err := g.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot ask systemd for %s: %w", t.Unit, err)
	}
	defer m.Close()
	return units.Names(ctx, m, t)
}

// judge runs a judgement to its end. Its error says that systemd does not answer.
func (g Gate) judge(ctx context.Context, p plan) (outcome, error) {
	start := time.Now()
	var names []string
	for _, w := range p.units {
		names = append(names, w.unit)
	}
	if len(names) == 0 { // nothing to ask systemd for
		p.settle = 0
		return watch(ctx, newTrial(p, start), nil, nil, log.Status), nil
	}
	m, err := g.connect(ctx, names...)
	if err != nil {
		return outcome{}, fmt.Errorf("cannot ask systemd for %s: %w", strings.Join(names, ", "), err)
	}
	defer m.Close()
	began, err := p.prepare(ctx, m)
	if err != nil {
		return outcome{}, err
	}
	if p.strict { // the limit counts from the start of the units
		if now, err := systemd.Monotonic(); err == nil && began > 0 {
			// The swap may have ended long after that, as PID 1 may have been busy. Each probe is
			// tried once, or nothing shows that the program does not answer.
			start = start.Add(max(began-now, p.once()-p.timeout))
		}
	}
	ends := make([]exits, len(names))
	look := func(ctx context.Context, i int) (unitState, error) {
		s, err := observe(ctx, m, g.inspect, p.units[i])
		if err == nil && p.fresh {
			ends[i].since = p.since
			s.declared = ends[i].declared(ctx, s)
		}
		return s, err
	}
	p.peers = peers{manager: m, inspect: g.inspect}
	out := watch(ctx, newTrial(p, start), look, m.Changes(), log.Status)
	if p.strict && out.finding == state.FindingBad {
		err = p.contest(ctx, &out)
	}
	return out, err
}

// contest changes the finding on a bad program to "cannot tell" if a good one would fail, too:
// if the unit is frozen, if systemd lacks what it needs to start it, and if another program
// answers one of its probes or has the address.
func (p plan) contest(ctx context.Context, out *outcome) (err error) {
	who := p.peers
	who.contest = true
	for _, w := range p.units {
		u, err := who.manager.Unit(ctx, w.unit)
		if err != nil {
			return err
		}
		if u.Frozen {
			out.finding, out.reason = state.FindingUnsure, oneLine(out.reason+"; somebody has frozen "+w.unit)
			return nil
		}
		if u.Result == "resources" && !p.unitFile { // a new unit file may ask for what there is not
			out.finding = state.FindingUnsure
			return nil
		}
		who.units = append(who.units, u)
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	for _, one := range p.probes {
		if !one.owned || one.excused || one.resting {
			continue
		}
		if e, ok := errors.AsType[unowned](try(ctx, one, who, answerLimit)); ok && !e.unknown {
			out.finding, out.reason = state.FindingUnsure, oneLine(out.reason+"; "+one.name+": "+e.Error())
			return nil
		}
	}
	return nil
}
