package archive

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// releases returns two programs that differ in some places, as two releases do.
func releases() (before, after []byte) {
	before = []byte(program())[:1<<20]
	after = bytes.Clone(before)
	after = append(after[:1<<19:1<<19], append([]byte("an insertion"), before[1<<19:]...)...)
	for i := 100; i < len(after); i += 16 << 10 {
		copy(after[i:], "other")
	}
	return before, after
}

func TestDelta(t *testing.T) {
	before, after := releases()
	delta, err := Diff(before, after)
	if err != nil {
		t.Fatal(err)
	}
	if len(delta) > len(after)/100 {
		t.Errorf("%d bytes for %d", len(delta), len(after))
	}
	if again, err := Diff(before, after); err != nil || !bytes.Equal(again, delta) {
		t.Error("the same files gave another delta")
	}
	var out bytes.Buffer
	if _, err := Patch(&out, bytes.NewReader(delta), before, int64(len(after))); err != nil || !bytes.Equal(out.Bytes(), after) {
		t.Errorf("got %d bytes, %v", out.Len(), err)
	}
	for _, row := range []struct{ before, after string }{{"", "x"}, {"x", ""}, {"", ""}, {"x", "x"}, {strings.Repeat("x", 1<<20), "x"}} {
		delta, err := Diff([]byte(row.before), []byte(row.after))
		var out bytes.Buffer
		if err == nil {
			_, err = Patch(&out, bytes.NewReader(delta), []byte(row.before), int64(len(row.after)))
		}
		if err != nil || out.String() != row.after {
			t.Errorf("%.10q to %.10q: got %q, %v", row.before, row.after, out.String(), err)
		}
	}
}

func TestDeltaRefused(t *testing.T) {
	testkit.Slow(t)
	before, after := releases()
	delta, err := Diff(before, after)
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
		{"a bomb by its header", zeros(64<<20, zstd.WithWindowSize(64<<20), zstd.WithSingleSegment(true)), before, size, "the delta asks for more memory than a file of 1048588 bytes needs"},
		{"a bomb in blocks", bomb.Bytes(), before, size, "the delta makes more than 1048588 bytes"},
		{"too short", delta, before, size + 1, "the delta makes 1048588 bytes instead of 1048589"},
		{"too long", delta, before, size - 1, "the delta makes more than 1048587 bytes"},
		{"empty", nil, before, size, "the delta makes 0 bytes instead of 1048588"},
		{"garbage after", append(bytes.Clone(delta), "garbage"...), before, size, errDelta.Error()},
		{"no delta", []byte("<html>404</html>"), before, size, errDelta.Error()},
		{"another base", delta, before[:len(before)/2], size, errDelta.Error()},
		{"no base", delta, nil, size, errDelta.Error()},
		{"a file that is too large", delta, before, MaxDelta + 1, "a file of more than 536870912 bytes"},
	} {
		t.Run(row.name, func(t *testing.T) {
			var out bytes.Buffer
			_, err := Patch(&out, bytes.NewReader(row.delta), row.before, row.size)
			if err == nil || err.Error() != row.err {
				t.Errorf("got %v", err)
			}
			if int64(out.Len()) > row.size+1 {
				t.Errorf("it wrote %d bytes", out.Len())
			}
		})
	}
	other := bytes.Clone(before)
	copy(other[3<<18:], "damaged")
	if _, err := Patch(&bytes.Buffer{}, bytes.NewReader(delta), other, size); !errors.Is(err, errDelta) {
		t.Errorf("a damaged base: got %v", err)
	}
	for cut := 0; cut < len(delta); cut += 1 + len(delta)/200 {
		if _, err := Patch(&bytes.Buffer{}, bytes.NewReader(delta[:cut]), before, size); err == nil {
			t.Errorf("cut at %d: no error", cut)
		}
	}
	full := errors.New("disk full")
	if _, err := Patch(writer(func([]byte) (int, error) { return 0, full }), bytes.NewReader(delta), before, size); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// TestDeltaIsZstds checks that zstd --patch-from and this package accept each other's
// deltas, if zstd is installed.
func TestDeltaIsZstds(t *testing.T) {
	testkit.Slow(t)
	if _, err := exec.LookPath("zstd"); err != nil {
		t.Skip(err)
	}
	before, after := releases()
	ours, err := Diff(before, after)
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
	if _, err := Patch(&out, bytes.NewReader(theirs), before, int64(len(after))); err != nil || !bytes.Equal(out.Bytes(), after) {
		t.Errorf("got %d bytes, %v", out.Len(), err)
	}
}

func BenchmarkDiff(b *testing.B) {
	before, after := releases()
	b.SetBytes(int64(len(after)))
	for b.Loop() {
		if _, err := Diff(before, after); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPatch(b *testing.B) {
	before, after := releases()
	delta, err := Diff(before, after)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(after)))
	b.ReportMetric(float64(len(delta)), "delta-bytes")
	for b.Loop() {
		if _, err := Patch(writer(func(p []byte) (int, error) { return len(p), nil }), bytes.NewReader(delta), before, int64(len(after))); err != nil {
			b.Fatal(err)
		}
	}
}
