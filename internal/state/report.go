package state

import (
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
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

// MainHint says how the operator makes trials possible of a unit that runs another program
// than the installed one.
func MainHint(name string) string {
	return "install.to must be what the unit runs; where another program runs it, write main = \"\" below [health] in /etc/machinemon-update/targets.d/" + name + ".toml"
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
	// PIDs has, by the names of the target's other units, the processes that run the main
	// file in them.
	PIDs map[string]uint32 `json:"pids,omitempty"`
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
	return baselineOf(attempt, readReport[Baseline], filepath.Join(t.Gate(target), lookName))
}

// SetBaseline keeps the baseline before the swap, because the gate's next one replaces it.
// All users can read it.
func (t Tree) SetBaseline(target string, b Baseline) error {
	b.Format, b.Probes = Format, slices.Clone(b.Probes)
	for i := range b.Probes {
		b.Probes[i].Detail = Unsaid(b.Probes[i].Detail)
	}
	return writeJSON(t.baseline(target), b)
}

// Baseline returns the attempt's baseline before the swap, or nil if there is none.
func (t Tree) Baseline(target string, attempt AttemptID) (*Baseline, error) {
	return baselineOf(attempt, readIfThere[Baseline], t.baseline(target))
}

func (t Tree) baseline(target string) string {
	return filepath.Join(t.Run, "baseline", target+".json")
}

func baselineOf(attempt AttemptID, read func(string) (*Baseline, error), path string) (*Baseline, error) {
	b, err := read(path)
	if b == nil || b.Attempt != attempt {
		return nil, err
	}
	b.Detail, b.Unjudgeable = Line(b.Detail), Line(b.Unjudgeable)
	lines(b.Probes)
	return b, nil
}

func lines(probes []ProbeResult) {
	for i := range probes {
		probes[i].Probe, probes[i].Detail = Line(probes[i].Probe), Line(probes[i].Detail)
	}
}

// Report returns the gate's report on this attempt, or nil if there is none.
func (t Tree) Report(target string, attempt AttemptID) (*Report, error) {
	r, err := readReport[Report](filepath.Join(t.Gate(target), reportName))
	if r == nil || r.Attempt != attempt {
		return nil, err
	}
	r.Reason, r.Blamed = Line(r.Reason), Line(r.Blamed)
	lines(r.Probes)
	return r, nil
}

// readReport reads a report of the gate. Its file is empty, which is no report, while the
// gate works, and after the gate was killed.
func readReport[T any](path string) (*T, error) {
	if i, err := os.Lstat(path); err == nil && i.Mode().IsRegular() && i.Size() == 0 {
		return nil, nil
	}
	return readIfThere[T](path)
}

// Passed maps the keys of probes to when each last passed on this machine, or to the zero
// time. A probe that never passed here may itself be wrong, so it neither proves nor
// condemns a release.
type Passed map[string]time.Time

// Passed returns what the status knows of the probes with these keys.
func (s *Status) Passed(keys []string) Passed {
	p := Passed{}
	for _, k := range keys {
		p[k] = s.Probes[k]
	}
	return p
}

// Any reports whether one of the probes ever passed here.
func (p Passed) Any() bool {
	for _, at := range p {
		if !at.IsZero() {
			return true
		}
	}
	return false
}

// Note records which probes passed, and reports whether any did. It ignores probes whose
// keys are not in p, because the gate's user may only report on those.
func (p Passed) Note(results []ProbeResult) (passed bool) {
	for _, r := range results {
		if _, own := p[r.Key]; own && r.Passed {
			p[r.Key] = time.Now().UTC()
			passed = true
		}
	}
	return passed
}

// Learn records which of a target's present probes passed here, and forgets probes that
// the target no longer has. A pass among the results proves the installed release. The
// journal of an earlier version has a nil p, from which nothing is learned.
func (s *Status) Learn(p Passed, results []ProbeResult) {
	if p == nil {
		return
	}
	if p.Note(results) && s.Installed != nil {
		s.Installed.Unproven = ""
	}
	s.Probes = maps.Clone(p)
	maps.DeleteFunc(s.Probes, func(_ string, at time.Time) bool { return at.IsZero() })
}

const (
	causesRoom = 450 // bytes for all probes in a reason, so that a hint that follows still fits into a record
	causeLeast = 25  // bytes that each probe gets at least
)

// Causes lists the probes that did not pass, each with its cause, for all users.
func Causes(probes []ProbeResult) string {
	var causes []string
	for _, p := range probes {
		if !p.Passed {
			causes = append(causes, strings.TrimSuffix(p.Probe+": "+Unsaid(p.Detail), ": "))
		}
	}
	room := max(causeLeast, causesRoom/max(1, len(causes)))
	for i, c := range causes {
		if len(c) > room {
			causes[i] = strings.ToValidUTF8(c[:room], "") + "…"
		}
	}
	return strings.Join(causes, "; ")
}
