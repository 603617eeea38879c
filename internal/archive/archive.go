// Package archive parses archives: tar, plain or in gzip, zstd, xz or bzip2; zip; and a
// single program, plain or in one of these four compressions. No other package does. The
// decoders are those of libraries; xz's is the one that can limit its dictionary.
//
// The content decides the format, not the file's name. An archive counts as hostile until
// Extract or List has returned without an error, and it is read within the caller's
// Limits. Only the contents of regular files are used: they are written with the names
// that the caller chose, in the caller's directory. The archive's names, modes, owners,
// times and extended attributes never reach the disk. Links, devices and other entries
// that the caller does not want are skipped, and never followed. An archive is refused if
// the caller wants such an entry, or one below it, or if readers could differ about its
// entries.
package archive

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// Single is the name of the only entry of an archive that is one program.
const Single = "."

// Limits are the greatest sizes of an unpacked archive.
type Limits struct {
	Unpacked int64 // bytes of all files together
	Entries  int   // number of files and directories
}

// Default is for archives whose unpacked size no manifest states: 4 GiB, and more entries
// than any known release of a daemon.
var Default = Limits{Unpacked: 4 << 30, Entries: 10_000}

// An Entry is anything in an archive except a directory.
type Entry struct {
	Name string // in the archive, without a leading "./"
	// Unusable says why the entry cannot be extracted, for example "it is a link". It is
	// empty for a regular file.
	Unusable string
}

// File is a regular file in an archive.
type File struct {
	Name   string // as Entry.Name
	SHA256 string // 64 lower-case hex digits
	Size   int64  // bytes
}

// Extract writes entries of the archive r into a directory. want returns the file name
// in into for an entry, or "" to skip the entry; it is called once for each. Names are
// case-sensitive. Each file is created (O_EXCL) with mode 0600 and synced; the caller
// syncs the directory.
//
// It returns the files that it wrote, in the archive's order. The caller checks whether
// all that it needs are there. After an error, Extract has removed its files.
func Extract(r *io.SectionReader, into *os.Root, want func(Entry) string, lim Limits) (files []File, err error) {
	var made []string
	defer func() {
		if err != nil {
			files = nil
			for _, name := range made {
				into.Remove(name) // if this fails, too, err is still the cause
			}
		}
	}()
	all := kinds{}
	err = walk(r, lim, func(e Entry, open opener) error {
		all.note(e)
		out := want(e)
		switch {
		case out == "":
			return nil
		case e.Unusable != "":
			return errors.New(e.Unusable)
		}
		f, err := into.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		made = append(made, out)
		file, err := hashTo(f, e.Name, open)
		if err == nil && len(made) <= fewFiles {
			err = f.Sync()
		}
		files = append(files, file)
		return errors.Join(err, f.Close())
	})
	if err != nil {
		return nil, err
	}
	if len(made) > fewFiles {
		if err := syncAll(into); err != nil {
			return nil, err
		}
	}
	if err := all.lead(files); err != nil {
		return nil, err
	}
	return files, nil
}

// fewFiles is up to how many files are synced one by one, which spares other programs the
// sync of all that they have written.
const fewFiles = 64

func syncAll(into *os.Root) error {
	d, err := into.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(durable.SyncAll(d), d.Close())
}

// List reads all regular files of the archive and returns them, in the archive's order.
// It refuses an archive in which one cannot be extracted, as Extract does.
func List(r *io.SectionReader, lim Limits) (files []File, err error) {
	all := kinds{}
	err = walk(r, lim, func(e Entry, open opener) error {
		all.note(e)
		if e.Unusable != "" {
			return nil
		}
		f, err := hashTo(io.Discard, e.Name, open)
		files = append(files, f)
		return err
	})
	if err == nil {
		err = all.lead(files)
	}
	return files, err
}

// kinds says what the entries of an archive are, by their names.
type kinds map[string]string

func (k kinds) note(e Entry) { k[e.Name] = cmp.Or(e.Unusable, "it is a file") }

// lead returns an error if the name of a file leads through an entry, which is no directory.
func (k kinds) lead(files []File) error {
	for _, f := range files {
		for dir := path.Dir(f.Name); dir != "."; dir = path.Dir(dir) {
			if kind, there := k[dir]; there {
				return fmt.Errorf("entry %q leads through %q: %s", f.Name, dir, kind)
			}
		}
	}
	return nil
}

func hashTo(w io.Writer, name string, open opener) (File, error) {
	body, err := open()
	if err != nil {
		return File{}, err
	}
	sum, n, err := durable.CopySHA256(w, body)
	return File{Name: name, SHA256: sum, Size: n}, errors.Join(err, body.Close())
}
