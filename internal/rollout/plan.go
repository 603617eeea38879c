package rollout

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// FileName is the name of the plan in the directory of the manifest. It begins with a dot,
// so that the gate does not serve it.
const FileName = ".rollout.json"

const (
	format  = 1
	maxFile = 64 << 10 // bytes, far above the size of a plan
)

// Plan is a rollout whose share of the machines grows step by step.
type Plan struct {
	Format   int    `json:"format"`
	Version  string `json:"version"` // of the release
	Sequence int64  `json:"sequence"`
	Steps    []int  `json:"steps"` // percent, ascending
	// After is the time in seconds that a step takes at least.
	After int64 `json:"after_seconds"`
	// MaxFailures is the share in percent of clients at which the release may fail.
	MaxFailures int       `json:"max_failures_percent"`
	Started     time.Time `json:"started"`

	Percent int       `json:"percent"` // the current step
	Since   time.Time `json:"since"`   // when the current step began
	Stopped string    `json:"stopped,omitempty"`
	Done    bool      `json:"done,omitempty"`
	// Signed maps the percentages to come, and 0, to the version of the targets metadata
	// that the publisher has signed for them; nil without signatures.
	Signed map[int]int64 `json:"signed,omitempty"`
}

// New returns the plan for a release that begins now.
func New(m *manifest.Manifest, steps []int, after time.Duration, maxFailures int, now time.Time) *Plan {
	now = now.UTC().Truncate(time.Second)
	return &Plan{Format: format, Version: m.Version, Sequence: m.Sequence, Steps: steps, After: int64(after / time.Second), MaxFailures: maxFailures,
		Started: now, Percent: steps[0], Since: now}
}

// CheckSteps returns an error if a plan cannot have these steps.
func CheckSteps(steps []int) error {
	for i, s := range steps {
		if s < 1 || s > 100 || i > 0 && s <= steps[i-1] {
			return errors.New("percentages from 1 to 100 must ascend")
		}
	}
	if len(steps) == 0 || len(steps) > 100 {
		return errors.New("there must be at least one step")
	}
	return nil
}

// Read returns the plan in a directory, or nil if there is none.
func Read(dir string) (*Plan, error) {
	f, err := os.Open(filepath.Join(dir, FileName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Decode(f)
}

// Decode reads a plan.
func Decode(r io.Reader) (*Plan, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxFile))
	if err != nil {
		return nil, err
	}
	p := new(Plan)
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", FileName, err)
	}
	if p.Format > format {
		return nil, fmt.Errorf("the format %d of %s is newer than this program's %d", p.Format, FileName, format)
	}
	if err := CheckSteps(p.Steps); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", FileName, err)
	}
	return p, nil
}

// Marshal returns the content of the plan's file.
func (p *Plan) Marshal() ([]byte, error) {
	b, err := json.MarshalIndent(p, "", "  ")
	return append(b, '\n'), err
}

// Of reports whether the plan is for this release.
func (p *Plan) Of(m *manifest.Manifest) bool {
	return p != nil && m != nil && p.Version == m.Version && p.Sequence == m.Sequence
}

// Over reports whether the plan changes nothing any more.
func (p *Plan) Over() bool { return p.Stopped != "" || p.Done }

// Next returns the step after the current one, or 0 if that is the last.
func (p *Plan) Next() int {
	i := slices.IndexFunc(p.Steps, func(s int) bool { return s > p.Percent })
	if i < 0 {
		return 0
	}
	return p.Steps[i]
}

// Due returns when the current step has taken long enough.
func (p *Plan) Due() time.Time { return p.Since.Add(time.Duration(p.After) * time.Second) }

// At returns the manifest for a step of the rollout.
func At(m *manifest.Manifest, percent int) *manifest.Manifest {
	next := *m
	next.Rollout = &manifest.Rollout{Percent: percent}
	if percent == 100 {
		next.Rollout = nil
	}
	return &next
}

// Percent returns the share of the machines that a release is for.
func Percent(m *manifest.Manifest) int {
	if m.Rollout == nil {
		return 100
	}
	return m.Rollout.Percent
}
