package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// Disk is a release on this machine: a directory with a manifest and the archives that it
// names, or one such manifest, or one such archive. Only root may be able to write there,
// because a writer can choose what is installed: RootOnly returns an error if others can.
type Disk struct {
	Path     string
	RootOnly func(path string) error
	dir      string   // of the manifest; known after it was read
	root     *os.Root // the open dir, from which later files are read
	archived string   // the archive that path names, or ""
	// named is the target of an archive that needs no manifest; nil if all need one.
	named   *target.Target
	sum     string // the operator's digest of that archive, or ""
	version string // the operator's version of that archive, or ""
	// Unvouched reports that neither a manifest nor the operator gave the archive's digest.
	Unvouched bool
}

// NewNamed returns the release that an operator names by its path, which other users may
// be able to write to. It may be an archive without a manifest. Call Close at the end.
func NewNamed(t *target.Target, n target.Named) *Disk {
	return &Disk{Path: n.Path, RootOnly: func(string) error { return nil }, named: t, sum: n.SHA256, version: n.Version}
}

// locate finds the directory, and the name of the manifest in it.
func (d *Disk) locate() (name string, err error) {
	info, err := os.Stat(d.Path)
	if err != nil {
		return "", unreadable(d.Path, err)
	}
	name = manifest.FileName
	switch {
	case info.IsDir():
		d.dir = d.Path
	case strings.HasSuffix(d.Path, ".json"):
		d.dir, name = filepath.Split(d.Path)
	default:
		d.dir, d.archived = filepath.Split(d.Path)
	}
	return name, nil
}

// Name returns the path.
func (d *Disk) Name() string { return d.Path }

// Beside reads a file of a signed repository.
func (d *Disk) Beside(_ context.Context, file string, most int64) ([]byte, error) {
	if _, err := d.locate(); err != nil {
		return nil, err
	}
	f, err := d.open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := readSmall(f, most)
	if err != nil {
		return nil, unreadable(filepath.Join(d.dir, file), err)
	}
	return b, nil
}

// Manifest reads the manifest, or makes that of an archive without one.
func (d *Disk) Manifest(context.Context) ([]byte, string, error) {
	name, err := d.locate()
	if err != nil {
		return nil, "", err
	}
	path := filepath.Join(d.dir, name)
	f, err := d.open(name)
	if err == nil && d.named != nil && d.archived != "" && d.strangers(f) {
		f.Close()
		err = fs.ErrNotExist
	}
	if errors.Is(err, fs.ErrNotExist) && d.archived != "" {
		if d.named != nil {
			return d.without()
		}
		return nil, "", state.NotDownloaded("cannot use %s: there is no %s beside it (hint: make one with machinemon-release publish)", d.Path, name)
	}
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	raw, err := readSmall(f, manifest.MaxSize)
	if err != nil {
		return nil, "", unreadable(path, err)
	}
	return raw, path, nil
}

// strangers reports whether another user than root or the archive's owner put the manifest
// beside the archive, as is possible in a directory such as /tmp.
func (d *Disk) strangers(f *os.File) bool {
	info, err := f.Stat()
	if err != nil {
		return true
	}
	archived, err := d.root.Lstat(d.archived)
	if err != nil {
		return false // the archive cannot be opened later either, and that error is reported
	}
	owner := func(i fs.FileInfo) uint32 { return i.Sys().(*syscall.Stat_t).Uid }
	return owner(info) != 0 && owner(info) != owner(archived)
}

// without makes the manifest of the archive, which has none beside it.
func (d *Disk) without() ([]byte, string, error) {
	f, err := d.open(d.archived)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	info, err := f.Stat()
	sum := d.sum
	if d.Unvouched = sum == ""; d.Unvouched && err == nil {
		// A file that grows meanwhile is refused when it is copied.
		sum, _, err = durable.SHA256(io.LimitReader(f, info.Size()))
	}
	if err != nil {
		return nil, "", unreadable(d.Path, err)
	}
	raw, err := bare(d.named, d.archived, info.Size(), sum, d.version)
	return raw, d.Path, err
}

// Archive opens the archive from its beginning.
func (d *Disk) Archive(_ context.Context, p manifest.Platform, _ download.Piece) (*download.Body, error) {
	path := filepath.Join(d.dir, p.File)
	if strings.Contains(p.File, "/") {
		return nil, state.Refused("cannot use the manifest in %s: it names an archive that is not beside it", d.dir)
	}
	if d.archived != "" && d.archived != p.File {
		return nil, state.Refused("cannot use %s: the %s beside it names %s for this machine (make one for it with machinemon-release publish)",
			d.Path, manifest.FileName, p.File)
	}
	f, err := d.open(p.File)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != p.Size {
		err = state.Refused("%w", download.Differs(fmt.Sprintf("it has %d bytes instead of %d", info.Size(), p.Size)))
	}
	if err != nil {
		f.Close()
		return nil, unreadable(path, err)
	}
	return &download.Body{ReadCloser: f, Name: path}, nil
}

// open opens a regular file of the directory that only root can write to.
func (d *Disk) open(name string) (*os.File, error) {
	path := filepath.Join(d.dir, name)
	if d.root == nil {
		root, err := os.OpenRoot(d.dir)
		if err != nil {
			return nil, unreadable(d.dir, err)
		}
		d.root = root
	}
	f, err := durable.OpenRegularIn(d.root, name)
	if err != nil {
		return nil, unreadable(path, err)
	}
	if err := d.RootOnly(path); err != nil {
		f.Close()
		return nil, state.Fail(state.ResultMisconfigured,
			"cannot use %s: %w (hint: root alone may write it and its parents: move it out of a user's directory, or chown root:root and chmod go-w)", path, err)
	}
	return f, nil
}

// Close closes the directory.
func (d *Disk) Close() {
	if d.root != nil {
		d.root.Close()
	}
}

// unreadable returns the error that a file of the source could not be read. The result is
// NotDownloaded, unless err has one already.
func unreadable(path string, err error) error {
	result := state.ResultNotDownloaded
	if o, ok := errors.AsType[*state.Failure](err); ok {
		result = o.Result
	}
	err = durable.Cause(err)
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w (the group machinemon-fetch must be able to read it)", err)
	}
	return state.Fail(result, "cannot read %s: %w", path, err)
}
