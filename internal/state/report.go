package state

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// ProbeResult is the outcome of one probe. Probe names it as the target file does.
type ProbeResult struct {
	Probe  string `json:"probe"`
	Key    string `json:"key,omitempty"` // of the probe's whole text; "" for version_command, which proves no service
	Passed bool   `json:"passed"`
	// Unknown says that no answer could be judged: the probe neither passed nor failed.
	Unknown bool   `json:"unknown,omitempty"`
	Detail  string `json:"detail,omitempty"` // the answer, or why the probe did not pass
	Millis  int64  `json:"millis,omitempty"` // the duration of the last try
}

// NotTried is the Detail of a probe that was skipped because of the unit's state.
const NotTried = "not tried"

// Baseline is the state of a target outside a trial: before the swap, or after a rollback.
type Baseline struct {
	Format   int           `json:"format"`
	Attempt  AttemptID     `json:"attempt"`
	Standing bool          `json:"standing"` // systemd says that the unit is active and runs its main file
	Detail   string        `json:"detail,omitempty"`
	Probes   []ProbeResult `json:"probes"`
	// Unprobed says that only systemd was asked: the gate's user did not try the probes.
	Unprobed bool `json:"-"`
	// Unjudgeable is why no trial of this target could be judged, with any release. The
	// attempt is then refused before anything is replaced.
	Unjudgeable string `json:"unjudgeable,omitempty"`
}

// Finding is the gate's result of a trial.
type Finding string

const (
	FindingHealthy Finding = "healthy"     // exit status 0: commit
	FindingBad     Finding = "bad"         // 1: roll back and reject the release
	FindingUnsure  Finding = "cannot tell" // 3: roll back without rejecting the release
)

// Report is the gate's report on a trial. A trial without a report for its own attempt was
// interrupted.
type Report struct {
	Format   int           `json:"format"`
	Attempt  AttemptID     `json:"attempt"`
	Finding  Finding       `json:"finding"`
	Reason   string        `json:"reason,omitempty"`
	Unproven bool          `json:"unproven,omitempty"` // no probe that could prove the release passed
	Blamed   string        `json:"blamed,omitempty"`   // the probe that is the only reason for [FindingBad]
	MainPID  uint32        `json:"main_pid"`           // the process that runs the main file; 0 if none must
	Probes   []ProbeResult `json:"probes"`
}

// The reports of a target's gate in the directory [Tree.Gate]. systemd opens them for the
// gate's units, so only those can write them, and a unit that starts makes its report
// empty.
const (
	lookName   = "baseline.json" // the last baseline that the gate took
	reportName = "report.json"
)

// Write writes the baseline as [Tree.Look] reads it.
func (b Baseline) Write(w io.Writer) error {
	b.Format = Format
	return json.NewEncoder(w).Encode(b)
}

// Write writes the report as [Tree.Report] reads it.
func (r Report) Write(w io.Writer) error {
	r.Format = Format
	return json.NewEncoder(w).Encode(r)
}

// Look returns the baseline that the gate took last, or nil if that was not for this
// attempt.
func (t Tree) Look(target string, attempt AttemptID) (*Baseline, error) {
	var b Baseline
	err := t.readReport(target, lookName, &b)
	return b.of(attempt, err)
}

// SetBaseline keeps the baseline before the swap, because the gate's next one replaces it.
func (t Tree) SetBaseline(target string, b Baseline) error {
	b.Format = Format
	return writeJSON(t.baseline(target), b, 0o644)
}

// Baseline returns the attempt's baseline before the swap, or nil if there is none.
func (t Tree) Baseline(target string, attempt AttemptID) (*Baseline, error) {
	var b Baseline
	err := t.readJSON(t.baseline(target), &b)
	return b.of(attempt, err)
}

func (t Tree) baseline(target string) string {
	return filepath.Join(t.Run, "baseline", target+".json")
}

// of returns what was read, with printable text; nil if it is not about the attempt.
func (b Baseline) of(attempt AttemptID, err error) (*Baseline, error) {
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

// Report returns the gate's report on this attempt, or nil if there is none.
func (t Tree) Report(target string, attempt AttemptID) (*Report, error) {
	var r Report
	err := t.readReport(target, reportName, &r)
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

// readReport reads a report of the gate. Its file is empty while the gate works, and after
// the gate was killed; this is fs.ErrNotExist, too.
func (t Tree) readReport(target, name string, v any) error {
	path := filepath.Join(t.Gate(target), name)
	if i, err := os.Lstat(path); err == nil && i.Mode().IsRegular() && i.Size() == 0 {
		return fs.ErrNotExist
	}
	return t.readJSON(path, v)
}

func lines(probes []ProbeResult) {
	for i := range probes {
		probes[i].Probe, probes[i].Detail = Line(probes[i].Probe), Line(probes[i].Detail)
	}
}
