package state

import (
	"errors"
	"io/fs"
	"path/filepath"
)

// ProbeResult is the outcome of one probe; Probe is its name in the target file's words.
type ProbeResult struct {
	Probe  string `json:"probe"`
	Key    string `json:"key,omitempty"` // of its whole text; "" of version_command, which proves no service
	Passed bool   `json:"passed"`
	// Unknown says that there was no answer to tell by: it neither passed nor failed.
	Unknown bool   `json:"unknown,omitempty"`
	Detail  string `json:"detail,omitempty"` // what was answered, or why it did not pass
	Millis  int64  `json:"millis,omitempty"` // how long the last try took
}

// NotTried is the Detail of a probe that was not tried: the unit was not as it must be.
const NotTried = "not tried"

// Baseline is how a target was without a trial: before the swap, or after a rollback.
type Baseline struct {
	Format   int           `json:"format"`
	Attempt  string        `json:"attempt"`
	Standing bool          `json:"standing"` // systemd's view: active and running its main file
	Detail   string        `json:"detail,omitempty"`
	Probes   []ProbeResult `json:"probes"`
	// Unprobed says that this is systemd's word alone: the gate's user did not try
	// the probes.
	Unprobed bool `json:"-"`
	// Unjudgeable is why no trial of this target could be judged, whatever the
	// release: it is refused before anything is replaced.
	Unjudgeable string `json:"unjudgeable,omitempty"`
}

// Finding is what the gate found out about a trial.
type Finding string

const (
	Healthy Finding = "healthy"     // exit status 0: commit
	Bad     Finding = "bad"         // 1: roll back and reject
	Unsure  Finding = "cannot tell" // 3: roll back, reject nothing
)

// Report is the gate's report on a trial. Without one for the very attempt, a
// trial was interrupted.
type Report struct {
	Format   int           `json:"format"`
	Attempt  string        `json:"attempt"`
	Finding  Finding       `json:"finding"`
	Reason   string        `json:"reason,omitempty"`
	Unproven bool          `json:"unproven,omitempty"` // no probe passed that could prove it
	Blamed   string        `json:"blamed,omitempty"`   // the probe for which alone the finding is bad
	MainPID  uint32        `json:"main_pid"`           // the process that runs the main file; 0: none need
	Probes   []ProbeResult `json:"probes"`
}

// The gate's files. Before the swap and after a rollback are kept apart, so
// that the one can be held against the other.
const (
	beforeName = "baseline.json"
	afterName  = "after.json"
	reportName = "report.json"
)

// SetBaseline writes the baseline before the swap or, with after set, the one
// after a rollback.
func (t Tree) SetBaseline(target string, b Baseline, after bool) error {
	b.Format = Format
	return writeJSON(t.baseline(target, after), b, 0o644)
}

// Baseline reads a baseline of that very attempt; nil when there is none.
func (t Tree) Baseline(target, attempt string, after bool) (*Baseline, error) {
	var b Baseline
	err := t.readJSON(t.baseline(target, after), &b)
	if errors.Is(err, fs.ErrNotExist) || err == nil && b.Attempt != attempt {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b.Detail, b.Unjudgeable = Line(b.Detail), Line(b.Unjudgeable)
	lines(b.Probes)
	return &b, nil
}

func (t Tree) baseline(target string, after bool) string {
	if after {
		return filepath.Join(t.Gate(target), afterName)
	}
	return filepath.Join(t.Gate(target), beforeName)
}

func lines(probes []ProbeResult) {
	for i := range probes {
		probes[i].Probe, probes[i].Detail = Line(probes[i].Probe), Line(probes[i].Detail)
	}
}

// SetReport writes the gate's report.
func (t Tree) SetReport(target string, r Report) error {
	r.Format = Format
	return writeJSON(filepath.Join(t.Gate(target), reportName), r, 0o644)
}

// Report reads the gate's report on that very attempt; nil when there is none.
func (t Tree) Report(target, attempt string) (*Report, error) {
	var r Report
	err := t.readJSON(filepath.Join(t.Gate(target), reportName), &r)
	if errors.Is(err, fs.ErrNotExist) || err == nil && r.Attempt != attempt {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r.Reason, r.Blamed = Line(r.Reason), Line(r.Blamed)
	lines(r.Probes)
	return &r, nil
}
