package state

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// Fallback is the verifier's request for the full archive of an attempt, instead of deltas
// that it could not use. The verifier writes it before it applies the deltas and removes
// it afterwards, so the request also stands if applying them got the verifier killed.
// machinemon-fetch-full@T.service carries it out.
type Fallback struct {
	Format  int       `json:"format"`
	Attempt AttemptID `json:"attempt"`
	Reason  string    `json:"reason"`
}

func (t Tree) fallback(target string) string {
	return filepath.Join(t.Dir(RoleVerify, target), "fallback.json")
}

// Fallback returns the verifier's request, which always has a reason; nil if there is
// none.
func (t Tree) Fallback(target string) (*Fallback, error) {
	f, err := readIfThere[Fallback](t.fallback(target))
	if f != nil {
		f.Reason = cmp.Or(f.Reason, "the verifier does not say why")
	}
	return f, err
}

// SetFallback writes the verifier's request.
func (t Tree) SetFallback(target string, f Fallback) error {
	f.Format, f.Reason = Format, Line(f.Reason)
	return writeJSON(t.fallback(target), f)
}

// DropFallback removes the verifier's request. It is not an error if there is none.
func (t Tree) DropFallback(target string) error {
	if err := os.Remove(t.fallback(target)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove %s: %w", t.fallback(target), durable.Cause(err))
	}
	return nil
}
