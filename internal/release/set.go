package release

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// SetRequest changes what the newest release says of itself. What is nil stays.
type SetRequest struct {
	Dir        string
	Keys       Keys
	Rollout    *int // percent
	Disabled   *bool
	MinVersion *string // "": none
	Retry      bool    // the same bytes at a higher sequence: machines that rejected them may try again
	Now        time.Time
}

// Set publishes the newest release again with these changes. In a signed
// repository it does so also without any: that renews what the targets key signed.
func Set(q SetRequest) (m *manifest.Manifest, changed bool, err error) {
	fail := func(err error) (*manifest.Manifest, bool, error) {
		return nil, false, fmt.Errorf("cannot change the release in %s: %w", q.Dir, plain(err))
	}
	d, err := openDir(q.Dir)
	if err != nil {
		return fail(err)
	}
	defer d.Close()
	r, err := d.openRepository()
	if err != nil {
		return fail(err)
	}
	var s signers
	if r != nil {
		if s, err = r.signers(q.Keys, true); err != nil {
			return fail(err)
		}
	}
	if err := r.complete(); err != nil {
		return fail(err)
	}
	old, err := readManifest(filepath.Join(q.Dir, manifest.FileName))
	if err == nil && old == nil {
		err = errors.New("there is none (hint: machinemon-release publish)")
	}
	if err != nil {
		return fail(err)
	}
	changedTo := *old
	m = &changedTo
	if q.Rollout != nil {
		m.Rollout = &manifest.Rollout{Percent: *q.Rollout}
		if *q.Rollout == 100 {
			m.Rollout = nil
		}
	}
	if q.Disabled != nil {
		m.Disabled = *q.Disabled
	}
	if q.MinVersion != nil {
		m.MinVersion = *q.MinVersion
	}
	if q.Retry {
		if m.Sequence == math.MaxInt64 {
			return fail(errors.New("the sequence cannot grow any further"))
		}
		m.Sequence++
	}
	if r == nil && reflect.DeepEqual(m, old) {
		return m, false, nil
	}
	text, err := finished(m)
	if err != nil {
		return fail(err)
	}
	files := []file{{manifest.FileName, text}}
	if r != nil {
		if files, err = r.sign(text, s, q.Now); err != nil {
			return fail(err)
		}
	}
	if err := d.write(files); err != nil {
		return fail(err)
	}
	return m, true, nil
}

// finished is the manifest's text, if a machine accepts it.
func finished(m *manifest.Manifest) ([]byte, error) {
	text, err := m.Marshal()
	if err == nil {
		_, err = manifest.Parse(text)
	}
	if err != nil {
		return nil, fmt.Errorf("the new manifest: %w", err)
	}
	return text, nil
}

// Refresh signs snapshot and timestamp anew, so that machines know what is
// published to be the newest there is. It needs the online key only.
func Refresh(dir string, k Keys, now time.Time) (*Status, error) {
	fail := func(err error) (*Status, error) {
		return nil, fmt.Errorf("cannot refresh %s: %w", dir, plain(err))
	}
	d, err := openDir(dir)
	if err != nil {
		return fail(err)
	}
	defer d.Close()
	r, err := d.openRepository()
	switch {
	case err != nil:
		return fail(err)
	case r == nil:
		return fail(errors.New("it is not a repository (hint: machinemon-release init)"))
	case r.targets == nil:
		return fail(errors.New("nothing is published yet (hint: machinemon-release publish)"))
	}
	s, err := r.signers(k, false)
	if err != nil {
		return fail(err)
	}
	if err := r.complete(); err != nil {
		return fail(err)
	}
	files, err := r.sign(nil, s, now)
	if err == nil {
		err = d.write(files)
	}
	if err != nil {
		return fail(err)
	}
	return r.status(), nil
}
