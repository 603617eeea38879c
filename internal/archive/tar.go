package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	// entryOverhead is the space in bytes of an entry's tar header, a PAX or GNU long-name
	// header and padding; tarOverhead that of the end, padded to tar's largest record.
	entryOverhead = 4 << 10
	tarOverhead   = 1 << 20
	tarBlock      = 512
)

// isTar reports whether the first block of a file is that of a tar archive as POSIX and
// GNU tar write it.
func isTar(head []byte) bool {
	return len(head) == tarBlock && string(head[257:262]) == "ustar"
}

func walkTar(r io.Reader, t *tally) error {
	stream := &counter{r: r, max: t.lim.Unpacked + int64(t.lim.Entries)*entryOverhead + tarOverhead, beyond: t.tooLarge()}
	tr := tar.NewReader(stream)
	var end int64 // offset in the stream at which the last entry ends
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := t.add(); err != nil {
			return err
		}
		if err := tarEntry(h, tr, t); err != nil {
			return err
		}
		// A sparse file takes less in the stream than its size says.
		if _, err := io.Copy(io.Discard, tr); err != nil {
			return err
		}
		end = (stream.n + tarBlock - 1) / tarBlock * tarBlock
	}
	// A tar stream ends with two blocks of zeros. archive/tar does not require them, so
	// it would accept an archive that was cut between two entries.
	if stream.n < end+2*tarBlock {
		return errTruncated
	}
	return onlyZeros(stream)
}

// tarEntry visits the entry of a header, unless it is a directory or a global header.
func tarEntry(h *tar.Header, body io.Reader, t *tally) error {
	refuse := func(why string) error { return fmt.Errorf("entry %.80q: %s", h.Name, why) }
	global := h.Typeflag == tar.TypeXGlobalHeader
	sparse := h.Typeflag == tar.TypeGNUSparse
	for key := range h.PAXRecords {
		switch {
		// Readers that use the header's size instead see other entries (CVE-2025-62518).
		case key == "size":
			return refuse("it has a PAX size record")
		// archive/tar does not apply a global header to the entries after it. Most have
		// only a comment: git archive writes the commit there.
		case global && (strings.HasPrefix(key, "GNU.sparse.") || key == "path" || key == "linkpath"):
			return refuse("it is a global header with " + key)
		case strings.HasPrefix(key, "GNU.sparse."):
			sparse = true
		}
	}
	if global {
		return nil
	}
	raw, kind := h.Name, ""
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		if sparse {
			kind = "it is a sparse file"
		}
	case tar.TypeDir:
		kind = "it is a directory"
		raw = strings.TrimSuffix(raw, "/")
		if raw == "" || raw == "." {
			raw = "./top" // the top directory, which tar -c . adds
		}
	case tar.TypeSymlink, tar.TypeLink:
		kind = "it is a link"
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		kind = "it is a device or FIFO"
	default:
		kind = fmt.Sprintf("it is of an unknown kind (%q)", h.Typeflag)
	}
	switch h.Typeflag {
	case tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		// Readers differ about whether there is content.
		if h.Size != 0 {
			return refuse(kind + " with content")
		}
	}
	name, unusable, err := checkName(raw)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return nil
	}
	if kind != "" {
		unusable = kind
	}
	return t.entry(Entry{Name: name, Unusable: unusable}, h.Size, func() (io.ReadCloser, error) { return io.NopCloser(body), nil })
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
