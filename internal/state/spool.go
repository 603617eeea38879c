package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// What a spool entry holds, beside the files/ of a verified tree or the
// payload of a bundle.
const (
	ManifestName = "manifest.json" // the manifest's own bytes
	MetadataName = "metadata.json" // what vouches for it, of a signed repository
	ReceiptName  = "receipt.json"
	PayloadName  = "payload" // a bundle's archive, if it has no deltas
)

// Receipt goes with a spool entry. It is a locator, not evidence: it says where
// things are and which attempt they belong to, and proves nothing.
type Receipt struct {
	Attempt  AttemptID     `json:"attempt"`
	Platform string        `json:"platform"`
	Files    []ReceiptFile `json:"files,omitempty"` // of a verified tree, or the deltas of a bundle
	// Deltas says that the bundle has these in place of the archive, and none for
	// what is installed already.
	Deltas bool `json:"deltas,omitempty"`
}

// ReceiptFile says which file of a verified tree is which entry of the archive, or
// which delta of a bundle makes it.
type ReceiptFile struct {
	Entry string `json:"entry"`
	Name  string `json:"name"` // a plain name in the spool entry
}

// Spool is the ready/ directory of a role and target.
//
// The producer builds an entry under a name that begins with a dot, which
// systemd's DirectoryNotEmpty= does not see, and renames it when it is durable.
// The consumer renames it back to a dot name before it reads a byte: whatever
// happens to the consumer then, the entry triggers nothing again. An entry that
// stayed visible would restart the consumer until both units are dead.
type Spool struct{ root *os.Root }

// MakeSpool makes the spool if it is missing, and opens it. Its mode is 0770: the
// consumer's unit has the producer's group, and must be able to remove entries.
func (t Tree) MakeSpool(r Role, target string) (*Spool, error) {
	dir, err := os.OpenRoot(t.Dir(r, target))
	if err != nil {
		return nil, fmt.Errorf("cannot open the spool of %s: %w", target, err)
	}
	defer dir.Close()
	if err := mkdir(dir, "ready"); err != nil {
		return nil, fmt.Errorf("cannot make %s: %w", t.Ready(r, target), durable.Cause(err))
	}
	return t.OpenSpool(r, target)
}

// OpenSpool opens the spool.
func (t Tree) OpenSpool(r Role, target string) (*Spool, error) {
	// Not ready/ itself: its owner could put a link there. os.Root keeps the
	// walk inside the target's own directory, whose parents are root's.
	dir, err := os.OpenRoot(t.Dir(r, target))
	if err != nil {
		return nil, fmt.Errorf("cannot open the spool of %s: %w", target, err)
	}
	defer dir.Close()
	root, err := durable.OpenDirIn(dir, "ready")
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", t.Ready(r, target), durable.Cause(err))
	}
	return &Spool{root}, nil
}

func mkdir(root *os.Root, name string) error {
	if err := root.Mkdir(name, 0o770); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return root.Chmod(name, 0o770) // the unit's UMask= has taken the group's bits
}

// hidden is the name of an attempt's entry that the consumer does not see.
func hidden(attempt AttemptID) string { return "." + string(attempt) }

// Close releases the directory.
func (s *Spool) Close() error { return s.root.Close() }

// Stage makes an empty, hidden entry for an attempt and opens it. Hidden ones
// that killed producers and consumers left are removed: no other is alive.
func (s *Spool) Stage(attempt AttemptID) (*os.Root, error) {
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if strings.HasPrefix(n, ".") {
			if err := s.root.RemoveAll(n); err != nil {
				return nil, fmt.Errorf("cannot clear the spool of %q: %w", n, durable.Cause(err))
			}
		}
	}
	if err := mkdir(s.root, hidden(attempt)); err != nil {
		return nil, fmt.Errorf("cannot stage %s: %w", attempt, durable.Cause(err))
	}
	root, err := durable.OpenDirIn(s.root, hidden(attempt))
	if err != nil {
		return nil, fmt.Errorf("cannot stage %s: %w", attempt, durable.Cause(err))
	}
	return root, nil
}

// Offer makes a staged entry durable and shows it to the consumer.
func (s *Spool) Offer(attempt AttemptID) error {
	for _, dir := range []string{hidden(attempt), "."} {
		if dir == "." {
			if err := s.root.Rename(hidden(attempt), string(attempt)); err != nil {
				return fmt.Errorf("cannot hand on %s: %w", attempt, durable.Cause(err))
			}
		}
		d, err := s.root.Open(dir)
		if err != nil {
			return fmt.Errorf("cannot hand on %s: %w", attempt, durable.Cause(err))
		}
		err = d.Sync()
		d.Close()
		if err != nil {
			return fmt.Errorf("cannot hand on %s: %w", attempt, durable.Cause(err))
		}
	}
	return nil
}

