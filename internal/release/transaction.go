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
	"github.com/machinemon/machinemon-update/internal/trust"
)

// edit is a directory that Publish, Set or Refresh changes: it is locked, and the keys
// are loaded.
type edit struct {
	*dir
	signed *signedDir // nil: without signatures
	keys   signers
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
	if e.signed, err = readSigned(path); err != nil || e.signed == nil {
		return e, err
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

// discard removes metadata of later versions than the timestamp names, manifests that no
// targets metadata names, and old snapshots. No machine requests them.
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
	named := map[string]bool{}
	var stray []string
	for _, e := range entries {
		if m := versioned.FindStringSubmatch(e.Name()); m != nil {
			if n, err := strconv.ParseInt(m[1], 10, 64); err != nil || n > last[m[2]] || m[2] == "snapshot" && n <= last[m[2]]-snapshotsKept {
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

// files returns what a publication of the manifest writes, in the order of writing.
func (e *edit) files(m *manifest.Manifest, now time.Time) ([]file, error) {
	text, err := m.Marshal()
	if err == nil {
		_, err = manifest.Parse(text)
	}
	if err != nil {
		return nil, fmt.Errorf("the new manifest: %w", err)
	}
	if e.signed == nil {
		return []file{{manifest.FileName, text}}, nil
	}
	return e.signed.sign(text, e.keys, now)
}

// write replaces the files one by one.
func (e *edit) write(files []file) error {
	for _, f := range files {
		if err := e.replace(f.name, f.text); err != nil {
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
