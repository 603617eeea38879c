package archive

import (
	"bytes"
	"testing"
)

// FuzzDelta: a delta restores what it was made from.
func FuzzDelta(f *testing.F) {
	f.Add([]byte(""), []byte(""))
	f.Add([]byte("the old file"), []byte("the new file"))
	f.Add(bytes.Repeat([]byte("old"), 1000), append(bytes.Repeat([]byte("old"), 500), "new"...))
	f.Fuzz(func(t *testing.T, before, after []byte) {
		delta, err := Diff(before, after)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if sum, err := Patch(&out, bytes.NewReader(delta), before, int64(len(after))); err != nil || !bytes.Equal(out.Bytes(), after) || sum != digest(string(after)) {
			t.Errorf("%d bytes with %s, %v", out.Len(), sum, err)
		}
	})
}

// FuzzPatch: a hostile delta makes exactly the size that was asked for, or an error and
// not more than one byte too many.
func FuzzPatch(f *testing.F) {
	for _, after := range []string{"", "the new file", "the old file with more of the old file"} {
		delta, err := Diff([]byte("the old file"), []byte(after))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(delta, []byte("the old file"), uint16(len(after)))
	}
	f.Fuzz(func(t *testing.T, delta, old []byte, size uint16) {
		var out bytes.Buffer
		sum, err := Patch(&out, bytes.NewReader(delta), old, int64(size))
		if out.Len() > int(size)+1 || err == nil && (out.Len() != int(size) || sum != digest(out.String())) {
			t.Errorf("%d bytes of %d with %q, %v", out.Len(), size, sum, err)
		}
	})
}
