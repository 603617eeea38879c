package snapshot

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// sqliteMagic begins each SQLite database, see SQLite's "Database File Format".
const sqliteMagic = "SQLite format 3\x00"

var sqliteSuffixes = []string{"-wal", "-shm", "-journal"}

// Companions are the paths of the files that belong to the file at path, if that is
// an SQLite database, may become one, or has one of them beside it. The last changes
// of the database are in them: without them, or with those of another state, it is
// damaged. They are named whether they exist or not: one that comes later must go at
// a restore. Of anything but a regular file there are none.
func Companions(path string) ([]string, error) {
	p, err := data(path)
	if err == nil {
		defer p.dir.Close()
		var they bool
		if they, err = p.database(); err == nil && !they {
			return nil, nil
		}
	} else if errors.Is(err, unix.ENOENT) || errors.Is(err, ErrLinked) {
		err = nil // the new version may make the directory, too; or its user will see
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
	case st.Size == 0: // so SQLite makes it, before the first table
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
		return false, p.wrong(cause(err))
	}
	return string(magic[:n]) == sqliteMagic, nil
}
