package state

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
	"github.com/machinemon/machinemon-update/internal/pattern"
)

// The names of a bundle's files, beside the files that the receipt lists.
const (
	ManifestName = "manifest.json" // the manifest's bytes as published
	MetadataName = "metadata.json" // the metadata that signs the manifest, if the repository is signed
	receiptName  = "receipt.json"
	PayloadName  = "payload" // the archive, in a fetcher's bundle without deltas
)

// Receipt accompanies a bundle. It says where things are and which attempt they belong to.
// It is not evidence: its reader must verify the files themselves.
type Receipt struct {
	Attempt  AttemptID     `json:"attempt"`
	Platform string        `json:"platform"`
	Files    []ReceiptFile `json:"files,omitempty"` // the files of a verified tree, or the deltas that replace an archive
	// Deltas says that the bundle has deltas instead of the archive. Files that are
	// installed already have no delta.
	Deltas bool `json:"deltas,omitempty"`
}

// ReceiptFile says which entry of the archive a file of a verified tree is, or a delta
// makes.
type ReceiptFile struct {
	Entry string `json:"entry"`
	Name  string `json:"name"` // a plain name in the bundle
}

// Bundle is an open spool entry: the fetcher's archive or deltas, or the verifier's tree,
// with manifest, metadata and receipt. The reader does not trust the writer: it reads
// regular files inside the bundle only, and of bounded size.
type Bundle struct {
	*os.Root
	dir     string       // its path, for messages: Root's own name is one of this process
	consume func() error // set by [Tree.Claim]
}

// HandOn makes a bundle for an attempt, and shows it to the consumer of a role's spool
// when it is complete and durable. fill puts the files into the bundle and calls
// [Bundle.Describe]. After an error, nothing stays in the spool.
func (t Tree) HandOn(r Role, target string, attempt AttemptID, fill func(*Bundle) error) error {
	spool, err := t.makeSpool(r, target)
	if err != nil {
		return err
	}
	defer spool.Close()
	b, err := spool.stage(attempt)
	if err != nil {
		return err
	}
	defer b.Close()
	if err = fill(b); err == nil {
		err = spool.offer(attempt)
	}
	if err == nil {
		return nil
	}
	if failed := spool.consume(attempt); failed != nil {
		err = fmt.Errorf("%w; %w", err, failed)
	}
	if help := durable.RoomHint(err, spool.dir); help != "" {
		err = fmt.Errorf("%w%s", err, help)
	}
	return err
}

// Claim takes the newest bundle out of a role's spool and removes the others. b is nil if
// there was none, or after an error; attempt is then set if it is known. The caller ends
// with [Bundle.Consume].
func (t Tree) Claim(r Role, target string) (attempt AttemptID, b *Bundle, err error) {
	spool, err := t.openSpool(r, target)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	if attempt, b, err = spool.claim(); b == nil {
		return attempt, nil, errors.Join(err, spool.Close())
	}
	b.consume = func() error { return errors.Join(b.Close(), spool.consume(attempt), spool.Close()) }
	return attempt, b, err
}

// Consume closes and removes a claimed bundle.
func (b *Bundle) Consume() error { return b.consume() }

// Describe writes the manifest, metadata and receipt of a bundle. metadata is nil if the
// manifest is not signed.
func (b *Bundle) Describe(manifest, metadata []byte, r Receipt) error {
	receipt, err := json.Marshal(r)
	if err == nil {
		err = b.write(ManifestName, manifest)
	}
	if err == nil && metadata != nil {
		err = b.write(MetadataName, metadata)
	}
	if err == nil {
		err = b.write(receiptName, receipt)
	}
	return err
}

// write writes a small file that the consumer can read.
func (b *Bundle) write(name string, data []byte) error {
	f, err := b.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err == nil {
		_, err = f.Write(data)
		if err == nil {
			err = f.Chmod(0o640) // because the unit's UMask= removed the group's bit
		}
		if err == nil {
			err = f.Sync()
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", filepath.Join(b.dir, name), durable.Cause(err))
	}
	return nil
}

// MoveIn moves a file of the producer, on the same file system, into the bundle.
func (b *Bundle) MoveIn(path, name string) error {
	d, err := b.Root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return durable.Retry(func() error { return unix.Renameat(unix.AT_FDCWD, path, int(d.Fd()), name) })
}

// LinkIn is MoveIn, and the file also stays where it is.
func (b *Bundle) LinkIn(path, name string) error {
	d, err := b.Root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return durable.Retry(func() error { return unix.Linkat(unix.AT_FDCWD, path, int(d.Fd()), name, 0) })
}

// Open opens a file of the bundle for reading.
func (b *Bundle) Open(name string) (*os.File, error) {
	f, err := durable.OpenRegularIn(b.Root, name)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, durable.Cause(err))
	}
	return f, nil
}

// OpenOnce is like Open for a file that is copied whole and not read again: where the file
// system can do so, what was read of it is freed, and frees is true. A claimed bundle is
// not taken again after this program was killed.
func (b *Bundle) OpenOnce(name string) (r io.Reader, f *os.File, frees bool, err error) {
	if d, f, err := durable.OpenDrainIn(b.Root, name); err == nil {
		return d, f, true, nil
	}
	f, err = b.Open(name) // the reason, if there is one, shows here
	return f, f, false, err
}

// Read reads a file of the bundle, which may have at most limit bytes.
func (b *Bundle) Read(name string, limit int64) ([]byte, error) {
	f, err := b.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := durable.ReadAll(f, limit)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, durable.Cause(err))
	}
	return data, nil
}

// Manifest returns the manifest's bytes as published.
func (b *Bundle) Manifest() ([]byte, error) { return b.Read(ManifestName, manifest.MaxSize) }

// Metadata returns what signs the manifest, of at most limit bytes.
func (b *Bundle) Metadata(limit int64) ([]byte, error) { return b.Read(MetadataName, limit) }

var treeName = pattern.New(`^[0-9]{1,4}$`)

// Receipt returns the receipt. A file whose name is not a number is an error.
func (b *Bundle) Receipt() (Receipt, error) {
	var r Receipt
	data, err := b.Read(receiptName, maxFile)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, errors.New("cannot read receipt.json: it is damaged")
	}
	for _, f := range r.Files {
		if !treeName.MatchString(f.Name) {
			return r, errors.New("cannot read receipt.json: a file's name in the tree is not a number")
		}
	}
	return r, nil
}
