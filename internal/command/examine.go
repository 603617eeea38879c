package command

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/generate"
	"github.com/machinemon/machinemon-update/internal/installed"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/signature"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
	"github.com/machinemon/machinemon-update/internal/units"
)

// examination is doctor's look at one target. Each step adds what it finds.
type examination struct {
	*app
	machine  machine // nil without systemd
	name     string
	target   *target.Target
	status   state.Status // the swapper's
	open     bool         // whether a trial is open, or may be
	findings []finding
}

func (e *examination) add(f finding) { e.findings = append(e.findings, f) }

// fails adds an error as a bad finding.
func (e *examination) fails(check string, err error) { e.add(found(levelBad, check, err.Error())) }

func (e *examination) run(ctx context.Context) {
	var err error
	if e.target, err = e.targets.Load(e.name); err != nil {
		e.fails("configuration", err)
		return
	}
	e.add(found(levelOK, "configuration", strings.Join(e.target.Fragments, ", ")))
	if e.status, err = e.tree.Status(state.RoleSwap, e.name); err != nil {
		e.fails("records", err)
		return
	}
	for _, step := range []func(context.Context){e.files, e.installed, e.units, e.triggers, e.reload, e.trial, e.source, e.trust, e.probes, e.room} {
		if ctx.Err() == nil {
			step(ctx)
		}
	}
}

// files examines where the target installs.
func (e *examination) files(context.Context) {
	others, errs := installed.Others(e.tree, e.targets, e.name)
	for _, err := range errs {
		e.add(found(levelWarn, "files", err.Error()))
	}
	if err := e.target.CheckDestinations(others); err != nil {
		e.fails("files", err)
		return
	}
	var places []string
	for _, i := range e.target.Install {
		places = append(places, i.To)
	}
	e.add(found(levelOK, "files", strings.Join(places, ", ")+" can be replaced, and only root can write there"))
}

// installed examines which version is there.
func (e *examination) installed(ctx context.Context) {
	version := e.installedVersion(ctx, e.target, e.status)
	missing := installed.Missing(e.target)
	switch {
	case missing != "":
		e.add(found(levelWarn, "installed", missing+" is not there: the first update brings it, if the path is right").
			with("install[].to must be the path that the unit runs"))
	case version == "":
		e.add(found(levelWarn, "installed", "the version is unknown").with("set health.version_command to the command that prints it"))
	case e.status.Installed != nil && !installed.Unchanged(e.status.Installed):
		e.add(found(levelWarn, "installed", version+", changed by hand since the last update: scheduled runs leave it alone").
			with("sudo machinemon-update apply " + e.name))
	default:
		e.add(found(levelOK, "installed", version))
	}
}

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
		e.add(found(level, "unit", d.String()))
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
	says += " and runs " + program
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

// trial examines whether an earlier update is still open.
func (e *examination) trial(context.Context) {
	j, err := e.tree.Journal(e.name)
	if e.open = err != nil || j != nil; !e.open {
		return
	}
	if err != nil {
		e.fails("trial", err)
		return
	}
	level := levelWarn
	if j.RollbackFailed != "" {
		level = levelBad
	}
	e.add(found(level, "trial", openTrial(j)+"; neither the source nor the probes are tried now"))
}

// source asks the source, as check does.
func (e *examination) source(ctx context.Context) {
	if e.target.Source.Type == "" {
		e.add(found(levelWarn, "source", "none is configured, so only import updates it").
			with(fmt.Sprintf("set source.url in %s/%s.toml", e.targets.Admin, e.name)))
		return
	}
	if e.open {
		return
	}
	ask := e.checkUnprivileged
	if e.root {
		if e.machine == nil {
			return // nothing could run the fetcher as its own user
		}
		ask = e.checkOne
	}
	at, err := ask(ctx, e.name)
	if err != nil {
		at.Result, at.Reason = state.ResultOf(err), err.Error()
	}
	e.add(answer(at))
}

// answer returns what a check found out about the source.
func answer(at state.Attempt) finding {
	says := outcome(at)
	if at.Result == state.ResultCurrent {
		says += " (" + cmp.Or(at.Version, at.From) + ")"
	}
	if at.Reason != "" {
		says += ": " + at.Reason
	}
	level := levelBad
	switch at.Result {
	case state.ResultCurrent, state.ResultAvailable:
		level = levelOK
	case state.ResultNotAttempted:
		level = levelWarn
	}
	return found(level, "source", says)
}

// trust examines what authenticates releases.
func (e *examination) trust(context.Context) {
	t := e.target
	if exposed := t.Exposed(); exposed != "" {
		e.add(found(levelWarn, "trust", exposed))
	}
	pinned, err := pin(t)
	switch t.Trust.Mode {
	case target.TrustChecksum:
		if t.Trust.AllowUnauthenticated {
			e.add(found(levelWarn, "trust", "unsigned, over a connection that others may change, as the target file permits").
				with("use https, or signed releases"))
			return
		}
		e.add(found(levelOK, "trust", "unsigned: the connection to the source authenticates a release"))
		return
	case target.TrustSigned:
		if err == nil {
			_, err = signature.ParseKeys(pinned)
		}
	default:
		if err == nil {
			_, err = trust.CheckRoot(pinned)
		}
	}
	if err != nil {
		e.fails("trust", err)
		return
	}
	fetched, err := e.tree.Status(state.RoleFetch, e.name)
	if err != nil {
		e.fails("trust", err)
		return
	}
	if fetched.Offer != nil {
		now := time.Now()
		if expires := expiring(fetched.Offer.Signed, now); expires != "" {
			level := levelWarn
			if slices.ContainsFunc(fetched.Offer.Signed, func(s state.Signed) bool { return now.After(s.Expires) }) {
				level = levelBad
			}
			e.add(found(level, "trust", expires))
			return
		}
	}
	e.add(found(levelOK, "trust", "signed: "+cmp.Or(t.Trust.Key, t.Trust.Root)+" is pinned"))
}
