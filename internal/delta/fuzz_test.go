package delta

import (
	"bytes"
	"testing"
)

// FuzzDelta: a delta of either format restores what it was made from.
func FuzzDelta(f *testing.F) {
	f.Add([]byte(""), []byte(""))
	f.Add([]byte("the old file"), []byte("the new file"))
	f.Add(bytes.Repeat([]byte("old"), 1000), append(bytes.Repeat([]byte("old"), 500), "new"...))
	f.Fuzz(func(t *testing.T, before, after []byte) {
		for name, diff := range formats {
			made, err := diff(before, after)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if sum, err := Patch(&out, section(made), section(before), int64(len(after))); err != nil || !bytes.Equal(out.Bytes(), after) || sum != digest(after) {
				t.Errorf("%s: %d bytes with %s, %v", name, out.Len(), sum, err)
			}
		}
	})
}

// checkPatch: a hostile delta makes exactly the size that was asked for, or an error and not
// more than one byte too many.
func checkPatch(t *testing.T, made, old []byte, size int64) {
	var out bytes.Buffer
	sum, err := Patch(&out, section(made), section(old), size)
	if int64(out.Len()) > size+1 || err == nil && (int64(out.Len()) != size || sum != digest(out.Bytes())) {
		t.Errorf("%d bytes of %d with %q, %v", out.Len(), size, sum, err)
	}
}

func FuzzPatch(f *testing.F) {
	for _, after := range []string{"", "the new file", "the old file with more of the old file"} {
		for _, diff := range formats {
			made, err := diff([]byte("the old file"), []byte(after))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(made, []byte("the old file"), uint16(len(after)))
		}
	}
	f.Fuzz(func(t *testing.T, made, old []byte, size uint16) { checkPatch(t, made, old, int64(size)) })
}

// FuzzSections is FuzzPatch behind the compression.
func FuzzSections(f *testing.F) {
	f.Add([]byte{4, 3, 0, filterX86}, []byte("lit"), []byte{1}, []byte{2}, []byte{1, 255}, []byte("old file"), uint16(7))
	f.Add([]byte{8, 0, 0, filterARM64, 8, 0, 15, filterX86, 0, 1}, []byte("x"), []byte(""), []byte(""), []byte(""), bytes.Repeat([]byte{0xE8, 0x94, 0x0F, 0x85}, 9), uint16(17))
	f.Fuzz(func(t *testing.T, ops, literals, skips, runs, edits, old []byte, size uint16) {
		checkPatch(t, pack(fast, [sections][]byte{ops, literals, skips, runs, edits}), old, int64(size))
	})
}
