package snapshot

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// few is how many files are synced one by one. For more one syncfs is quicker,
// although it also writes what others have in memory for that file system.
const few = 32

// A syncer makes what was written durable by the time that end returns.
type syncer struct {
	n     int
	whole bool
}

// wrote is told of each file and directory that was written.
func (s *syncer) wrote(f *os.File) error {
	if s.n++; s.n > few || s.whole {
		s.whole = true
		return nil
	}
	return retry0(func() error { return unix.Fsync(int(f.Fd())) })
}

// names is told of a directory, opened with O_PATH. It is synced if a name in it changed.
func (s *syncer) names(dir *folder) error {
	if !dir.touched {
		return nil
	}
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if errors.Is(err, unix.EACCES) { // it may be written in and not listed
		s.whole = true
		return nil
	}
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), dir.Name())
	defer d.Close()
	return s.wrote(d)
}

// end syncs the file system of f, if there is more to sync than was done already.
func (s *syncer) end(f *os.File) error {
	if !s.whole {
		return nil
	}
	return retry0(func() error { return unix.Syncfs(int(f.Fd())) })
}
