// Package state owns everything that the toolkit stores: the paths, the formats and
// how files are written.
//
//	/var/lib/machinemon-update/
//	  fetch/T/              the fetcher of T writes; all users may read status.json
//	    status.json           what was available, and how each attempt ended here
//	    manifest.json         the last manifest and its ETag (cache)
//	    trust.json            signed metadata that the fetcher saw; only the fetcher uses it
//	    partial               an archive whose download has begun
//	    partial.json          which archive that is
//	    fleetlock.json        the lock of the fleet that an attempt holds
//	    handover.json         which manifest it handed on, for root
//	    ready/<attempt>/      a bundle; the verifier removes it
//	    ready/.next.link      a link to it, for which systemd waits
//	  verify/T/             the verifier of T writes
//	    status.json
//	    fallback.json         a request for the archive of an attempt instead of deltas
//	    ready/<attempt>/      a verified tree; the swapper removes it
//	    ready/.next.link      a link to it, for which systemd waits
//	  swap/T/               root writes
//	    status.json           installed, previous and rejected releases, probes that passed
//	    journal.json          the open trial; absent if none is open
//	    private.json          what only root may read of status.json and journal.json; 0600
//	    trust.json            the roots and metadata that root has verified
//	    floor.json            the highest sequence of a signed release committed here
//	    import/               a release that the operator imports, for the fetcher
//	    snapshot/             data saved for the open trial; 0700
//	  notify/T/             what people are told (root)
//	    told.json             which attempts are told
//	    ready/                notices that wait; the sender removes them
//	  evidence/T/           what is kept of trials that failed, by attempt; 0700 (root)
//	  metrics/              what node_exporter reads; one file for each target (root)
//	  beside                the directories beside installed files, for a purge
//	/run/machinemon-update/
//	  request/T.json        what the operator asked for (root; removed when read)
//	  request/T.directive   a directive asks for an attempt (root; removed when read)
//	  directive/T/          directives; their names and contents are ignored (root)
//	  attempt/T.json        the order of the running attempt (root)
//	  attempt/T.query       the query of the order's address (root; only the fetcher may read it)
//	  gate/T/               the reports of the gate's units (root: systemd opens them)
//	  baseline/T.json       the gate's report before the swap of the running attempt (root)
//	  command/T             the socket of the unit that runs the target's commands
//	  snapshot/             empty; where a transient unit sees the data of its user
//	  lock/                 flocks: one per target, and one per target's operator (root)
//	  leaving               exists while the package is being removed (root)
//
// Trust: a role that reads another role's directory treats it as hostile. It uses
// [os.Root], caps every size, and believes only what it has checked itself. Files in
// swap/, request/ and attempt/ belong to root and are believed. At the beginning of each
// attempt, root removes from the other roles' directories what does not belong there
// ([Tree.Clear]), so that nothing in them can stop updates for good.
//
// Every file that must survive a power cut is written as a temporary file in the same
// directory, fsync, rename, fsync of the directory: [durable.WriteFile].
package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// Format is the format number in every file of this package. A file with a higher number
// was written by a newer program and is refused; the error names the file.
const Format = 1

// maxFile bounds, in bytes, what is read of any state file, because roles that the reader
// does not trust write them.
const maxFile = 4 << 20

// MakeSwapDir makes swap/T, which all users may read. Units make it by StateDirectory=,
// but begin and the command run before them, and with any umask.
func (t Tree) MakeSwapDir(target string) error {
	dir := t.Dir(RoleSwap, target)
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		return fmt.Errorf("cannot make %s: %w", dir, durable.Cause(err))
	}
	return durable.SyncDir(filepath.Dir(dir))
}

// Role names a worker and its directory.
type Role string

// The roles, in the order in which an attempt passes through them.
const (
	RoleFetch  Role = "fetch"
	RoleVerify Role = "verify"
	RoleSwap   Role = "swap"
)

// Tree is where the state is. Programs use [System]; tests make their own.
type Tree struct{ Var, Run string }

// System is the tree of the running machine.
var System = Tree{Var: "/var/lib/machinemon-update", Run: "/run/machinemon-update"}

// Dir returns the directory of one role and target.
func (t Tree) Dir(r Role, target string) string { return filepath.Join(t.Var, string(r), target) }

// Ready returns the spool directory in which a role hands on its results.
func (t Tree) Ready(r Role, target string) string { return filepath.Join(t.Dir(r, target), "ready") }

// Gate returns the directory of the gate's reports on a target.
func (t Tree) Gate(target string) string { return filepath.Join(t.Run, "gate", target) }

// Commands returns the socket of the unit that runs the commands of a target.
func (t Tree) Commands(target string) string { return filepath.Join(t.Run, "command", target) }

// SnapshotMount is where the unit that saves or restores a user's data sees the directory
// of the backups. That user cannot enter the directory under its own path.
const SnapshotMount = "/run/machinemon-update/snapshot"

