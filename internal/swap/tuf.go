package swap

import (
	"errors"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// believe reads the manifest of a verified tree. Under tuf it is what root's own
// chain of keys leads to, over root's own copies, and fit for this machine;
// otherwise what came.
func (sw *swapping) believe(entry *state.Bundle) (*manifest.Manifest, error) {
	raw, err := entry.Manifest()
	if err != nil {
		return nil, err
	}
	sw.journal.Manifest = manifest.Digest(raw)
	sw.attempt.Manifest = sw.journal.Manifest
	if sw.target.Trust.Mode == target.TrustTUF {
		m, err := sw.signed(entry, raw)
		if err != nil {
			return nil, err
		}
		sw.journal.Version, sw.journal.Sequence = m.Version, m.Sequence
		return m, sw.fits(m)
	}
	m, err := manifest.Parse(raw)
	if err != nil {
		return nil, state.Fail(state.ResultRefused, "cannot use the manifest: %w", err)
	}
	sw.journal.Version, sw.journal.Sequence = m.Version, m.Sequence
	return m, nil
}

func (sw *swapping) signed(entry *state.Bundle, raw []byte) (*manifest.Manifest, error) {
	const what = "cannot trust what the verifier handed on: %w"
	pin, err := sw.target.Pin()
	if err != nil {
		return nil, state.Fail(state.ResultRefused, "%w", err)
	}
	metadata, err := entry.Metadata(trust.MaxMetadata)
	if err != nil {
		return nil, state.Fail(state.ResultRefused, "%w", err)
	}
	bundle, err := trust.Decode(metadata, raw)
	if err != nil {
		return nil, state.Fail(state.ResultRefused, what, err)
	}
	client := trust.Client{Pin: pin, Clock: time.Now(), Built: trust.Built()}
	if err := sw.Tree.Trust(state.RoleSwap, sw.name, &client.State); err != nil {
		return nil, err
	}
	release, known, err := client.Check(bundle)
	// Also beside an error: a root that revokes a key counts from now on.
	if err := sw.Tree.SetTrust(state.RoleSwap, sw.name, known); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, state.Fail(state.ResultRefused, what, err)
	}
	return release.Manifest, nil
}

// fits holds a signed manifest against this machine and what it has had.
func (sw *swapping) fits(m *manifest.Manifest) error {
	floor, err := sw.Tree.Floor(sw.name)
	if err != nil {
		return err
	}
	terms := trust.Terms{Product: sw.target.Trust.Product, Platform: manifest.Host(), Floor: floor, Installed: sw.attempt.From}
	if err := terms.Check(m); err != nil {
		return state.Fail(state.ResultRefused, "cannot use the manifest: %w", err)
	}
	return nil
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

// expired tells whether signatures that had expired are all that is wrong.
func expired(err error) bool {
	e, ok := errors.AsType[*trust.Error](err)
	return ok && e.Expired
}
