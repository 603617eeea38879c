package release

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/rollout"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// edit is a directory that Publish, Set or Refresh changes: it is locked, and the keys
// are loaded.
type edit struct {
	*dir
	signed *signedDir // nil: without signatures
	keys   signers
	plan   *rollout.Plan // of the newest release's rollout; nil: none
	last   int64         // the highest version of targets metadata that was signed
	ends   bool          // the plan is to end
	told   func(string)  // for note; may be nil
}

// beginEdit opens the directory. Only after all checks have passed does it complete or
// remove what a killed publisher left.
func beginEdit(path string, keys func(*signedDir) (signers, error)) (_ *edit, err error) {
	d, err := openDir(path)
	if err != nil {
		return nil, err
	}
	e := &edit{dir: d}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if e.plan, err = rollout.Read(path); err != nil {
		return nil, err
	}
	if e.signed, err = readSigned(path); err != nil || e.signed == nil {
		return e, err
	}
	if e.signed.targets != nil {
		e.last = e.signed.targets.Signed.Version
	}
	if e.plan != nil {
		for _, version := range e.plan.Signed {
			e.last = max(e.last, version)
		}
	}
	if e.keys, err = keys(e.signed); err != nil {
		return nil, err
	}
	if err = e.discard(); err != nil {
		return nil, err
	}
	return e, e.complete()
}

// snapshotsKept is the number of snapshots that remain: a slow machine, or a cache, may
// have a timestamp of a past day.
const snapshotsKept = 30

// discard removes metadata of later versions than the timestamp names or a plan is to
// publish, manifests that no targets metadata names, and old snapshots. No machine requests
// them.
func (e *edit) discard() error {
	r := e.signed
	entries, err := os.ReadDir(r.path)
	if err != nil {
		return err
	}
	last := map[string]int64{"snapshot": 0, "targets": 0}
	if r.timestamp != nil {
		last["snapshot"], last["targets"] = r.snapshot.Signed.Version, r.targets.Signed.Version
	}
	planned := map[int64]bool{}
	if e.plan != nil {
		for _, version := range e.plan.Signed {
			planned[version] = true
		}
	}
	named := map[string]bool{}
	var stray []string
	for _, e := range entries {
		if m := versioned.FindStringSubmatch(e.Name()); m != nil {
			if n, err := strconv.ParseInt(m[1], 10, 64); err != nil || n > last[m[2]] && !(m[2] == "targets" && planned[n]) || m[2] == "snapshot" && n <= last[m[2]]-snapshotsKept {
				stray = append(stray, e.Name())
			} else if m[2] == "targets" {
				if b, err := os.ReadFile(filepath.Join(r.path, e.Name())); err == nil {
					name, _, _ := trust.Next(trust.RoleTargets, b) // after an error name is "", which no file has
					named[name] = true
				}
			}
		}
	}
	for _, e := range entries {
		if hashed.MatchString(e.Name()) && !named[e.Name()] {
			stray = append(stray, e.Name())
		}
	}
	for _, name := range stray {
		if err := os.Remove(filepath.Join(r.path, name)); err != nil {
			return err
		}
	}
	return nil
}

// complete writes the plain manifest, the last step of a publication, if a killed
// publisher did not write it.
func (e *edit) complete() error {
	text := e.signed.now.Manifest
	if text == nil {
		return nil
	}
	if sum, err := digest(filepath.Join(e.Name(), manifest.FileName)); err == nil && sum == manifest.Digest(text) {
		return nil
	}
	return e.replace(manifest.FileName, text)
}

// newest returns the directory's manifest, or nil before the first publication.
func (e *edit) newest() (*manifest.Manifest, error) {
	m, err := readManifest(filepath.Join(e.Name(), manifest.FileName))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", manifest.FileName, plain(err))
	}
	return m, nil
}

// files returns what a publication of the manifest writes, in the order of writing. If the
// plan is for this release, it goes on. Otherwise it ends here: a plan that was lost raises
// nothing, and one that was left would raise a release for which it was not made.
func (e *edit) files(m *manifest.Manifest, now time.Time) ([]file, error) {
	if e.plan.Of(m) && !e.ends {
		m = rollout.At(m, e.plan.Percent) // a killed Advance may have left another one
	}
	text, err := marshal(m)
	if err != nil {
		return nil, err
	}
	files := []file{{manifest.FileName, text}}
	var steps []file
	if e.plan != nil && (e.ends || !e.plan.Of(m)) {
		e.note("ended the plan for the rollout of " + e.plan.Version)
		e.plan, steps = nil, []file{{name: rollout.FileName}}
	}
	if e.signed != nil {
		next, err := e.sign(text, now)
		if err != nil {
			return nil, err
		}
		more, err := e.signSteps(m, now)
		if err != nil {
			return nil, err
		}
		if files, err = e.signed.publish(next, e.keys, now); err != nil {
			return nil, err
		}
		steps = append(append(steps, next.files()...), more...)
	}
	if e.plan != nil {
		plan, err := e.plan.Marshal()
		if err != nil {
			return nil, err
		}
		steps = append(steps, file{rollout.FileName, plan})
	}
	return append(steps, files...), nil
}

// note tells the publisher what was not asked for.
func (e *edit) note(line string) {
	if e.told != nil {
		e.told(line)
	}
}

// sign signs a manifest, as a version of the targets metadata that was never signed before:
// so a thief of the online key cannot publish what was signed for another purpose.
func (e *edit) sign(text []byte, now time.Time) (*release, error) {
	next, err := signTargets(text, e.last, e.keys.targets, now)
	if err == nil {
		e.last = next.targets.Signed.Version
	}
	return next, err
}

func marshal(m *manifest.Manifest) ([]byte, error) {
	text, err := m.Marshal()
	if err == nil {
		_, err = manifest.Parse(text)
	}
	if err != nil {
		return nil, fmt.Errorf("the new manifest: %w", err)
	}
	return text, nil
}

// write replaces the files one by one, or removes those without a text.
func (e *edit) write(files []file) error {
	for _, f := range files {
		var err error
		if f.text == nil {
			err = e.remove(f.name)
		} else {
			err = e.replace(f.name, f.text)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, plain(err))
		}
	}
	return nil
}

// readManifest returns nil if there is no manifest.
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
