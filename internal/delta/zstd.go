package delta

import (
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/klauspost/compress/zstd"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// DiffZstd returns the zstd delta that makes the file after from before. Equal files give
// equal deltas.
func DiffZstd(before, after []byte) ([]byte, error) {
	if max(len(before), len(after)) > MaxFile {
		return nil, fmt.Errorf("a file of more than %d bytes", MaxFile)
	}
	e, err := zstd.NewWriter(nil,
		zstd.WithEncoderDictRaw(0, before),
		zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1),
		// The window covers all of before from each position in after.
		zstd.WithWindowSize(windowSize(int64(max(len(before), len(after))))),
	)
	if err != nil {
		return nil, err
	}
	return e.EncodeAll(after, nil), e.Close()
}

// patchZstd is [Patch] for a zstd delta.
func patchZstd(w io.Writer, delta, old *io.SectionReader, size int64) (sum string, err error) {
	dictionary := make([]byte, old.Size())
	if n, err := old.ReadAt(dictionary, 0); n < len(dictionary) && err != io.EOF {
		return "", err
	}
	// The decoder refuses a frame whose header asks for more memory than the files need.
	d, err := zstd.NewReader(delta,
		zstd.WithDecoderDictRaw(0, dictionary),
		zstd.WithDecoderMaxWindow(uint64(windowSize(max(size, old.Size())))),
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
	)
	if err != nil {
		return "", err
	}
	defer d.Close()
	r := &errorReader{r: d}
	sum, n, err := durable.CopySHA256(w, io.LimitReader(r, size+1))
	switch {
	case errors.Is(r.err, zstd.ErrWindowSizeExceeded), errors.Is(r.err, zstd.ErrDecoderSizeExceeded):
		return "", fmt.Errorf("the delta asks for more memory than a file of %d bytes needs", size)
	case r.err != nil:
		return "", errDelta
	case err != nil:
		return "", err // w's error
	case n > size:
		return "", fmt.Errorf("the delta makes more than %d bytes", size)
	case n < size:
		return "", fmt.Errorf("the delta makes %d bytes instead of %d", n, size)
	}
	return sum, nil
}

// errorReader keeps the error of r, to distinguish it from one of the writer.
type errorReader struct {
	r   io.Reader
	err error
}

func (f *errorReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != io.EOF {
		f.err = err
	}
	return n, err
}

// windowSize returns the smallest power of two that is at least size, in bytes.
func windowSize(size int64) int {
	return max(zstd.MinWindowSize, 1<<bits.Len64(uint64(max(size, 1)-1)))
}