func (t Tree) snapshots(target string) string {
	return filepath.Join(t.Dir(RoleSwap, target), "snapshot")
}

// MakeSnapshotDir makes an empty directory for the backups of an attempt's data.
func (t Tree) MakeSnapshotDir(target, name string) (string, error) {
	dir := filepath.Join(t.snapshots(target), name)
	err := os.Mkdir(t.snapshots(target), 0o700)
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = os.Mkdir(dir, 0o700)
	}
	if err == nil {
		err = durable.SyncDir(t.snapshots(target))
	}
	if err == nil {
		err = durable.SyncDir(t.Dir(RoleSwap, target))
	}
	if err != nil {
		return "", fmt.Errorf("cannot make %s: %w", dir, durable.Cause(err))
	}
	return dir, nil
}

// RoomSize is the space for the records of a rollback, in bytes: the journal and the
// status, each with the new file beside the old one.
const RoomSize = 2 << 20

// room returns the path of the file that keeps space for the records of a rollback. It is
// beside the backups of the data, and is removed with them. The name of a backup has no @
// before its first point.
func (t Tree) room(target string, attempt AttemptID) string {
	return filepath.Join(t.snapshots(target), "room@"+string(attempt))
}

// Reserve occupies the space that the records of an attempt's rollback need, durably.
func (t Tree) Reserve(target string, attempt AttemptID) error {
	path := t.room(target, attempt)
	err := os.Mkdir(filepath.Dir(path), 0o700)
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = reserve(path)
	}
	if err == nil {
		err = durable.SyncDir(filepath.Dir(path))
	}
	if err == nil {
		err = durable.SyncDir(t.Dir(RoleSwap, target))
	}
	if err != nil {
		err = fmt.Errorf("a rollback needs %d bytes in %s for its records: %w", RoomSize, t.Dir(RoleSwap, target), durable.Cause(err))
	}
	return err
}

func reserve(path string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return durable.Reserve(f, RoomSize)
}

// Recording runs a write of an attempt's records. If the disk is full, it runs it again
// in the space that Reserve kept.
func (t Tree) Recording(target string, attempt AttemptID, write func() error) error {
	err := write()
	if !durable.Full(err) || os.Remove(t.room(target, attempt)) != nil {
		return err
	}
	return errors.Join(durable.SyncDir(t.snapshots(target)), write())
}

// DropSnapshots removes all backups of a target's data.
func (t Tree) DropSnapshots(target string) error {
	if err := os.RemoveAll(t.snapshots(target)); err != nil {
		return fmt.Errorf("cannot remove the snapshots of %s: %w", target, err)
	}
	return nil
}

func (t Tree) status(r Role, target string) string {
	return filepath.Join(t.Dir(r, target), "status.json")
}

func (t Tree) journal(target string) string {
	return filepath.Join(t.Dir(RoleSwap, target), "journal.json")
}

// temporaries are the prefixes of the names of temporary files.
var temporaries = []string{".status.json", ".journal.json", ".private.json", ".manifest.json", ".partial.json", ".trust.json", ".floor.json", ".fallback.json", ".handover.json", "." + fleetLockName, TempPayload}

// TempPayload is the prefix of the verifier's copy of an archive while that has a name.
const TempPayload = ".payload-"

// Tidy removes the temporary files that a killed process of a role left. No other process
// of that role works on the target: the swapper's caller holds the lock, and the other
// roles have one unit per target.
func (t Tree) Tidy(r Role, target string) error {
	dir := t.Dir(r, target)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot tidy %s: %w", dir, durable.Cause(err))
	}
	for _, e := range entries {
		if slices.ContainsFunc(temporaries, func(t string) bool { return strings.HasPrefix(e.Name(), t) }) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("cannot tidy %s: %w", dir, durable.Cause(err))
			}
		}
	}
	return nil
}

// Free returns how many bytes an unprivileged process may still write under dir.
func Free(dir string) (int64, error) {
	free, _, err := Space(dir)
	return free, err
}

// Space returns what [Free] does, and the size of the disk in bytes.
func Space(dir string) (free, size int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("cannot read the free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), int64(st.Blocks) * int64(st.Bsize), nil
}

// longestLine is how many bytes of a text are recorded. Root's files have the same bound,
// because texts from untrusted writers get into them.
const longestLine = 1000

// Line makes a text fit for a record: one line of bounded length.
func Line(s string) string {
	if len(s) > longestLine {
		s = strings.ToValidUTF8(s[:longestLine], "") + "…"
	}
	return Printable(s)
}

// Printable makes one line of s and replaces characters that could control a terminal.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\n", "; "))
}

// EscapeJSON escapes the characters of a JSON document that encoding/json leaves as they
// are although a terminal may obey them, such as U+009B. JSON has such characters only in
// strings.
func EscapeJSON(doc string) string {
	var b strings.Builder
	for _, r := range doc {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
