// Package archive parses archives, tar in gzip or zstd. No other package does.
//
// An archive counts as hostile until all of it has been read. It is read once, from the
// first byte to the last, within the caller's Limits. Only the contents of regular files
// are used: they are written with the names that the caller chose, in the caller's
// directory. The archive's names, modes, owners, times and extended attributes never
// reach the disk. An archive that has an entry other than a regular file or a directory
// is refused, even if that entry is not wanted: no release needs links or devices, and
// readers differ about their meaning.
package archive

import (
	"errors"
	"io"
	"os"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// Limits are the greatest sizes of an unpacked archive.
type Limits struct {
	Unpacked int64 // bytes of all files together
	Entries  int   // number of files and directories
}

// Default is for archives whose unpacked size no manifest states: 4 GiB, and more entries
// than any known release of a daemon.
var Default = Limits{Unpacked: 4 << 30, Entries: 10_000}

// File is a regular file in an archive.
type File struct {
	Name   string // in the archive, without a leading "./"
	SHA256 string // 64 lower-case hex digits
	Size   int64  // bytes
}

// Extract writes entries of the archive r into a directory. want returns the file name
// in into for an entry's name, or "" to skip the entry. Names are case-sensitive. Each
// file is created (O_EXCL) with mode 0600 and synced; the caller syncs the directory.
//
// It returns the files that it wrote, in the archive's order. The caller checks whether
// all that it needs are there. After an error, Extract has removed its files.
func Extract(r io.Reader, into *os.Root, want func(name string) string, lim Limits) (files []File, err error) {
	var made []string
	defer func() {
		if err != nil {
			for _, name := range made {
				into.Remove(name) // if this fails, too, err is still the cause
			}
		}
	}()
	err = walk(r, lim, func(name string, body io.Reader) error {
		out := want(name)
		if out == "" {
			return nil
		}
		f, err := into.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		made = append(made, out)
		file, err := hashTo(f, name, body)
		if err == nil {
			err = f.Sync()
		}
		files = append(files, file)
		return errors.Join(err, f.Close())
	})
	return files, err
}

// List reads the whole archive and returns its regular files, in the archive's order.
func List(r io.Reader, lim Limits) (files []File, err error) {
	err = walk(r, lim, func(name string, body io.Reader) error {
		f, err := hashTo(io.Discard, name, body)
		files = append(files, f)
		return err
	})
	return files, err
}

func hashTo(w io.Writer, name string, body io.Reader) (File, error) {
	sum, n, err := durable.CopySHA256(w, body)
	return File{Name: name, SHA256: sum, Size: n}, err
}
