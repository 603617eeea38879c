package inform

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// Bounds of what is kept of a trial. With them it has at most half a MiB.
const (
	mostLines = 500
	readTime  = 20 * time.Second // for each look at systemd
)

// keep keeps the evidence of the last attempt, if its trial failed and nothing is kept yet.
// What it reads lasts until the next attempt. What cannot be read is named, and the rest is
// kept.
func (i *Informer) keep(f facts) error {
	if len(f.attempts) == 0 {
		return nil
	}
	last := f.attempts[len(f.attempts)-1]
	if !last.TrialFailed() {
		return nil
	}
	old, err := i.Tree.Evidence(f.name, last.ID)
	if old != nil && old.Attempt.Result == last.Result || err != nil && !errors.Is(err, state.ErrDamaged) {
		return err
	}
	return i.Tree.SetEvidence(f.name, i.collect(f, last, old))
}

func (i *Informer) collect(f facts, last state.Attempt, old *state.Evidence) state.Evidence {
	e := state.Evidence{Attempt: last}
	missing := func(err error) {
		if err != nil {
			e.Missing = append(e.Missing, state.Line(err.Error()))
		}
	}
	var err error
	e.Before, err = i.Tree.Baseline(f.name, last.ID)
	missing(err)
	e.Trial, err = i.Tree.Report(f.name, last.ID)
	missing(err)
	e.After, err = i.Tree.Look(f.name, last.ID)
	missing(err)
	if old != nil { // of the same trial, before its rollback was tried again
		e.Trial = old.Trial
	}
	units := unitsOf(f)
	for _, file := range filesOf(f) {
		sum, err := file.Digest()
		missing(err)
		e.Digests = append(e.Digests, state.FileDigest{File: file.To, SHA256: sum})
	}
	ctx := context.Background()
	for _, unit := range units {
		ctx, cancel := context.WithTimeout(ctx, readTime)
		values, err := systemd.Show(ctx, unit)
		cancel()
		missing(err)
		for n := range values {
			values[n] = state.Line(values[n])
		}
		e.Units = append(e.Units, state.Properties{Unit: unit, Values: values})
	}
	began, ok := last.ID.Began()
	if !ok {
		began = last.Started
	}
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	logged, err := systemd.Slice(ctx, began, mostLines, append(units, stepsOf(f.name)...)...)
	missing(err)
	for _, l := range logged {
		if text := strings.TrimSpace(state.Line(l.Text)); text != "" {
			e.Log = append(e.Log, state.LoggedLine{Time: l.At.UTC(), Unit: state.Line(l.Unit), Text: text})
		}
	}
	return e
}

// filesOf returns the installed files of a target, before its first update as far as its
// target file names them.
func filesOf(f facts) (files []state.File) {
	if f.status.Installed != nil {
		return f.status.Installed.Files
	}
	if f.target != nil {
		for _, i := range f.target.Install {
			if !i.Tree {
				files = append(files, state.File{To: i.To})
			}
		}
	}
	return files
}

// unitsOf returns the units of a target, also if its file cannot be used any more.
func unitsOf(f facts) (units []string) {
	switch {
	case f.target != nil:
		units = f.target.Units()
	case f.journal != nil:
		units = f.journal.Units()
	}
	return slices.Clone(units)
}

// stepsOf returns the units of the steps of a target.
func stepsOf(name string) (units []string) {
	for _, step := range []string{"fetch", "fetch-full", "verify", "baseline", "swap", "preflight", "hook", "data", "health-gate", "command", "commit", "rollback", "deadline"} {
		units = append(units, "machinemon-"+step+"@"+name+".service")
	}
	return append(units, "machinemon-update-recover.service")
}
