package snapshot

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// few is the number of files that are synced one by one. For more files one syncfs is
// faster, although it also writes other data of that file system.
const few = 32

// A syncer makes everything that was written durable before durable returns.
type syncer struct {
	n     int
	whole bool
}

// wrote syncs a file or directory that was written, or leaves that to durable.
func (s *syncer) wrote(f *os.File) error {
	if s.n++; s.n > few || s.whole {
		s.whole = true
		return nil
	}
	return retry0(func() error { return unix.Fsync(int(f.Fd())) })
}

// names syncs a directory opened with O_PATH, if a name in it changed.
func (s *syncer) names(dir *folder) error {
	if !dir.touched {
		return nil
	}
	d, err := reopen(dir.File)
	if errors.Is(err, unix.EACCES) { // the directory may be writable but not readable
		s.whole = true
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	return s.wrote(d)
}

// durable syncs what was written at the place that the caller named.
func (s *syncer) durable(to place) error {
	if err := s.names(to.dir); err != nil {
		return to.wrong(err)
	}
	if !s.whole {
		return nil // nor need the file be opened, on which a process may hold a lease
	}
	f, err := to.openFile()
	if err != nil {
		return to.wrong(err)
	}
	defer f.Close()
	return to.wrong(retry0(func() error { return unix.Syncfs(int(f.Fd())) }))
}
