package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/manifest"
)

// Phase is how far an open trial has come.
type Phase string

const (
	// PhasePrepared means that everything new is staged and everything old is backed up.
	// Some of the renames may have happened.
	PhasePrepared Phase = "prepared"
	// PhaseTrial means that all files are the new ones. The restart may have happened.
	PhaseTrial Phase = "trial"
)

// Verdict ends a trial. The journal records it before any of its consequences.
type Verdict string

const (
	VerdictCommit   Verdict = "commit"
	VerdictRollback Verdict = "rollback"
)

// Owner is the user of a unit whose data are in a snapshot. All values are as the unit
// states them: names or numbers, "" for the user's own group.
type Owner struct {
	User   string   `json:"user"`
	UID    uint32   `json:"uid"`
	Group  string   `json:"group,omitempty"`
	Groups []string `json:"groups,omitempty"`
}

// Journal is the open trial of a target. It contains all that commit, rollback and recover
// need, so that these read no configuration, network or manifest.
type Journal struct {
	Format   int       `json:"format"`
	Attempt  AttemptID `json:"attempt"`
	Origin   Origin    `json:"origin"`
	Target   string    `json:"target"`
	Unit     string    `json:"unit"`           // "" if no unit runs the program
	Also     []string  `json:"also,omitempty"` // more units that run it; see [Journal.Units]
	Main     string    `json:"main,omitempty"` // the file that the main process must run
	From     string    `json:"from"`
	Version  string    `json:"version"`
	Sequence int64     `json:"sequence,omitempty"`
	Archive  string    `json:"archive,omitempty"`
	Manifest string    `json:"manifest,omitempty"` // sha256 of the manifest's bytes
	Unsigned bool      `json:"unsigned"`
	Listed
	GoingBack  bool      `json:"going_back,omitempty"` // the attempt is the operator's rollback to the previous release
	Drill      bool      `json:"drill,omitempty"`      // the new file is a program that fails on purpose, so the verdict is never commit
	Started    time.Time `json:"started"`
	Boot       string    `json:"boot,omitempty"` // the ID of the boot in which the trial began; "" if it is not known
	Phase      Phase     `json:"phase"`
	Failure    string    `json:"failure,omitempty"` // why the swap failed half-way; "" if it was killed or did not fail
	Verdict    Verdict   `json:"verdict,omitempty"`
	Finding    Finding   `json:"finding,omitempty"` // the gate's finding at the verdict; "" if there was none
	Reason     string    `json:"reason,omitempty"`
	Warning    string    `json:"warning,omitempty"` // as in [Attempt]
	Unproven   bool      `json:"unproven,omitempty"`
	Probes     Passed    `json:"probes,omitempty"`    // of the target
	Reload     bool      `json:"reload,omitempty"`    // a unit file is among the changes
	ByReload   bool      `json:"by_reload,omitempty"` // the trial reloads the units instead of restarting them
	WasRunning bool      `json:"was_running"`         // the units were active and stable before the swap
	// Idle are those of the units that wait for what starts them, with the invocation ID of
	// their last run before the trial. Neither the trial nor a rollback starts them.
	Idle   map[string]string `json:"idle,omitempty"`
	Hooked bool              `json:"hooked,omitempty"` // a hook before the swap may have run
	// Stopped says that rollback.stop stopped the unit before the snapshot, or may have
	// done so. A rollback then always starts it again.
	Stopped bool `json:"stopped,omitempty"`
	// Spares says that the unit, as it was before the swap, does not kill the other
	// processes of its control group when it stops (KillMode=process).
	Spares     bool     `json:"spares,omitempty"`
	PostCommit []string `json:"post_commit,omitempty"`
	PostHooked bool     `json:"post_hooked,omitempty"` // the post_commit hook may have run
	Dependents []string `json:"dependents,omitempty"`  // units that were active before the swap and were stopped with the unit
	Triggers   []string `json:"triggers,omitempty"`    // units that were active before the swap and could start the unit while its data are restored
	// RollbackFailed is why the rollback failed; "" if it did not. From then on, only a
	// boot, the operator's settle command or Again changes the trial.
	RollbackFailed string `json:"rollback_failed,omitempty"`
	// Back says that the operator asked for one more rollback of a trial whose rollback
	// failed. If that rollback is killed, it is resumed.
	Back bool `json:"back,omitempty"`
	// Restored says that a rollback restored all files and data, and failed after that.
	// Later differences were not made by this trial.
	Restored bool `json:"restored,omitempty"`
	// Again is set after a rollback that failed for want of space, and is tried again.
	Again   *Again   `json:"again,omitempty"`
	Owner   *Owner   `json:"owner,omitempty"` // the user for the changes with Theirs
	Changes []Change `json:"changes"`
	// Invocation is the start of the unit that the restart ends, and Restarted the time of
	// the restart by CLOCK_MONOTONIC, which cannot be set. Later lines in another
	// invocation are the new program's. Said are their last lines at the verdict.
	Invocation string   `json:"invocation,omitempty"`
	AlsoRan    []string `json:"also_ran,omitempty"` // the same of the other units
	// MainPIDs are the main processes that the restart ends. The last lines of such a
	// process may have no invocation, or already the next one: systemd's journal looks it
	// up when it receives them, and the process may be gone then.
	MainPIDs  []uint32      `json:"main_pids,omitempty"`
	Restarted time.Duration `json:"restarted,omitempty"`
	Said      []string      `json:"said,omitempty"`
	// Left is when the first of the units stopped being active in a drill, by
	// CLOCK_MONOTONIC; zero if that is not known.
	Left time.Duration `json:"left,omitempty"`
	// Timeout is health.timeout_seconds of the trial. After a rollback, the old version
	// gets the same time to become healthy.
	Timeout time.Duration `json:"timeout"`
	Settle  time.Duration `json:"settle"`
	// MainID is the main file that root installed last: the new one from the swap on, the
	// old one from the rollback on.
	MainID FileID `json:"main_id,omitzero"`
}

