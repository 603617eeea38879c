package archive

import (
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/klauspost/compress/zstd"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// A delta is a zstd frame over a file with another, older file as its dictionary,
// what zstd --patch-from writes. It is hostile as an archive is: what comes out is
// bounded, and is nothing until the caller has compared its digest.

// MaxDelta is the largest file, old or new, that a delta is made of or applied to,
// in bytes: both are held in memory. It is the largest window of a zstd encoder.
const MaxDelta = zstd.MaxWindowSize

var errDelta = errors.New("the delta does not fit the file that it is applied to, or is damaged")

// Diff returns the delta that makes new of old. The same files give the same delta.
func Diff(old, new []byte) ([]byte, error) {
	if max(len(old), len(new)) > MaxDelta {
		return nil, fmt.Errorf("a file of more than %d bytes", MaxDelta)
	}
	e, err := zstd.NewWriter(nil,
		zstd.WithEncoderDictRaw(0, old),
		zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1),
		// All of old is in reach from all of new.
		zstd.WithWindowSize(window(int64(max(len(old), len(new))))),
	)
	if err != nil {
		return nil, err
	}
	return e.EncodeAll(new, nil), e.Close()
}

// Patch writes what the delta makes of old. It writes no more than size bytes, and
// fails if there are not exactly so many. It returns their digest, in hex.
func Patch(w io.Writer, delta io.Reader, old []byte, size int64) (sum string, err error) {
	if int64(len(old)) > MaxDelta || size > MaxDelta {
		return "", fmt.Errorf("a file of more than %d bytes", MaxDelta)
	}
	// A frame that asks for more memory than the file has is refused at its header.
	d, err := zstd.NewReader(delta,
		zstd.WithDecoderDictRaw(0, old),
		zstd.WithDecoderMaxWindow(uint64(window(max(size, int64(len(old)))))),
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
	)
	if err != nil {
		return "", err
	}
	defer d.Close()
	r := &failing{r: d}
	sum, n, err := durable.CopySHA256(w, io.LimitReader(r, size+1))
	switch {
	case errors.Is(r.err, zstd.ErrWindowSizeExceeded), errors.Is(r.err, zstd.ErrDecoderSizeExceeded):
		return "", fmt.Errorf("the delta asks for more memory than a file of %d bytes needs", size)
	case r.err != nil:
		return "", errDelta
	case err != nil:
		return "", err // of w
	case n > size:
		return "", fmt.Errorf("the delta makes more than %d bytes", size)
	case n < size:
		return "", fmt.Errorf("the delta makes %d bytes instead of %d", n, size)
	}
	return sum, nil
}

// failing remembers the error of r, to tell it from one of the writer.
type failing struct {
	r   io.Reader
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != io.EOF {
		f.err = err
	}
	return n, err
}

// window is the smallest one, a power of two, that holds so many bytes.
func window(size int64) int {
	return max(zstd.MinWindowSize, 1<<bits.Len64(uint64(max(size, 1)-1)))
}
