package durable

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyStep is how many bytes [CopySHA256] reads before it writes and hashes them, and
// firstStep how many it reads first: most files of a release that has thousands are small.
const firstStep, copyStep = 32 << 10, 128 << 10

// CopySHA256 copies r to w without sync, and returns what [SHA256] returns. One processor
// hashes while another reads and writes. A sync of a large file that it wrote has less to do,
// because the kernel begins to write while the rest is copied.
func CopySHA256(w io.Writer, r io.Reader) (sum string, size int64, err error) {
	h := hasher{Hash: sha256.New()}
	defer h.end()
	ahead := newAhead(w)
	for {
		buf := h.buffer()
		n, rerr := fill(r, buf)
		if n > 0 {
			written, werr := w.Write(buf[:n])
			size += int64(written)
			if werr == nil && written < n {
				werr = io.ErrShortWrite
			}
			if werr != nil {
				h.end()
				return h.sum(), size, werr
			}
			h.take(buf[:n], rerr == nil)
			ahead.wrote(size)
		}
		if rerr == nil {
			continue
		}
		if rerr == io.EOF {
			rerr = nil
		}
		h.end()
		return h.sum(), size, rerr
	}
}

// fill reads until the buffer is full, or r returns an error, which fill returns as it is:
// [io.ReadFull] would hide the end of a file that was cut.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var more int
		more, err = r.Read(buf[n:])
		n += more
	}
	return n, err
}

// hasher hashes what it is given in a goroutine of its own, except for a file that fits into
// its first buffer.
type hasher struct {
	hash.Hash
	full chan []byte // to the goroutine; nil before it runs and after it ended
	free chan []byte // back from it
	done chan struct{}
	made int
}

// buffer returns a buffer that is not in use.
func (h *hasher) buffer() []byte {
	h.made++
	switch h.made {
	case 1:
		return make([]byte, firstStep)
	case 2, 3:
		return make([]byte, copyStep)
	}
	b := <-h.free
	return b[:cap(b)]
}

// take hashes the content of a buffer; more says that another one follows.
func (h *hasher) take(buf []byte, more bool) {
	if h.full == nil && !more {
		h.Write(buf)
		return
	}
	if h.full == nil {
		h.full, h.free, h.done = make(chan []byte, 3), make(chan []byte, 3), make(chan struct{})
		go func() {
			defer close(h.done)
			for b := range h.full {
				h.Write(b)
				h.free <- b
			}
		}()
	}
	h.full <- buf
}

// end waits until all is hashed.
func (h *hasher) end() {
	if h.full != nil {
		close(h.full)
		<-h.done
		h.full = nil
	}
}

func (h *hasher) sum() string { return hex.EncodeToString(h.Sum(nil)) }

// aheadStep is how many bytes of a file wait until the kernel is told to write them.
const aheadStep = 8 << 20

// ahead makes the kernel write a file to the disk while more is written to it.
type ahead struct {
	f    *os.File // nil: w is something else, or cannot do this
	done int64
}

func newAhead(w io.Writer) ahead {
	f, _ := w.(*os.File)
	return ahead{f: f}
}

// wrote begins to write what has come since the last step. An error only means that the sync
// has more to do, and finds it, too.
func (a *ahead) wrote(size int64) {
	if a.f == nil || size-a.done < aheadStep {
		return
	}
	if unix.SyncFileRange(int(a.f.Fd()), a.done, size-a.done, unix.SYNC_FILE_RANGE_WRITE) != nil {
		a.f = nil
	}
	a.done = size
}
