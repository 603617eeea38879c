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
	Attempt  AttemptID     `json:"attempt"`
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
	FindingHealthy Finding = "healthy"     // exit status 0: commit
	FindingBad     Finding = "bad"         // 1: roll back and reject
	FindingUnsure  Finding = "cannot tell" // 3: roll back, reject nothing
)

// Report is the gate's report on a trial. Without one for the very attempt, a
// trial was interrupted.
type Report struct {
	Format   int           `json:"format"`
	Attempt  AttemptID     `json:"attempt"`
	Finding  Finding       `json:"finding"`
	Reason   string        `json:"reason,omitempty"`
	Unproven bool          `json:"unproven,omitempty"` // no probe passed that could prove it
	Blamed   string        `json:"blamed,omitempty"`   // the probe for which alone the finding is bad
	MainPID  uint32        `json:"main_pid"`           // the process that runs the main file; 0: none need
	Probes   []ProbeResult `json:"probes"`
}

// Moment is when a baseline is taken; its value is the file's name. Each moment has
// a file of its own, so that the two baselines of an attempt can be compared.
type Moment string

// The moments of a baseline.
const (
	BeforeSwap    Moment = "baseline.json"
	AfterRollback Moment = "after.json"
)

const reportName = "report.json"

// SetBaseline writes the baseline of a moment.
func (t Tree) SetBaseline(target string, b Baseline, m Moment) error {
	b.Format = Format
	return writeJSON(filepath.Join(t.Gate(target), string(m)), b, 0o644)
}

// Baseline reads a baseline of this attempt; nil if there is none.
func (t Tree) Baseline(target string, attempt AttemptID, m Moment) (*Baseline, error) {
	var b Baseline
	err := t.readJSON(filepath.Join(t.Gate(target), string(m)), &b)
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
func (t Tree) Report(target string, attempt AttemptID) (*Report, error) {
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
