// Package verify turns a bundle into a verified tree, or refuses it.
//
// It runs as machinemon-verify, without a network, and owns verify/T of the
// state: status.json and the spool, in which each entry is the manifest's own
// bytes, the metadata that vouches for it, if there is any, the files that the
// target installs under plain names, and a receipt.
// It takes bundles from the fetcher's spool and removes each one that it took, also
// after an error.
//
// Trust: the fetcher's bytes are believed only as far as they can be checked
// here. The receipt says nothing but which attempt the bundle is of and what lies
// where; platform, product and digests are looked up in the manifest again, and
// archive and deltas are hashed while they are copied, so that what was hashed is
// what is unpacked or applied. Of a
// target with trust.mode = "tuf" the manifest must be signed, as the swapper will
// have it, and name the digest of every file. This role keeps nothing of what it
// saw of a repository: it begins where root is, whose state it reads.
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

// Run verifies the newest bundle of a target and records how that ended before
// it returns. The attempt has no ID when there was nothing to do. asked is not nil
// when the fetcher was asked for the full archive: the attempt goes on there, and
// nothing is recorded. The error is for what could not even be recorded, or be
// cleared away; every other failure is in the attempt's Result and Reason.
func Run(tree state.Tree, dirs target.Dirs, name string) (a state.Attempt, asked *state.Fallback, err error) {
	return run(tree, name, func() (*target.Target, error) { return dirs.Load(name) })
}

func run(tree state.Tree, name string, load func() (*target.Target, error)) (state.Attempt, *state.Fallback, error) {
	attempt, bundle, err := tree.Claim(state.RoleFetch, name)
	if attempt == "" {
		return state.Attempt{Result: state.ResultFailed}, nil, err
	}
	v := verifier{tree: tree, name: name, attempt: attempt}
	if err != nil {
		a, err := v.recordAttempt(state.ResultFailed, err)
		return a, nil, err
	}
	result, end := v.verify(bundle, load)
	cleared := bundle.Consume()
	if v.asked != nil {
		return state.Attempt{ID: attempt, Version: v.manifest.Version, Result: result}, v.asked, cleared
	}
	a, err := v.recordAttempt(result, end)
	return a, nil, errors.Join(err, cleared)
}

func refused(format string, args ...any) error {
	return state.Fail(state.ResultRefused, format, args...)
}

type verifier struct {
	tree    state.Tree
	name    string
	attempt state.AttemptID

	asked *state.Fallback // for the archive in place of the bundle's deltas; nil while it is not wanted

	// What was read of the bundle; nil and empty until then.
	receipt  state.Receipt
	manifest *manifest.Manifest
	raw      []byte // its own bytes
	metadata []byte // what vouches for it, of a target under tuf
	key      string // of this machine's platform
	platform manifest.Platform
}

func (v *verifier) verify(bundle *state.Bundle, load func() (*target.Target, error)) (state.Result, error) {
	if err := errors.Join(v.tree.Tidy(state.RoleVerify, v.name), v.tree.DropFallback(v.name)); err != nil {
		return state.ResultFailed, err
	}
	t, err := load()
	if err != nil {
		return state.ResultMisconfigured, err
	}
	if err := v.read(bundle, t); err != nil {
		return state.ResultFailed, err
	}
	if err := v.handOn(t, bundle); err != nil {
		return state.ResultFailed, err
	}
	return state.ResultHandedOn, nil
}

// read reads receipt and manifest, and chooses the platform by this machine.
func (v *verifier) read(bundle *state.Bundle, t *target.Target) error {
	var err error
	if v.receipt, err = bundle.Receipt(); err != nil {
		return refused("%w", err)
	}
	if v.receipt.Attempt != v.attempt {
		return refused("cannot use the bundle: its receipt is of another attempt")
	}
	raw, err := bundle.Manifest()
	if err != nil {
		return refused("%w", err)
	}
	v.raw, v.key = raw, manifest.Host()
	if t.Trust.Mode == target.TrustTUF {
		err = v.signed(bundle, t)
	} else if v.manifest, err = manifest.Parse(raw); err != nil {
		err = refused("cannot use the manifest: %w", err)
	}
	if err != nil {
		return err
	}
	if product := t.Trust.Product; product != "" && v.manifest.Product != product {
		return refused("cannot use the manifest: it is of product %q, this target takes %q", v.manifest.Product, product)
	}
	if v.platform, err = v.manifest.Platform(v.key); err != nil {
		return refused("cannot use the manifest: %w", err)
	}
	return nil
}

// recordAttempt writes how the attempt ended here.
func (v *verifier) recordAttempt(result state.Result, end error) (state.Attempt, error) {
	a := state.Attempt{ID: v.attempt, Time: time.Now().UTC(), Stage: string(state.RoleVerify), Result: result}
	if end != nil {
		a.Reason, a.Expired = end.Error(), trust.Expired(end)
		if f, ok := errors.AsType[*state.Failure](end); ok {
			a.Result = f.Result
		}
	}
	if v.raw != nil {
		a.Manifest = manifest.Digest(v.raw)
	}
	if v.manifest != nil {
		a.Version, a.Sequence = v.manifest.Version, v.manifest.Sequence
	}
	// The order is gone after a reboot: then the record does without.
	order, err := v.tree.Order(v.name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return a, err
	}
	if order.Attempt == v.attempt {
		a.Origin, a.From = order.Origin, order.Installed
	}
	return a, v.tree.Update(state.RoleVerify, v.name, func(s *state.Status) { s.Record(a) })
}
