package durable

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// CopySHA256 copies r to w without sync, and returns what [SHA256] returns. A sync of a
// large file that it wrote has less to do, because the kernel begins to write while the rest
// is copied.
func CopySHA256(w io.Writer, r io.Reader) (sum string, size int64, err error) {
	var d Digest
	all := []io.Writer{w, &d}
	if f, is := w.(*os.File); is {
		all = append(all, &ahead{f: f})
	}
	size, err = io.Copy(io.MultiWriter(all...), r)
	return d.Sum(), size, err
}

// aheadStep is how many bytes of a file wait until the kernel is told to write them.
const aheadStep = 8 << 20

// ahead makes the kernel write a file to the disk while more is written to it.
type ahead struct {
	f             *os.File // nil: it cannot do this
	written, told int64
}

// Write counts bytes that the file has got, and never fails: an error only means that the
// sync has more to do, and finds it, too.
func (a *ahead) Write(p []byte) (int, error) {
	a.written += int64(len(p))
	if a.f != nil && a.written-a.told >= aheadStep {
		if unix.SyncFileRange(int(a.f.Fd()), a.told, a.written-a.told, unix.SYNC_FILE_RANGE_WRITE) != nil {
			a.f = nil
		}
		a.told = a.written
	}
	return len(p), nil
}
