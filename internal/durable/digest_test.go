package durable

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

// TestDigest compares digests with crypto/sha256's, for sizes around those of the buffers
// and for readers that give little at once.
func TestDigest(t *testing.T) {
	random := make([]byte, digestAlone+3*digestBuffer+1)
	rand.NewChaCha8([32]byte{}).Read(random)
	for _, size := range []int{0, 1, 32 << 10, digestAlone - 1, digestAlone, digestAlone + 1, digestAlone + digestBuffer,
		digestAlone + digestBuffer + 1, digestAlone + 2*digestBuffer, digestAlone + 3*digestBuffer - 1, len(random)} {
		content := random[:size]
		sum := sha256.Sum256(content)
		want := hex.EncodeToString(sum[:])
		for name, reader := range map[string]func(io.Reader) io.Reader{"all": func(r io.Reader) io.Reader { return r }, "half": iotest.HalfReader,
			"with its end": iotest.DataErrReader, "one byte": iotest.OneByteReader} {
			var out bytes.Buffer
			got, n, err := CopySHA256(&out, reader(bytes.NewReader(content)))
			if err != nil || n != int64(size) || got != want || !bytes.Equal(out.Bytes(), content) {
				t.Errorf("%s, %d bytes: %s, %d, %v; want %s", name, size, got, n, err, want)
			}
		}
	}
}

// TestDigestError checks that an error of the reader or of the writer comes back, and that
// the digest's goroutine ends.
func TestDigestError(t *testing.T) {
	ill := errors.New("ill")
	content := bytes.Repeat([]byte("x"), digestAlone+3*digestBuffer)
	var out bytes.Buffer
	if _, n, err := CopySHA256(&out, io.MultiReader(bytes.NewReader(content), iotest.ErrReader(ill))); err != ill || n != int64(len(content)) {
		t.Errorf("%d, %v", n, err)
	}
	if _, _, err := CopySHA256(&failing{after: digestAlone + 2*digestBuffer + 1, err: ill}, bytes.NewReader(content)); err != ill {
		t.Error(err)
	}
	var d Digest
	d.Write(content)
	if first, again := d.Sum(), d.Sum(); first != again {
		t.Errorf("%s, then %s", first, again)
	}
	<-d.ended
}

// failing is a writer that fails after some bytes.
type failing struct {
	after int
	err   error
}

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, f.err
	}
	return len(p), nil
}

// BenchmarkCopySHA256 copies a file in memory: a small one, and one of a program's size.
func BenchmarkCopySHA256(b *testing.B) {
	for _, size := range []int{4 << 10, 13 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			content, out := make([]byte, size), make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := CopySHA256(bytes.NewBuffer(out[:0]), struct{ io.Reader }{bytes.NewReader(content)}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
