package verify

import (
	"errors"
	"io/fs"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// signed reads the manifest of a target under tuf as the swapper will, from what
// root knows of the repository on, and keeps the metadata for it.
func (v *verifier) signed(bundle *state.Bundle, t *target.Target) error {
	const what = "cannot trust the bundle: %w"
	pin, err := t.Pin()
	if err != nil {
		return refused("%w", err)
	}
	if v.metadata, err = bundle.Metadata(trust.MaxMetadata); err != nil {
		return refused("%w", err)
	}
	b, err := trust.Decode(v.metadata, v.raw)
	if err != nil {
		return refused(what, err)
	}
	client := trust.Client{Pin: pin, Clock: time.Now(), Built: trust.Built()}
	if err := v.tree.Trust(state.RoleSwap, v.name, &client.State); err != nil {
		return err
	}
	release, _, err := client.Check(b)
	if err != nil {
		return refused(what, err)
	}
	v.manifest = release.Manifest
	floor, err := v.tree.Floor(v.name)
	if err != nil {
		return err
	}
	terms := trust.Terms{Product: t.Trust.Product, Platform: manifest.Host(), Floor: floor}
	// The order is gone after a reboot, and with it what was installed.
	order, err := v.tree.Order(v.name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if order.Attempt == v.attempt {
		terms.Installed = order.Installed
	}
	if err := terms.Check(v.manifest); err != nil {
		return refused("cannot use the manifest: %w", err)
	}
	return nil
}

// expired tells whether signatures that had expired are all that is wrong.
func expired(err error) bool {
	e, ok := errors.AsType[*trust.Error](err)
	return ok && e.Expired
}