// Claim takes the newest entry: it is hidden, opened and returned with its
// attempt. Everything else in the spool is removed, older entries and whatever
// is no attempt at all; what cannot be removed is at least hidden, for it would
// start the consumer again. attempt is "" when there was nothing to claim.
func (s *Spool) Claim() (attempt AttemptID, entry *os.Root, err error) {
	names, err := s.names()
	if err != nil {
		return "", nil, err
	}
	slices.Sort(names)
	for _, n := range names {
		if id := AttemptID(n); id.Valid() {
			attempt = id
		}
	}
	if attempt != "" {
		// A leftover of that name would be in the way of the rename.
		if err := s.root.RemoveAll(hidden(attempt)); err != nil {
			return attempt, nil, fmt.Errorf("cannot claim %s: %w", attempt, durable.Cause(err))
		}
		if err := s.root.Rename(string(attempt), hidden(attempt)); err != nil {
			return attempt, nil, fmt.Errorf("cannot claim %s: %w", attempt, durable.Cause(err))
		}
	}
	for _, n := range names {
		if n == string(attempt) || n == hidden(attempt) {
			continue
		}
		err := s.root.RemoveAll(n)
		if err != nil && !strings.HasPrefix(n, ".") {
			err = s.root.Rename(n, ".stuck-"+n)
		}
		if err != nil && !strings.HasPrefix(n, ".") {
			return "", nil, errors.Join(fmt.Errorf("cannot clear the spool of %q: %w", n, durable.Cause(err)), s.Consume(attempt))
		}
	}
	if attempt == "" {
		return "", nil, nil
	}
	entry, err = durable.OpenDirIn(s.root, hidden(attempt))
	if err != nil {
		return attempt, nil, errors.Join(fmt.Errorf("cannot open %s: %w", attempt, durable.Cause(err)), s.Consume(attempt))
	}
	return attempt, entry, nil
}

// Consume removes a claimed or staged entry.
func (s *Spool) Consume(attempt AttemptID) error {
	if err := s.root.RemoveAll(hidden(attempt)); err != nil {
		return fmt.Errorf("cannot consume %s: %w", attempt, durable.Cause(err))
	}
	return nil
}

func (s *Spool) names() ([]string, error) {
	d, err := s.root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("cannot list the spool: %w", durable.Cause(err))
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("cannot list the spool: %w", durable.Cause(err))
	}
	return names, nil
}

// Pending tells whether an entry waits for its consumer.
func (t Tree) Pending(r Role, target string) (bool, error) {
	entries, err := os.ReadDir(t.Ready(r, target))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot list %s: %w", t.Ready(r, target), durable.Cause(err))
	}
	for _, e := range entries {
		// What is no attempt triggers nothing, or is cleared away at once.
		if AttemptID(e.Name()).Valid() {
			return true, nil
		}
	}
	return false, nil
}

// WriteEntry writes a small file into a staged entry, readable by the consumer.
func WriteEntry(entry *os.Root, name string, data []byte) error {
	f, err := entry.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, durable.Cause(err))
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o640) // the unit's UMask= has taken the group's bit
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, durable.Cause(err))
	}
	return nil
}

// MoveEntry moves a file of the producer's own, on the same disk, into a staged
// entry.
func MoveEntry(path string, entry *os.Root, name string) error {
	d, err := entry.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Renameat(unix.AT_FDCWD, path, int(d.Fd()), name)
}

// OpenEntry opens a regular file of a claimed entry; nothing planted under its
// name can make it hang or lead elsewhere.
func OpenEntry(entry *os.Root, name string) (*os.File, error) {
	f, err := durable.OpenRegularIn(entry, name)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, durable.Cause(err))
	}
	return f, nil
}

// ReadEntry reads a small file of a claimed entry.
func ReadEntry(entry *os.Root, name string, limit int64) ([]byte, error) {
	f, err := OpenEntry(entry, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := durable.ReadAll(f, limit)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, durable.Cause(err))
	}
	return data, nil
}

var treeName = regexp.MustCompile(`^[0-9]{1,4}$`)

// ReadReceipt reads the receipt of a claimed entry.
func ReadReceipt(entry *os.Root) (Receipt, error) {
	var r Receipt
	data, err := ReadEntry(entry, ReceiptName, maxFile)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, errors.New("cannot read receipt.json: it is damaged")
	}
	for _, f := range r.Files {
		if !treeName.MatchString(f.Name) {
			return r, errors.New("cannot read receipt.json: a file's name in the tree is not a number")
		}
	}
	return r, nil
}

// WriteReceipt writes the receipt of a staged entry.
func WriteReceipt(entry *os.Root, r Receipt) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return WriteEntry(entry, ReceiptName, data)
}
