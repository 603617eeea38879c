// Package verify turns a bundle into a verified tree, or refuses it.
//
// It runs as machinemon-verify, without a network, and owns verify/T of the state:
// status.json and the spool. Each entry of the spool has the manifest as published, the
// metadata that signs it, if there is any, the files that the target installs under plain
// names, and a receipt. The verifier takes bundles from the fetcher's spool and removes
// each of them, also after an error. If the attempt only checks, the verifier hands nothing
// on, and remembers in status.json what only the archive shows.
//
// Trust: the verifier uses the fetcher's bytes only as far as it can check them. It reads
// from the receipt only which attempt the bundle belongs to and where the files are. It
// looks up platform, product and digests in the manifest again, and hashes archive and
// deltas while it copies them, so that the hashed bytes are those that it unpacks or
// applies. If trust.mode is "tuf", the manifest must be signed, by the same rules as the
// swapper's, and have the digest of every file. This role stores no state of a repository:
// it reads root's. If it is "signature", what is signed is checked before anything is
// unpacked. An archive that is signed itself, or by its checksum, is handed on with the
// tree, so that root can check it, too.
package verify

import (
	"errors"
	"io/fs"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/signature"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// Run verifies the newest bundle of a target and records the result before it returns. The
// attempt has no ID if there was nothing to do. If asked is not nil, the fetcher was asked
// for the full archive; the attempt continues there and nothing is recorded. The error is
// a failure to record the result or to remove the bundle; every other failure is in the
// attempt's Result and Reason.
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
		a, err := v.recordAttempt(err)
		return a, nil, err
	}
	end := v.verify(bundle, load)
	cleared := bundle.Consume()
	if v.asked != nil {
		return state.Attempt{ID: attempt, Version: v.manifest.Version, Result: state.ResultFailed}, v.asked, cleared
	}
	a, err := v.recordAttempt(end)
	return a, nil, errors.Join(err, cleared)
}

type verifier struct {
	tree    state.Tree
	name    string
	attempt state.AttemptID

	asked *state.Fallback // the request for the archive instead of the deltas, or nil

	checks bool          // the attempt only checks: nothing is handed on
	inside *state.Inside // what was found in the archive; nil if the manifest shows it

	// These are read from the bundle, and empty until then.
	receipt  state.Receipt
	manifest *manifest.Manifest
	raw      []byte             // its bytes as published
	metadata []byte             // what signs it, in the trust modes "tuf" and "signature"
	proof    *signature.Archive // what remains to be checked of the archive; nil for nothing
	key      string             // of this machine's platform
	platform manifest.Platform

	entries map[string]string // the names of the archive's entries, and why each is unusable
}

func (v *verifier) verify(bundle *state.Bundle, load func() (*target.Target, error)) error {
	if err := errors.Join(v.tree.Tidy(state.RoleVerify, v.name), v.tree.DropFallback(v.name)); err != nil {
		return err
	}
	order, err := v.order()
	if err != nil {
		return err
	}
	v.checks = order.Verb == state.VerbCheck
	t, err := load()
	if err != nil {
		return state.Fail(state.ResultMisconfigured, "%w", err)
	}
	if err := v.read(bundle, t); err != nil {
		return err
	}
	return v.handOn(t, bundle)
}

// read reads receipt and manifest, and selects this machine's platform.
func (v *verifier) read(bundle *state.Bundle, t *target.Target) (err error) {
	if v.receipt, err = bundle.Receipt(); err != nil {
		return state.Refused("%w", err)
	}
	if v.receipt.Attempt != v.attempt {
		return state.Refused("cannot use the bundle: its receipt is of another attempt")
	}
	if v.raw, err = bundle.Manifest(); err != nil {
		return state.Refused("%w", err)
	}
	v.key = manifest.Host()
	switch t.Trust.Mode {
	case target.TrustTUF:
		err = v.tuf(bundle, t)
	case target.TrustSigned:
		err = v.signed(bundle, t)
	default:
		if v.manifest, err = manifest.Parse(v.raw); err != nil {
			err = state.Refused("cannot use the manifest: %w", err)
		}
	}
	if err != nil {
		return err
	}
	if product := t.Trust.Product; product != "" && v.manifest.Product != product {
		return state.Refused("cannot use the manifest: it is of product %q, this target takes %q", v.manifest.Product, product)
	}
	if v.platform, err = v.manifest.Platform(v.key); err != nil {
		return state.Refused("cannot use the manifest: %w", err)
	}
	return nil
}

