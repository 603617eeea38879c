// Package release is the publisher: it makes a directory of archives into what a
// target's source.url points at.
//
// It owns these in that directory, and leaves everything else in it alone:
//
//	client-manifest.json                                      the newest release, replaced last
//	<product>-<version>-<platform>-<digest>.tar.gz (or .zst)  archives, never changed once there
//	<product>-<version>-<platform>-<digest>.delta.zst         the same of deltas
//	.publish-*                                                 temporaries, cleared by the next run
//
// and in a signed repository, which one is that has a 1.root.json:
//
//	N.root.json                        which keys count; signed where those are kept, by Init and Rotate
//	.next-root.json                    the next one, while signatures are missing
//	<sha256>.client-manifest.json      each release that was signed
//	N.targets.json N.snapshot.json     signatures, never changed once a timestamp named them
//	timestamp.json                     the newest signature, replaced in the one step that publishes
//
// Private keys are never in that directory, and the root's never where releases are
// published. What the client's side (package trust) would not accept is not written.
//
// An archive's name carries the first twelve digits of its SHA-256. So whoever
// reads the directory through a plain web server, at any moment of a publication,
// has a manifest whose archives are there and match: the old ones until the
// manifest is renamed over, the new ones from then on. Old archives are not
// removed, because a machine may be about to ask for them.
//
// The directory is locked while it is changed, so publishers that run at once
// (one for each platform, say) all end up in the manifest. What is published is
// trusted as its publisher is; that it can be unpacked is checked all the same,
// with the rules that the machines apply.
package release

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// Request is one publication.
type Request struct {
	Dir        string
	Product    string   // "": the manifest's, else taken from the first archive's name
	Version    string   // of every archive
	MinVersion string   // "": none in a new version, unchanged in the same one
	Archives   []string // one or more paths; each file name ends in a platform, e.g. -linux-amd64.tar.gz
	Keys       Keys     // of targets and online, for a signed repository
	Deltas     int      // from how many releases back; 0: none
	Progress   func(done, total int)
	Now        time.Time
}

// Publish copies the archives into the directory and then writes the manifest.
// It returns the manifest that the directory has now, and whether that is another
// than before. If it fails the manifest is as it was, and so is the directory
// unless the disk itself fails in the last steps. Where it was killed in those, the
// next run goes on from the release before, or completes this one if its timestamp
// was written.
//
// A new version starts with the archives given, at the next sequence. At the
// version that is there already further platforms join it; only if the bytes of a
// platform change does the sequence grow.
func Publish(q Request) (m *manifest.Manifest, changed bool, err error) {
	names := make([]archiveName, len(q.Archives))
	for i, path := range q.Archives {
		if names[i], err = parseName(path, q.Version); err != nil {
			return nil, false, fmt.Errorf("cannot publish %s: %w", path, err)
		}
	}
	d, err := openDir(q.Dir)
	if err != nil {
		return nil, false, fmt.Errorf("cannot publish into %s: %w", q.Dir, plain(err))
	}
	defer d.Close()
	r, err := d.openRepository()
	if err != nil {
		return nil, false, fmt.Errorf("cannot publish into %s: %w", q.Dir, plain(err))
	}
	var s signers
	if r != nil {
		if s, err = r.signers(q.Keys, true); err != nil {
			return nil, false, fmt.Errorf("cannot publish into %s: %w", q.Dir, err)
		}
	}
	if err := r.complete(); err != nil {
		return nil, false, fmt.Errorf("cannot publish into %s: %w", q.Dir, plain(err))
	}

	old, err := readManifest(filepath.Join(q.Dir, manifest.FileName))
	if err != nil {
		return nil, false, fmt.Errorf("cannot publish into %s: %s: %w", q.Dir, manifest.FileName, plain(err))
	}
	product, err := chooseProduct(q, names, old)
	if err != nil {
		return nil, false, fmt.Errorf("cannot publish into %s: %w", q.Dir, err)
	}

	platforms := map[string]manifest.Platform{}
	archives := map[string]*temporary{}
	var copies []*temporary
	defer func() {
		for _, c := range copies {
			c.discard()
		}
	}()
	for i, path := range q.Archives {
		key := names[i].platform
		if _, twice := platforms[key]; twice {
			return nil, false, fmt.Errorf("cannot publish %s: %s is given twice", path, key)
		}
		c, err := d.copyOf(path)
		if err != nil {
			return nil, false, fmt.Errorf("cannot publish %s: %w", path, plain(err))
		}
		copies = append(copies, c)
		archives[key] = c
		c.name = fmt.Sprintf("%s-%s-%s-%s%s", product, q.Version, key, c.sha256[:12], names[i].extension)
		if platforms[key], err = c.describe(); err != nil {
			return nil, false, fmt.Errorf("cannot publish %s: %w", path, err)
		}
	}

	deltas, err := d.deltas(q, product, old, platforms, archives)
	if err != nil {
		return nil, false, fmt.Errorf("cannot make the deltas for %s: %w", q.Dir, err)
	}
	copies = append(copies, deltas...)

	m, err = next(old, q, product, platforms)
	if err != nil {
		return nil, false, fmt.Errorf("cannot publish into %s: %w", q.Dir, err)
	}
	text, err := finished(m)
	if err != nil {
		return nil, false, fmt.Errorf("cannot publish into %s: %w", q.Dir, err)
	}

	changed = !reflect.DeepEqual(m, old) || r != nil && r.targets == nil
	files := []file{{manifest.FileName, text}}
	if r != nil && changed {
		if files, err = r.sign(text, s, q.Now); err != nil {
			return nil, false, fmt.Errorf("cannot publish into %s: %w", q.Dir, err)
		}
	}

	for _, c := range copies {
		if err := c.keep(); err != nil {
			return nil, false, fmt.Errorf("cannot publish into %s: %s: %w", q.Dir, c.name, plain(err))
		}
	}
	if !changed {
		return m, false, d.Sync()
	}
	if err := d.write(files); err != nil {
		return nil, false, fmt.Errorf("cannot publish into %s: %w", q.Dir, err)
	}
	return m, true, nil
}

