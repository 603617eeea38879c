package fetch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

const (
	partialName = "partial"      // the archive being downloaded, one per target
	aboutName   = "partial.json" // which archive that is, if it can be resumed
)

// piece is the beginning of an archive that is already stored.
type piece struct {
	url   string // without query, because a signed address has a different one each time
	etag  string // strong, so that equal tags mean equal bytes; "" for none
	bytes int64
}

// body is a source's answer: the archive after the bytes of from.
type body struct {
	io.ReadCloser
	name string // for messages
	from piece
}

// about is the content of the file aboutName.
type about struct {
	Format int    `json:"format"`
	URL    string `json:"url"`
	ETag   string `json:"etag"`
	SHA256 string `json:"sha256"` // this and the size are those of the whole archive in the manifest
	Size   int64  `json:"size"`
}

func (a about) of(p manifest.Platform) bool { return a.SHA256 == p.SHA256 && a.Size == p.Size }

// readAbout returns what can be resumed. ok is false if there is nothing.
func readAbout(dir string) (a about, ok bool) {
	data, err := durable.ReadFile(filepath.Join(dir, aboutName), 64<<10)
	ok = err == nil && json.Unmarshal(data, &a) == nil && a.Format == state.Format && strong(a.ETag) != ""
	return a, ok
}

// strong returns etag if it is a strong one, or "".
func strong(etag string) string {
	if !usableTag(etag) || etag[0] == 'W' {
		return ""
	}
	return etag
}

// partial is an archive being downloaded. It is written where the next attempt finds it,
// also after a kill or a power cut. The whole file is read back and verified before use.
type partial struct {
	dir    string
	file   *os.File
	of     manifest.Platform
	have   piece
	name   string // for messages
	pieced bool   // it came over more than one connection
}

// openPartial opens what an earlier attempt stored of the archive. It discards what
// belongs to another archive.
func openPartial(dir string, p manifest.Platform) (*partial, error) {
	path := filepath.Join(dir, partialName)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", path, durable.Cause(err))
	}
	part := &partial{dir: dir, file: file, of: p}
	info, err := file.Stat()
	if err == nil {
		if a, ok := readAbout(dir); ok && a.of(p) && info.Size() <= p.Size {
			part.have = piece{a.URL, a.ETag, info.Size()}
			part.name, part.pieced = a.URL, true
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
func (p *partial) restart() error {
	p.have, p.pieced = piece{}, false
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
func (p *partial) begin(b *body) error {
	p.name = b.name
	if b.from.bytes > 0 {
		p.pieced = true
	} else {
		if err := p.restart(); err != nil {
			return err
		}
		p.have.url, p.have.etag = b.from.url, b.from.etag
		if p.lasting() {
			data, err := json.Marshal(about{state.Format, p.have.url, p.have.etag, p.of.SHA256, p.of.Size})
			if err == nil {
				err = durable.WriteFile(filepath.Join(p.dir, aboutName), data, 0o600)
			}
			if err != nil {
				return err
			}
		}
	}
	if _, err := p.file.Seek(p.have.bytes, io.SeekStart); err != nil {
		return fmt.Errorf("cannot store %s: %w", p.name, durable.Cause(err))
	}
	return nil
}

// lasting reports whether a later attempt may resume it.
func (p *partial) lasting() bool { return p.have.etag != "" && p.of.SHA256 != unknownDigest }

// move moves the complete archive into a bundle.
func (p *partial) move(b *state.Bundle, name string) error {
	// The verifier's group reads it. The unit's UMask=0077 makes chmod necessary.
	err := p.file.Chmod(0o640)
	if err == nil {
		err = p.file.Sync()
	}
	if err == nil {
		err = b.MoveIn(p.file.Name(), name)
	}
	if err == nil {
		err = remove(filepath.Join(p.dir, aboutName))
	}
	if err != nil {
		return fmt.Errorf("cannot store %s: %w", p.name, durable.Cause(err))
	}
	return nil
}

// leave closes the file at the end of an attempt. If the download failed, it keeps an
// incomplete archive that the next attempt may resume.
func (p *partial) leave(end error) error {
	p.file.Close()
	if end == nil || p.lasting() && p.have.bytes > 0 && state.ResultOf(end) == state.ResultNotDownloaded {
		return nil
	}
	return dropPartial(p.dir)
}

// forget removes a stored piece if the attempt has shown that the rest will not be needed.
func (f *fetcher) forget(r *release, result state.Result) error {
	dir := f.tree.Dir(state.RoleFetch, f.name)
	a, ok := readAbout(dir)
	if ok && (r == nil || a.of(r.platform) && result != state.ResultCurrent) {
		return nil
	}
	return dropPartial(dir)
}

func dropPartial(dir string) error {
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