// OfUser reports whether the trial replaces this program as its Owner.
func (j *Journal) OfUser(path string) bool {
	return slices.ContainsFunc(j.Changes, func(c Change) bool { return c.To == path && c.OfUser() })
}

// Units returns all units that run the program, in the order in which they are started.
func (j *Journal) Units() []string {
	if j.Unit == "" {
		return nil
	}
	return append([]string{j.Unit}, j.Also...)
}

// Again says how a rollback that failed for want of space goes on.
type Again struct {
	Since time.Time `json:"since"` // the first failure
	Tries int       `json:"tries,omitempty"`
	// Mark is of the data as the failed rollback left them, in the terms of package
	// snapshot. If they differ, somebody has written them since, and they stay.
	Mark string `json:"mark"`
	// Going says that a try is under way. If it is killed, it is resumed.
	Going bool `json:"going,omitempty"`
	// Over is why there are no more tries; "" if there are.
	Over string `json:"over,omitempty"`
}

const (
	// MostTries is how often a rollback that failed for want of space is tried again.
	MostTries = 3
	// TriedFor is how long after the failure such a rollback is tried again.
	TriedFor = 24 * time.Hour
)

// String says what goes on, for people.
func (a *Again) String() string {
	switch {
	case a == nil:
		return ""
	case a.Over != "":
		return "it is not tried again by itself: " + a.Over
	}
	return fmt.Sprintf("it is tried again by itself when there is space, until %s (tries: %d of %d)",
		a.Since.Add(TriedFor).UTC().Format("2006-01-02 15:04 UTC"), a.Tries, MostTries)
}

// Unsettled returns why the rollback failed and how it goes on; "" if it did not fail.
func (j *Journal) Unsettled() string {
	if j.RollbackFailed == "" || j.Again == nil {
		return j.RollbackFailed
	}
	return j.RollbackFailed + "; " + j.Again.String()
}

// Warn adds text to the attempt's warning.
func (j *Journal) Warn(text string) {
	if j.Warning != "" {
		j.Warning += "; "
	}
	j.Warning += text
}

