package release

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// Verified is the result of Verify: what a machine would see.
type Verified struct {
	Release *trust.Release
	Files   int // number of archives and deltas that exist and match
}

// Verify verifies the directory as a machine does that knows only the pin: the path of a
// root, or "" for the directory's first root. It ignores archives and deltas that are
// named by a URL.
func Verify(dir, pin string, now time.Time) (_ *Verified, err error) {
	if pin == "" {
		pin = filepath.Join(dir, rootFile(1))
	}
	root, err := os.ReadFile(pin)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w (hint: --root FILE is the root to start from)", pin, plain(err))
	}
	defer named(&err, "verify "+dir)
	release, _, err := trust.Client{Pin: root, Clock: now}.Collect(filesOf(dir))
	if err != nil {
		return nil, err
	}
	v := &Verified{Release: release}
	m := release.Manifest
	for key, p := range m.Platforms {
		terms := trust.Terms{Product: m.Product, Platform: key}
		if err := terms.Check(m); err != nil {
			return nil, fmt.Errorf("the manifest: %w", err)
		}
		named := map[string]string{p.File: p.SHA256}
		for _, d := range slices.Concat(p.Deltas, p.Patches) {
			named[d.File] = d.SHA256
		}
		for name, want := range named {
			if filepath.Base(name) != name {
				continue
			}
			sum, err := digest(filepath.Join(dir, name))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, plain(err))
			}
			if sum != want {
				return nil, fmt.Errorf("%s: its sha256 is %s, the manifest says %s", name, sum, want)
			}
			v.Files++
		}
	}
	if sum, err := digest(filepath.Join(dir, manifest.FileName)); err != nil || sum != manifest.Digest(release.Raw) {
		return nil, fmt.Errorf("%s is not the signed one (hint: \"refresh\" completes what was interrupted)", manifest.FileName)
	}
	return v, nil
}

// filesOf returns a Get that reads the files of a repository in a directory.
func filesOf(dir string) trust.Get {
	return func(file string, _ int64) ([]byte, error) {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			err = fmt.Errorf("%s: %w", file, plain(err))
		}
		return b, err
	}
}
