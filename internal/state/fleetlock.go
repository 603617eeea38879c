package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// fleetLockName is a file that the fetcher keeps until the lock is given back.
const fleetLockName = "fleetlock.json"

// FleetLock is the lock of a fleet that an attempt holds, or may hold. The fetcher writes it
// before it asks for the lock, so that no crash lets it be forgotten.
type FleetLock struct {
	Format  int       `json:"format"`
	Attempt AttemptID `json:"attempt"`
	URL     string    `json:"url"` // of the server
	Group   string    `json:"group"`
	ID      string    `json:"id"` // what the machine calls itself there
	Since   time.Time `json:"since"`
	// Failed is why it could not be given back when that was Tried last, and Failing since
	// when it cannot.
	Failed  string    `json:"failed,omitempty"`
	Failing time.Time `json:"failing,omitzero"`
	Tried   time.Time `json:"tried,omitzero"`
}

// String describes the lock to people.
func (l FleetLock) String() string {
	text := fmt.Sprintf("it holds the lock of %s (group %s) as %s", l.URL, l.Group, l.ID)
	if l.Failed != "" {
		text += ", and cannot give it back: " + l.Failed
	}
	return Line(text)
}

func (t Tree) fleetLock(target string) string {
	return filepath.Join(t.Dir(RoleFetch, target), fleetLockName)
}

// FleetLock returns the lock that a target's last attempt holds, or nil.
func (t Tree) FleetLock(target string) (*FleetLock, error) {
	return readIfThere[FleetLock](t.fleetLock(target))
}

// SetFleetLock records a lock.
func (t Tree) SetFleetLock(target string, l FleetLock) error {
	l.Format, l.Failed = Format, Line(l.Failed)
	return writeJSON(t.fleetLock(target), l)
}

// DropFleetLock forgets the lock, which was given back.
func (t Tree) DropFleetLock(target string) error {
	path := t.fleetLock(target)
	err := os.Remove(path)
	if err == nil {
		err = durable.SyncDir(filepath.Dir(path))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove %s: %w", path, durable.Cause(err))
	}
	return nil
}

// Waits reports whether a role has left something for the next one, which is about to start.
func (t Tree) Waits(r Role, target string) bool {
	_, err := os.Stat(filepath.Join(t.Ready(r, target), nextLink))
	return err == nil
}
