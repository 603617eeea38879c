package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// Evidence is what is kept of a trial that failed. Only root may read it: it has the lines
// of programs, and what probes were answered.
type Evidence struct {
	Format  int          `json:"format"`
	Attempt Attempt      `json:"attempt"` // as its record says
	Before  *Baseline    `json:"before,omitempty"`
	Trial   *Report      `json:"trial,omitempty"`
	After   *Baseline    `json:"after,omitempty"`
	Digests []FileDigest `json:"digests,omitempty"` // of what is installed since
	Units   []Properties `json:"units,omitempty"`   // as they are since
	Log     []LoggedLine `json:"log,omitempty"`     // the newest, oldest first
	Missing []string     `json:"missing,omitempty"` // why some of it is not here
}

// FileDigest is a file and its SHA-256; "" if it is not there.
type FileDigest struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256,omitempty"`
}

// Properties are what systemd says of a unit.
type Properties struct {
	Unit   string   `json:"unit"`
	Values []string `json:"values"` // NAME=VALUE
}

// LoggedLine is a line of the journal about a unit of the target or a step of its update.
type LoggedLine struct {
	Time time.Time `json:"time"`
	Unit string    `json:"unit"`
	Text string    `json:"text"`
}

const (
	evidenceDir  = "evidence" // below [Tree.Var]
	mostEvidence = 10         // trials of a target
)

func (t Tree) evidence(target string, attempt AttemptID) string {
	return filepath.Join(t.Var, evidenceDir, target, string(attempt)+".json")
}

// Evidence returns what is kept of an attempt's trial, or nil if nothing is.
func (t Tree) Evidence(target string, attempt AttemptID) (*Evidence, error) {
	if !attempt.Valid() {
		return nil, nil
	}
	return readIfThere[Evidence](t.evidence(target, attempt))
}

// SetEvidence keeps what is known of a trial, and drops the oldest of too many.
func (t Tree) SetEvidence(target string, e Evidence) error {
	dir := filepath.Dir(t.evidence(target, e.Attempt.ID))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cannot make %s: %w", dir, durable.Cause(err))
	}
	e.Format = Format
	if err := writeJSONAs(t.evidence(target, e.Attempt.ID), e, 0o600); err != nil {
		return err
	}
	files, err := os.ReadDir(dir) // sorted by name, and so by time
	if err != nil {
		return fmt.Errorf("cannot list %s: %w", dir, durable.Cause(err))
	}
	files = slices.DeleteFunc(files, func(f fs.DirEntry) bool { return filepath.Ext(f.Name()) != ".json" })
	for _, f := range files[:max(0, len(files)-mostEvidence)] {
		if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
			return fmt.Errorf("cannot drop old evidence of %s: %w", target, durable.Cause(err))
		}
	}
	return nil
}

// TrialFailed reports whether the attempt is one whose trial failed, as that of a drill does.
func (a Attempt) TrialFailed() bool {
	return a.Result == ResultDrilled || a.Drill && !a.Started.IsZero() || a.Result == ResultRolledBack || a.Result == ResultInterrupted || a.Result == ResultRollbackFailed
}
