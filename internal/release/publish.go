// Package release is the publisher: it fills the directory that a target's source.url
// points to.
//
// It owns these files in the directory, and leaves all others alone:
//
//	client-manifest.json                                      the newest release, replaced last
//	<product>-<version>-<platform>-<digest>.tar.gz (or .zst)  archives, never changed once there
//	<product>-<version>-<platform>-<digest>.delta.zst         the same of deltas,
//	<product>-<version>-<platform>-<digest>.patch             in both formats
//	.rollout.json                                              the plan for the newest release's rollout
//	.publish-*                                                 temporaries, cleared by the next run
//
// and in a signed directory, which is one that has a 1.root.json:
//
//	N.root.json                        which keys count; signed where those are kept, by Init and Rotate
//	.next-root.json                    the next one, while signatures are missing
//	<sha256>.client-manifest.json      each release that was signed, and each step of the plan
//	N.targets.json N.snapshot.json     signatures, never changed once a timestamp or plan named them
//	timestamp.json                     the newest signature, replaced in the one step that publishes
//
// Private keys are never in that directory. Root's belong on separate media: publications
// are refused while KEYS/root has a root key that can be read, and if a root key is
// passed as a file. Other media cannot be checked. Metadata that the client (package
// trust) would refuse is not written.
//
// An archive's name has the first twelve digits of its SHA-256. So at each moment of a
// publication, the manifest in the directory names archives that are there and match: the
// old ones until the new manifest replaces the old, then the new ones. Any web server can
// serve the directory. Old archives are not removed, because a machine may be about to
// request them.
//
// The directory is locked during a change, so the archives of publishers that run at once
// (for example one for each platform) all end up in the manifest. A publication is
// trusted like its publisher. Nevertheless it is checked, by the machines' rules, that
// the archives can be unpacked.
package release

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/rollout"
)

// Request is one publication.
type Request struct {
	Dir        string
	Product    string   // "": that of the manifest, else from the first archive's name
	Version    string   // of every archive
	MinVersion string   // "": none in a new version, unchanged in the same one
	Archives   []string // one or more paths; each file name ends in a platform, e.g. -linux-amd64.tar.gz
	Keys       Keys     // of targets and online, for a signed directory
	Deltas     int      // from how many releases back; 0: none
	Progress   func(done, total int)
	Rollout    *int         // percent; nil: all machines in a new version, unchanged in the same one
	Disabled   *bool        // nil: false in a new version, unchanged in the same one
	Note       func(string) // is told what the manifest keeps or loses unasked; may be nil
	Now        time.Time
}

// Publish copies the archives into the directory and then writes the manifest. It returns
// the directory's manifest, and whether it changed. After an error the manifest is
// unchanged, and so is the directory unless the disk failed in the last steps. If Publish
// is killed in those, the next run continues from the previous release, or completes this
// one if its timestamp was written.
//
// A new version starts with the given archives, at the next sequence. Archives for the
// version that is already published add their platforms to it; the sequence grows only if
// the bytes of a platform change.
func Publish(q Request) (m *manifest.Manifest, changed bool, err error) {
	defer named(&err, "publish into "+q.Dir)
	names, err := parseNames(q)
	if err != nil {
		return nil, false, err
	}
	e, err := beginEdit(q.Dir, q.Keys.publishing)
	if err != nil {
		return nil, false, err
	}
	defer e.Close()
	old, err := e.newest()
	if err != nil {
		return nil, false, err
	}
	product, err := chooseProduct(q, names, old)
	if err != nil {
		return nil, false, err
	}
	b := &batch{}
	defer b.discard()
	if err := b.add(e.dir, q, names, product); err != nil {
		return nil, false, err
	}
	if err := b.addDeltas(e.dir, q, product, old); err != nil {
		return nil, false, fmt.Errorf("the deltas: %w", err)
	}
	if m, err = nextManifest(old, q, product, b.platforms); err != nil {
		return nil, false, err
	}
	e.told = q.Note
	e.ends = e.plan != nil && (q.Rollout != nil || q.Disabled != nil)
	e.noteKept(old, m, q)
	changed = !reflect.DeepEqual(m, old) || e.ends || e.signed != nil && e.signed.targets == nil
	var files []file
	if changed {
		if files, err = e.files(m, q.Now); err != nil {
			return nil, false, err
		}
	}
	// No check fails after this line.
	if err := b.publish(); err != nil {
		return nil, false, err
	}
	if err := e.write(files); err != nil {
		return nil, false, err
	}
	if err := e.Sync(); err != nil { // an archive may have been repaired without a new manifest
		return nil, false, err
	}
	return m, changed, nil
}

// chooseProduct returns the product's name. A directory can have only one product.
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

// nextManifest returns the manifest after old, which is nil in a new directory.
func nextManifest(old *manifest.Manifest, q Request, product string, platforms map[string]manifest.Platform) (*manifest.Manifest, error) {
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
		q.limit(m)
		return m, nil
	}

	m := *old
	m.Product = product
	q.limit(&m)
	if q.MinVersion != "" {
		m.MinVersion = q.MinVersion
	}
	m.Platforms = maps.Clone(old.Platforms)
	other := old.Sequence == 0 // a handwritten manifest may have no sequence
	for key, p := range platforms {
		if was, have := old.Platforms[key]; have && was.SHA256 == p.SHA256 {
			p.Deltas, p.Patches = was.Deltas, was.Patches
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

// limit writes into a manifest which machines may install the release, if the request says.
func (q Request) limit(m *manifest.Manifest) {
	if q.Rollout != nil {
		*m = *rollout.At(m, *q.Rollout)
	}
	if q.Disabled != nil {
		m.Disabled = *q.Disabled
	}
}

// noteKept notes what m keeps of the manifest before it, or does not keep, unasked.
func (e *edit) noteKept(old, m *manifest.Manifest, q Request) {
	if old == nil {
		return
	}
	does := "keeps"
	if old.Version != m.Version {
		does = "does not keep, from " + old.Version
	}
	if q.Rollout == nil && old.Rollout != nil {
		e.note(fmt.Sprintf("%s: a rollout of %d %%", does, old.Rollout.Percent))
	}
	if q.Disabled == nil && old.Disabled {
		e.note(does + ": disabled")
	}
	if e.plan.Of(m) && !e.ends {
		e.note("keeps: the plan for its rollout")
	}
}
