// Package inform tells others how the updates of a target go: it writes metrics, makes
// notices of what has happened for package notify, and keeps what shows why a trial failed. It runs as root after an attempt, in a
// unit of its own, which nothing waits for. It reads what the roles have recorded, and
// decides nothing.
package inform

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// Informer tells of the targets of one machine.
type Informer struct {
	Tree    state.Tree
	Targets target.Dirs
	Metrics string // the directory of the metrics' files
	// Wake makes the sender of a target's notices run, and run again if that is too late.
	Wake func(name string) error
}

// facts is what is known of a target.
type facts struct {
	name            string
	target          *target.Target // nil if it cannot be used
	unusable        error
	status, fetched state.Status
	journal         *state.Journal // of the open trial, or nil
	attempts        []state.Attempt
}

// signed returns the signatures of what is available, if the target relies on them.
func (f facts) signed() []state.Signed {
	if f.fetched.Offer == nil || f.target == nil || f.target.Trust.Mode == target.TrustChecksum {
		return nil
	}
	return f.fetched.Offer.Signed
}

// Inform writes the metrics of a target, removes those of targets that are no more, makes
// notices, and keeps the evidence of a trial that failed.
func (i *Informer) Inform(name string) error {
	if !target.ValidName(name) {
		return state.Fail(state.ResultMisconfigured, "cannot tell of %q: that is no name for a target", name)
	}
	f, err := i.gather(name)
	err = errors.Join(err, i.writeMetrics(f), i.dropMetrics())
	return errors.Join(err, i.tell(f), i.keep(f))
}

// gather reads what is recorded. What cannot be read is missing, and the error says so.
func (i *Informer) gather(name string) (facts, error) {
	f := facts{name: name}
	f.target, f.unusable = i.Targets.Load(name)
	var errs [4]error
	f.status, errs[0] = i.Tree.Status(state.RoleSwap, name)
	f.fetched, errs[1] = i.Tree.Status(state.RoleFetch, name)
	f.journal, errs[2] = i.Tree.Journal(name)
	f.attempts, errs[3] = i.Tree.History(name) // it returns what it can read
	if errs[3] != nil {
		return f, errs[3] // of which the others are part
	}
	return f, errors.Join(errs[:3]...)
}

// fileOf returns the name of the file with a target's metrics.
func fileOf(name string) string { return "machinemon-update-" + name + ".prom" }

func (i *Informer) writeMetrics(f facts) error {
	return durable.WriteFile(filepath.Join(i.Metrics, fileOf(f.name)), []byte(metricsOf(f)), 0o644)
}

// dropMetrics removes the metrics of targets that no file describes any more: a collector
// would take what they say for the present state.
func (i *Informer) dropMetrics() error {
	names, err := i.Targets.Names()
	if err != nil {
		return err
	}
	files, err := os.ReadDir(i.Metrics)
	if err != nil {
		return fmt.Errorf("cannot list the metrics in %s: %w", i.Metrics, durable.Cause(err))
	}
	before, after, _ := strings.Cut(fileOf("*"), "*")
	for _, file := range files {
		name, ours := strings.CutPrefix(file.Name(), before)
		name, prom := strings.CutSuffix(name, after)
		if !ours || !prom || slices.Contains(names, name) {
			continue
		}
		if err := os.Remove(filepath.Join(i.Metrics, file.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove the metrics of %s, which is no target any more: %w", name, durable.Cause(err))
		}
	}
	return nil
}
