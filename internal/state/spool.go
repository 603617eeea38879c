package state

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// Spool is the ready/ directory of a role and target.
//
// The producer builds an entry under a name that begins with a dot, which systemd's
// DirectoryNotEmpty= does not see, and renames it when it is durable. The consumer renames
// it back to a dot name before it reads a byte, so that the entry triggers nothing again,
// even if the consumer is killed. An entry that stayed visible would restart the consumer
// until both units have failed.
type Spool struct {
	root *os.Root
	// full says that an entry could not be removed, so that no other one is tried: each
	// may take as long.
	full bool
}

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
	return &Spool{root: root}, nil
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
	return &Bundle{Root: root}, nil
}

// offer makes a staged entry durable and shows it to the consumer.
func (s *Spool) offer(attempt AttemptID) error {
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

// claim hides and opens the newest entry and returns it with its attempt. It removes
// everything else from the spool: older entries and names that are not attempts. It hides
// what it cannot remove, which would otherwise start the consumer again. attempt is "" if
// there was nothing to claim.
func (s *Spool) claim() (attempt AttemptID, entry *Bundle, err error) {
	for n, err := range durable.NamesIn(s.root) {
		if err != nil {
			return "", nil, fmt.Errorf("cannot list the spool: %w", durable.Cause(err))
		}
		if id := AttemptID(n); id.Valid() && id > attempt {
			attempt = id
		}
	}
	if attempt != "" {
		// A leftover entry with the hidden name would block the rename.
		err := s.clear(hidden(attempt))
		if err == nil {
			err = durable.Cause(s.root.Rename(string(attempt), hidden(attempt)))
		}
		if err != nil {
			return attempt, nil, fmt.Errorf("cannot claim %s: %w", attempt, err)
		}
	}
	for n, err := range durable.NamesIn(s.root) {
		if err == nil && n != hidden(attempt) && !strings.HasPrefix(n, stuck) {
			err = s.clear(n)
		}
		if err != nil && attempt != "" {
			err = errors.Join(err, s.consume(attempt))
		}
		if err != nil {
			return "", nil, err
		}
	}
	if attempt == "" {
		return "", nil, nil
	}
	root, err := durable.OpenDirIn(s.root, hidden(attempt))
	if err != nil {
		return attempt, nil, errors.Join(fmt.Errorf("cannot open %s: %w", attempt, durable.Cause(err)), s.consume(attempt))
	}
	return attempt, &Bundle{Root: root}, nil
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
		err = s.root.Rename(name, stuck+rand.Text()) // its own name may be too long for a prefix
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
	for n, err := range durable.NamesIn(spool.root) {
		if err != nil {
			return false, fmt.Errorf("cannot list %s: %w", t.Ready(r, target), durable.Cause(err))
		}
		if AttemptID(n).Valid() { // other names trigger nothing, or are removed at once
			return true, nil
		}
	}
	return false, nil
}
