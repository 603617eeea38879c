package download

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

const (
	partialName = "partial"      // the archive being downloaded, one per target
	aboutName   = "partial.json" // which archive that is, if it can be resumed
)

// Piece is the beginning of an archive that is already stored. The zero Piece is none.
type Piece struct {
	url   string // without query, because a signed address has a different one each time
	etag  string // strong, so that equal tags mean equal bytes; "" for none
	bytes int64
}

// Body is a source's answer: the archive after the bytes of from.
type Body struct {
	io.ReadCloser
	Name string // for messages
	from Piece
	// veiled makes the error for the record of one about the archive; nil for the same.
	veiled func(error) error
}

// About says which archive is partly stored. It is the content of the file aboutName.
type About struct {
	Format int    `json:"format"`
	URL    string `json:"url"`
	ETag   string `json:"etag"`
	SHA256 string `json:"sha256"` // this, SHA512 and the size are those of the whole archive in the manifest
	SHA512 string `json:"sha512,omitempty"`
	Size   int64  `json:"size"`
	Whole  bool   `json:"whole,omitempty"` // all of it is stored
}

// Of reports whether it is the archive that p describes.
func (a About) Of(p manifest.Platform) bool {
	return a.SHA256 == p.SHA256 && a.SHA512 == p.SHA512 && a.Size == p.Size
}

// ReadAbout returns what can be resumed in a directory. ok is false if there is nothing.
func ReadAbout(dir string) (a About, ok bool) {
	data, err := durable.ReadFile(filepath.Join(dir, aboutName), 64<<10)
	ok = err == nil && json.Unmarshal(data, &a) == nil && a.Format == state.Format && (a.Whole || strong(a.ETag) != "")
	return a, ok && worthKeeping(dir)
}

var entityTag = regexp.MustCompile(`^(W/)?"[!#-~]+"$`)

// UsableTag reports whether s is an entity tag of RFC 9110 without bytes above ASCII, so
// that it can be sent in a header.
func UsableTag(s string) bool { return len(s) <= 256 && entityTag.MatchString(s) }

// strong returns etag if it is a strong one, or "".
func strong(etag string) string {
	if !UsableTag(etag) || etag[0] == 'W' {
		return ""
	}
	return etag
}

// Partial is an archive being downloaded. It is written where the next attempt finds it,
// also after a kill or a power cut. The whole file is read back and verified before use.
type Partial struct {
	dir    string
	file   *os.File
	of     manifest.Platform
	have   Piece
	name   string // for messages
	pieced bool   // it came over more than one connection
}

// Open opens what an earlier attempt stored of the archive. It discards what
// belongs to another archive.
func Open(dir string, p manifest.Platform) (*Partial, error) {
	path := filepath.Join(dir, partialName)
	about, ok := ReadAbout(dir)
	if !ok || !about.Of(p) {
		if err := Drop(dir); err != nil { // not truncated: a bundle may have the same file
			return nil, err
		}
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", path, durable.Cause(err))
	}
	part := &Partial{dir: dir, file: file, of: p}
	info, err := file.Stat()
	if err == nil {
		if ok && about.Of(p) && info.Size() <= p.Size {
			part.have = Piece{about.URL, about.ETag, info.Size()}
			part.name, part.pieced = about.URL, true
			return part, nil
		}
		err = part.restart()
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return part, nil
}

// restart discards all that is stored.
func (p *Partial) restart() error {
	p.have, p.pieced = Piece{}, false
	err := remove(filepath.Join(p.dir, aboutName)) // first, because it must not describe other bytes
	if err == nil {
		err = p.file.Truncate(0)
	}
	if err != nil {
		return fmt.Errorf("cannot start %s again from the beginning: %w", p.file.Name(), durable.Cause(err))
	}
	return nil
}

// begin prepares the file for a source's answer, which either continues or replaces what
// is stored.
func (p *Partial) begin(b *Body) error {
	p.name = b.Name
	if b.from.bytes > 0 {
		p.pieced = true
	} else {
		if err := p.restart(); err != nil {
			return err
		}
		p.have.url, p.have.etag = b.from.url, b.from.etag
		if p.lasting() {
			if err := p.describe(false); err != nil {
				return err
			}
		}
	}
	if _, err := p.file.Seek(p.have.bytes, io.SeekStart); err != nil {
		return fmt.Errorf("cannot store %s: %w", p.name, durable.Cause(err))
	}
	return nil
}

// describe writes which archive is stored, and whether all of it is.
func (p *Partial) describe(whole bool) error {
	data, err := json.Marshal(About{state.Format, p.have.url, p.have.etag, p.of.SHA256, p.of.SHA512, p.of.Size, whole})
	if err == nil {
		err = durable.WriteFile(filepath.Join(p.dir, aboutName), data, 0o600)
	}
	return err
}

// lasting reports whether a later attempt may resume it.
func (p *Partial) lasting() bool { return p.have.etag != "" && p.known() }

// known reports whether a digest of it is known, by which a later attempt can tell it.
func (p *Partial) known() bool { return p.of.SHA256 != UnknownDigest || p.of.SHA512 != "" }

// Stored returns how many bytes of it are stored.
func (p *Partial) Stored() int64 { return p.have.bytes }

// Move moves the complete archive into a bundle. With keep it stays stored for the next
// attempt, too, if there is room.
func (p *Partial) Move(b *state.Bundle, name string, keep bool) error {
	// The verifier's group reads it. The unit's UMask=0077 makes chmod necessary.
	err := p.file.Chmod(0o640)
	if err == nil {
		err = p.file.Sync()
	}
	switch {
	case err != nil:
	case keep && p.known() && worthKeeping(p.dir):
		if err = b.LinkIn(p.file.Name(), name); err == nil {
			err = p.describe(true)
		}
	default:
		if err = b.MoveIn(p.file.Name(), name); err == nil {
			err = remove(filepath.Join(p.dir, aboutName))
		}
	}
	if err != nil {
		return fmt.Errorf("cannot store %s: %w", p.name, durable.Cause(err))
	}
	return nil
}

// Leave closes the file at the end of an attempt. If the download failed, it keeps an
// incomplete archive that the next attempt may resume.
func (p *Partial) Leave(end error) error {
	p.file.Close()
	if end == nil || p.lasting() && p.have.bytes > 0 && state.ResultOf(end) == state.ResultNotDownloaded && worthKeeping(p.dir) {
		return nil
	}
	return Drop(p.dir)
}

// Drop removes what [Partial] stored in a directory.
func Drop(dir string) error {
	for _, name := range []string{aboutName, partialName} {
		if err := remove(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("cannot remove %s: %w", filepath.Join(dir, name), durable.Cause(err))
		}
	}
	return nil
}

// remove removes a file. It is not an error if there is none.
func remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
