package state

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// Spool is the ready/ directory of a role and target.
//
// The producer builds an entry under a name that begins with a dot, renames it when it is
// durable, and makes a link to it. The path unit waits for what the link leads to. systemd
// reads no list of names for that: a taken-over producer may have made a million of them,
// and each further one would make systemd read them all. The consumer renames the entry
// back to a dot name before it reads a byte, so that the link leads nowhere and triggers
// nothing again, even if the consumer is killed. An entry that stayed in sight would
// restart the consumer until both units have failed.
type Spool struct {
	root *os.Root
	dir  string // its path, for messages: root is opened without one
	// full says that an entry could not be removed, so that no other one is tried: each
	// may take as long.
	full bool
}

// nextLink is the name of the link. No attempt's entry has it, hidden or not.
const nextLink = ".next.link"

// mostListed is how many names of a spool the consumer looks at. Further names trigger
// nothing, and root removes them before the next attempt.
const mostListed = 1000

// makeSpool creates the spool if it is missing, and opens it. The mode is 0770: the
// consumer's unit has the producer's group, and must be able to remove entries.
func (t Tree) makeSpool(r Role, target string) (*Spool, error) {
	dir, err := os.OpenRoot(t.Dir(r, target))
	if err != nil {
		return nil, fmt.Errorf("cannot open the spool of %s: %w", target, err)
	}
	defer dir.Close()
	if err := mkdir(dir, "ready"); err != nil {
		return nil, fmt.Errorf("cannot make %s: %w", t.Ready(r, target), durable.Cause(err))
	}
	return t.openSpool(r, target)
}

func (t Tree) openSpool(r Role, target string) (*Spool, error) {
	// Do not open ready/ by its path: its owner could put a link there. os.Root keeps the
	// walk inside the target's own directory, whose parents belong to root.
	dir, err := os.OpenRoot(t.Dir(r, target))
	if err != nil {
		return nil, fmt.Errorf("cannot open the spool of %s: %w", target, err)
	}
	defer dir.Close()
	root, err := durable.OpenDirIn(dir, "ready")
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", t.Ready(r, target), durable.Cause(err))
	}
	return &Spool{root: root, dir: t.Ready(r, target)}, nil
}

func mkdir(root *os.Root, name string) error {
	if err := root.Mkdir(name, 0o770); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return root.Chmod(name, 0o770) // because the unit's UMask= removed the group's bits
}

// hidden returns the name under which the consumer does not see an attempt's entry.
func hidden(attempt AttemptID) string { return "." + string(attempt) }

// Close closes the directory.
func (s *Spool) Close() error { return s.root.Close() }

