package durable

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// DrainStep is how many bytes of a [Drain] may have been read and still occupy the disk.
const DrainStep = 8 << 20

// A Drain reads a file from its beginning and frees the disk space of what was read, so
// that a copy on the same disk needs no second place. The file keeps its size and reads as
// zeros after that. A file system that cannot do this leaves it whole.
type Drain struct {
	f         *os.File // open for writing, too
	at, freed int64
	failed    bool
}

// NewDrain returns a Drain of a file, and reports whether its file system can free a part.
func NewDrain(f *os.File) (d *Drain, ok bool) {
	info, err := f.Stat()
	if err != nil {
		return nil, false
	}
	return &Drain{f: f}, punch(f, info.Size(), 4096) == nil // there is nothing to free
}

// CanDrain reports whether the file system of a directory in which this process may write
// can free a part of a file.
func CanDrain(dir string) bool {
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o600) // it has no name, so nothing is left of it
	if err != nil {
		return false
	}
	defer f.Close()
	_, ok := NewDrain(f)
	return ok
}

func (d *Drain) Read(p []byte) (int, error) {
	n, err := d.f.Read(p)
	d.at += int64(n)
	if n := d.at - d.freed; !d.failed && n > 0 && (n >= DrainStep || err == io.EOF) {
		// Without it, the copy needs a second place, and says so if there is none.
		d.failed = punch(d.f, d.freed, n) != nil
		d.freed = d.at
	}
	return n, err
}

func punch(f *os.File, from, bytes int64) error {
	return Retry(func() error {
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, bytes)
	})
}
