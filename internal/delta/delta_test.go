package delta

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// releases returns two programs that differ in some places, as two releases do.
func releases() (before, after []byte) {
	r := rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 4096)
	for i := range words {
		words[i] = make([]byte, 4+r.IntN(12))
		for j := range words[i] {
			words[i][j] = byte(r.Uint32())
		}
	}
	for len(before) < 1<<18 {
		before = append(before, words[r.IntN(len(words))]...)
	}
	before = before[:1<<18]
	after = slices.Concat(before[:1<<17], []byte("an insertion"), before[1<<17:])
	for i := 100; i < len(after); i += 4 << 10 {
		copy(after[i:], "other")
	}
	return before, after
}

func section(b []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

var formats = map[string]func(before, after []byte) ([]byte, error){"patch": Diff, "zstd": DiffZstd}

func TestDelta(t *testing.T) {
	before, after := releases()
	half := len(before) / 2
	for name, diff := range formats {
		t.Run(name, func(t *testing.T) {
			for _, row := range []struct {
				name          string
				before, after []byte
				most          int // bytes of the patch
			}{
				{"two releases", before, after, len(after) / 50},
				{"back", after, before, len(after) / 50},
				{"from nothing", nil, []byte("x"), 100},
				{"to nothing", []byte("x"), nil, 100},
				{"nothing", nil, nil, 100},
				{"equal", before, before, 300},
				{"zeros", make([]byte, 1<<18), make([]byte, 3<<17), 300},
				{"the end alone", before, before[half:], 300},
				{"the halves exchanged", before, slices.Concat(before[half:], before[:half]), 300},
				{"nothing in common", before, bytes.Repeat([]byte("0123456789"), 1<<16), 300},
				{"of random bytes", before, random(1 << 18), 1<<18 + 1000},
			} {
				made, err := diff(row.before, row.after)
				if err != nil {
					t.Fatal(err)
				}
				if name == "patch" && len(made) > row.most {
					t.Errorf("%s: %d bytes", row.name, len(made))
				}
				if again, err := diff(row.before, row.after); err != nil || !bytes.Equal(again, made) {
					t.Errorf("%s: the same files gave another delta, %v", row.name, err)
				}
				var out bytes.Buffer
				sum, err := Patch(&out, section(made), section(row.before), int64(len(row.after)))
				if err != nil || !bytes.Equal(out.Bytes(), row.after) || sum != digest(row.after) {
					t.Errorf("%s: got %d bytes with %s, %v", row.name, out.Len(), sum, err)
				}
			}
		})
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

func TestZstdRefused(t *testing.T) {
	before, after := releases()
	delta, err := DiffZstd(before, after)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(after))
	zeros := func(n int, options ...zstd.EOption) []byte {
		e, err := zstd.NewWriter(nil, options...)
		if err != nil {
			t.Fatal(err)
		}
		return e.EncodeAll(make([]byte, n), nil)
	}
	// A streamed frame does not have its content's size in the header.
	var bomb bytes.Buffer
	e, err := zstd.NewWriter(&bomb, zstd.WithWindowSize(1<<16))
	if err != nil {
		t.Fatal(err)
	}
	for range 256 {
		e.Write(make([]byte, 1<<16))
	}
	e.Close()
	for _, row := range []struct {
		name   string
		delta  []byte
		before []byte
		size   int64
		err    string
	}{
		{"a bomb by its header", zeros(64<<20, zstd.WithWindowSize(64<<20), zstd.WithSingleSegment(true)), before, size, "the delta asks for more memory than a file of 262156 bytes needs"},
		{"a bomb in blocks", bomb.Bytes(), before, size, "the delta makes more than 262156 bytes"},
		{"too short", delta, before, size + 1, "the delta makes 262156 bytes instead of 262157"},
		{"too long", delta, before, size - 1, "the delta makes more than 262155 bytes"},
		{"empty", nil, before, size, "the delta makes 0 bytes instead of 262156"},
		{"garbage after", append(bytes.Clone(delta), "garbage"...), before, size, errDelta.Error()},
		{"no delta", []byte("<html>404</html>"), before, size, errDelta.Error()},
		{"another base", delta, before[:len(before)/2], size, errDelta.Error()},
		{"no base", delta, nil, size, errDelta.Error()},
		{"a file that is too large", delta, before, MaxFile + 1, "a file of more than 536870912 bytes"},
	} {
		t.Run(row.name, func(t *testing.T) {
			var out bytes.Buffer
			_, err := Patch(&out, section(row.delta), section(row.before), row.size)
			if err == nil || err.Error() != row.err {
				t.Errorf("got %v", err)
			}
			if int64(out.Len()) > row.size+1 {
				t.Errorf("it wrote %d bytes", out.Len())
			}
		})
	}
	other := bytes.Clone(before)
	copy(other[3<<16:], "damaged")
	if _, err := Patch(&bytes.Buffer{}, section(delta), section(other), size); !errors.Is(err, errDelta) {
		t.Errorf("a damaged base: got %v", err)
	}
	for cut := 0; cut < len(delta); cut += 1 + len(delta)/200 {
		if _, err := Patch(&bytes.Buffer{}, section(delta[:cut]), section(before), size); err == nil {
			t.Errorf("cut at %d: no error", cut)
		}
	}
	full := errors.New("disk full")
	if _, err := Patch(writer(func([]byte) (int, error) { return 0, full }), section(delta), section(before), size); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// TestZstdIsZstds checks that zstd --patch-from and this package accept each other's
// deltas, if zstd is installed.
func TestZstdIsZstds(t *testing.T) {
	if _, err := exec.LookPath("zstd"); err != nil {
		t.Skip(err)
	}
	before, after := releases()
	ours, err := DiffZstd(before, after)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, b := range map[string][]byte{"old": before, "new": after, "ours": ours} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sh", "-ec", "zstd -q -d --long=31 --patch-from old ours -o out && cmp out new && zstd -q -19 --long=31 --patch-from old new -o theirs")
	cmd.Dir = dir
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	theirs, err := os.ReadFile(filepath.Join(dir, "theirs"))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := Patch(&out, section(theirs), section(before), int64(len(after))); err != nil || !bytes.Equal(out.Bytes(), after) {
		t.Errorf("got %d bytes, %v", out.Len(), err)
	}
}

func BenchmarkDiff(b *testing.B) {
	before, after := releases()
	for name, diff := range formats {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(after)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := diff(before, after); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPatch(b *testing.B) {
	before, after := releases()
	for name, diff := range formats {
		b.Run(name, func(b *testing.B) {
			made, err := diff(before, after)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(after)))
			b.ReportAllocs()
			b.ReportMetric(float64(len(made)), "delta-bytes")
			for b.Loop() {
				if _, err := Patch(io.Discard, section(made), section(before), int64(len(after))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