// SettleHint says what the operator can do about a trial whose rollback failed.
func SettleHint(name string) string {
	// Not "keep|back": a shell takes | for a pipe, and would run settle keep.
	return fmt.Sprintf("sudo machinemon-update settle %s back: roll back once more; or settle %[1]s keep: keep what is installed now", name)
}

// Fingerprint returns a digest of the paths and bytes of a set of installed files. It does
// not depend on the archive that contained them.
func Fingerprint(files []File) string {
	rows := make([]string, 0, len(files))
	for _, f := range files {
		rows = append(rows, f.To+"\x00"+f.SHA256+"\n")
	}
	slices.Sort(rows)
	return manifest.Digest([]byte(strings.Join(rows, "")))
}

// NewFiles returns the files that the trial installs.
func (j *Journal) NewFiles() []File {
	var files []File
	for _, c := range j.Changes {
		if c.Kind == KindReplace {
			f := File{To: c.To, SHA256: c.New, Created: c.Created, Private: c.Private && j.GoingBack}
			if c.Tree != nil {
				f.Tree = &Directory{Keep: c.Tree.Keep, Mark: c.Tree.Mark, Releases: c.Tree.Releases}
			}
			files = append(files, f)
		}
	}
	return files
}

// OldFiles returns the files that the trial replaces, with their backups. A file that did
// not exist has neither digest nor backup.
func (j *Journal) OldFiles() []File {
	var files []File
	for _, c := range j.Changes {
		if c.Kind != KindSnapshot {
			f := File{To: c.To, SHA256: c.Old, Backup: c.Backup, Created: c.Created && c.Old != "", Private: c.Private}
			if c.Tree != nil {
				f.Tree = &Directory{Keep: c.Tree.Keep, Releases: c.Tree.Releases}
			}
			files = append(files, f)
		}
	}
	return files
}

// Journal returns the open trial, or nil if none is open.
func (t Tree) Journal(target string) (*Journal, error) {
	j, err := readIfThere[Journal](t.journal(target))
	if j != nil && j.Target != target {
		return nil, fmt.Errorf("cannot read %s: it is of target %s", t.journal(target), j.Target)
	}
	if j != nil && err == nil {
		p, perr := t.privates(target)
		j.show(p)
		if slices.ContainsFunc(j.Changes, func(c Change) bool { return c.Old == hiddenSum || c.New == hiddenSum }) {
			err = perr // else a rollback can do without
		}
	}
	return j, err
}

// SetJournal writes the open trial durably.
func (t Tree) SetJournal(j *Journal) error {
	j.Format = Format
	old, err := t.privates(j.Target)
	if err != nil {
		return err
	}
	p := old.clone()
	public := j.hide(p)
	if err := t.store(j.Target, p, old); err != nil {
		return err
	}
	return writeJSON(t.journal(j.Target), public)
}

// CloseJournal ends the trial durably. It is the last step of both verdicts.
func (t Tree) CloseJournal(target string) error {
	if err := os.Remove(t.journal(target)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot close the journal of %s: %w", target, err)
	}
	return durable.SyncDir(t.Dir(RoleSwap, target))
}

// PutJournalAside renames a damaged journal, so that it does not block later attempts.
func (t Tree) PutJournalAside(target string) (path string, err error) {
	path = t.journal(target) + ".damaged"
	if err := os.Rename(t.journal(target), path); err != nil {
		return "", fmt.Errorf("cannot put the journal of %s aside: %w", target, durable.Cause(err))
	}
	return path, durable.SyncDir(t.Dir(RoleSwap, target))
}

// OpenTrials returns the names of the targets whose journal is open.
func (t Tree) OpenTrials() ([]string, error) {
	dir := filepath.Join(t.Var, string(RoleSwap))
	all, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look for open trials in %s: %w", dir, durable.Cause(err))
	}
	var names []string
	for _, e := range all {
		// What cannot be looked at may be a trial: reading its journal will say what is wrong.
		if _, err := os.Lstat(t.journal(e.Name())); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
