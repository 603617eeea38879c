package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// Fallback is the verifier's word that the deltas of an attempt are of no use, and
// that it wants the full archive. The verifier writes it before it touches them,
// and removes it when they have done their work: so it is there, too, when they
// were its death. machinemon-fetch-full@T.service has its path.
type Fallback struct {
	Format  int       `json:"format"`
	Attempt AttemptID `json:"attempt"`
	Reason  string    `json:"reason"`
}

func (t Tree) fallback(target string) string {
	return filepath.Join(t.Dir(RoleVerify, target), "fallback.json")
}

// Fallback is what the verifier wants; nil where it wants nothing.
func (t Tree) Fallback(target string) (*Fallback, error) {
	var f Fallback
	err := t.readJSON(t.fallback(target), &f)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return &f, err
}

// SetFallback asks for the full archive.
func (t Tree) SetFallback(target string, f Fallback) error {
	f.Format, f.Reason = Format, Line(f.Reason)
	return writeJSON(t.fallback(target), f, 0o644)
}

// DropFallback asks no more.
func (t Tree) DropFallback(target string) error {
	if err := os.Remove(t.fallback(target)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove %s: %w", t.fallback(target), durable.Cause(err))
	}
	return nil
}
