package delta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// fast compresses sections for tests.
var fast = func() *zstd.Encoder {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(maxWindow))
	if err != nil {
		panic(err)
	}
	return z
}()

// varints encodes unsigned numbers.
func varints(n ...uint64) (b []byte) {
	for _, n := range n {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

// TestPatchRefused: each fault of a patch is an error, and nothing too long is written.
func TestPatchRefused(t *testing.T) {
	old := bytes.Repeat([]byte("the old file"), 10)
	// It copies 100 bytes from 10, of which the sixth and seventh are other ones, and has
	// three bytes that are new.
	good := func() [sections][]byte {
		return [sections][]byte{{100, 3, 20, filterNone}, []byte("new"), {5}, {2}, {1, 2}}
	}
	size := int64(103)
	packed := func(s [sections][]byte) []byte { return pack(fast, s) }
	want := slices.Concat(old[10:110], []byte("new"))
	want[5], want[6] = want[5]+1, want[6]+2
	var out bytes.Buffer
	if _, err := Patch(&out, section(packed(good())), section(old), size); err != nil || !bytes.Equal(out.Bytes(), want) {
		t.Fatalf("%q, %v", out.Bytes(), err)
	}
	edit := func(f func(*[sections][]byte)) []byte {
		s := good()
		f(&s)
		return packed(s)
	}
	ops := func(b ...byte) []byte { return edit(func(s *[sections][]byte) { s[sectionOps] = b }) }
	raw := func(f func(b []byte) []byte) []byte { return f(packed(good())) }
	endless := varints(1<<63, 1<<63)
	for _, row := range []struct {
		name string
		made []byte
	}{
		{"no ops", ops()},
		{"too few", ops(100, 2, 20, filterNone)},
		{"too many", ops(100, 3, 20, filterNone, 0, 1)},
		{"an op of nothing", ops(100, 3, 20, filterNone, 0, 0)},
		{"half an op", ops(100, 3, 20)},
		{"from before the old file", ops(100, 3, 1, filterNone)},
		{"from behind the old file", ops(100, 3, 42, filterNone)},
		{"from far away", ops(append([]byte{100, 3}, binary.AppendVarint(nil, -1<<63)...)...)},
		{"an unknown filter", ops(100, 3, 20, filters)},
		{"lengths that wrap", ops(append(endless, 0, 0)...)},
		{"a number without end", ops(bytes.Repeat([]byte{255}, 100)...)},
		{"too few literals", edit(func(s *[sections][]byte) { s[sectionLiterals] = s[sectionLiterals][1:] })},
		{"too many literals", edit(func(s *[sections][]byte) { s[sectionLiterals] = append(s[sectionLiterals], 1) })},
		{"edits behind the copies", edit(func(s *[sections][]byte) { s[sectionSkips] = []byte{99} })},
		{"a skip behind the copies", edit(func(s *[sections][]byte) { s[sectionSkips] = []byte{5, 99} })},
		{"edits of nothing", edit(func(s *[sections][]byte) { s[sectionSkips], s[sectionRuns] = []byte{0, 5}, []byte{0, 2} })},
		{"a skip to behind the copies", edit(func(s *[sections][]byte) { s[sectionSkips], s[sectionRuns] = []byte{5, 99}, []byte{2, 1} })},
		{"a run of nothing", edit(func(s *[sections][]byte) { s[sectionRuns] = []byte{0} })},
		{"no run", edit(func(s *[sections][]byte) { s[sectionRuns] = nil })},
		{"too many runs", edit(func(s *[sections][]byte) { s[sectionRuns] = []byte{2, 2} })},
		{"a run without end", edit(func(s *[sections][]byte) { s[sectionRuns] = varints(1 << 63) })},
		{"too few edits", edit(func(s *[sections][]byte) { s[sectionEdits] = []byte{1} })},
		{"too many edits", edit(func(s *[sections][]byte) { s[sectionEdits] = []byte{1, 2, 3} })},
		{"a section behind the end", raw(func(b []byte) []byte { b[len(magic)+8*sections-1] = 255; return b })},
		{"a section that is shorter", raw(func(b []byte) []byte { b[len(magic)]--; return b })},
		{"the header alone", raw(func(b []byte) []byte { return b[:headerSize] })},
		{"half a header", raw(func(b []byte) []byte { return b[:headerSize-1] })},
		{"no frame", raw(func(b []byte) []byte { return append(b[:headerSize], make([]byte, len(b)-headerSize)...) })},
		{"bytes at the end", raw(func(b []byte) []byte { return append(b, 0) })},
	} {
		out.Reset()
		if _, err := Patch(&out, section(row.made), section(old), size); !errors.Is(err, errDelta) || int64(out.Len()) > size {
			t.Errorf("%s: %d bytes, %v", row.name, out.Len(), err)
		}
	}
	wide, err := zstd.NewWriter(nil, zstd.WithWindowSize(2*maxWindow), zstd.WithSingleSegment(true))
	if err != nil {
		t.Fatal(err)
	}
	const zeros = 2 * maxWindow
	many := [sections][]byte{varints(0, zeros), make([]byte, zeros)}
	if _, err := Patch(io.Discard, section(pack(wide, many)), section(nil), zeros); !errors.Is(err, errDelta) {
		t.Errorf("a window that is too large: %v", err)
	}
	if _, err := Patch(io.Discard, section(packed(many)), section(nil), zeros); err != nil {
		t.Errorf("the same with a smaller window: %v", err)
	}
	made := packed(good())
	for cut := range made {
		if _, err := Patch(io.Discard, section(made[:cut]), section(old), size); err == nil {
			t.Errorf("cut at %d: no error", cut)
		}
	}
	if _, err := Patch(io.Discard, section(made), section(old[:50]), size); !errors.Is(err, errDelta) {
		t.Errorf("a shorter old file: %v", err)
	}
	// The file became shorter after its size was taken.
	if _, err := Patch(io.Discard, section(made), io.NewSectionReader(bytes.NewReader(old[:50]), 0, int64(len(old))), size); !errors.Is(err, errDelta) {
		t.Errorf("a truncated old file: %v", err)
	}
	if _, err := Patch(io.Discard, section(made), section(old), MaxFile+1); err == nil || err.Error() != "a file of more than 536870912 bytes" {
		t.Errorf("a file that is too large: %v", err)
	}
	full := errors.New("disk full")
	if _, err := Patch(writer(func([]byte) (int, error) { return 0, full }), section(made), section(old), size); !errors.Is(err, full) {
		t.Errorf("a full disk: %v", err)
	}
}

// TestManyOps: no patch has more ops than a decoder accepts.
func TestManyOps(t *testing.T) {
	var ops []byte
	for range maxOps + 1 {
		ops = append(ops, 0, 1)
	}
	made := pack(fast, [sections][]byte{ops, make([]byte, maxOps+1)})
	if _, err := Patch(io.Discard, section(made), section(nil), maxOps+1); !errors.Is(err, errDelta) {
		t.Errorf("decoded: %v", err)
	}
	// Each 16 bytes are from another place, with one byte in between.
	old, mixed := random(1<<17), []byte(nil)
	for i := range 1 << 13 {
		mixed = append(append(mixed, old[(i*7919)%(1<<13)*16:][:16]...), byte(i))
	}
	if n := len(match(old, mixed)); n < 1<<12 {
		t.Errorf("%d ops", n)
	}
}

// calls returns code of random bytes in which the instructions at from call the others.
func calls(size int, put func(code []byte, from, to int)) []byte {
	code := random(size)
	for i := 0; i+32 <= size; i += 32 {
		put(code, i, (i*7919+size/2)%size&^3)
	}
	return code
}

// TestFilters: a function that was inserted costs the same in a program with many calls over
// it as in one without.
func TestFilters(t *testing.T) {
	const size, at, more = 1 << 18, 1 << 17, 64
	x86 := func(code []byte, from, to int) {
		code[from] = 0xE8
		binary.LittleEndian.PutUint32(code[from+1:], uint32(to-from-5))
	}
	arm64 := func(code []byte, from, to int) {
		binary.LittleEndian.PutUint32(code[from:], 0x25<<26|uint32((to-from)>>2)&(1<<26-1))
	}
	for name, put := range map[string]func(code []byte, from, to int){"x86": x86, "arm64": arm64} {
		before := calls(size, put)
		moved := func(p int) int {
			if p >= at {
				p += more
			}
			return p
		}
		after := slices.Concat(before[:at], random(size + more)[size:], before[at:])
		calls(size, func(_ []byte, from, to int) { put(after, moved(from), moved(to)) })
		made, err := Diff(before, after)
		if err != nil {
			t.Fatal(err)
		}
		if len(made) > 2000 {
			t.Errorf("%s: %d bytes", name, len(made))
		}
		var out bytes.Buffer
		if _, err := Patch(&out, section(made), section(before), int64(len(after))); err != nil || !bytes.Equal(out.Bytes(), after) {
			t.Errorf("%s: %d bytes, %v", name, out.Len(), err)
		}
	}
}

// TestPatchMemory: a decoder keeps neither file in memory.
func TestPatchMemory(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	before = before[:min(len(before), 10<<20)]
	after := slices.Concat(before[:len(before)/2], random(2<<20), before[len(before)/2:])
	made, err := Diff(before, after)
	if err != nil {
		t.Fatal(err)
	}
	var was, is runtime.MemStats
	runtime.ReadMemStats(&was)
	if sum, err := Patch(io.Discard, section(made), section(before), int64(len(after))); err != nil || sum != digest(after) {
		t.Errorf("%s, %v", sum, err)
	}
	runtime.ReadMemStats(&is)
	if took := is.TotalAlloc - was.TotalAlloc; took > 8<<20 {
		t.Errorf("it took %.1f MB for a delta of %.1f MB", float64(took)/1e6, float64(len(made))/1e6)
	}
}
