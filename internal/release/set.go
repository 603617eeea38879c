package release

import (
	"errors"
	"math"
	"reflect"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/rollout"
)

// SetRequest changes properties of the newest release. A nil field means no change.
type SetRequest struct {
	Dir        string
	Keys       Keys
	Rollout    *int // percent
	Disabled   *bool
	MinVersion *string      // "": none
	Retry      bool         // the same bytes at a higher sequence: machines that rejected them may try again
	Note       func(string) // is told if a plan ends; may be nil
	Now        time.Time
}

// Set publishes the newest release again with these changes. In a signed directory it
// also does so without changes: that renews the targets key's signature.
func Set(q SetRequest) (m *manifest.Manifest, changed bool, err error) {
	defer named(&err, "change the release in "+q.Dir)
	e, err := beginEdit(q.Dir, q.Keys.publishing)
	if err != nil {
		return nil, false, err
	}
	defer e.Close()
	old, err := e.released()
	if err != nil {
		return nil, false, err
	}
	if m, err = q.apply(*old); err != nil {
		return nil, false, err
	}
	e.told = q.Note
	e.ends = e.plan != nil && (q.Rollout != nil || q.Disabled != nil)
	if e.signed == nil && !e.ends && reflect.DeepEqual(m, old) {
		return m, false, nil
	}
	files, err := e.files(m, q.Now)
	if err == nil {
		err = e.write(files)
	}
	if err != nil {
		return nil, false, err
	}
	return m, true, nil
}

func (q SetRequest) apply(m manifest.Manifest) (*manifest.Manifest, error) {
	if q.Rollout != nil {
		m = *rollout.At(&m, *q.Rollout)
	}
	if q.Disabled != nil {
		m.Disabled = *q.Disabled
	}
	if q.MinVersion != nil {
		m.MinVersion = *q.MinVersion
	}
	if q.Retry {
		if m.Sequence == math.MaxInt64 {
			return nil, errors.New("the sequence cannot grow any further")
		}
		m.Sequence++
	}
	return &m, nil
}
