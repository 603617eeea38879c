package command

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/generate"
	"github.com/machinemon/machinemon-update/internal/nearest"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/units"
)

// units examines whether an update of the units may begin, and what they run.
func (e *examination) units(ctx context.Context) {
	if e.machine == nil {
		return
	}
	states, err := units.States(ctx, e.machine, e.target)
	if err != nil {
		e.fails("unit", err)
		return
	}
	if d := policy.Decide(policy.Known{Rules: e.target.Rules(), Status: e.status, Units: states,
		Order: state.Order{Origin: state.OriginOperator, Verb: state.VerbApply}}); d.Refused() {
		level := levelBad
		if d.Rule == policy.RuleHeld { // the operator has chosen this
			level = levelWarn
		}
		f := found(level, "unit", d.String())
		if i := slices.IndexFunc(states, func(s policy.Unit) bool { return s.Load == "not-found" && d.Rule == policy.RuleUnit }); i >= 0 {
			f.Hint = cmp.Or(nearest.Hint(states[i].Name, running(ctx, e.machine)), f.Hint)
		}
		e.add(f)
	}
	for _, s := range states {
		u, err := e.machine.Unit(ctx, s.Name)
		if err != nil {
			e.fails("unit", err)
		} else if u.Load == "loaded" {
			e.add(runs(e.target, u))
		}
	}
}

// runs returns what a unit runs. A program that no update replaces may be a wrapper, so
// only the gate, which sees the process, knows whether it is right.
func runs(t *target.Target, u systemd.Unit) finding {
	says := fmt.Sprintf("%s is %s", u.Name, u)
	if len(u.Command) == 0 {
		return found(levelOK, "unit", says)
	}
	program := u.Command[0]
	switch u.Active {
	case "inactive": // that it is stopped is a finding of its own, where that matters
		says = u.Name + " starts " + program
	case "failed":
		says += ", and starts " + program
	default:
		says += " and runs " + program
	}
	real, err := filepath.EvalSymlinks(program)
	if err != nil {
		real = program
	}
	replaced := func(i target.Install) bool {
		return i.To == program || i.To == real || i.Tree && (strings.HasPrefix(program, i.To+"/") || strings.HasPrefix(real, i.To+"/"))
	}
	if slices.ContainsFunc(t.Install, replaced) {
		return found(levelOK, "unit", says)
	}
	return found(levelWarn, "unit", says+", which no update replaces").with(fmt.Sprintf("if that is the program, to = %q", real))
}

// triggers examines the units that start the steps of an update.
func (e *examination) triggers(ctx context.Context) {
	if e.machine == nil {
		return
	}
	names := []string{path("verify", e.name), path("swap", e.name)}
	if e.target.Source.Type != "" {
		names = append(names, path("directive", e.name), timer(e.name))
	}
	for _, name := range names {
		u, err := e.machine.Unit(ctx, name)
		if err != nil {
			e.fails("triggers", err)
			return
		}
		if u.Active != "active" {
			e.add(found(levelBad, "triggers", fmt.Sprintf("%s is %s", name, u)).
				with("sudo systemctl daemon-reload, then sudo systemctl start paths.target timers.target"))
			return
		}
	}
	what := "nothing is scheduled, for no source is configured"
	if next, err := e.machine.NextElapse(ctx, timer(e.name)); err == nil && !next.IsZero() {
		what = "the source is asked next at " + next.Local().Format(minutes)
		if e.target.AutoUpdateEnabled {
			what += ", and what it has is installed"
		} else {
			what += ", and nothing is installed then (sudo machinemon-update enable " + e.name + " changes that)"
		}
	}
	e.add(found(levelOK, "triggers", what))
}

// reload examines whether systemd knows the present files.
func (e *examination) reload(ctx context.Context) {
	if e.machine == nil {
		return
	}
	var old []string
	pending, err := generate.Pending(e.generated, e.target)
	if err != nil {
		e.fails("daemon-reload", err)
		return
	}
	if pending {
		old = append(old, "the target file, or a directory that it names,")
	}
	for _, name := range e.target.Units() {
		u, err := e.machine.Unit(ctx, name)
		if err != nil {
			e.fails("daemon-reload", err)
			return
		}
		if u.Outdated {
			old = append(old, u.Name)
		}
	}
	if len(old) > 0 {
		e.add(found(levelWarn, "daemon-reload", strings.Join(old, " and ")+" changed since systemd read its configuration").with("sudo systemctl daemon-reload"))
		return
	}
	e.add(found(levelOK, "daemon-reload", "systemd knows the present files"))
}
