package swap

import (
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// believe reads the manifest of a verified tree. In mode tuf it verifies root's own copy
// of the manifest and its metadata with the TUF state that root keeps, and in mode
// signature with the keys that the operator has pinned.
func (sw *swapping) believe(entry *state.Bundle) (*manifest.Manifest, error) {
	raw, err := entry.Manifest()
	if err != nil {
		return nil, err
	}
	sw.journal.Manifest = manifest.Digest(raw)
	sw.attempt.Manifest = sw.journal.Manifest
	var m *manifest.Manifest
	switch sw.target.Trust.Mode {
	case target.TrustTUF:
		m, err = sw.signed(entry, raw)
	case target.TrustSigned:
		m, err = sw.vouched(entry, raw)
	default:
		if err = sw.handedOn(); err != nil {
			return nil, err
		}
		if m, err = manifest.Parse(raw); err != nil {
			err = state.Fail(state.ResultRefused, "cannot use the manifest: %w", err)
		}
	}
	if m != nil {
		sw.journal.Version, sw.journal.Sequence = m.Version, m.Sequence
	}
	return m, err
}

// handedOn checks that a manifest that is not signed is the one that the fetcher
// handed on in this attempt. The verifier could otherwise install any release of its own.
func (sw *swapping) handedOn() error {
	h, err := sw.Tree.Handover(sw.name)
	if err != nil {
		return err
	}
	if h == nil || h.Attempt != sw.attempt.ID {
		return state.Fail(state.ResultFailed, "cannot use the manifest: the fetcher has not recorded which one it handed on in attempt %s "+
			"(hint: after an upgrade in the middle of an attempt, the next one does)", sw.attempt.ID)
	}
	if h.Manifest != sw.journal.Manifest {
		return state.Fail(state.ResultRefused, "cannot use the manifest: the verifier handed on another one (sha256 %s) than the fetcher (sha256 %.64s)",
			sw.journal.Manifest, h.Manifest)
	}
	return nil
}

// signed verifies a signed manifest. If that is not for this machine, signed returns both
// the manifest and an error.
func (sw *swapping) signed(entry *state.Bundle, raw []byte) (*manifest.Manifest, error) {
	metadata, err := entry.Metadata(trust.MaxMetadata)
	if err != nil {
		return nil, state.Fail(state.ResultRefused, "%w", err)
	}
	return trust.Verifier{Tree: sw.Tree, Target: sw.name, Pin: sw.target.Pin, Role: state.RoleSwap,
		Terms: trust.Terms{Product: sw.target.Trust.Product, Platform: manifest.Host(), Installed: sw.attempt.From},
		From:  "what the verifier handed on"}.Verify(metadata, raw)
}

// raiseFloor bars releases that are older than a signed one that is committed. Going back
// at the operator's word neither lowers nor asks for the floor: what is kept was verified
// when it came.
func (s *Swapper) raiseFloor(j *state.Journal) error {
	if j.Unsigned || j.GoingBack {
		return nil
	}
	return s.Tree.RaiseFloor(j.Target, j.Sequence)
}
