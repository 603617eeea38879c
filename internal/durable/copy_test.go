package durable

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"testing/iotest"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestCopySHA256 copies around the sizes of the buffers, from readers that return little at a
// time, and end in different ways.
func TestCopySHA256(t *testing.T) {
	content := make([]byte, digestAlone+5*digestBuffer+1)
	rand.NewChaCha8([32]byte{}).Read(content)
	for _, size := range []int{0, 1, digestAlone - 1, digestAlone, digestAlone + 1, digestAlone + digestBuffer, digestAlone + digestBuffer + 1, digestAlone + 3*digestBuffer, len(content)} {
		want := sha256.Sum256(content[:size])
		for name, r := range map[string]func(io.Reader) io.Reader{"plain": func(r io.Reader) io.Reader { return r }, "half": iotest.HalfReader, "with EOF": iotest.DataErrReader} {
			var out bytes.Buffer
			sum, n, err := CopySHA256(&out, r(bytes.NewReader(content[:size])))
			if err != nil || n != int64(size) || sum != hex.EncodeToString(want[:]) || !bytes.Equal(out.Bytes(), content[:size]) {
				t.Errorf("%s, %d bytes: %d, %s, %v", name, size, n, sum, err)
			}
		}
	}
	cut := func(size int) io.Reader {
		return io.MultiReader(bytes.NewReader(content[:size]), iotest.ErrReader(io.ErrUnexpectedEOF))
	}
	for _, size := range []int{0, 1, digestAlone, len(content)} {
		var out bytes.Buffer
		_, n, err := CopySHA256(&out, cut(size))
		if err != io.ErrUnexpectedEOF || n != int64(size) || out.Len() != size { // as that of a cut archive
			t.Errorf("cut after %d bytes: %d, %v", size, n, err)
		}
	}
	full := errors.New("the disk is full")
	for _, most := range []int{0, digestAlone, digestAlone + 2*digestBuffer} {
		w := &limited{most: most, err: full}
		if _, n, err := CopySHA256(w, bytes.NewReader(content)); !errors.Is(err, full) || n != int64(most) {
			t.Errorf("room for %d bytes: %d, %v", most, n, err)
		}
	}
}

type limited struct {
	most int
	err  error
}

func (l *limited) Write(p []byte) (int, error) {
	if n := l.most; n < len(p) {
		l.most = 0
		return n, l.err
	}
	l.most -= len(p)
	return len(p), nil
}

// TestCopyAhead copies more than the kernel is told to write at a time, also to where it
// cannot be told.
func TestCopyAhead(t *testing.T) {
	testkit.Slow(t)
	content := make([]byte, 2*aheadStep+1)
	rand.NewChaCha8([32]byte{}).Read(content)
	want := sha256.Sum256(content)
	path := t.TempDir() + "/file"
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	sum, _, err := CopySHA256(f, bytes.NewReader(content))
	must(t, err)
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) || sum != hex.EncodeToString(want[:]) {
		t.Errorf("%s, %v", sum, err)
	}
	r, w, err := os.Pipe()
	must(t, err)
	go io.Copy(io.Discard, r)
	if sum, n, err := CopySHA256(w, bytes.NewReader(content)); err != nil || n != int64(len(content)) || sum != hex.EncodeToString(want[:]) {
		t.Errorf("to a pipe: %s, %d, %v", sum, n, err)
	}
}
