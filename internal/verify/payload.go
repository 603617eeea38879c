package verify

import (
	"fmt"
	"io"
	"os"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// copyPayload copies the bundle's archive or delta while hashing it, and returns the copy
// if it is what the manifest says. The copy has no name, so no other process can open it,
// and it disappears when it is closed or the program ends.
func (v *verifier) copyPayload(bundle *state.Bundle, name string, p manifest.Platform) (*os.File, error) {
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
	out, err := os.CreateTemp(v.tree.Dir(state.RoleVerify, v.name), state.TempPayload+"*")
	if err != nil {
		return nil, fmt.Errorf("cannot copy %s: %w", p.File, durable.Cause(err))
	}
	sum, n, err := copyTo(out, in, p)
	if err == nil && n != p.Size {
		err = state.Refused("cannot use %s: it changed while it was copied", p.File)
	}
	if err == nil && sum != p.SHA256 {
		err = state.Refused("cannot use %s: its sha256 is %s instead of %s", p.File, sum, p.SHA256)
	}
	if err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}

// copyTo copies in to out, and sets out to its beginning. It reads up to one byte more
// than the manifest says, because the file may have grown since its size was checked.
func copyTo(out *os.File, in io.Reader, p manifest.Platform) (sum string, n int64, err error) {
	if err = os.Remove(out.Name()); err == nil {
		sum, n, err = durable.CopySHA256(out, io.LimitReader(in, p.Size+1))
	}
	if err == nil {
		_, err = out.Seek(0, io.SeekStart)
	}
	if err != nil {
		return "", 0, fmt.Errorf("cannot copy %s: %w", p.File, durable.Cause(err))
	}
	return sum, n, nil
}

// room returns an error if the copy and its unpacked files would fill the disk.
func (v *verifier) room(p manifest.Platform) error {
	free, err := v.free()
	if err != nil {
		return err
	}
	// The sum cannot overflow: the manifest's sizes are at most 1 TiB.
	if need := p.Size + p.UnpackedSize; need > free {
		return fmt.Errorf("cannot unpack %s: it needs %.1f MB on the disk of %s, and %.1f MB are free",
			p.File, float64(need)/1e6, v.tree.Dir(state.RoleVerify, v.name), float64(free)/1e6)
	}
	return nil
}

func (v *verifier) free() (int64, error) { return state.Free(v.tree.Dir(state.RoleVerify, v.name)) }
