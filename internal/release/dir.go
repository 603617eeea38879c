package release

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/archive"
	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/manifest"
)

// dir is the locked directory of a publication.
type dir struct{ *os.File }

// openDir locks the directory itself, which waits for other publishers, and removes the
// files of a publisher that was killed. The lock ends with the process.
func openDir(path string) (*dir, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	err = durable.Retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX) })
	d := &dir{f}
	if err == nil {
		err = d.clear()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return d, nil
}

func (d *dir) clear() error {
	entries, err := d.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), temporaryPrefix) {
			if err := os.RemoveAll(filepath.Join(d.Name(), e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

const temporaryPrefix = ".publish-"

// temporary is a file in the directory that does not have its final name yet.
type temporary struct {
	dir    *dir
	path   string
	name   string // final name, given by publish
	sha256 string
	size   int64
}

// temporary copies r into a new file that is readable by all, and syncs it to the disk.
func (d *dir) temporary(r io.Reader) (*temporary, error) {
	f, err := os.CreateTemp(d.Name(), temporaryPrefix)
	if err != nil {
		return nil, err
	}
	t := &temporary{dir: d, path: f.Name()}
	t.sha256, t.size, err = durable.CopySHA256(f, r)
	if err = cmp.Or(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		t.discard()
		return nil, err
	}
	return t, nil
}

// copyOf copies an archive into the directory.
func (d *dir) copyOf(path string) (*temporary, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return d.temporary(f)
}

// describe reads the archive as a machine does.
func (t *temporary) describe() (manifest.Platform, error) {
	p := manifest.Platform{File: t.name, SHA256: t.sha256, Size: t.size, Contents: map[string]manifest.Content{}}
	f, err := os.Open(t.path)
	if err != nil {
		return p, err
	}
	defer f.Close()
	files, err := archive.List(io.NewSectionReader(f, 0, t.size), archive.Default)
	if err != nil {
		return p, err
	}
	for _, f := range files {
		p.Contents[f.Name] = manifest.Content{SHA256: f.SHA256, Size: f.Size}
		p.UnpackedSize += f.Size
	}
	if p.UnpackedSize == 0 {
		return p, errors.New("there is nothing in it")
	}
	return p, nil
}

// publish gives the file its name, unless that name already has the same bytes.
func (t *temporary) publish() error {
	if sum, err := digest(filepath.Join(t.dir.Name(), t.name)); err == nil && sum == t.sha256 {
		return nil
	}
	if err := os.Rename(t.path, filepath.Join(t.dir.Name(), t.name)); err != nil {
		return err
	}
	return kept(t.name)
}

// kept is called after each file that got its name. Tests replace it to fail there.
var kept = func(name string) error { return nil }

// discard removes the file unless it was published. If that fails, the next run does it.
func (t *temporary) discard() { os.Remove(t.path) }

// replace writes a file in one step. Files published earlier reach the disk before it.
func (d *dir) replace(name string, text []byte) error {
	t, err := d.temporary(bytes.NewReader(text))
	if err != nil {
		return err
	}
	defer t.discard()
	t.name = name
	if err := d.Sync(); err != nil {
		return err
	}
	if err := t.publish(); err != nil {
		return err
	}
	return d.Sync()
}

// remove removes a file before the next one is written.
func (d *dir) remove(name string) error {
	if err := os.Remove(filepath.Join(d.Name(), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return d.Sync()
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum, _, err := durable.SHA256(f)
	return sum, err
}

// named puts in front of an error what cannot be done.
func named(err *error, what string) {
	if *err != nil {
		*err = fmt.Errorf("cannot %s: %w", what, plain(*err))
	}
}

// plain returns the cause alone, for errors whose text already has the path.
func plain(err error) error {
	if p, ok := err.(*fs.PathError); ok { // a PathError further in belongs to the text around it
		return p.Err
	}
	return err
}
