package state

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Phase is how far an open trial has come.
type Phase string

const (
	// Prepared: everything new is staged and everything old is backed up;
	// some of the renames may have happened.
	PhasePrepared Phase = "prepared"
	// Trial: all files are the new ones, and the restart may have happened.
	PhaseTrial Phase = "trial"
)

// Verdict ends a trial. It is written before anything it leads to.
type Verdict string

const (
	VerdictCommit   Verdict = "commit"
	VerdictRollback Verdict = "rollback"
)

// Kind is what a transaction does to one file.
type Kind string

const (
	KindReplace  Kind = "replace"  // a new file takes the place of the old one, or of none
	KindRemove   Kind = "remove"   // the release has no such file any more: it goes at the commit
	KindSnapshot Kind = "snapshot" // the file stays as it is, but comes back at a rollback
)

// Change is one file of a transaction.
type Change struct {
	Kind   Kind   `json:"kind"`
	To     string `json:"to"`
	Staged string `json:"staged,omitempty"` // the new file before its rename
	Backup string `json:"backup,omitempty"` // the old file; "" when there was none
	Old    string `json:"old,omitempty"`    // sha256; "" when there was none
	New    string `json:"new,omitempty"`    // sha256, of [KindReplace] only
	// Created says that the file was not there before an update of ours brought it.
	Created bool `json:"created,omitempty"`
	// Pending says that the snapshot is not taken yet: nothing may be restored from it.
	Pending bool `json:"pending,omitempty"`
	// Saved is what a snapshot's backup holds, in package snapshot's words; "" where
	// nothing was there to be saved.
	Saved string `json:"saved,omitempty"`
	// Live says that the running program works on them: a directory, a database, or
	// data of its own user. Others, such as a configuration, may change while it runs.
	Live bool `json:"live,omitempty"`
	// Theirs says that others than root can write there, and that the data are saved
	// and restored by the journal's Owner.
	Theirs bool `json:"theirs,omitempty"`
}

// Owner is the user of a unit, whose data are in a snapshot. All are as the unit has
// them: names or numbers, "" for the user's own.
type Owner struct {
	User   string   `json:"user"`
	UID    uint32   `json:"uid"`
	Group  string   `json:"group,omitempty"`
	Groups []string `json:"groups,omitempty"`
}

// Journal is the open trial of a target: all that commit, rollback and recover
// need, so that neither configuration nor network nor manifest is needed.
type Journal struct {
	Format     int       `json:"format"`
	Attempt    AttemptID `json:"attempt"`
	Origin     Origin    `json:"origin"`
	Target     string    `json:"target"`
	Unit       string    `json:"unit"`
	Main       string    `json:"main,omitempty"` // the file that the main process must run
	From       string    `json:"from"`
	Version    string    `json:"version"`
	Sequence   int64     `json:"sequence,omitempty"`
	Archive    string    `json:"archive,omitempty"`
	Manifest   string    `json:"manifest,omitempty"` // sha256 of the manifest's bytes
	Unsigned   bool      `json:"unsigned"`
	GoingBack  bool      `json:"going_back,omitempty"` // the operator's rollback to the previous release
	Started    time.Time `json:"started"`
	Phase      Phase     `json:"phase"`
	Failure    string    `json:"failure,omitempty"` // why the swap stopped half-way; "" when it was killed, or did not stop
	Verdict    Verdict   `json:"verdict,omitempty"`
	Finding    Finding   `json:"finding,omitempty"` // the gate's, at the verdict; "" when it had none
	Reason     string    `json:"reason,omitempty"`
	Warning    string    `json:"warning,omitempty"` // as in [Attempt]
	Unproven   bool      `json:"unproven,omitempty"`
	Probes     Passed    `json:"probes,omitempty"` // the target's
	Reload     bool      `json:"reload,omitempty"` // a unit file is among the changes
	WasRunning bool      `json:"was_running"`      // the unit was active and stable before the swap
	Hooked     bool      `json:"hooked,omitempty"` // the pre_swap hook may have run
	// Stopped says that the unit was, or may have been, stopped before the snapshot,
	// by rollback.stop: a rollback starts it again whatever else it finds.
	Stopped bool `json:"stopped,omitempty"`
	// Spares says that the unit as it was before the swap leaves the other processes
	// of its control group alone when it stops (KillMode=process).
	Spares     bool     `json:"spares,omitempty"`
	PostCommit []string `json:"post_commit,omitempty"`
	PostHooked bool     `json:"post_hooked,omitempty"` // the post_commit hook may have run
	Dependents []string `json:"dependents,omitempty"`  // active before the swap, and stopped with the unit
	Triggers   []string `json:"triggers,omitempty"`    // active before the swap; they could start the unit while its data come back
	// RollbackFailed is why the rollback failed; "" while it did not. From then on
	// the trial is the operator's: only the boot and their own word change it.
	RollbackFailed string `json:"rollback_failed,omitempty"`
	// VerbSettleBack says that the operator wants one more rollback of a trial whose rollback
	// failed: when it is killed it goes on.
	Back bool `json:"back,omitempty"`
	// Restored says that a rollback has brought all files and data back, and failed
	// after that: what differs from then on is somebody else's.
	Restored bool     `json:"restored,omitempty"`
	Owner    *Owner   `json:"owner,omitempty"` // of what is Theirs among the changes
	Changes  []Change `json:"changes"`
	// Invocation is the start of the unit that the restart ends, and Restarted when it
	// does, by CLOCK_MONOTONIC, which cannot be set: what the unit says later, in another
	// start, is the new program's. Said are the last lines of that, at the verdict.
	Invocation string        `json:"invocation,omitempty"`
	Restarted  time.Duration `json:"restarted,omitempty"`
	Said       []string      `json:"said,omitempty"`
	// Timeout is the health.timeout_seconds of the trial; the old version gets
	// as long to come back.
	Timeout time.Duration `json:"timeout"`
	Settle  time.Duration `json:"settle"`
	// MainID is the main file as root put it in place last: the new one from the
	// swap on, the old one from the rollback on.
	MainID FileID `json:"main_id,omitzero"`
}

