package rollout

import (
	"bytes"
	"reflect"
	"testing"
)

// FuzzDecode: a plan that is read can be written and is the same then.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{"format": 1, "version": "1.0.0", "sequence": 3, "steps": [1, 10, 100]}`, `{"steps": [100]}`, `{"format": 99, "steps": [1]}`, `{"steps": [0, 101, -1]}`, `{}`, `null`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Decode(bytes.NewReader(b))
		if err != nil {
			return
		}
		if err := CheckSteps(p.Steps); err != nil {
			t.Errorf("%q: %v", b, err)
		}
		again, err := p.Marshal()
		if err != nil {
			return // JSON cannot express a time after the year 9999
		}
		if q, err := Decode(bytes.NewReader(again)); err != nil || !reflect.DeepEqual(p, q) {
			t.Errorf("%+v\n%+v, %v", p, q, err)
		}
	})
}
