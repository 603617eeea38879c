package verify

import (
	"errors"
	"io/fs"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// signed reads the manifest of a target with trust mode "tuf" from the swapper's State, as
// the swapper will, and keeps the metadata for it.
func (v *verifier) signed(bundle *state.Bundle, t *target.Target) (err error) {
	if v.metadata, err = bundle.Metadata(trust.MaxMetadata); err != nil {
		return state.Refused("%w", err)
	}
	// There is no order after a reboot; then only the swapper checks Installed.
	order, err := v.tree.Order(v.name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	terms := trust.Terms{Product: t.Trust.Product, Platform: manifest.Host()}
	if order.Attempt == v.attempt {
		terms.Installed = order.Installed
	}
	v.manifest, err = trust.Verifier{Tree: v.tree, Target: v.name, Pin: t.Pin, Role: state.RoleSwap, ReadOnly: true,
		Terms: terms, From: "the bundle"}.Verify(v.metadata, v.raw)
	return err
}
