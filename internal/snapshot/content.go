package snapshot

import (
	"bytes"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// block is the number of bytes read at once if the kernel does not copy.
const block = 1 << 20

// copyContent makes dst, which is empty, equal to the first size bytes of src: by a clone
// if the file system can share blocks, else by copying the data and leaving out the
// holes.
func copyContent(dst, src *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	if err := retry0(func() error { return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) }); err == nil {
		// The clone has all of a file, which may have grown since it was looked at.
		return dst.Truncate(size)
	}
	// If the clone failed for a reason that affects a copy as well, the copy reports it.
	if err := dst.Truncate(size); err != nil {
		return err
	}
	byKernel := true
	for at := int64(0); at < size; {
		start, end, err := segment(src, at, size)
		if err != nil {
			return err
		}
		if start < end && byKernel {
			if start, err = copyRange(dst, src, start, end); err != nil {
				return err
			}
			byKernel = start == end
		}
		if start < end {
			if err := copyBlocks(dst, src, start, end); err != nil {
				return err
			}
		}
		at = end
	}
	return nil
}

// segment finds the next data of f between at and size. If there is none, start and end
// are size.
func segment(f *os.File, at, size int64) (start, end int64, err error) {
	start, err = seek(f, at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return at, size, nil // the file system does not report holes
	case err != nil:
		return 0, 0, err
	case start >= size:
		return size, size, nil
	}
	end, err = seek(f, start, unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) { // the file was shortened meanwhile
		return size, size, nil
	}
	return start, min(end, size), err
}

func seek(f *os.File, at int64, whence int) (int64, error) {
	return retry(func() (int64, error) { return unix.Seek(int(f.Fd()), at, whence) })
}

// copyRange lets the kernel copy, which shares blocks even between two bind mounts of one
// file system, where a clone fails with EXDEV before Linux 5.19. It returns the offset
// that it reached: not all file systems can do it.
func copyRange(dst, src *os.File, start, end int64) (int64, error) {
	for start < end {
		in, out := start, start
		n, err := retry(func() (int, error) {
			return unix.CopyFileRange(int(src.Fd()), &in, int(dst.Fd()), &out, int(min(end-start, 1<<30)), 0)
		})
		switch {
		case errors.Is(err, unix.EXDEV), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS),
			errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPERM):
			return start, nil
		case err != nil:
			return start, err
		case n == 0: // the file was shortened, or the file system cannot do it
			return start, nil
		}
		start += int64(n)
	}
	return start, nil
}

func copyBlocks(dst, src *os.File, start, end int64) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{io.NewOffsetWriter(dst, start)},
		struct{ io.Reader }{io.NewSectionReader(src, start, end-start)}, make([]byte, min(block, end-start)))
	return durable.Cause(err)
}

// sameContent reports whether two files of the given size are equal. It does not read
// what is a hole in both.
func sameContent(a, b *os.File, size int64) (bool, error) {
	bufA, bufB := make([]byte, min(block, size)), make([]byte, min(block, size))
	for at := int64(0); at < size; {
		dataA, _, err := segment(a, at, size)
		if err != nil {
			return false, err
		}
		dataB, _, err := segment(b, at, size)
		if err != nil {
			return false, err
		}
		if at = min(dataA, dataB); at >= size {
			break
		}
		n := min(block, size-at)
		for _, r := range []struct {
			f   *os.File
			buf []byte
		}{{a, bufA}, {b, bufB}} {
			if read, err := r.f.ReadAt(r.buf[:n], at); errors.Is(err, io.EOF) && int64(read) < n {
				return false, nil // the file was shortened meanwhile
			} else if err != nil && !errors.Is(err, io.EOF) {
				return false, durable.Cause(err)
			}
		}
		if !bytes.Equal(bufA[:n], bufB[:n]) {
			return false, nil
		}
		at += n
	}
	return true, nil
}
