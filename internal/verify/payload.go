package verify

import (
	"fmt"
	"io"
	"os"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// archive returns a copy of the bundle's archive. If the archive is signed, the copy is
// checked, and also handed on with the tree.
func (v *verifier) archive(bundle, tree *state.Bundle) (*os.File, error) {
	if v.proof == nil {
		return v.copyPayload(bundle, state.PayloadName, v.platform)
	}
	payload, err := v.copyTo(bundle, state.PayloadName, v.platform, func() (*os.File, error) {
		return tree.OpenFile(state.PayloadName, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	})
	if err != nil {
		return nil, err
	}
	if err := v.proof.Check(io.NewSectionReader(payload, 0, v.platform.Size)); err != nil {
		payload.Close()
		return nil, err
	}
	return payload, nil
}

// copyPayload copies the bundle's archive or delta. The copy has no name, so no other
// process can open it, and it disappears when it is closed or the program ends.
func (v *verifier) copyPayload(bundle *state.Bundle, name string, p manifest.Platform) (*os.File, error) {
	return v.copyTo(bundle, name, p, func() (*os.File, error) {
		out, err := os.CreateTemp(v.tree.Dir(state.RoleVerify, v.name), state.TempPayload+"*")
		if err == nil {
			err = os.Remove(out.Name())
		}
		return out, err
	})
}

// copyTo copies the bundle's archive or delta into the file that create makes, while
// hashing it, and returns the copy if it is what the manifest says.
func (v *verifier) copyTo(bundle *state.Bundle, name string, p manifest.Platform, create func() (*os.File, error)) (*os.File, error) {
	in, err := bundle.Open(name)
	if err != nil {
		return nil, state.Refused("%w", err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", p.File, durable.Cause(err))
	}
	if info.Size() != p.Size {
		return nil, state.Refused("cannot use %s: it has %d bytes instead of %d", p.File, info.Size(), p.Size)
	}
	if err := v.room(p); err != nil {
		return nil, err
	}
	out, err := create()
	if err != nil {
		return nil, fmt.Errorf("cannot copy %s: %w", p.File, durable.Cause(err))
	}
	sums, n, err := copyFrom(in, out, p)
	if err == nil && n != p.Size {
		err = state.Refused("cannot use %s: it changed while it was copied", p.File)
	}
	if err == nil && sums.Wrong() != "" {
		err = state.Refused("cannot use %s: %s", p.File, sums.Wrong())
	}
	if err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}

// copyFrom copies in to out, and sets out to its beginning. It reads up to one byte more
// than the manifest says, because the file may have grown since its size was checked.
func copyFrom(in io.Reader, out *os.File, p manifest.Platform) (sums *manifest.Sums, n int64, err error) {
	sums = p.Sums()
	n, err = io.Copy(io.MultiWriter(out, sums), io.LimitReader(in, p.Size+1))
	if err == nil {
		_, err = out.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("cannot copy %s: %w", p.File, durable.Cause(err))
	}
	return sums, n, nil
}

// room returns an error if the copy, or the unpacked files after it, would fill the disk.
// The fetcher's archive is removed in between, so only the larger of the two counts.
func (v *verifier) room(p manifest.Platform) error {
	free, err := v.free()
	if err != nil {
		return err
	}
	if need := max(p.Size, p.UnpackedSize); need > free {
		return fmt.Errorf("cannot unpack %s: it needs %.1f MB on the disk of %s, and %.1f MB are free",
			p.File, float64(need)/1e6, v.tree.Dir(state.RoleVerify, v.name), float64(free)/1e6)
	}
	return nil
}

func (v *verifier) free() (int64, error) { return state.Free(v.tree.Dir(state.RoleVerify, v.name)) }
