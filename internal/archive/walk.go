package archive

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	// maxName is the greatest length of an entry's name in bytes. Linux limits each element
	// of a path to 255 (NAME_MAX).
	maxName = 1024
	// maxWindow is the memory in bytes that a zstd frame may ask for: zstd -d's default,
	// which suffices for --ultra -22 and --long.
	maxWindow = 128 << 20
	// entryOverhead is the space in bytes of an entry's tar header, a PAX or GNU long-name
	// header and padding; tarOverhead that of the end, padded to tar's largest record.
	entryOverhead = 4 << 10
	tarOverhead   = 1 << 20
	tarBlock      = 512
)

var errTruncated = errors.New("the archive is cut short")

// walk calls file for each regular file, in order. It returns nil only if it has read r
// to its end and found exactly one complete archive.
func walk(r io.Reader, lim Limits, file func(name string, body io.Reader) error) error {
	err := walkTar(r, lim, file)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errTruncated
	}
	return err
}

func walkTar(r io.Reader, lim Limits, file func(name string, body io.Reader) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	unpacked, closeUnpacked, err := decompress(in)
	if err != nil {
		return err
	}
	defer closeUnpacked()

	tooLarge := fmt.Errorf("the archive unpacks to more than %d bytes", lim.Unpacked)
	stream := &counter{r: unpacked, max: lim.Unpacked + int64(lim.Entries)*entryOverhead + tarOverhead, beyond: tooLarge}
	tr := tar.NewReader(stream)
	var (
		left = lim.Unpacked      // bytes that the remaining files may have
		end  int64               // offset in the stream at which the last entry ends
		seen = map[string]bool{} // names of regular files
	)
	for entries := 0; ; entries++ {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if entries == lim.Entries {
			return fmt.Errorf("the archive has more than %d entries", lim.Entries)
		}
		name, err := checkEntry(h)
		if err != nil {
			return err
		}
		end = stream.n + (h.Size+tarBlock-1)/tarBlock*tarBlock
		if h.Typeflag == tar.TypeDir {
			continue
		}
		if left -= h.Size; left < 0 {
			return tooLarge
		}
		if seen[name] {
			return fmt.Errorf("entry %q is there twice", name)
		}
		seen[name] = true
		if err := file(name, tr); err != nil {
			return fmt.Errorf("entry %q: %w", name, err)
		}
	}
	// A tar stream ends with two blocks of zeros. archive/tar does not require them, so
	// it would accept an archive that was cut between two entries.
	if stream.n < end+2*tarBlock {
		return errTruncated
	}
	if err := onlyZeros(stream); err != nil {
		return err
	}
	// Only one gzip member was read, and more data may follow it. The zstd decoder has
	// read to the end of r, and accepted only zstd frames.
	if _, err := in.ReadByte(); err != io.EOF {
		if err != nil {
			return err
		}
		return errors.New("there is something after the end of the gzip stream")
	}
	return nil
}

// decompress returns a reader of the content of in, whose first bytes give its format.
func decompress(in *bufio.Reader) (r io.Reader, closeReader func(), err error) {
	magic, err := in.Peek(4)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	switch {
	case strings.HasPrefix(string(magic), "\x1f\x8b"):
		z, err := gzip.NewReader(in)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, nil, err
		}
		z.Multistream(false)
		return z, func() { z.Close() }, nil
	case string(magic) == "\x28\xb5\x2f\xfd":
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return nil, nil, errors.New("it is neither a gzip nor a zstd file")
}

// checkEntry returns the entry's name, or an error unless it is a regular file or a
// directory with a plain relative name.
func checkEntry(h *tar.Header) (string, error) {
	refuse := func(why string) (string, error) { return "", fmt.Errorf("entry %.80q: %s", h.Name, why) }
	for key := range h.PAXRecords {
		// Readers that use the header's size instead see other entries (CVE-2025-62518).
		if key == "size" {
			return refuse("it has a PAX size record")
		}
		if strings.HasPrefix(key, "GNU.sparse.") {
			return refuse("it is a sparse file")
		}
	}
	switch h.Typeflag {
	case tar.TypeReg:
	case tar.TypeDir:
		if h.Size != 0 {
			return refuse("it is a directory with content")
		}
	case tar.TypeGNUSparse:
		return refuse("it is a sparse file")
	case tar.TypeSymlink, tar.TypeLink:
		return refuse("it is a link")
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return refuse("it is a device or FIFO")
	default:
		return refuse(fmt.Sprintf("it is of an unknown kind (%q)", h.Typeflag))
	}

	name := strings.TrimPrefix(h.Name, "./")
	if h.Typeflag == tar.TypeDir {
		name = strings.TrimSuffix(name, "/")
		if name == "" || name == "." {
			return ".", nil // the top directory, which tar -c . adds
		}
	}
	switch {
	case len(h.Name) > maxName:
		return refuse(fmt.Sprintf("its name is longer than %d bytes", maxName))
	case strings.ContainsFunc(name, unicode.IsControl):
		return refuse("its name contains control characters")
	case !fs.ValidPath(name) || name == ".":
		return refuse("its name is not a plain relative path")
	case strings.HasPrefix(name, "-") || strings.Contains(name, "/-"):
		return refuse("its name begins with -")
	}
	return name, nil
}

// onlyZeros reads r to its end, and returns an error if it has a byte that is not zero.
func onlyZeros(r io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		for _, b := range buf[:n] {
			if b != 0 {
				return errors.New("there is something after the end of the tar archive")
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
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
