package swap

import (
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// believe reads the manifest of a verified tree. Under tuf it verifies the manifest
// with root's own State, over root's own copies.
func (sw *swapping) believe(entry *state.Bundle) (*manifest.Manifest, error) {
	raw, err := entry.Manifest()
	if err != nil {
		return nil, err
	}
	sw.journal.Manifest = manifest.Digest(raw)
	sw.attempt.Manifest = sw.journal.Manifest
	var m *manifest.Manifest
	if sw.target.Trust.Mode == target.TrustTUF {
		m, err = sw.signed(entry, raw)
	} else if m, err = manifest.Parse(raw); err != nil {
		err = state.Fail(state.ResultRefused, "cannot use the manifest: %w", err)
	}
	if m != nil {
		sw.journal.Version, sw.journal.Sequence = m.Version, m.Sequence
	}
	return m, err
}

// signed returns the manifest beside an error, too, if it is signed but not for
// this machine.
func (sw *swapping) signed(entry *state.Bundle, raw []byte) (*manifest.Manifest, error) {
	metadata, err := entry.Metadata(trust.MaxMetadata)
	if err != nil {
		return nil, state.Fail(state.ResultRefused, "%w", err)
	}
	return trust.Verifier{Tree: sw.Tree, Target: sw.name, Pin: sw.target.Pin, Role: state.RoleSwap,
		Terms: trust.Terms{Product: sw.target.Trust.Product, Platform: manifest.Host(), Installed: sw.attempt.From},
		From:  "what the verifier handed on"}.Verify(metadata, raw)
}

// raiseFloor bars what is older than a signed release that is committed. To go
// back by the operator's word neither lowers the floor nor asks for it: what is
// kept was verified when it came.
func (s *Swapper) raiseFloor(j *state.Journal) error {
	if j.Unsigned || j.GoingBack {
		return nil
	}
	return s.Tree.RaiseFloor(j.Target, j.Sequence)
}