// stage creates an empty, hidden entry for an attempt. It removes hidden entries that
// killed producers and consumers left; no other producer or consumer is running.
func (s *Spool) stage(attempt AttemptID) (*Bundle, error) {
	for n, err := range durable.NamesIn(s.root) {
		if err != nil {
			return nil, fmt.Errorf("cannot list the spool: %w", durable.Cause(err))
		}
		if strings.HasPrefix(n, ".") {
			if err := s.clear(n); err != nil {
				return nil, err
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
	return &Bundle{Root: root, dir: filepath.Join(s.dir, hidden(attempt))}, nil
}

// offer makes a staged entry durable and shows it to the consumer. After an error it is
// hidden.
func (s *Spool) offer(attempt AttemptID) error {
	err := s.sync(hidden(attempt))
	if err == nil {
		err = durable.RenameIn(s.root, hidden(attempt), string(attempt))
	}
	if err == nil {
		if err = s.link(attempt); err != nil {
			if back := durable.RenameIn(s.root, string(attempt), hidden(attempt)); back != nil {
				err = fmt.Errorf("%w; cannot hide it: %w", err, back)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("cannot hand on %s: %w", attempt, durable.Cause(err))
	}
	return nil
}

// link lets the link that systemd watches lead to an entry.
func (s *Spool) link(attempt AttemptID) error {
	err := s.clear(nextLink)
	if err == nil {
		err = durable.Retry(func() error { return s.root.Symlink(string(attempt), nextLink) })
	}
	if err == nil {
		err = s.sync(".")
	}
	return err
}

func (s *Spool) sync(dir string) error {
	d, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// next returns the attempt whose entry the link leads to, or else the newest entry: an
// earlier version of this package made no link.
func (s *Spool) next() (attempt AttemptID, err error) {
	if id, ok := s.linked(); ok {
		return id, nil
	}
	for n, err := range s.first() {
		if err != nil {
			return "", err
		}
		if id := AttemptID(n); id.Valid() && id > attempt {
			attempt = id
		}
	}
	return attempt, nil
}

// linked returns the attempt that the link names, and reports whether it has an entry.
func (s *Spool) linked() (attempt AttemptID, ok bool) {
	to, err := s.root.Readlink(nextLink)
	if attempt = AttemptID(to); err != nil || !attempt.Valid() {
		return "", false
	}
	_, err = s.root.Lstat(to)
	return attempt, err == nil
}

// first returns the names in the spool, [mostListed] at most.
func (s *Spool) first() iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		listed := 0
		for n, err := range durable.NamesIn(s.root) {
			if err != nil {
				err = fmt.Errorf("cannot list the spool: %w", durable.Cause(err))
			}
			if listed++; listed > mostListed || !yield(n, err) {
				return
			}
		}
	}
}

// claim hides and opens the next entry and returns it with its attempt. It removes the
// link, so that nothing starts the consumer again, and what else is in the spool: older
// entries and names that are not attempts. attempt is "" if there was nothing to claim.
func (s *Spool) claim() (attempt AttemptID, entry *Bundle, err error) {
	if attempt, err = s.next(); err != nil {
		return "", nil, err
	}
	if attempt != "" {
		// A leftover entry with the hidden name would block the rename.
		err := s.clear(hidden(attempt))
		if err == nil {
			err = durable.Cause(durable.RenameIn(s.root, string(attempt), hidden(attempt)))
		}
		if err != nil {
			return attempt, nil, fmt.Errorf("cannot claim %s: %w", attempt, errors.Join(err, s.clear(nextLink)))
		}
	}
	err = s.clear(nextLink)
	for n, lerr := range s.first() {
		if err == nil {
			err = lerr
		}
		if err == nil && n != hidden(attempt) && !strings.HasPrefix(n, stuck) {
			err = s.clear(n)
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		if attempt != "" {
			err = errors.Join(err, s.consume(attempt))
		}
		return "", nil, err
	}
	if attempt == "" {
		return "", nil, nil
	}
	root, err := durable.OpenDirIn(s.root, hidden(attempt))
	if err != nil {
		return attempt, nil, errors.Join(fmt.Errorf("cannot open %s: %w", attempt, durable.Cause(err)), s.consume(attempt))
	}
	return attempt, &Bundle{Root: root, dir: filepath.Join(s.dir, hidden(attempt))}, nil
}

// stuck is the prefix of hidden entries that could not be removed.
const stuck = ".stuck-"

// clear removes an entry, or hides it if it cannot be removed: it may be another user's, or
// very large.
func (s *Spool) clear(name string) error {
	var err error
	if !s.full {
		err = durable.RemoveTree(s.root, name)
		s.full = err != nil
	}
	if s.full {
		err = durable.RenameIn(s.root, name, stuck+rand.Text()) // its own name may be too long for a prefix
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot clear the spool of %q: %w", name, durable.Cause(err))
	}
	return nil
}

// consume removes a claimed or staged entry.
func (s *Spool) consume(attempt AttemptID) error {
	if err := durable.RemoveTree(s.root, hidden(attempt)); err != nil {
		return fmt.Errorf("cannot consume %s: %w", attempt, durable.Cause(err))
	}
	return nil
}

// Pending reports whether an entry waits for its consumer. Nothing waits in what is no
// spool.
func (t Tree) Pending(r Role, target string) (bool, error) {
	info, err := os.Lstat(t.Ready(r, target))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return false, nil
	}
	var spool *Spool
	if err == nil {
		spool, err = t.openSpool(r, target)
	}
	if err != nil {
		return false, fmt.Errorf("cannot list %s: %w", t.Ready(r, target), durable.Cause(err))
	}
	defer spool.Close()
	attempt, ok := spool.linked()
	if !ok {
		return false, nil
	}
	// What is no directory triggers nothing, or is removed at once.
	info, err = spool.root.Lstat(string(attempt))
	return err == nil && info.IsDir(), nil
}
