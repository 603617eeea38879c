package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
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
type Spool struct{ root *os.Root }

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
	return &Spool{root}, nil
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
		// A leftover entry with the hidden name would block the rename.
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
			return "", nil, errors.Join(fmt.Errorf("cannot clear the spool of %q: %w", n, durable.Cause(err)), s.consume(attempt))
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

// consume removes a claimed or staged entry.
func (s *Spool) consume(attempt AttemptID) error {
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

// Pending reports whether an entry waits for its consumer.
func (t Tree) Pending(r Role, target string) (bool, error) {
	entries, err := os.ReadDir(t.Ready(r, target))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot list %s: %w", t.Ready(r, target), durable.Cause(err))
	}
	// Other names trigger nothing, or are removed at once.
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return AttemptID(e.Name()).Valid() }), nil
}
