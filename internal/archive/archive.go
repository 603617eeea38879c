// Package archive is the only place that parses archives: tar in gzip or zstd.
//
// An archive is hostile until every byte of it has been read. It is streamed
// once, from the first byte to the last, within the caller's Limits; nothing is
// taken from it but the bytes of plain regular files, and nothing is written but
// files that the caller named, with names, mode and owner of our own, in a
// directory of the caller's. Names, modes, owners, times and extended attributes
// in the archive never reach the disk, and an archive that holds anything beside
// regular files and directories is refused as a whole, wanted or not: no release
// needs a link or a device, and two readers may differ about what it means.
package archive

import (
	"io"
	"os"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// Limits bounds what an archive may unpack to.
type Limits struct {
	Unpacked int64 // bytes of all files together
	Entries  int   // files and directories
}

// Default is for an archive of which no manifest says how large it is: 4 GiB, and
// more entries than any release of a daemon has been seen to have.
var Default = Limits{Unpacked: 4 << 30, Entries: 10_000}

// File is a regular file in an archive.
type File struct {
	Name   string // in the archive, without a leading "./"
	SHA256 string // 64 lower-case hex digits
	Size   int64  // bytes
}

// Extract writes entries of the archive r into the directory: want gives the plain
// file name in into of each entry that is wanted, and "" for the others. Each file
// is new (O_EXCL), has mode 0600 and is synced; syncing the directory is the
// caller's. Names that differ only in case are different names, as they are on the
// disk.
//
// It returns what it wrote, in the archive's order; whether that is all that the
// caller needs is the caller's to see. After an error no file it made is left.
func Extract(r io.Reader, into *os.Root, want func(name string) string, lim Limits) (files []File, err error) {
	var made []string
	defer func() {
		if err != nil {
			for _, name := range made {
				into.Remove(name) // err is what matters; the directory is the caller's to clear
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
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		files = append(files, file)
		return err
	})
	if err != nil {
		return nil, err
	}
	return files, nil
}

// List reads the whole archive and returns every regular file in it, in the
// archive's order.
func List(r io.Reader, lim Limits) ([]File, error) {
	var files []File
	err := walk(r, lim, func(name string, body io.Reader) error {
		f, err := hashTo(io.Discard, name, body)
		files = append(files, f)
		return err
	})
	if err != nil {
		return nil, err
	}
	return files, nil
}

func hashTo(w io.Writer, name string, body io.Reader) (File, error) {
	sum, n, err := durable.CopySHA256(w, body)
	return File{Name: name, SHA256: sum, Size: n}, err
}
