package fetch

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/fetch/source"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// Import copies the release that an operator names by its path into the new directory dir,
// which the swapper gives to the fetcher. The path is one that a source of type "file" may have, or
// an archive without a manifest; unvouched reports that neither a manifest nor the
// operator gave its digest. Only root calls Import. Unlike a configured source, the path
// may be writable by other users. The copy is verified like any release.
//
// The path's owner may try to make root copy a secret file under a release's name.
// Therefore manifest and archive are read from one directory, and only root can read the
// copy.
//
// Under trust mode "signature" the signature is copied too, and the signed checksums. Under
// "tuf" the repository's files are copied too, except the roots that root
// knows. They are verified where those of every source are.
func Import(ctx context.Context, tree state.Tree, t *target.Target, n target.Named, dir string) (unvouched bool, err error) {
	src := source.NewNamed(t, n)
	defer src.Close()
	var r *source.Release
	var beside map[string][]byte
	switch t.Trust.Mode {
	case target.TrustTUF:
		r, beside, err = readRepository(ctx, tree, src, t)
	case target.TrustSigned:
		r, beside, err = resolveSigned(ctx, tree, src, t, "")
	default:
		r, err = source.Resolve(ctx, src, "")
	}
	if err != nil {
		return false, err
	}
	hint := copiedDigest
	if n.SHA256 != "" {
		hint = typedDigest
	}
	if n.SHA256 != "" && n.SHA256 != r.Platform.SHA256 {
		return false, state.Refused("cannot use %s: its archive is to have sha256 %s, the manifest says %s (hint: %s)", n.Path, n.SHA256, r.Platform.SHA256, hint)
	}
	if n.Version != "" && n.Version != r.Manifest.Version {
		return false, state.Refused("cannot use %s: it is to be version %s, the manifest says %s", n.Path, n.Version, r.Manifest.Version)
	}
	return src.Unvouched && t.Trust.Mode == target.TrustChecksum, differs(bring(ctx, src, r, beside, dir), hint)
}

// recorder stores the files that are read of a signed repository.
type recorder struct {
	*source.Disk
	files map[string][]byte
}

func (r *recorder) Beside(ctx context.Context, file string, most int64) ([]byte, error) {
	b, err := r.Disk.Beside(ctx, file, most)
	if err == nil {
		r.files[file] = b
	}
	return b, err
}

// readRepository reads a signed repository, beginning at the roots that the swapper knows.
// It verifies the files and returns all that the fetcher will read.
func readRepository(ctx context.Context, tree state.Tree, src *source.Disk, t *target.Target) (*source.Release, map[string][]byte, error) {
	repo := &recorder{src, map[string][]byte{}}
	good, _, err := trust.Verifier{Tree: tree, Target: t.Name, Pin: t.Pin, ReadOnly: true,
		Terms: trust.Terms{Product: t.Trust.Product, Platform: manifest.Host()},
		From:  repo.Name()}.Collect(getter(ctx, repo))
	if err != nil {
		return nil, nil, err
	}
	r, err := source.Choose(good.Raw, repo.Name(), "")
	return r, repo.files, err
}

// bring makes the copy, with the files that are beside the manifest.
func bring(ctx context.Context, src *source.Disk, r *source.Release, beside map[string][]byte, dir string) error {
	body, err := src.Archive(ctx, r.Platform, download.Piece{})
	if err != nil {
		return err
	}
	defer body.Close()
	name := body.Name
	// This copy, and then the space that every attempt needs.
	if err := room("import "+name, filepath.Dir(dir), r.Platform.Size+needs(r.Platform)); err != nil {
		return err
	}
	failed := func(err error) error { return fmt.Errorf("cannot copy %s to %s: %w", name, dir, durable.Cause(err)) }
	if err := os.Mkdir(dir, 0o700); err != nil {
		return failed(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return failed(err)
	}
	defer root.Close()
	f, err := root.OpenFile(r.Platform.File, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return failed(err)
	}
	defer f.Close()
	c := download.Transfer{Report: func(int64, int64) {
		if ctx.Err() != nil { // the copy ends at its next read
			body.Close()
		}
	}}
	_, err = c.Receive(f, body, 0, r.Platform.Size, name)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	sum, _, err := durable.SHA256(io.NewSectionReader(f, 0, math.MaxInt64))
	if err != nil {
		return failed(err)
	}
	if sum != r.Platform.SHA256 {
		return state.Refused("cannot use %s: %w", name, download.Differs(fmt.Sprintf("its sha256 is %s instead of %s", sum, r.Platform.SHA256)))
	}
	if err := durable.WriteFile(filepath.Join(dir, manifest.FileName), r.Raw, 0o600); err != nil {
		return err
	}
	for name, b := range beside {
		if err := durable.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}