// chooseProduct keeps one directory to one product.
func chooseProduct(q Request, names []archiveName, old *manifest.Manifest) (string, error) {
	if q.Product != "" {
		if old != nil && old.Product != "" && old.Product != q.Product {
			return "", fmt.Errorf("it publishes %s; %s needs a directory of its own", old.Product, q.Product)
		}
		return q.Product, nil
	}
	for _, n := range names {
		if n.product != names[0].product {
			return "", fmt.Errorf("the archives are of two products, %s and %s", names[0].product, n.product)
		}
	}
	if old != nil && old.Product != "" {
		return old.Product, nil
	}
	return names[0].product, nil
}

// next is the manifest that follows old, which is nil in a new directory.
func next(old *manifest.Manifest, q Request, product string, platforms map[string]manifest.Platform) (*manifest.Manifest, error) {
	if old != nil && old.Sequence == math.MaxInt64 {
		return nil, errors.New("the sequence cannot grow any further")
	}
	released := q.Now.UTC().Format(time.RFC3339)
	if old == nil || old.Version != q.Version {
		m := &manifest.Manifest{Schema: manifest.Schema, Product: product, Version: q.Version, Sequence: 1,
			ReleasedAt: released, MinVersion: q.MinVersion, Platforms: platforms}
		if old != nil {
			m.Sequence = old.Sequence + 1
		}
		return m, nil
	}

	m := *old
	m.Product = product
	if q.MinVersion != "" {
		m.MinVersion = q.MinVersion
	}
	m.Platforms = maps.Clone(old.Platforms)
	other := old.Sequence == 0 // a manifest written by hand, without a sequence
	for key, p := range platforms {
		if was, have := old.Platforms[key]; have && was.SHA256 == p.SHA256 {
			p.Deltas = was.Deltas
		} else if have {
			other = true
		}
		m.Platforms[key] = p
	}
	if other {
		m.Sequence++
		m.ReleasedAt = released
	}
	return &m, nil
}

// readManifest returns nil if there is none.
func readManifest(path string) (*manifest.Manifest, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, manifest.MaxSize+1))
	if err != nil {
		return nil, err
	}
	return manifest.Parse(b)
}