// Warn adds to what the operator should know of the attempt.
func (j *Journal) Warn(text string) {
	if j.Warning != "" {
		j.Warning += "; "
	}
	j.Warning += text
}

// Fingerprint names a set of installed files by their bytes, whatever archive they
// came in.
func Fingerprint(files []File) string {
	rows := make([]string, 0, len(files))
	for _, f := range files {
		rows = append(rows, f.To+"\x00"+f.SHA256+"\n")
	}
	slices.Sort(rows)
	sum := sha256.Sum256([]byte(strings.Join(rows, "")))
	return hex.EncodeToString(sum[:])
}

// NewFiles are the files that the trial installs.
func (j *Journal) NewFiles() []File {
	var files []File
	for _, c := range j.Changes {
		if c.Kind == KindReplace {
			files = append(files, File{To: c.To, SHA256: c.New, Created: c.Created})
		}
	}
	return files
}

// OldFiles are the files that the trial replaces, with their backups. A file
// that was not there has neither digest nor backup.
func (j *Journal) OldFiles() []File {
	var files []File
	for _, c := range j.Changes {
		if c.Kind != KindSnapshot {
			files = append(files, File{To: c.To, SHA256: c.Old, Backup: c.Backup, Created: c.Created && c.Old != ""})
		}
	}
	return files
}

// Journal reads the open trial; nil when none is open.
func (t Tree) Journal(target string) (*Journal, error) {
	var j Journal
	err := t.readJSON(t.journal(target), &j)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if j.Target != target {
		return nil, fmt.Errorf("cannot read %s: it is of target %s", t.journal(target), j.Target)
	}
	return &j, nil
}

// SetJournal writes the open trial durably.
func (t Tree) SetJournal(j *Journal) error {
	j.Format = Format
	return writeJSON(t.journal(j.Target), j, 0o644)
}

// CloseJournal ends the trial durably. It is the last step of both verdicts.
func (t Tree) CloseJournal(target string) error {
	if err := os.Remove(t.journal(target)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot close the journal of %s: %w", target, err)
	}
	return SyncDir(t.Dir(RoleSwap, target))
}

// PutJournalAside renames a damaged journal, so that it is in nobody's way.
func (t Tree) PutJournalAside(target string) (path string, err error) {
	path = t.journal(target) + ".damaged"
	if err := os.Rename(t.journal(target), path); err != nil {
		return "", fmt.Errorf("cannot put the journal of %s aside: %w", target, cause(err))
	}
	return path, SyncDir(t.Dir(RoleSwap, target))
}

// OpenTrials are the targets whose journal is open.
func (t Tree) OpenTrials() ([]string, error) {
	paths, err := filepath.Glob(t.journal("*"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range paths {
		names = append(names, filepath.Base(filepath.Dir(p)))
	}
	return names, nil
}