// signed reads the manifest of a target with trust mode "signature".
func (v *verifier) signed(bundle *state.Bundle, t *target.Target) (err error) {
	if v.metadata, err = bundle.Metadata(signature.MaxEvidence); err != nil {
		return state.Refused("%w", err)
	}
	order, err := v.order()
	if err != nil {
		return err
	}
	v.manifest, v.proof, err = signature.Verifier{Tree: v.tree, Target: t, Platform: v.key, Installed: order.Installed,
		From: "the bundle", Clock: time.Now()}.Manifest(v.metadata, v.raw)
	return err
}

// tuf reads the manifest of a target with trust mode "tuf" from the swapper's State, as
// the swapper will, and keeps the metadata for it.
func (v *verifier) tuf(bundle *state.Bundle, t *target.Target) (err error) {
	if v.metadata, err = bundle.Metadata(trust.MaxMetadata); err != nil {
		return state.Refused("%w", err)
	}
	order, err := v.order()
	if err != nil {
		return err
	}
	terms := trust.Terms{Product: t.Trust.Product, Platform: v.key, Installed: order.Installed}
	v.manifest, err = trust.Verifier{Tree: v.tree, Target: v.name, Pin: t.Pin, Role: state.RoleSwap, ReadOnly: true,
		Terms: terms, From: "the bundle"}.Verify(v.metadata, v.raw)
	return err
}

// order returns the order of the attempt. It is zero after a reboot, which removes orders:
// the attempt's record then has no origin, and only the swapper checks Terms.Installed.
func (v *verifier) order() (state.Order, error) {
	order, err := v.tree.Order(v.name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && order.Attempt != v.attempt {
		return state.Order{}, nil
	}
	return order, err
}

// errChecked ends an attempt that only checks, and whose release could be handed on.
var errChecked = errors.New("it was only checked")

// recordAttempt records how the attempt ended here; end is nil if it was handed on. A check
// that could not look into the archive has found the release all the same.
func (v *verifier) recordAttempt(end error) (state.Attempt, error) {
	a := state.Attempt{ID: v.attempt, Time: time.Now().UTC(), Stage: string(state.RoleVerify), Result: state.ResultHandedOn}
	seen := end == nil || errors.Is(end, errChecked)
	switch {
	case seen && v.checks:
		a.Result = state.ResultAvailable
	case !seen && v.checks && state.ResultOf(end) == state.ResultFailed:
		a.Result, a.Warning = state.ResultAvailable, state.Unseen(end)
	case !seen:
		a.Result, a.Reason, a.Expired = state.ResultOf(end), end.Error(), trust.Expired(end)
	}
	if v.raw != nil {
		a.Manifest = manifest.Digest(v.raw)
	}
	if v.manifest != nil {
		a.Version, a.Sequence = v.manifest.Version, v.manifest.Sequence
	}
	order, err := v.order()
	if err != nil {
		return a, err
	}
	a.Origin, a.From = order.Origin, order.Installed
	if a.Result == state.ResultAvailable {
		a.Reason = policy.Descent(a.Version, a.From)
	}
	return a, v.tree.Update(state.RoleVerify, v.name, func(s *state.Status) {
		s.Record(a)
		if seen && v.inside != nil {
			s.Inside = v.inside
		}
	})
}
