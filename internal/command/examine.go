package command

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/installed"
	"github.com/machinemon/machinemon-update/internal/signature"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
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
	case e.onTrial(): // others than root do not ask its program
		e.add(found(levelOK, "installed", cmp.Or(version, "unknown")+", of a trial that is open"))
	case version == "":
		f := found(levelWarn, "installed", "the version is unknown").with("set health.version_command to the command that prints it")
		if argv := e.target.Health.VersionCommand; len(argv) > 0 {
			f = found(levelWarn, "installed", "the version is unknown: "+strings.Join(argv, " ")+" did not print it and end").
				with("health.version_command must print the version and end, mostly with --version")
		}
		e.add(f)
	case e.status.Installed != nil && !installed.Unchanged(e.status.Installed):
		e.add(found(levelWarn, "installed", version+", changed by hand since the last update: scheduled runs leave it alone").
			with("sudo machinemon-update apply " + e.name))
	default:
		e.add(found(levelOK, "installed", version))
	}
}

// onTrial reports whether the installed files are those of an open trial. trial shows the
// errors of its record.
func (e *examination) onTrial() bool {
	j, err := e.tree.Journal(e.name)
	return err == nil && j != nil
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
	file := t.Trust.Root
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
		file = t.Trust.Key
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
	e.add(found(levelOK, "trust", "signed: "+file+" is pinned"))
}
