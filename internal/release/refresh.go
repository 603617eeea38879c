package release

import (
	"errors"
	"time"
)

// Refresh renews the signatures of snapshot and timestamp, so that machines know that
// they have the newest release. It needs only the online key.
func Refresh(dir string, k Keys, now time.Time) (_ *Status, err error) {
	defer named(&err, "refresh "+dir)
	e, err := beginEdit(dir, k.refreshing)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	switch {
	case e.signed == nil:
		return nil, errNotSigned
	case e.signed.targets == nil:
		return nil, errors.New("nothing is published yet (hint: machinemon-release publish)")
	}
	files, err := e.signed.publish(nil, e.keys, now)
	if err != nil {
		return nil, err
	}
	if err := e.write(files); err != nil {
		return nil, err
	}
	return e.signed.status(), nil
}
