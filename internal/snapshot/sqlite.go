package snapshot

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// sqliteMagic begins each SQLite database, see SQLite's "Database File Format".
const sqliteMagic = "SQLite format 3\x00"

var sqliteSuffixes = []string{"-wal", "-shm", "-journal"}

// Companions returns the paths of SQLite's other files for the file at path, if that is
// an SQLite database, can become one, or has such a file beside it. They hold the last
// changes of the database: without them, or with those of another state, it is damaged.
// The paths are returned whether they exist or not, because a restore must remove a file
// that is created later. If path is not a regular file there are none.
func Companions(path string) ([]string, error) {
	p, err := data(path)
	if err == nil {
		defer p.dir.Close()
		var they bool
		if they, err = p.database(); err == nil && !they {
			return nil, nil
		}
	} else if errors.Is(err, unix.ENOENT) || errors.Is(err, ErrLinked) {
		err = nil // a new version may make the directory; the user's process finds a link's target
	}
	if err != nil {
		return nil, failed("look for the SQLite files of", path, err)
	}
	var all []string
	for _, suffix := range sqliteSuffixes {
		all = append(all, path+suffix)
	}
	return all, nil
}

// database reports whether SQLite's files may be beside p.
func (p place) database() (bool, error) {
	for _, suffix := range sqliteSuffixes {
		if _, err := p.beside(p.name + suffix).stat(); err == nil {
			return true, nil
		} else if gone(err) != nil {
			return false, p.wrong(err)
		}
	}
	st, err := p.stat()
	switch {
	case err != nil:
		return gone(err) == nil, p.wrong(gone(err))
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return false, nil
	case st.Size == 0: // SQLite creates it so, before the first table
		return true, nil
	}
	f, _, err := p.regular()
	if err != nil {
		return false, err
	}
	defer f.Close()
	magic := make([]byte, len(sqliteMagic))
	n, err := io.ReadFull(f, magic)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return false, p.wrong(durable.Cause(err))
	}
	return string(magic[:n]) == sqliteMagic, nil
}
