package state

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// maxTrust bounds, in bytes, what is read of trust.json: twice the metadata of a bundle,
// because the roots of several bundles accumulate.
const maxTrust = 32 << 20

// trustFile is trust.json. Package internal/trust owns the format of its content; it is
// not imported here, because every program would then link its dependencies.
type trustFile struct {
	Format int `json:"format"`
	Trust  any `json:"trust"`
}

func (t Tree) trust(r Role, target string) string {
	return filepath.Join(t.Dir(r, target), "trust.json")
}

// Trust unmarshals a role's stored metadata into v. A missing or damaged file leaves
// v unchanged and is not an error: it weakens protection against older metadata but
// must not stop updates.
func (t Tree) Trust(r Role, target string, v any) error {
	err := readLarge(t.trust(r, target), maxTrust, &trustFile{Trust: v})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrDamaged) {
		return nil
	}
	return err
}

// SetTrust stores v durably as a role's metadata. All users may read the file.
func (t Tree) SetTrust(r Role, target string, v any) error {
	return writeJSON(t.trust(r, target), trustFile{Format, v})
}

// floorFile is floor.json. It is separate from trust.json because it outlives it: a new
// pin begins another chain of roots, but the sequences of releases continue.
type floorFile struct {
	Format   int   `json:"format"`
	Sequence int64 `json:"sequence"`
}

func (t Tree) floor(target string) string {
	return filepath.Join(t.Dir(RoleSwap, target), "floor.json")
}

// Floor returns the highest sequence of a signed release that was committed here, or 0. A
// damaged file is an error, because to ignore it would allow older releases.
func (t Tree) Floor(target string) (int64, error) {
	f, err := readIfThere[floorFile](t.floor(target))
	if errors.Is(err, ErrDamaged) {
		err = fmt.Errorf("%w (hint: restore it from a backup; if it is removed, the next signed release is accepted, however old)", err)
	}
	if f == nil {
		return 0, err
	}
	return f.Sequence, nil
}

// RaiseFloor raises the floor to the sequence of a release that was checked against it,
// and never lowers it. It replaces a damaged file, because the verdict stands.
func (t Tree) RaiseFloor(target string, sequence int64) error {
	floor, err := t.Floor(target)
	if err != nil && !errors.Is(err, ErrDamaged) {
		return err
	}
	if sequence <= floor {
		return nil
	}
	return writeJSON(t.floor(target), floorFile{Format, sequence})
}
