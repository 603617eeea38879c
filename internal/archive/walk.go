package archive

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mikelolasagasti/xz"
)

// maxName is the greatest length of an entry's name in bytes. Linux limits each element
// of a path to 255 (NAME_MAX).
const maxName = 1024

var errTruncated = errors.New("the archive is cut short")

// An opener opens the content of an entry, which must be read before the next entry.
type opener func() (io.ReadCloser, error)

// walk calls visit for each entry except directories, in order. It returns nil only if r
// is exactly one complete archive.
func walk(r *io.SectionReader, lim Limits, visit func(Entry, opener) error) error {
	t := &tally{lim: lim, left: lim.Unpacked, seen: map[string]bool{}, visit: visit}
	head := make([]byte, tarBlock)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return err
	}
	head = head[:n]
	switch {
	case isZip(head):
		err = walkZip(r, t)
	case compressed(head) || isProgram(head) || isTar(head):
		err = walkStream(io.NewSectionReader(r, 0, r.Size()), t)
	default:
		return errors.New("it is neither an archive (tar, plain or in gzip, zstd, xz or bzip2, or zip) nor a program (ELF or a script)")
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, xz.ErrBuf) {
		return errTruncated
	}
	return err
}

// walkStream walks an archive that is read from its beginning to its end.
func walkStream(r io.Reader, t *tally) error {
	unpacked, closeUnpacked, err := decompress(bufio.NewReaderSize(r, 64<<10))
	if err != nil {
		return err
	}
	defer closeUnpacked()
	in := bufio.NewReaderSize(unpacked, 64<<10)
	head, err := in.Peek(4)
	if err != nil && err != io.EOF {
		return err
	}
	if isProgram(head) {
		return walkSingle(in, t)
	}
	return walkTar(in, t)
}

// walkSingle walks an archive that is one program.
func walkSingle(r io.Reader, t *tally) error {
	body := &counter{r: r, max: t.lim.Unpacked, beyond: t.tooLarge()}
	if err := t.add(); err != nil {
		return err
	}
	if err := t.entry(Entry{Name: Single}, 0, func() (io.ReadCloser, error) { return io.NopCloser(body), nil }); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, body) // if it was skipped
	return err
}

func isProgram(head []byte) bool {
	return strings.HasPrefix(string(head), "\x7fELF") || strings.HasPrefix(string(head), "#!")
}

// A tally enforces the limits and calls visit.
type tally struct {
	lim     Limits
	entries int             // so far, with directories
	names   int             // bytes of the names of entries that are no directories
	left    int64           // bytes that the remaining files may have
	seen    map[string]bool // names of entries that are no directories
	visit   func(Entry, opener) error
}

func (t *tally) tooLarge() error {
	return fmt.Errorf("the archive unpacks to more than %d bytes", t.lim.Unpacked)
}

// add counts an entry of any kind.
func (t *tally) add() error {
	if t.entries++; t.entries > t.lim.Entries {
		return fmt.Errorf("the archive has more than %d entries", t.lim.Entries)
	}
	return nil
}

// entry counts the size of an entry that is no directory, and visits it.
func (t *tally) entry(e Entry, size int64, open opener) error {
	if size > t.left {
		return t.tooLarge()
	}
	t.left -= size
	if t.seen[e.Name] {
		return fmt.Errorf("entry %.80q is there twice", e.Name)
	}
	t.seen[e.Name] = true
	// All names are kept until the end of the archive. One may have a mebibyte, of which
	// next to nothing is left in a compressed archive.
	if most := t.lim.Entries * maxName; t.names > most-len(e.Name) {
		return fmt.Errorf("the names in the archive have more than %d bytes", most)
	}
	t.names += len(e.Name)
	if err := t.visit(e, open); err != nil {
		return fmt.Errorf("entry %.80q: %w", e.Name, err)
	}
	return nil
}

// checkName returns the name of an entry without "./", and why no file can be extracted
// under it, if so. It returns an error for names that are tricks rather than names. The
// name is a copy: that of archive/tar is a part of all PAX records of the entry, which
// would stay in memory with it.
func checkName(raw string) (name, unusable string, err error) {
	refuse := func(why string) (string, string, error) { return "", "", fmt.Errorf("entry %.80q: %s", raw, why) }
	name = strings.Clone(strings.TrimPrefix(raw, "./"))
	switch {
	case strings.ContainsFunc(name, unicode.IsControl):
		return refuse("its name contains control characters")
	case !fs.ValidPath(strings.ToValidUTF8(name, "?")) || name == ".":
		return refuse("its name is not a plain relative path")
	case !utf8.ValidString(name):
		unusable = "its name is not UTF-8"
	case len(raw) > maxName:
		unusable = fmt.Sprintf("its name is longer than %d bytes", maxName)
	case strings.HasPrefix(name, "-") || strings.Contains(name, "/-"):
		unusable = "its name begins with -"
	}
	return name, unusable, nil
}

// counter counts the bytes read from r, and fails with beyond after max bytes.
type counter struct {
	r      io.Reader
	n, max int64
	beyond error
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.n += int64(n); c.n > c.max {
		return 0, c.beyond
	}
	return n, err
}
