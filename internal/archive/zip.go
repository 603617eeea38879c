package archive

import (
	"archive/zip"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strings"
)

const (
	zipLocal     = "PK\x03\x04" // begins the header before an entry
	zipDirectory = "PK\x01\x02" // begins each header of the directory, which is behind all entries
	zipEnd       = "PK\x05\x06" // begins the record behind the directory
	zipEndSize   = 22           // of that record, without the comment behind it

	// zipEntrySize is how many bytes an entry may have in the directory, on average, and
	// zipTail what archive/zip reads to find it. Without a limit, an archive that is all
	// directory would take several times its size in memory.
	zipEntrySize = 512
	zipTail      = 256 << 10

	zipEncrypted = 1 | 1<<6 | 1<<13 // flags of the ways to encrypt
	zipStreamed  = 1 << 3           // the flag of sizes that are behind the content
	zip64        = math.MaxUint32   // takes the place of a size that is elsewhere
)

var errZip = errors.New("the zip archive is cut short or damaged")

func isZip(head []byte) bool { return strings.HasPrefix(string(head), zipLocal) }

func walkZip(r *io.SectionReader, t *tally) error {
	in := &limited{r: r, left: int64(t.lim.Entries)*zipEntrySize + zipTail, beyond: fmt.Errorf("the archive has more than %d entries", t.lim.Entries)}
	z, err := zip.NewReader(in, r.Size())
	if err == nil && len(z.File) > t.lim.Entries {
		return in.beyond
	}
	if err == nil {
		in.left = math.MaxInt64
		err = zipLayout(z, r)
	}
	for i := 0; err == nil && i < len(z.File); i++ {
		err = zipEntry(z.File[i], t)
	}
	if errors.Is(err, zip.ErrFormat) {
		return errZip
	}
	return err
}

// zipLayout returns an error for an archive in which other readers could find other
// entries. archive/zip believes the directory alone. Others read the archive from its
// beginning, and believe the header before each entry.
func zipLayout(z *zip.Reader, r *io.SectionReader) error {
	type placed struct {
		*zip.File
		body int64
	}
	var files []placed
	for _, f := range z.File {
		body, err := f.DataOffset()
		if err == io.EOF {
			err = zip.ErrFormat
		}
		if err != nil {
			return err
		}
		files = append(files, placed{f, body})
	}
	slices.SortStableFunc(files, func(a, b placed) int { return cmp.Compare(a.body, b.body) })
	end := int64(0)
	for _, f := range files {
		if err := zipHeader(f.File, f.body, end, r); err != nil {
			return fmt.Errorf("entry %.80q: %w", f.Name, err)
		}
		if f.CompressedSize64 > uint64(math.MaxInt64-f.body) {
			return zip.ErrFormat
		}
		end = f.body + int64(f.CompressedSize64)
	}
	if _, err := zipFind(r, end, zipDirectory); err != nil {
		return errors.New("there is something between the last entry and the directory of the zip archive")
	}
	mark := make([]byte, len(zipEnd))
	if _, err := r.ReadAt(mark, r.Size()-zipEndSize-int64(len(z.Comment))); err != nil || string(mark) != zipEnd {
		return errors.New("there is something after the end of the zip archive")
	}
	return nil
}

// zipHeader compares the header before an entry, whose content begins at body, with its
// header in the directory. The content before it ends at end.
func zipHeader(f *zip.File, body, end int64, r io.ReaderAt) error {
	const size = 30 // without name and extra fields
	misplaced := errors.New("it overlaps another, or there is something before it")
	at, err := zipFind(r, end, zipLocal)
	if err != nil {
		return misplaced
	}
	b := make([]byte, size+len(f.Name))
	if _, err := r.ReadAt(b, at); err != nil {
		return misplaced
	}
	short, long := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32
	nameSize, extraSize := int64(short(b[26:])), int64(short(b[28:]))
	streamed := f.Flags&zipStreamed != 0
	same := func(local, directory uint32, full uint64) bool {
		return local == directory || uint64(local) == full || local == zip64 || streamed && local == 0
	}
	switch {
	case at+size+nameSize+extraSize != body:
		return misplaced
	case string(b[size:]) != f.Name || nameSize != int64(len(f.Name)),
		short(b[8:]) != f.Method,
		(short(b[6:])^f.Flags)&(zipEncrypted|zipStreamed) != 0,
		long(b[14:]) != f.CRC32 && !(streamed && long(b[14:]) == 0),
		!same(long(b[18:]), f.CompressedSize, f.CompressedSize64),
		!same(long(b[22:]), f.UncompressedSize, f.UncompressedSize64):
		return errors.New("its two headers in the zip archive differ")
	}
	return nil
}

// zipFind returns where the header with this mark is behind the content that ends at end:
// a descriptor of 12 to 24 bytes, with the entry's sizes, may be between them.
func zipFind(r io.ReaderAt, end int64, mark string) (int64, error) {
	b := make([]byte, len(mark))
	for _, descriptor := range []int64{0, 12, 16, 20, 24} {
		if _, err := r.ReadAt(b, end+descriptor); err == nil && string(b) == mark {
			return end + descriptor, nil
		}
	}
	return 0, zip.ErrFormat
}

func zipEntry(f *zip.File, t *tally) error {
	if err := t.add(); err != nil {
		return err
	}
	name, unusable, err := checkName(strings.TrimSuffix(f.Name, "/"))
	if err != nil {
		return err
	}
	size := int64(min(f.UncompressedSize64, math.MaxInt64))
	switch mode := f.Mode(); {
	case mode.IsDir() && size != 0:
		return fmt.Errorf("entry %.80q: it is a directory with content", f.Name)
	case mode.IsDir():
		return nil
	case mode&fs.ModeSymlink != 0:
		unusable = "it is a link"
	case mode&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket) != 0:
		unusable = "it is a device or FIFO"
	case !mode.IsRegular():
		unusable = "it is of an unknown kind"
	case f.Flags&zipEncrypted != 0:
		unusable = "it is encrypted"
	case f.Method != zip.Store && f.Method != zip.Deflate:
		unusable = fmt.Sprintf("it is compressed by method %d of zip; only 0 (stored) and 8 (deflated) are read", f.Method)
	}
	return t.entry(Entry{Name: name, Unusable: unusable}, size, f.Open)
}

// limited is r, of which left bytes may be read.
type limited struct {
	r      io.ReaderAt
	left   int64
	beyond error
}

func (l *limited) ReadAt(p []byte, off int64) (int, error) {
	if l.left -= int64(len(p)); l.left < 0 {
		return 0, l.beyond
	}
	return l.r.ReadAt(p, off)
}
