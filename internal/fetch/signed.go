package fetch

import (
	"context"
	"time"

	"github.com/machinemon/machinemon-update/internal/fetch/source"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/signature"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// resolveSigned reads what a source offers in trust mode "signature", and verifies it as far as
// that needs no archive. It returns also the files beside the manifest or archive that
// prove it. If there are several signatures, one that is valid suffices.
func resolveSigned(ctx context.Context, tree state.Tree, src source.Source, t *target.Target, installed string) (*source.Release, map[string][]byte, error) {
	from, ok := src.(source.Signed)
	if !ok {
		return nil, nil, state.Refused("cannot verify a release of %s: an archive that is named by its address has no signature beside it "+
			"(hint: download archive and signature into one directory, then: sudo machinemon-update import %s ARCHIVE)", t.Name, t.Name)
	}
	whole := t.Trust.Product != ""
	r, err := source.Resolve(ctx, src, t.Trust.Product)
	if err != nil {
		return nil, nil, err
	}
	all, err := from.Evidence(ctx, r, whole)
	if err != nil {
		return nil, nil, err
	}
	v := signature.Verifier{Tree: tree, Target: t, Platform: manifest.Host(), Installed: installed, From: from.Name(), Clock: time.Now()}
	err = source.Lacking(from, r, whole)
	for n, e := range all {
		evidence, failed := e.Encode()
		if failed == nil {
			_, _, failed = v.Manifest(evidence, r.Raw)
		}
		if failed == nil {
			r.Metadata = evidence
			beside := map[string][]byte{}
			if e.Content != nil {
				beside[e.File] = e.Content
			}
			if e.Beside != "" {
				beside[e.Beside] = e.Signature
			}
			return r, beside, nil
		}
		if n == 0 {
			err = failed
		}
	}
	return nil, nil, err
}
